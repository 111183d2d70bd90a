"""Recorded episodes and datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness import Target

from diwa_data.align import DatasetConfig
from diwa_data.bags import Bag
from diwa_data.dataset import build_dataset, load_dataset
from diwa_data.sidecar import SIDECAR
from diwa_data.spec import CameraSpec, Spec
from diwa_data.synthetic import record_synthetic

_SPEC = Spec(
    cameras=tuple(CameraSpec(name, record_size=(24, 32), size=(8, 8)) for name in ("static", "gripper")),
    scene_state=("drawer", "slider"),
)
_LABELS = {"source": "demonstration", "skill": "open_drawer", "seed": 7}


def _episode(folder: Path, storage: str) -> Path:
    return record_synthetic(folder, _SPEC, 2.0, _LABELS, storage=storage, success=1.0)  # type: ignore[arg-type]


def _bag(path: Path) -> Any:
    """Everything in the episode that `path` belongs to."""
    with Bag(path.parent) as bag:
        sidecar = bag.sidecar
        messages = [(topic, *sample) for topic, sample in bag.messages(list(bag.topics))]
    return sidecar.spec, sidecar.labels, sidecar.events, sidecar.annotations, sidecar.topics, messages


def _dataset(folder: Path) -> Path:
    bags = [_episode(folder / "bags", "mcap") for _ in range(2)]
    build_dataset(bags, folder / "D.h5", DatasetConfig(workers=1))
    return folder / "D.h5"


TARGETS = [
    Target("sidecar", lambda folder: _episode(folder, "mcap") / SIDECAR, _bag),
    Target("dataset", _dataset, load_dataset),
]
