"""Datasets of the Hugging Face Hub, by the optional package huggingface_hub, which keeps them in its cache."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from diwa_data.errors import DiwaError, how_to_install


def require_repository(name: str) -> str:
    """`name`, if it can be a dataset on the Hub. Raises `DiwaError` if not: then it is a folder that is not there."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or name.startswith("."):
        raise DiwaError(f"{name} does not exist: name a folder, or a dataset of the Hugging Face Hub as user/name")
    return name


def download(repository: str, files: Sequence[str]) -> Path:
    """The folder of a dataset of the Hub with these files, or patterns. Raises `DiwaError` if it cannot be had."""
    try:
        from huggingface_hub import snapshot_download
    except ModuleNotFoundError as error:
        cure = f"{how_to_install('lerobot')}, or download it and name its folder"
        raise DiwaError(f"{repository} is not a folder here, and the Hub needs huggingface_hub: {cure}") from error
    try:
        return Path(snapshot_download(repository, repo_type="dataset", allow_patterns=list(files)))
    except Exception as error:  # its own, requests', httpx's, the operating system's: all say that there is no file
        why = " ".join(str(error).split())[:200]
        raise DiwaError(
            f"{repository} is not a folder here, and the Hub does not give it ({why}): name a folder"
        ) from error
