"""`manifest.json` of checkpoints and skill bundles: the SHA-256 of the folder's files, and of the manifest itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from diwa_data.checksums import changed, content_digest, file_digest, require_format, warn_unsealed
from diwa_data.errors import DiwaError
from diwa_data.json_files import read_object, write_json

MANIFEST = "manifest.json"
FORMAT = 1
"""Of manifests."""
CHECKPOINT_FILES = ("weights.safetensors", "config.json", "spec.json", "metrics.json")
"""The files of a checkpoint that its manifest covers."""

_told: set[Path] = set()


def write_manifest(folder: Path, names: Iterable[str], known: Mapping[str, str] | None = None) -> None:
    """Write the manifest of the files `names` of a folder; of those in `known` the SHA-256 is given."""
    files = {name: (known or {}).get(name) or file_digest(folder / name) for name in sorted(names)}
    content = {"format": FORMAT, "files": files}
    write_json(folder / MANIFEST, content | {"sha256": content_digest(content)})


def require_sealed(folder: Path, names: Iterable[str], cure: str) -> None:
    """Raise `DiwaError`, with `cure`, if a file of a folder is not what its manifest says, or the manifest is damaged.

    A folder without a manifest was made before 0.2, or by others: that is said once, unless it was of one around it.
    """
    path, place = folder / MANIFEST, folder.resolve()
    if not path.exists():
        if not _told & {place, *place.parents}:
            _told.add(place)
            warn_unsealed(f"{folder} is")
        return
    content = read_object(path, f"{cure}, or make it anew with 'diwa seal {folder}'")
    require_format(content.get("format"), FORMAT, str(path))
    if content.pop("sha256", None) != content_digest(content):
        raise changed(str(path), folder, cure)
    files = content.get("files")
    if not isinstance(files, dict) or sorted(files) != sorted(names):
        there = ", ".join(files) if isinstance(files, dict) else f"{files!r:.100}"
        raise DiwaError(f"{path} is of {there}: {cure}, or make it anew with 'diwa seal {folder}'")
    for name, digest in files.items():
        if not (folder / name).is_file():
            raise DiwaError(f"{folder / name} is missing: {cure}")
        if file_digest(folder / name) != digest:
            raise changed(str(folder / name), folder, cure)
