"""Rows of pictures beside each other: time to the right, what is compared one above the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from diwa_data.files import atomic_path


def draw_filmstrip(path: Path, rows: Mapping[str, np.ndarray], columns: Sequence[str] = ()) -> None:
    """Write a PNG of `rows`, label -> (N, H, W, 3) uint8, all of one shape; `columns` are N labels on top, or none."""
    mosaic = np.concatenate([np.concatenate(list(frames), 1) for frames in rows.values()])
    count = len(next(iter(rows.values())))
    height, width = mosaic.shape[0] / len(rows), mosaic.shape[1] / count
    figure = Figure(figsize=(count + 1, len(rows) + (0.5 if columns else 0.15)), layout="constrained")
    axis = figure.add_subplot()
    axis.imshow(mosaic, interpolation="nearest")
    axis.xaxis.tick_top()
    axis.set_xticks((np.arange(len(columns)) + 0.5) * width - 0.5, columns)
    axis.set_yticks((np.arange(len(rows)) + 0.5) * height - 0.5, list(rows))
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
