"""Episodes after they were recorded: salvaged (`diwa recover`), annotated and sealed. No message is rewritten."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import struct
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from rosbags.rosbag2 import ReaderError, storage_mcap

from diwa_data.errors import DiwaError, damage_as_error
from diwa_data.files import remove
from diwa_data.recording import messages
from diwa_data.recording.bag_reader import Bag, largest_message, unpack
from diwa_data.recording.bag_writer import HIDDEN, BagWriter, RosbagsBackend, is_running
from diwa_data.recording.marks import MARKS, Outcome
from diwa_data.recording.messages import decode_value
from diwa_data.recording.sidecar import SIDECAR, Sidecar

_MAGIC = b"\x89MCAP0\r\n"
_RECORD = struct.Struct("<BQ")  # opcode, length
_CHUNK_HEAD = struct.Struct("<QQQII")  # first and last time, unpacked size, CRC, length of the compression's name
_CHUNK, _DATA_END, _FOOTER = 0x06, 0x0F, 0x02
_EMPTY_FOOTER = struct.pack("<BQQQI", _FOOTER, 20, 0, 0, 0) + _MAGIC
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"  # of a packed message; serialised ones never begin like that
_DAMAGED = ".damaged-"
_KNOWN = messages.typestore().fielddefs
_Message = tuple[str, str, int, bytes]  # topic, type, nanoseconds received, serialised


def recover(path: Path) -> list[Path]:
    """Salvage every unfinished or truncated episode at or below `path`; returns the folders they became (MCAP).

    A damaged bag is kept beside as `.damaged-<name>`. Raises `DiwaError` if there is nothing to salvage or, after all
    others were, naming the episodes that are still being recorded or cannot be salvaged, whatever is wrong with
    them.
    """
    path = Path(path)
    if not path.exists():
        raise DiwaError(f"{path} does not exist: name a bag, or a folder of bags")
    episodes = sorted(sidecar.parent for sidecar in path.rglob(SIDECAR))
    broken = [e for e in episodes if not e.name.startswith(_DAMAGED) and _is_broken(e)]
    if not broken:
        raise DiwaError(f"nothing to recover at {path}: {len(episodes)} episodes are there, all complete")
    recovered, errors = [], []
    for episode in broken:
        try:
            with damage_as_error(f"{episode} cannot be salvaged", "delete the episode"):
                recovered.append(_recover_episode(episode))
        except DiwaError as error:
            errors.append(str(error))
    if errors:
        done = f"; recovered: {', '.join(map(str, recovered))}" if recovered else ""
        raise DiwaError("; ".join(errors) + done)
    return recovered


def _is_broken(episode: Path) -> bool:
    if episode.parent.name.startswith(HIDDEN):
        return True  # killed before it got its name, however whole it is
    try:
        with damage_as_error(str(episode), "salvage it"), Bag(episode) as bag:
            bag.read_through()
    except DiwaError:
        return True
    return False


def _recover_episode(episode: Path) -> Path:
    """Set the broken folder aside as `.damaged-<name>` and copy its whole messages into a new bag of its name."""
    unfinished = episode.parent.name.startswith(HIDDEN)
    if unfinished and is_running(episode.parent):
        raise DiwaError(f"{episode} is still being recorded: stop its recorder first")
    storage = next((file for kind in ("mcap", "db3") for file in episode.glob(f"*.{kind}")), None)
    if storage is None:
        raise DiwaError(f"{episode} has neither an .mcap nor a .db3 file: delete {episode}")
    found = Sidecar.read(episode)
    sidecar = Sidecar(found.spec, found.labels | {"recovered": True}, annotations=found.annotations, complete=False)
    folder = episode.parent.parent if unfinished else episode.parent
    aside = folder / f"{_DAMAGED}{episode.name}"
    if aside.exists():
        raise DiwaError(f"{aside} is there from an earlier recovery: delete it and run again")
    os.replace(episode, aside)
    try:
        definitions: dict[str, str] = {}
        bag = BagWriter(folder, episode.name, sidecar, "mcap", partial(RosbagsBackend, definitions=definitions))
        try:
            _copy_messages(aside / storage.name, bag, str(storage), definitions)
        except BaseException:
            bag.discard()
            raise
        recovered = bag.finish()
    except BaseException:
        episode.parent.mkdir(exist_ok=True)  # the new bag's writer has cleared unfinished ones of its name
        os.replace(aside, episode)
        raise
    if unfinished:
        remove(aside)
        remove(episode.parent)
    return recovered


def _copy_messages(storage: Path, bag: BagWriter, where: str, definitions: dict[str, str]) -> None:
    """Copy the whole messages of `storage` into `bag`, and what it says of their types into `definitions`.

    `where` names it in errors.
    """
    largest = largest_message(bag.sidecar.spec, "extra_topics" in bag.sidecar.labels)
    read = _mcap(storage, definitions) if storage.suffix == ".mcap" else _sqlite3(storage, largest, definitions)
    with damage_as_error(f"{where} cannot be salvaged", "delete the episode"):
        for topic, message_type, timestamp, data in read:
            received = timestamp * 1e-9
            bag.write(topic, message_type, received, data)
            if topic == messages.EPISODE_EVENT:
                bag.sidecar.events.append((decode_value(topic, data, where), received))
    if not bag.sidecar.topics:
        raise DiwaError(f"{where} holds no complete message: delete the episode")


def _mcap(storage: Path, definitions: dict[str, str]) -> Iterator[_Message]:
    """The messages of all whole records, read without the index."""
    with tempfile.TemporaryDirectory(dir=storage.parent) as folder:
        copy = Path(folder) / "whole.mcap"
        _copy_whole_records(storage, copy)
        reader = storage_mcap.McapReader(copy)
        reader.open()
        with contextlib.closing(reader):
            for connection, timestamp, data in reader.messages_scan(reader.connections):
                if connection.msgtype not in _KNOWN:
                    definitions[connection.msgtype] = connection.msgdef.data
                yield connection.topic, connection.msgtype, timestamp, data


def _sqlite3(storage: Path, largest: int, definitions: dict[str, str]) -> Iterator[_Message]:
    """The messages that rosbag2 committed; `diwa record` commits at the end of an episode only."""
    query = "SELECT name, type, timestamp, data FROM messages JOIN topics ON topics.id = topic_id ORDER BY timestamp"
    with contextlib.closing(sqlite3.connect(f"file:{storage}?mode=ro", uri=True)) as connection:
        for topic, message_type, timestamp, data in connection.execute(query):
            if message_type not in _KNOWN:
                definitions[message_type] = ""  # Humble keeps none, and no reader of ours needs one
            whole = _unpacked(data, largest) if data[:4] == _ZSTD_MAGIC else data
            if whole is not None:
                yield topic, message_type, timestamp, whole


def _unpacked(data: bytes, largest: int) -> bytes | None:
    """The message in a zstd frame; None if it is damaged."""
    try:
        return unpack(data, largest)
    except (ReaderError, storage_mcap.zstd.ZstdError):
        return None


def _copy_whole_records(source: Path, copy: Path) -> None:
    """The whole MCAP records of `source` up to the first incomplete one or its index, closed with an empty footer.

    A chunk whose content is damaged is left out.
    """
    size = source.stat().st_size
    with source.open("rb") as read, copy.open("wb") as write:
        write.write(read.read(len(_MAGIC)))
        while read.tell() + _RECORD.size <= size:
            opcode, length = _RECORD.unpack(read.read(_RECORD.size))
            if opcode in (_DATA_END, _FOOTER) or read.tell() + length > size:
                break
            record = read.read(length)
            if opcode != _CHUNK or _is_whole_chunk(record):
                write.write(_RECORD.pack(opcode, length) + record)
        write.write(_EMPTY_FOOTER)


def _is_whole_chunk(record: bytes) -> bool:
    try:
        _, _, unpacked, crc, named = _CHUNK_HEAD.unpack_from(record)
        compression = record[_CHUNK_HEAD.size : _CHUNK_HEAD.size + named].decode()
        storage_mcap.decompress(record[_CHUNK_HEAD.size + named + 8 :], compression, unpacked, crc)
    except (ReaderError, storage_mcap.zstd.ZstdError, RuntimeError, ValueError, struct.error):
        return False
    return True


def seal_episode(bag: Path) -> None:
    """Write new checksums for a finished episode. Raises `DiwaError` if it is not finished, or cannot be read."""
    sidecar = Sidecar.read(bag, changed_by_hand=True)
    sidecar.seal(bag)
    with Bag(bag, sidecar) as opened:
        opened.read_through()
    sidecar.write(bag)


def reseal(bag: Path, sidecar: Sidecar) -> None:
    """Write a changed sidecar into a finished episode; one that was recorded before 0.2 gets its checksums."""
    if sidecar.files is None:
        sidecar.seal(bag)
    sidecar.write(bag)


def annotate(path: Path, success: float | None, never: bool = False, fail: float | None = None) -> str:
    """Mark an episode as a success or failed, so many seconds after its start, or say that success `never` came.

    With none of them nothing changes. Returns a line that says how the episode is marked now. Raises `DiwaError` for a
    time outside of the episode, and for an episode that is unfinished or damaged.
    """
    words: dict[Outcome, float | None] = {"success": success, "fail": fail}
    given = {name: seconds for name, seconds in words.items() if seconds is not None}
    if len(given) + never > 1:
        raise DiwaError("give only one of --success, --fail and --never")
    with Bag(path) as bag:
        clock = messages.image_topic(bag.spec.cameras[0].name)
        bag.require_topics([clock])
        sidecar, frames = bag.sidecar, bag.sidecar.topics[clock]
    start, end = sidecar.mark("start"), frames.last
    start = frames.first if start is None else start
    for name, seconds in given.items():
        if not 0 <= seconds <= end - start:
            raise DiwaError(f"{name} at {seconds:g} s is outside of {path}, which lasts {end - start:.2f} s")
        sidecar.annotate(name, start + seconds)
    if never:
        sidecar.annotations["success"] = None
    if given or never:
        reseal(path, sidecar)
    outcome, mark = sidecar.verdict
    said = "by annotation" if sidecar.annotations.keys() & {*MARKS} else "by the operator"
    shown = "no success" if mark is None else f"{outcome} at {mark - start:.2f} s"
    return f"{path}: {end - start:.2f} s, {shown} ({said})"
