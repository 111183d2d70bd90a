"""Episodes that were damaged, changed by hand or made to harm: each is one clear error, and none stops the others."""

import json
import os
import re
import shutil
import sqlite3
import struct
import zlib
from pathlib import Path

import lz4.frame
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rosbags.rosbag2 import ReaderError, storage_mcap

from diwa_data.dataset.align import DatasetConfig
from diwa_data.dataset.dataset import build_dataset
from diwa_data.errors import DiwaError
from diwa_data.manifest import content_digest, file_digest, warn_unsealed
from diwa_data.recording import bag_reader
from diwa_data.recording import recover as recovery
from diwa_data.recording.bag_reader import (
    LARGEST_CHUNK,
    METADATA,
    Bag,
    find_bags,
    largest_message,
    open_reader,
    read_episode,
    read_messages,
)
from diwa_data.recording.bag_writer import HIDDEN, tell_unfinished
from diwa_data.recording.recover import annotate, recover, seal_episode
from diwa_data.recording.session import Session
from diwa_data.recording.sidecar import FORMAT, SIDECAR, Sidecar
from diwa_data.spec import Spec
from diwa_data.testing.synthetic import record_synthetic
from diwa_data.view.inspect import inspect_path

FILES_0_1 = Path(__file__).parents[3] / "diwa_cli" / "test" / "files_0_1" / "bags"


