"""rosbag2's writer and ours: the same messages become the same dataset, and rosbag2 reads both."""

from __future__ import annotations

import subprocess
from pathlib import Path

import h5py
import numpy as np
import pytest

from diwa_data.dataset.align import DatasetConfig
from diwa_data.dataset.dataset import build_dataset
from diwa_data.recording.bag_reader import Bag
from diwa_data.recording.bag_writer import BagWriter
from diwa_data.recording.sidecar import Sidecar
from diwa_data.testing.synthetic import record_synthetic

pytestmark = pytest.mark.ros


def copy(bag: Path, folder: Path, storage: str) -> Path:
    """The messages of `bag`, written by rosbag2 itself."""
    from diwa_data.ros.recorder_node import Rosbag2Backend

    with Bag(bag) as opened:
        sidecar = Sidecar(opened.spec, opened.sidecar.labels, opened.sidecar.events, complete=False)
        types = {connection.topic: connection.msgtype for connection in opened._reader.connections}
        writer = BagWriter(folder, bag.name, sidecar, storage, Rosbag2Backend)
        for topic, sample in opened.messages(list(opened.topics)):
            writer.write(topic, types[topic], sample.received, sample.value)
    return writer.finish()


def arrays(path: Path) -> dict[str, np.ndarray]:
    """Every array of a dataset."""
    found: dict[str, np.ndarray] = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    return found


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_bags_of_both_writers_build_the_same_dataset_and_rosbag2_reads_them(tmp_path, spec, storage):
    ours = record_synthetic(tmp_path / "ours", spec, 3.0, {"source": "play", "skill": ""}, storage, success=2.0)
    theirs = copy(ours, tmp_path / "theirs", storage)
    datasets = []
    for bag in (ours, theirs):
        datasets.append(arrays(build(bag)))
        info = subprocess.run(["ros2", "bag", "info", str(bag)], capture_output=True, text=True, check=True).stdout
        with Bag(bag) as opened:
            assert f"{sum(opened.topics.values())}" in info.split("Messages:")[1].splitlines()[0]
            assert all(f"Topic: {topic} " in info for topic in opened.topics)
    assert datasets[0].keys() == datasets[1].keys()
    for name, values in datasets[0].items():
        np.testing.assert_array_equal(values, datasets[1][name], err_msg=name)


def build(bag: Path) -> Path:
    dataset = bag.with_suffix(".h5")
    build_dataset([bag], dataset, DatasetConfig(workers=1))
    return dataset
