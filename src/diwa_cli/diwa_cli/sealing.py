"""`diwa seal`: checksums for what was made without them, or was changed on purpose."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from diwa_data.bags import is_bag
from diwa_data.dataset_file import is_dataset, seal_dataset
from diwa_data.errors import DiwaError
from diwa_data.sidecar import seal_episode
from diwa_deploy.bundle import is_bundle, seal_bundle
from diwa_learning.checkpoint import CONFIG, is_finished, seal_checkpoint


@dataclass(frozen=True)
class Kind:
    """Something that has checksums."""

    name: str
    is_one: Callable[[Path], bool]
    """Whether a file or folder is one, as far as its names tell."""
    seal: Callable[[Path], None]
    """Makes its checksums anew; raises `DiwaError` if it can be none."""


KINDS = (
    Kind("episode", is_bag, seal_episode),
    Kind("dataset", is_dataset, seal_dataset),
    Kind("checkpoint", lambda path: (path / CONFIG).is_file() and is_finished(path), seal_checkpoint),
    Kind("skill bundle", is_bundle, seal_bundle),
)


def seal(path: Path) -> list[str]:
    """Make the checksums of everything at or below `path` anew; a line for each. Hidden folders are left out.

    Raises `DiwaError` if there is nothing, or something damaged.
    """
    if not path.exists():
        raise DiwaError(f"{path} does not exist")
    done = list(_seal(path))
    if not done:
        names = ", ".join(kind.name for kind in KINDS)
        raise DiwaError(f"{path} holds nothing that has checksums ({names}): is it finished, and the right folder?")
    return done


def _seal(path: Path) -> Iterator[str]:
    """What lies inside goes first: a bundle's checksums are of its parts' manifests."""
    if path.is_dir():
        for inner in sorted(path.iterdir()):
            if not inner.name.startswith("."):
                yield from _seal(inner)
    for kind in KINDS:
        if kind.is_one(path):
            kind.seal(path)
            yield f"sealed {kind.name} {path}"
