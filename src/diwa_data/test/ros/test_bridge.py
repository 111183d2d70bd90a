"""Images of drivers: cv_bridge and our own decoder give the same, and a cv_bridge that does not work is not used."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from diwa_data.errors import DiwaError
from diwa_data.images import CHANNELS, image_of

pytestmark = pytest.mark.ros


@pytest.fixture
def bridge():
    from diwa_data.ros import bridge

    bridge.cv_bridge.cache_clear()
    yield bridge
    bridge.cv_bridge.cache_clear()


def message(encoding: str, padding: int = 0, height: int = 7, width: int = 9) -> SimpleNamespace:
    step = width * CHANNELS[encoding] + padding
    data = np.random.default_rng(0).integers(0, 256, height * step, np.uint8)
    return SimpleNamespace(height=height, width=width, encoding=encoding, is_bigendian=0, step=step, data=data)


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize("encoding", CHANNELS)
def test_both_give_the_same(bridge, encoding: str, padding: int) -> None:
    if bridge.cv_bridge() is None:
        pytest.skip("no cv_bridge that works with this NumPy")
    np.testing.assert_array_equal(bridge.rgb_of(message(encoding, padding)), image_of(message(encoding, padding)))


@pytest.mark.parametrize(
    "content", ["import os; os.abort()", "raise AttributeError('_ARRAY_API not found')", "CvBridge = None"]
)
def test_one_that_does_not_work_is_left_alone(bridge, content: str, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "cv_bridge.py").write_text(content)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    assert bridge.about() == f"our own decoder (cv_bridge does not work with NumPy {np.__version__})"
    assert "cv_bridge" not in sys.modules
    np.testing.assert_array_equal(bridge.rgb_of(message("bgra8")), image_of(message("bgra8")))


def test_what_is_damaged_or_unknown_is_told_as_ever(bridge, monkeypatch) -> None:
    def convert(message, encoding):
        raise AssertionError("it is not asked")

    monkeypatch.setattr(bridge, "cv_bridge", lambda: convert)
    damaged, unknown = message("rgb8"), message("rgb8")
    damaged.data, unknown.encoding = damaged.data[:-1], "yuv422"
    with pytest.raises(DiwaError, match="is too small for 7 rows of 27 bytes"):
        bridge.rgb_of(damaged)
    with pytest.raises(DiwaError, match="image encoding 'yuv422' is not supported"):
        bridge.rgb_of(unknown)