def flip(path: Path, byte: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[byte % len(content)] ^= 1 << bit
    path.write_bytes(content)


def rewrite_sidecar(bag: Path, **values) -> None:
    """Change the sidecar and write its own checksum again."""
    content = json.loads((bag / SIDECAR).read_text()) | values
    del content["sha256"]
    (bag / SIDECAR).write_text(json.dumps(content | {"sha256": content_digest(content)}))


def force_seal(bag: Path) -> None:
    """Make all checksums again, whatever the episode holds."""
    sidecar = Sidecar.read(bag, changed_by_hand=True)
    sidecar.seal(bag)
    sidecar.write(bag)


@pytest.fixture(scope="module")
def whole(recorded: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in recorded.rglob("*") if path.is_file() and path.parent.name[0] == "0"}


@settings(max_examples=60)
@given(st.data())
def test_one_flipped_bit_anywhere_is_refused(whole: dict[Path, bytes], tmp_path_factory, data) -> None:
    path = data.draw(st.sampled_from(sorted(whole)))
    byte, bit = data.draw(st.integers(0, len(whole[path]) - 1)), data.draw(st.integers(0, 7))
    bag = Path(shutil.copytree(path.parent, tmp_path_factory.mktemp("flipped") / path.parent.name))
    flip(bag / path.name, byte, bit)
    with pytest.raises(DiwaError, match=path.name):
        Bag(bag)


def test_the_sidecar_keeps_a_checksum_of_each_file(recorded: Path) -> None:
    bag = recorded / "000000"
    files = Sidecar.read(bag).files
    assert files == {name: file_digest(bag / name) for name in ("000000.mcap", METADATA)}
    assert json.loads((bag / SIDECAR).read_text())["format"] == FORMAT


def test_a_change_by_hand_is_refused_until_it_is_sealed(bags: Path) -> None:
    bag = bags / "000000"
    path = bag / SIDECAR
    path.write_text(path.read_text().replace("open_drawer", "close_drawer"))
    with pytest.raises(DiwaError, match=rf"episode\.json is truncated or damaged .* 'diwa seal {bag}'"):
        Bag(bag)
    seal_episode(bag)
    with Bag(bag) as opened:
        assert opened.sidecar.labels["skill"] == "close_drawer"


def test_what_is_damaged_or_unfinished_is_not_sealed(bags: Path) -> None:
    before = (bags / "000000" / SIDECAR).read_bytes()
    os.truncate(bags / "000000" / "000000.mcap", 5000)
    with pytest.raises(DiwaError, match="is truncated or damaged"):
        seal_episode(bags / "000000")
    assert (bags / "000000" / SIDECAR).read_bytes() == before
    rewrite_sidecar(bags / "000001", complete=False)
    with pytest.raises(DiwaError, match="was not finished: salvage it"):
        seal_episode(bags / "000001")


def test_an_annotation_is_sealed_with_the_rest(bags: Path) -> None:
    annotate(bags / "000000", 1.5)
    assert "success at 1.50 s (by annotation)" in annotate(bags / "000000", None)


def test_an_episode_of_0_1_is_read_sealed_and_then_guarded(tmp_path: Path, capsys) -> None:
    bags = Path(shutil.copytree(FILES_0_1, tmp_path / "bags"))
    warn_unsealed.cache_clear()
    build_dataset([bags], tmp_path / "D.h5", DatasetConfig(workers=1))
    assert capsys.readouterr().err.count("without checksums") == 1
    assert "without checksums: 1 of 1" in inspect_path(bags / "000000")
    assert "without checksums: 1 of 1" in inspect_path(bags)
    annotate(bags / "000000", 0.5)
    assert "without checksums" not in inspect_path(bags / "000000")
    flip(bags / "000000" / "000000.mcap", 5000)
    with pytest.raises(DiwaError, match=r"000000\.mcap .* is truncated or damaged"):
        Bag(bags / "000000")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"format": 99}, r"format 99, this version reads up to 1: install a newer diwa-ros2"),
        ({"format": 0}, "format 0, which is not a number from 1 up"),
        ({"format": "1"}, "format '1', which is not a number"),
        ({"labels": []}, "labels|is not a dict"),
        ({"events": [["start", "noon"]]}, "'noon' is not a time"),
        ({"events": [["start", float("nan")]]}, "'nan' is not a time"),
        ({"events": 3}, "is damaged"),
        ({"complete": 1}, "is not a bool"),
        ({"topics": {"/x": {"count": -1, "first": 0, "last": 0, "largest_gap": 0}}}, "count -1"),
        ({"files": {"../x": "0"}}, "'../x' is not a file of the episode"),
        ({"speed": 1}, "unknown key 'speed'"),
        ({"spec": {"cameras": [{"name": "static", "record_size": [60000, 60000]}]}}, "record_size is .*60000.* 4096"),
        ({"spec": {"cameras": [{"name": "../x"}]}}, "cameras.name is '../x'"),
        ({"spec": {"cameras": [{"name": "state"}]}}, "cameras.name is 'state'"),
        ({"spec": {"cameras": []}}, "names no cameras"),
        ({"spec": {"rate": 0}}, "spec.rate is 0"),
        ({"spec": {"rate": float("nan")}}, "spec.rate is nan"),
        ({"spec": {"state": ["colour"]}}, "spec.state is"),
        ({"spec": {"action": {"max_pos": -1}}}, "action.max_pos is -1"),
        ({"spec": {"inference_delay": float("inf")}}, "inference_delay is inf"),
    ],
)
def test_a_sidecar_that_says_what_cannot_be_is_one_clear_error(bags: Path, values, message: str) -> None:
    rewrite_sidecar(bags / "000000", **values)
    with pytest.raises(DiwaError, match=message) as caught:
        Sidecar.read(bags / "000000")
    assert "episode.json" in str(caught.value)


@pytest.mark.parametrize("name", ["../000001/000001.db3", "/etc/passwd", "000000/../../x.mcap"])
def test_a_file_elsewhere_is_refused(bags: Path, name: str) -> None:
    path = bags / "000000" / METADATA
    path.write_text(path.read_text().replace("- 000000.mcap", f"- {name}", 1))
    force_seal(bags / "000000")
    with pytest.raises(DiwaError, match=f"metadata.yaml names '{name}', which is outside of the bag"):
        Bag(bags / "000000")


