"""Statistics as LeRobot keeps them for normalisation: min, max, mean, std, count and five quantiles of each feature."""

from __future__ import annotations

from typing import Any

import numpy as np

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}

_LEVELS = np.arange(256) / 255


def vector_statistics(values: np.ndarray) -> dict[str, Any]:
    """Of (N, D) or (N,) numbers: lists of D, or 1, numbers a statistic; `count` is [N]. Quantiles interpolate."""
    values = values.reshape(len(values), -1).astype(np.float64)
    statistics = {
        "min": values.min(axis=0),
        "max": values.max(axis=0),
        "mean": values.mean(axis=0),
        "std": values.std(axis=0),
    }
    statistics |= dict(zip(QUANTILES, np.quantile(values, list(QUANTILES.values()), axis=0), strict=True))
    return {key: value.tolist() for key, value in statistics.items()} | {"count": [len(values)]}


class ImageStatistics:
    """Of every pixel of the images of one camera, scaled to [0, 1], exact: it counts the 256 levels of each channel."""

    def __init__(self) -> None:
        self._counts = np.zeros((3, 256), np.int64)
        self._images = 0

    def add(self, images: np.ndarray) -> None:
        """Count the pixels of (N, H, W, 3) uint8."""
        self._images += len(images)
        for channel in range(3):
            self._counts[channel] += np.bincount(images[..., channel].ravel(), minlength=256)

    def merge(self, other: ImageStatistics) -> None:
        """Count the images of `other` too."""
        self._images += other._images
        self._counts += other._counts

    def summary(self) -> dict[str, Any]:
        """Nested lists (3, 1, 1) a statistic; `count` is the number of images. A quantile is a level that occurs."""
        pixels = self._counts[0].sum()
        below = self._counts.cumsum(axis=1)  # (3, 256) pixels at or below each level
        mean = self._counts @ _LEVELS / pixels  # (3,)
        variance = (self._counts * (_LEVELS - mean[:, None]) ** 2).sum(axis=1) / pixels
        statistics = {
            "min": _LEVELS[(below > 0).argmax(axis=1)],
            "max": _LEVELS[(below == pixels).argmax(axis=1)],
            "mean": mean,
            "std": np.sqrt(variance),
        }
        statistics |= {key: _LEVELS[(below >= share * pixels).argmax(axis=1)] for key, share in QUANTILES.items()}
        return {key: value.reshape(3, 1, 1).tolist() for key, value in statistics.items()} | {"count": [self._images]}
