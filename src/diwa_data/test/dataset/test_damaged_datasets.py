"""Datasets that were damaged, changed by hand or made to harm: each is one clear error before it costs memory."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diwa_data.dataset.align import DatasetConfig
from diwa_data.dataset.dataset import build_dataset, load_dataset, open_episode, seal_dataset
from diwa_data.dataset.file import copy_episodes, write_checksum
from diwa_data.errors import DiwaError
from diwa_data.manifest import warn_unsealed
from diwa_data.view.inspect import inspect_path

FILE_0_1 = Path(__file__).parents[3] / "diwa_cli" / "test" / "files_0_1" / "demonstrations.h5"


@pytest.fixture(scope="module")
def built(recorded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("datasets") / "D.h5"
    build_dataset([recorded], out, DatasetConfig(workers=1))
    return out


@pytest.fixture
def dataset(built: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copy(built, tmp_path / "D.h5"))


@settings(max_examples=100)
@given(st.data())
def test_one_flipped_bit_anywhere_is_refused_or_changes_nothing(built: Path, tmp_path_factory, data) -> None:
    content = bytearray(built.read_bytes())
    byte = data.draw(st.integers(0, 200) | st.integers(0, len(content) - 1))
    content[byte] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path_factory.mktemp("flipped") / "D.h5"
    path.write_bytes(content)
    try:
        loaded = load_dataset(path)
    except DiwaError:
        return
    whole = load_dataset(built)
    assert loaded.spec == whole.spec
    for one, other in zip(loaded.episodes, whole.episodes, strict=True):
        assert one.attributes == other.attributes
        for name in ("state", "action", "success", "stamp", "received", "scene_state"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        for camera, images in one.images.items():
            np.testing.assert_array_equal(images, other.images[camera])


def test_every_array_and_the_file_have_checksums(built: Path, tmp_path: Path) -> None:
    copy_episodes(built, ["000001"], tmp_path / "part.h5")
    for path in (built, tmp_path / "part.h5"):
        assert json.loads(path.read_bytes()[:512])["sha256"]
        with h5py.File(path) as file:
            assert file.attrs["format"] == 1
            for rows in file["episodes/000000"].values():
                assert rows.fletcher32


def test_a_change_by_hand_is_refused_until_it_is_sealed(dataset: Path) -> None:
    with h5py.File(dataset, "a") as file:
        file["episodes/000000"].attrs["skill"] = "close_drawer"
    with pytest.raises(DiwaError, match=rf"its checksum differs.* 'diwa seal {dataset}'"):
        load_dataset(dataset)
    seal_dataset(dataset)
    assert load_dataset(dataset).episodes[0].attributes["skill"] == "close_drawer"


def test_a_dataset_of_0_1_is_read_with_a_warning_sealed_and_then_guarded(tmp_path: Path, capsys) -> None:
    path = Path(shutil.copy(FILE_0_1, tmp_path / "old.h5"))
    warn_unsealed.cache_clear()
    load_dataset(path)
    before = load_dataset(path)
    assert capsys.readouterr().err.count("old.h5 is without checksums") == 1
    seal_dataset(path)
    after = load_dataset(path)
    assert capsys.readouterr().err == ""
    np.testing.assert_array_equal(before.episodes[0].images["static"], after.episodes[0].images["static"])
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DiwaError, match="its checksum differs"):
        load_dataset(path)
    (tmp_path / "text").write_text("text")
    with pytest.raises(DiwaError, match="cannot be read as a dataset"):
        seal_dataset(tmp_path / "text")


def replace(name: str, rows: Callable[[np.ndarray], np.ndarray], episode: str = "000000") -> Callable:
    def change(file: h5py.File) -> None:
        path = f"episodes/{episode}/{name}"
        changed = rows(file[path][:])
        del file[path]
        file[path] = changed

    return change


def attribute(name: str, value, where: str = "episodes/000000") -> Callable:
    def change(file: h5py.File) -> None:
        file[where].attrs[name] = value

    return change


def with_value(index, value) -> Callable[[np.ndarray], np.ndarray]:
    def changed(rows: np.ndarray) -> np.ndarray:
        rows = rows.copy()
        rows[index] = value
        return rows

    return changed


def linked(name: str, link) -> Callable:
    def change(file: h5py.File) -> None:
        del file[f"episodes/000000/{name}"]
        file[f"episodes/000000/{name}"] = link

    return change


def external_storage(file: h5py.File) -> None:
    del file["episodes/000000/state"]
    file["episodes/000000"].create_dataset("state", (23, 10), np.float32, external=[("/etc/passwd", 0, 920)])


def virtual(file: h5py.File) -> None:
    del file["episodes/000000/state"]
    layout = h5py.VirtualLayout((23, 10), np.float32)
    layout[:] = h5py.VirtualSource("other.h5", "state", (23, 10))
    file["episodes/000000"].create_virtual_dataset("state", layout)


def unwritten(count: int, **storage) -> Callable:
    def change(file: h5py.File) -> None:
        group = file["episodes/000000"]
        for name, rows in [*group.items()]:
            shape, dtype = (count, *rows.shape[1:]), rows.dtype
            del group[name]
            group.create_dataset(name, shape, dtype, **storage)

    return change


def all_rows(rows: slice) -> Callable:
    def change(file: h5py.File) -> None:
        for name in [*file["episodes/000000"]]:
            replace(name, lambda values: values[rows])(file)

    return change


def huge_chunk(file: h5py.File) -> None:
    del file["episodes/000000/stamp"]
    file["episodes/000000"].create_dataset(
        "stamp", data=np.arange(23.0), chunks=(10**7,), maxshape=(None,), compression="gzip"
    )


def twice(file: h5py.File) -> None:
    for number in range(2, 200):
        file[f"episodes/{number:06d}"] = file["episodes/000000"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (replace("static", lambda rows: rows.astype(np.float32) * np.nan), "static is float32, but should be uint8"),
        (replace("static", lambda rows: rows.astype(np.uint16)), "static is uint16, but should be uint8"),
        (replace("static", lambda rows: rows[:, :8]), r"static has shape \(23, 8, 16, 3\)"),
        (replace("state", lambda rows: rows.astype(np.complex64)), "state is complex64, but should be real numbers"),
        (replace("state", lambda rows: rows.astype(int)), "state is int64, but should be real numbers"),
        (replace("state", with_value((3, 1), np.inf)), "state is not finite at tick 3"),
        (replace("scene_state", with_value((5, 0), np.nan)), "scene_state is not finite at tick 5"),
        (replace("success", lambda rows: rows[:-1]), r"success has shape \(22,\), its spec says"),
        (replace("success", lambda rows: rows.astype(np.uint8)), "success is uint8, but should be true or false"),
        (replace("stamp", lambda rows: rows[1:]), r"stamp has shape \(22,\)"),
        (replace("received", lambda rows: rows[:, None]), r"received has shape \(23, 1\)"),
        (replace("stamp", lambda rows: rows[::-1]), "stamp goes from .* at tick 1"),
        (replace("stamp", with_value(4, np.nan)), "stamp is not finite at tick 4"),
        (replace("received", with_value(7, 0.0)), "received goes from .* to 0.0 at tick 7"),
        (replace("action", with_value((2, 0), 1.5)), r"action is \[1.5, .* at tick 2, outside of \[-1, 1\]"),
        (replace("action", lambda rows: np.float32(1)), "000000 has 0 ticks, an episode has 2 or more"),
        (all_rows(slice(0, 0)), "000000 has 0 ticks, an episode has 2 or more"),
        (all_rows(slice(0, 1)), "000000 has 1 ticks, an episode has 2 or more"),
        (lambda file: [file["episodes"].pop(name) for name in list(file["episodes"])], "holds no episode"),
        (attribute("labels", "{'a'"), "labels is damaged"),
        (attribute("labels", "[1]"), "labels is damaged .it holds no JSON object"),
        (attribute("labels", 3.5), "labels is '3.5', which is not a str"),
        (attribute("labels", h5py.Empty("S1")), "labels is .* which is not a str"),
        (attribute("skill", [1, 2]), "skill is '.1, 2.', which is not a str"),
        (attribute("flagged", 1.5), "flagged is '1.5', which is not a list"),
        (attribute("flagged", [99]), "flagged tick .* is outside of its 23 ticks"),
        (attribute("success_tick", 23), "success tick 23 is outside of its 23 ticks"),
        (attribute("clipped_share", np.nan), "clipped is 0, nan"),
        (attribute("format", 99, "/"), "format 99, this version reads up to 1: install a newer diwa-ros2"),
        (attribute("spec", "{}{", "/"), "spec is damaged"),
        (attribute("spec", 1, "/"), "its spec is missing or no text"),
        (attribute("spec", '{"rate": 0}', "/"), "spec.rate is 0"),
        (attribute("spec", '{"rate": NaN}', "/"), "spec.rate is nan"),
        (attribute("spec", '{"cameras": [{"name": "static", "size": [60000, 60000]}]}', "/"), "size is .60000, 60000."),
        (linked("state", h5py.ExternalLink("other.h5", "state")), "state is a link to elsewhere"),
        (linked("state", h5py.SoftLink("/episodes/000001/state")), "state is a link to elsewhere"),
        (linked("state", np.float32(1)), r"state has shape \(\)"),
        (external_storage, "state lies in another file"),
        (virtual, "state lies in another file"),
        (unwritten(10_000_000, chunks=True), r"has shape \(10000000.*, but not all of it was written"),
        (unwritten(10_000_000), r"has shape \(10000000.*, but not all of it was written"),
        (huge_chunk, "has chunks of"),
        (twice, "declares .* bytes of arrays"),
    ],
)
def test_what_no_recording_gives_is_one_clear_error(dataset: Path, change, message: str) -> None:
    with h5py.File(dataset, "a") as file:
        change(file)
    with pytest.raises(DiwaError, match=message):
        seal_dataset(dataset)
    write_checksum(dataset)
    with pytest.raises(DiwaError, match=message) as caught:
        load_dataset(dataset)
    assert str(dataset) in str(caught.value)
    with pytest.raises(DiwaError, match=message):
        inspect_path(dataset)
    if "declares" not in message:
        with pytest.raises(DiwaError), open_episode(dataset, "000000"):
            pass


def test_a_group_of_episodes_elsewhere_is_not_followed(dataset: Path) -> None:
    with h5py.File(dataset, "a") as file:
        del file["episodes"]
        file["episodes"] = h5py.ExternalLink("other.h5", "/episodes")
    shutil.copy(dataset, dataset.with_name("other.h5"))
    write_checksum(dataset)
    with pytest.raises(DiwaError, match="episodes is a link to elsewhere"):
        load_dataset(dataset)
