"""Images of drivers as arrays: through cv_bridge where it works with the NumPy here, else by our own decoder."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from diwa_data.images import CHANNELS, image_of

_TRIAL = """
import numpy as np
from types import SimpleNamespace
from cv_bridge import CvBridge
data = np.array([1, 2, 3, 4, 0], np.uint8)
message = SimpleNamespace(height=1, width=1, step=5, encoding="bgra8", is_bigendian=0, data=data)
assert CvBridge().imgmsg_to_cv2(message, "rgb8").tolist() == [[[3, 2, 1]]]
"""
_PATIENCE = 30.0  # seconds


@cache
def cv_bridge() -> Callable[[Any, str], np.ndarray] | None:
    """Its conversion of a sensor_msgs/Image to an encoding; None where it is not installed or does not work.

    One that was built for another NumPy may crash its process: it is tried in one of its own.
    """
    if importlib.util.find_spec("cv_bridge") is None:
        return None
    try:
        subprocess.run([sys.executable, "-c", _TRIAL], check=True, capture_output=True, timeout=_PATIENCE)
    except (subprocess.SubprocessError, OSError):
        return None
    convert: Callable[[Any, str], np.ndarray] = importlib.import_module("cv_bridge").CvBridge().imgmsg_to_cv2
    return convert


def rgb_of(message: Any) -> np.ndarray:
    """As `image_of`: the rgb image (H, W, 3) uint8 of a deserialised sensor_msgs/Image or CompressedImage."""
    convert = cv_bridge()
    whole = getattr(message, "step", 0) * getattr(message, "height", 0)
    if convert is None or getattr(message, "encoding", "") not in CHANNELS or len(message.data) < whole:
        return image_of(message)  # which says what is wrong
    return np.asarray(convert(message, "rgb8"))


def about() -> str:
    """The decoder that is used here, in a word or two."""
    if cv_bridge() is not None:
        return "cv_bridge"
    there = importlib.util.find_spec("cv_bridge") is not None
    return f"our own decoder{f' (cv_bridge does not work with NumPy {np.__version__})' if there else ''}"
