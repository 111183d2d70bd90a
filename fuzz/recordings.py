"""Recorded episodes and what else is read with them."""

from __future__ import annotations

import json
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from harness import Target
from mutations import changed_json, scramble

from diwa_data.dataset.align import DatasetConfig
from diwa_data.dataset.dataset import build_dataset, load_dataset
from diwa_data.manifest import content_digest
from diwa_data.recording.bag_reader import METADATA, Bag, read_episode
from diwa_data.recording.bag_writer import BagWriter
from diwa_data.recording.messages import IMAGE_TYPE, TARGET_POSE, TYPES, decode_value, image_topic
from diwa_data.recording.recover import recover, seal_episode
from diwa_data.recording.sidecar import SIDECAR, Sidecar
from diwa_data.spec import CameraSpec, Spec
from diwa_data.testing.synthetic import record_synthetic

SPEC = Spec(
    cameras=tuple(CameraSpec(name, record_size=(24, 32), size=(8, 8)) for name in ("static", "gripper")),
    scene_state=("drawer", "slider"),
)
_LABELS = {"source": "demonstration", "skill": "open_drawer", "seed": 7}
_VALID = "valid"
"""Content of targets whose files have no checksum: anything that is read must only be whole in itself."""


def episode(folder: Path, storage: str = "mcap") -> Path:
    """A bag of two seconds."""
    return record_synthetic(folder, SPEC, 2.0, _LABELS, storage=storage, success=1.0)  # type: ignore[arg-type]


def _file(storage: str, pattern: str) -> Any:
    return lambda folder: next(episode(folder, storage).glob(pattern))


def _bag(path: Path) -> Any:
    """Everything in the episode that `path` belongs to."""
    with Bag(path.parent) as bag:
        sidecar = bag.sidecar
        messages = [(topic, *sample) for topic, sample in bag.messages(list(bag.topics))]
    return sidecar.spec, sidecar.labels, sidecar.events, sidecar.annotations, sidecar.topics, messages


def _sealed_anew(path: Path) -> Any:
    """Read an episode whose checksums were made of the damaged file: only its own checks are left."""
    seal_episode(path.parent)
    read_episode(path.parent)
    return _VALID


def _sealed_sidecar(content: Any) -> Any:
    if isinstance(content, dict):
        content.pop("sha256", None)
        content["sha256"] = content_digest(content)
    return content


def _read_sidecar(path: Path) -> Any:
    sidecar = Sidecar.read(path.parent)
    times = [received for _, received in sidecar.events] + [t for t in sidecar.annotations.values() if t is not None]
    times += [value for topic in sidecar.topics.values() for value in (topic.first, topic.last, topic.largest_gap)]
    assert all(type(value) is float and np.isfinite(value) for value in times)
    assert np.prod([camera.record_size for camera in sidecar.spec.cameras], axis=1).max() <= 4096**2
    sidecar.write(path.parent)
    return _VALID


def _recovered(path: Path) -> Any:
    """Salvage a copy of the damaged episode, and read what came of it."""
    with tempfile.TemporaryDirectory() as folder:
        bag = Path(folder, "bags", path.parent.name)
        shutil.copytree(path.parent, bag)
        with (bag / path.name).open("ab") as file:
            file.write(bytes(1))  # the whole file needs no recovery
        recover(bag.parent)
        with Bag(bag) as salvaged:
            assert salvaged.sidecar.labels["recovered"] is True
            list(salvaged.messages(list(salvaged.topics)))
    return _VALID


def _one_of_each(folder: Path) -> Path:
    """A file of one message of each topic."""
    streams = _messages(episode(folder))
    path = folder / "messages"
    path.write_bytes(b"".join(streams.values()))
    (folder / "lengths.json").write_text(json.dumps({topic: len(data) for topic, data in streams.items()}))
    return path


def _messages(bag: Path) -> dict[str, bytes]:
    with Bag(bag) as opened:
        return {topic: bytes(sample.value) for topic, sample in opened.messages(list(opened.topics))}


def _decoded(path: Path) -> Any:
    for topic, data in _split(path):
        value = decode_value(topic, data, topic)
        assert not isinstance(value, np.ndarray) or value.nbytes <= 4 * len(data)
    return _VALID


def _split(path: Path) -> Iterator[tuple[str, bytes]]:
    content, start = path.read_bytes(), 0
    for topic, length in json.loads((path.parent / "lengths.json").read_text()).items():
        yield topic, content[start : start + length]
        start += length


def _built(path: Path) -> Any:
    """Record the damaged messages, among whole ones, anew; build a dataset of them and load it."""
    with tempfile.TemporaryDirectory() as folder:
        whole = path.parent / "000000"
        types = TYPES | {image_topic(camera.name): IMAGE_TYPE for camera in SPEC.cameras}
        damaged, begun = dict(_split(path)), 0
        with Bag(whole) as bag:
            writer = BagWriter(Path(folder), "000000", Sidecar(SPEC, _LABELS, bag.sidecar.events), "mcap")
            for topic, sample in bag.messages(list(bag.topics)):
                begun += topic == TARGET_POSE
                replaced = damaged.pop(topic, None) if begun > 20 else None
                writer.write(topic, types[topic], sample.received, sample.value if replaced is None else replaced)
        build_dataset([writer.finish()], Path(folder, "D.h5"), DatasetConfig(workers=1))
        load_dataset(Path(folder, "D.h5"))
    return _VALID


def bent_metadata(content: bytes, rng: random.Random) -> bytes:
    """A metadata.yaml that names files elsewhere or is damaged otherwise."""
    text = content.decode()
    name = text[text.index("relative_file_paths") :].split("- ", 1)[1].split("\n", 1)[0]
    elsewhere = ["../other/" + name, "/etc/passwd", "..", "''", "[]", "{}", "1", "*x", "&x [*x]", "x/../../" + name]
    if rng.random() < 0.3:
        return text.replace(name, rng.choice(elsewhere)).encode()
    return scramble(content, rng)


TARGETS = [
    Target("mcap", _file("mcap", "*.mcap"), _bag),
    Target("db3", _file("sqlite3", "*.db3"), _bag),
    Target("metadata", _file("mcap", METADATA), _bag),
    Target("sidecar", _file("mcap", SIDECAR), _bag),
    Target(
        "sidecar_values", _file("mcap", SIDECAR), _read_sidecar, changed_json(_sealed_sidecar, ("labels", "sha256"))
    ),
    Target("mcap_sealed_anew", _file("mcap", "*.mcap"), _sealed_anew, scramble),
    Target("db3_sealed_anew", _file("sqlite3", "*.db3"), _sealed_anew, scramble),
    Target("metadata_sealed_anew", _file("mcap", METADATA), _sealed_anew, bent_metadata),
    Target("mcap_recovered", _file("mcap", "*.mcap"), _recovered, scramble, cases=100),
    Target("db3_recovered", _file("sqlite3", "*.db3"), _recovered, scramble, cases=100),
    Target("messages", _one_of_each, _decoded, scramble),
    Target("messages_built", _one_of_each, _built, scramble, cases=150),
]
