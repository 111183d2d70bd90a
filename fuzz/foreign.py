"""Bags of another lab, which have no checksums, and their mapping files."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from harness import Target
from mutations import scramble
from recordings import bent_metadata

from diwa_data.dataset.align import DatasetConfig
from diwa_data.dataset.dataset import build_dataset, load_dataset
from diwa_data.foreign.suggest import suggest_mapping
from diwa_data.recording import messages
from diwa_data.recording.bag_reader import METADATA
from diwa_data.spec import CameraSpec, Spec
from diwa_data.testing.foreign import MAPPING, STATE, Lab, franka_state, write_foreign
from diwa_data.testing.synthetic import record_synthetic

SPEC = Spec(cameras=tuple(CameraSpec(name, record_size=(40, 48), size=(48, 48)) for name in ("static", "gripper")))
_BY_FRAMES = MAPPING.replace("parent: base", "parent: panda_link0")
_BY_STATE = MAPPING.replace("  parent: base\n  child: tcp\n", "  topic: /franka/state\n  field: o_t_ee\n")
_VALID = "valid"


def bag(folder: Path, storage: str = "mcap") -> Path:
    """A bag of a second, with a type that only it defines, and two mappings beside it."""
    own, lab = record_synthetic(folder / "own", SPEC, 1.0, {}), Lab(("panda_link0", "tcp"))

    def change(topic: str, message: Any) -> Any:
        if topic == messages.CURRENT_POSE:
            yield "/franka/state", STATE, franka_state(lab, message)
        yield from lab.of(topic, message)

    (folder / "frames.yaml").write_text(_BY_FRAMES)
    (folder / "state.yaml").write_text(_BY_STATE)
    return write_foreign(own, folder / "run1", storage, lab=lab, change=change)  # type: ignore[arg-type]


def _file(storage: str, pattern: str) -> Any:
    return lambda folder: next(bag(folder, storage).glob(pattern))


def _built(path: Path) -> Any:
    """Suggest a mapping for the bag that `path` belongs to, and build datasets of it by both mappings."""
    suggest_mapping(path.parent)
    for mapping in ("frames.yaml", "state.yaml"):
        _build(path.parent, path.parents[1] / mapping)
    return _VALID


def _mapped(path: Path) -> Any:
    """Build a dataset of the whole bag by a damaged mapping."""
    _build(path.parent / "run1", path)
    return _VALID


def _build(bag: Path, mapping: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        build_dataset([bag], Path(folder, "D.h5"), DatasetConfig(workers=1), mapping=mapping)
        load_dataset(Path(folder, "D.h5"))


TARGETS = [
    Target("foreign_mcap", _file("mcap", "*.mcap"), _built, scramble),
    Target("foreign_db3", _file("sqlite3", "*.db3"), _built, scramble),
    Target("foreign_metadata", _file("mcap", METADATA), _built, bent_metadata),
    Target("mapping", lambda folder: bag(folder).parent / "frames.yaml", _mapped, scramble),
]
