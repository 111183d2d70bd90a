"""Checksums made anew, of recordings and datasets that were made without them or changed on purpose.

Everything is read first, so that what is damaged is not sealed.
"""

from __future__ import annotations

from pathlib import Path

from diwa_data.bags import Bag
from diwa_data.dataset import read_through
from diwa_data.dataset_file import write_checksum
from diwa_data.sidecar import Sidecar


def seal_episode(bag: Path) -> None:
    """Make the checksums of a finished episode anew. Raises `DiwaError` if it is not finished, or cannot be read."""
    sidecar = Sidecar.read(bag, changed_by_hand=True)
    sidecar.seal(bag)
    with Bag(bag, sidecar) as opened:
        for _ in opened.messages(list(opened.topics)):
            pass
    sidecar.write(bag)


def seal_dataset(path: Path) -> None:
    """Make the checksum of a dataset anew. Raises `DiwaError` if it holds what `load_dataset` refuses."""
    read_through(path)
    write_checksum(path)
