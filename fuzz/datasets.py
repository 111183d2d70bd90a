"""Datasets, and recordings of others that become some."""

from __future__ import annotations

import pickle
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from harness import Target
from mutations import random_pickle, scramble
from recordings import episode

from diwa_data.calvin.format import ANNOTATIONS, frame_path, load_pickled_array, read_annotations, read_frame
from diwa_data.dataset.align import DatasetConfig
from diwa_data.dataset.dataset import build_dataset, load_dataset
from diwa_data.dataset.file import write_checksum
from diwa_data.testing.synthetic import write_calvin

_VALID = "valid"


def _dataset(folder: Path) -> Path:
    bags = [episode(folder / "bags") for _ in range(2)]
    build_dataset(bags, folder / "D.h5", DatasetConfig(workers=1))
    return folder / "D.h5"


def _whole(path: Path) -> Any:
    """Load a dataset whose checksum was made anew of what it holds; whatever is accepted must be fit for training."""
    write_checksum(path)
    for each in (dataset := load_dataset(path)).episodes:
        length = len(each.action)
        rows = (each.state, each.success, each.stamp, each.received, *each.images.values())
        assert length >= 2
        assert all(len(row) == length for row in rows)
        assert np.abs(each.action).max() <= 1
        assert np.isfinite(each.state).all()
        assert (np.diff(each.stamp) > 0).all()
        assert all(image.dtype == np.uint8 for image in each.images.values())
        assert [rows.dtype for rows in (each.state, each.action, each.success)] == [np.float32, np.float32, bool]
        assert {*each.images} == {camera.name for camera in dataset.spec.cameras}
        assert isinstance(each.attributes["labels"], dict)
    return _VALID