def test_metadata_that_unfolds_or_names_an_unsealed_file_is_refused(bags: Path) -> None:
    path, bag = bags / "000000" / METADATA, bags / "000000"
    text = path.read_text()
    path.write_text("a: &a [x]\nb: [*a, *a]\n" + text)
    force_seal(bag)
    with pytest.raises(DiwaError, match="refers to itself"):
        Bag(bag)
    path.write_text(text)
    force_seal(bag)
    (bag / "000000.mcap").rename(bag / "other.mcap")
    rewrite_sidecar(bag, files={METADATA: file_digest(path)})
    (bag / "other.mcap").rename(bag / "000000.mcap")
    with pytest.raises(DiwaError, match=r"names '000000\.mcap', which has no checksum"):
        Bag(bag)


def test_a_bag_packed_as_a_whole_is_refused_before_it_is_unpacked(bags: Path) -> None:
    path, bag = bags / "000000" / METADATA, bags / "000000"
    text = path.read_text()
    path.write_text(re.sub("compression_mode: .*", "compression_mode: FILE", text))
    force_seal(bag)
    with pytest.raises(DiwaError, match="compressed as whole files: unpack it with 'ros2 bag convert'"):
        Bag(bag)
    path.write_text(text + "#" * (5 << 20))
    force_seal(bag)
    with pytest.raises(DiwaError, match=r"metadata\.yaml has 5 MB"):
        Bag(bag)


