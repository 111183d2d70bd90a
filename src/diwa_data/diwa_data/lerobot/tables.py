"""The rows of one episode out of a parquet file that may hold many."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diwa_data.errors import DiwaError
from diwa_data.lerobot.files import import_arrow
from diwa_data.lerobot.folder import CURE, SourceEpisode

_EPISODE = "episode_index"

TARGET = "target"
"""Feature of our own exports with the published target: position and 6D rotation."""


def read_rows(path: Path, episode: SourceEpisode, features: Sequence[str]) -> Any:
    """An arrow table of the columns `features`, a row a frame. Raises `DiwaError` if columns or rows are missing."""
    arrow = import_arrow()
    with arrow.parquet.ParquetFile(path) as opened:
        there = opened.schema_arrow.names
        if missing := [name for name in features if name not in there]:
            raise DiwaError(f"{path} has no column {', '.join(missing)}, which meta/info.json lists: {CURE}")
        groups = [opened.metadata.row_group(number) for number in range(opened.num_row_groups)]
        wanted = [number for number, group in enumerate(groups) if _may_hold(group, episode.number)]
        table = opened.read_row_groups(wanted, [_EPISODE, *features])
    rows = table.filter(arrow.compute.equal(table.column(_EPISODE), episode.number))
    if len(rows) != episode.length:
        raise DiwaError(f"{path} has {len(rows)} rows of episode {episode.number}, not {episode.length}: {CURE}")
    return rows


def numbers(table: Any, feature: str) -> np.ndarray:
    """(L, D) float64: the numbers of a feature; what is missing is NaN."""
    values = np.asarray(table.column(feature).to_pylist(), float)
    return values.reshape(len(table), -1)


def _may_hold(group: Any, episode: int) -> bool:
    """Whether a row group may have rows of an episode, as far as its statistics tell."""
    for column in (group.column(number) for number in range(group.num_columns)):
        if column.path_in_schema == _EPISODE:
            known = column.statistics
            return known is None or not known.has_min_max or known.min <= episode <= known.max
    return True