def _crafted(content: bytes, rng: random.Random) -> bytes:
    """A dataset with one to three objects replaced by what HDF5 can hold and no dataset does."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "D.h5")
        path.write_bytes(content)
        with h5py.File(path, "a") as file:
            for _ in range(rng.randint(1, 3)):
                try:
                    rng.choice(_CRAFTS)(file, rng)
                except (
                    LookupError,
                    ValueError,
                    TypeError,
                    OSError,
                    RuntimeError,
                    AttributeError,
                    OverflowError,
                    MemoryError,
                ):
                    continue  # an earlier change took away what this one needs
        return path.read_bytes()


def _place(file: h5py.File, rng: random.Random) -> tuple[h5py.Group, str]:
    """A group, and the name of something in it."""
    group = rng.choice([file, file["episodes"], *[file["episodes/000000"]] * 6])
    return group, rng.choice(sorted(group))


def _link(file: h5py.File, rng: random.Random) -> None:
    group, name = _place(file, rng)
    del group[name]
    links = [h5py.ExternalLink("/etc/passwd", "/x"), h5py.SoftLink("/"), h5py.SoftLink("/episodes/000001"), file["/"]]
    group[name] = rng.choice(links)


def _retype(file: h5py.File, rng: random.Random) -> None:
    group, name = _place(file, rng)
    rows = group[name][()]
    del group[name]
    dtype = rng.choice([np.float16, np.float64, np.int8, np.uint64, np.complex128, bool, "S4", ">f4", np.uint8])
    group[name] = np.asarray(rows).astype(dtype)


def _reshape(file: h5py.File, rng: random.Random) -> None:
    group, name = _place(file, rng)
    rows = group[name][()]
    del group[name]
    shapes = [np.float32(1), rows[:0], rows[:1], rows[:-1], rows[None], rows.reshape(-1), [*rows] * 2, "text", [b"x"]]
    group[name] = rng.choice(shapes)


def _values(file: h5py.File, rng: random.Random) -> None:
    group, name = _place(file, rng)
    rows = group[name]
    rows[rng.randrange(len(rows))] = rng.choice([np.nan, np.inf, -np.inf, 2, -1.5, 1e30, 0])


def _storage(file: h5py.File, rng: random.Random) -> None:
    group, name = _place(file, rng)
    shape, dtype = group[name].shape, group[name].dtype
    del group[name]
    shape = (rng.choice([shape[0], 10_000_000, 2**40]), *shape[1:])
    kinds: list[dict[str, Any]] = [{}, {"chunks": True}, {"external": [("/etc/passwd", 0, h5py.h5f.UNLIMITED)]}]
    kinds += [{"chunks": True, "compression": "gzip", "fillvalue": 1}, {"maxshape": (None, *shape[1:])}]
    group.create_dataset(name, shape, dtype, **rng.choice(kinds))


def _virtual(file: h5py.File, rng: random.Random) -> None:
    group, name = _place(file, rng)
    layout = h5py.VirtualLayout(group[name].shape, group[name].dtype)
    layout[:] = h5py.VirtualSource(rng.choice([".", "other.h5"]), "/episodes/000001/state", group[name].shape)
    del group[name]
    group.create_virtual_dataset(name, layout)


def _attribute(file: h5py.File, rng: random.Random) -> None:
    place = rng.choice([file, *[file["episodes/000000"]] * 3])
    name = rng.choice(sorted(place.attrs))
    odd = [
        1,
        -1,
        1.5,
        np.nan,
        "",
        "{",
        "[]",
        "{}",
        "null",
        b"\xff",
        [1, 2],
        np.zeros((2, 2)),
        h5py.Empty("f4"),
        "x" * 9999,
    ]
    odd += [
        '{"rate": 0}',
        '{"rate": NaN, "cameras": 3}',
        "[" * 5000,
        '{"a": ' + "9" * 5000 + "}",
        np.array(["a", "b"], "O"),
    ]
    del place.attrs[name]
    if rng.random() < 0.85:
        place.attrs[name] = rng.choice(odd)


def _structure(file: h5py.File, rng: random.Random) -> None:
    group, name = _place(file, rng)
    change = rng.randrange(4)
    if change == 0:
        del group[name]
    elif change == 1:
        del group[name]
        group.create_group(name)
    elif change == 2:
        file["episodes"].create_group(rng.choice(["000009", "x", "..x", "é"]))
    else:
        group.move(name, f"{name}x")


_CRAFTS: list[Callable[[h5py.File, random.Random], None]] = [
    *(_link, _retype, _reshape, _values, _storage, _virtual, _attribute, _attribute, _structure)
]


def _calvin(folder: Path) -> Path:
    return write_calvin(folder / "data", [24], [("open_drawer", 2, 20)])


def _annotations(path: Path) -> Any:
    """Annotations have no checksum: what is read must be plain, and segments of the episode."""
    pending, seen = [load_pickled_array(path)], set()
    while pending:
        value = pending.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        assert isinstance(value, str | bytes | bytearray | int | float | complex | None | np.generic | np.ndarray) or (
            type(value) in (list, tuple, dict, set, frozenset)
        )
        pending += [*value] if isinstance(value, list | tuple) else []
        pending += [*value.values()] if isinstance(value, dict) else []
    for each in read_annotations(path.parents[1]):
        assert 0 <= each.segment.first < each.segment.last < 24
        assert isinstance(each.task, str)
    return _VALID


def _pickled(folder: Path) -> Path:
    """Annotations in the oldest way of pickling that is read."""
    path = _calvin(folder) / ANNOTATIONS[0]
    content = load_pickled_array(path)
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
        pickle.dump(np.array(content, object), file, protocol=2)
    return path


TARGETS = [
    Target("dataset", _dataset, load_dataset),
    Target("dataset_sealed_anew", _dataset, _whole, _crafted, cases=400),
    Target("dataset_bytes_sealed_anew", _dataset, _whole, scramble),
    Target("calvin_annotations", lambda folder: _calvin(folder) / ANNOTATIONS[0], _annotations, scramble, cases=400),
    Target("calvin_annotations_2", _pickled, _annotations, scramble, cases=400),
    Target("calvin_pickles", _pickled, _annotations, random_pickle, cases=400),
    Target("calvin_frame", lambda folder: frame_path(_calvin(folder), 3), read_frame),
]