def test_lz4_chunks_are_bounded_by_what_they_could_unpack_to() -> None:
    packed = lz4.frame.compress(b"x" * 1000)
    assert storage_mcap.DECOMPRESSORS["lz4"](packed, 1000) == b"x" * 1000
    with pytest.raises(ReaderError, match="may unpack to more than"):
        storage_mcap.DECOMPRESSORS["lz4"](bytes(LARGEST_CHUNK // 200), 1000)


def test_a_message_that_unpacks_without_end_is_refused(bags: Path, spec) -> None:
    bag = bags / "000001"
    bomb = storage_mcap.zstd.compress(bytes(300_000_000))
    with sqlite3.connect(bag / "000001.db3") as connection:
        connection.execute("UPDATE messages SET data = ? WHERE id = 7", (bomb,))
    connection.close()
    force_seal(bag)
    with pytest.raises(DiwaError, match=rf"unpacks to more than {largest_message(spec)} bytes"):
        read_episode(bag)


def chunks(content: bytes) -> list[tuple[int, int]]:
    """(offset, length) of the chunk records of an MCAP file."""
    found, at = [], 8
    while at + 9 < len(content):
        opcode, length = struct.unpack_from("<BQ", content, at)
        found += [(at + 9, length)] if opcode == 6 else []
        at += 9 + length
    return found


@pytest.mark.parametrize("declared", [1000, 10 * LARGEST_CHUNK])
def test_a_chunk_that_unpacks_without_end_is_refused(declared: int) -> None:
    """Neither to more than a chunk may have, nor to more than it says."""
    bomb = storage_mcap.zstd.compress(bytes(LARGEST_CHUNK + 1))
    with pytest.raises(ReaderError, match=f"unpacks to more than {min(declared, LARGEST_CHUNK)} bytes"):
        storage_mcap.decompress(bomb, "zstd", declared, 0)  # as rosbags does with every chunk that it reads


def test_chunks_of_one_moment_must_fit_into_memory(bags: Path, monkeypatch) -> None:
    monkeypatch.setattr(bag_reader, "_LARGEST_OVERLAP", 100_000)
    with pytest.raises(DiwaError, match="chunks of one moment unpack to more than 100000 bytes"):
        Bag(bags / "000000")


def test_chunks_have_a_crc_that_is_checked(bags: Path) -> None:
    bag = bags / "000000"
    content = bytearray((bag / "000000.mcap").read_bytes())
    for start, length in chunks(content):
        _, _, size, crc, named = struct.unpack_from("<QQQII", content, start)
        packed = bytes(content[start + 32 + named + 8 : start + length])
        assert crc == zlib.crc32(storage_mcap.zstd.decompress(packed))
        assert len(storage_mcap.zstd.decompress(packed)) == size
        content[start + 24] ^= 1
    (bag / "000000.mcap").write_bytes(content)
    reader = open_reader(bag, None, 10**7)
    with pytest.raises(Exception, match="checksum mismatch"):
        list(read_messages(reader, reader.connections, 10**7))


def test_recovery_leaves_out_a_damaged_chunk_and_seals_the_rest(tmp_path: Path) -> None:
    bag = record_synthetic(tmp_path, Spec(), 1.0, {"source": "play"})  # large images make several chunks
    with Bag(bag) as opened:
        before = sum(opened.topics.values())
    start, length = chunks((bag / "000000.mcap").read_bytes())[2]
    flip(bag / "000000.mcap", start + length // 2)
    assert recover(tmp_path) == [bag]
    with Bag(bag) as opened:
        assert opened.sidecar.labels["recovered"] is True
        assert opened.sidecar.files == {path.name: file_digest(path) for path in bag.iterdir() if path.name != SIDECAR}
        assert before * 0.6 < sum(opened.topics.values()) < before


def test_recovery_keeps_annotations_and_names_what_was_killed_at_its_very_end(bags: Path) -> None:
    annotate(bags / "000000", 1.25)
    left = bags / f"{HIDDEN}000000-77" / "000000"
    left.parent.mkdir()
    shutil.move(bags / "000000", left)
    assert recover(bags) == [bags / "000000"]
    assert tell_unfinished(bags) == ""
    assert "success at 1.25 s (by annotation)" in annotate(bags / "000000", None)


def test_recovery_unpacks_messages_of_sqlite3(bags: Path) -> None:
    with Bag(bags / "000001") as bag:
        count = sum(bag.topics.values())
    with (bags / "000001" / "000001.db3").open("ab") as file:
        file.write(bytes(1))
    assert recover(bags / "000001") == [bags / "000001"]
    assert sum(map(len, read_episode(bags / "000001").values())) == count


@pytest.mark.parametrize("error", [OverflowError, MemoryError, RecursionError, SystemError, AttributeError])
def test_whatever_is_wrong_with_one_bag_the_others_are_recovered(bags: Path, monkeypatch, error) -> None:
    shutil.copytree(bags / "000000", bags / "000002")
    for name in ("000000", "000002"):
        os.truncate(bags / name / "000000.mcap", (bags / name / "000000.mcap").stat().st_size - 40)
    mcap = recovery._mcap

    def fails_on_the_first(storage: Path, definitions: dict):
        if storage.parent.name.endswith("000000"):
            raise error("a strange bag")
        return mcap(storage, definitions)

    monkeypatch.setattr(recovery, "_mcap", fails_on_the_first)
    with pytest.raises(DiwaError, match=r"000000.* cannot be salvaged \(a strange bag\).*; recovered: .*000002"):
        recover(bags)
    assert [bag.name for bag in find_bags([bags])] == ["000000", "000001", "000002"]
    assert not (bags / ".damaged-000000").exists()


def test_an_unfinished_episode_is_told_by_the_next_session_and_build(bags: Path, tmp_path: Path, spec, capsys) -> None:
    assert tell_unfinished(bags) == ""
    left = bags / f"{HIDDEN}000007-77"
    shutil.copytree(bags / "000000", left / "000007")
    line = f"{bags} holds 1 unfinished: 000007; save with 'diwa recover {bags}'"
    with Session(spec, bags, {}, min_free_mb=0) as session:
        assert session.unfinished == line
    assert line in inspect_path(bags)
    build_dataset([bags], tmp_path / "D.h5", DatasetConfig(workers=1))
    assert line in capsys.readouterr().out
    shutil.move(left, tmp_path / "empty" / left.name)
    with pytest.raises(DiwaError, match=r"holds no finished episode.*1 unfinished: 000007"):
        find_bags([tmp_path / "empty"])
