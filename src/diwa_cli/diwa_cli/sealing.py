"""`diwa seal`: checksums for what was made without them, or was changed on purpose."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from diwa_data.dataset.dataset import seal_dataset
from diwa_data.dataset.file import is_dataset
from diwa_data.errors import DiwaError
from diwa_data.recording.bag_reader import is_bag
from diwa_data.recording.recover import seal_episode
from diwa_deploy.bundle import is_bundle, seal_bundle
from diwa_learning.core.checkpoint import CONFIG, is_finished, seal_checkpoint

KINDS: dict[str, tuple[Callable[[Path], bool], Callable[[Path], None]]] = {
    "episode": (is_bag, seal_episode),
    "dataset": (is_dataset, seal_dataset),
    "checkpoint": (lambda path: (path / CONFIG).is_file() and is_finished(path), seal_checkpoint),
    "skill bundle": (is_bundle, seal_bundle),
}
"""Name of what has checksums -> whether a file or folder is one, as far as its names tell, and how to make them."""


def seal(path: Path) -> Iterator[str]:
    """Write new checksums for everything at or below `path`; a line for each. Hidden files are left out.

    Raises `DiwaError` if there is nothing or, after all others, naming what is damaged.
    """
    if not path.exists():
        raise DiwaError(f"{path} does not exist: name a file or folder that does")
    errors, found = [], False
    for name, one in _sealable(path):
        found = True
        try:
            KINDS[name][1](one)
            yield f"sealed {name} {one}"
        except DiwaError as error:
            errors.append(str(error))
    if errors:
        raise DiwaError("; ".join(errors))
    if not found:
        names = ", ".join(KINDS)
        raise DiwaError(f"{path} holds nothing that has checksums ({names}): is it finished, and the right folder?")


def _sealable(path: Path) -> Iterator[tuple[str, Path]]:
    """Kind and path of each; those inside come first, as a bundle's checksums are of its parts' manifests."""
    if path.is_dir():
        for inner in sorted(path.iterdir()):
            if not inner.name.startswith("."):
                yield from _sealable(inner)
    yield from ((name, path) for name, (is_one, _) in KINDS.items() if is_one(path))
