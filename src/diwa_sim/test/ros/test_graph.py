"""The graph that users start, from the scripted operator to a bag; then the dataset and its replay."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from diwa_data.dataset.align import DatasetConfig
from diwa_data.dataset.dataset import build_dataset, load_dataset
from diwa_data.recording import messages
from diwa_data.recording.bag_reader import Bag, find_bags
from diwa_sim.replay import replay

pytestmark = [pytest.mark.ros, pytest.mark.workspace]


def ros2(domain: int, *words: str, seconds: float = 150.0) -> tuple[int, str]:
    """Run `ros2 WORDS` in a domain; its exit status, and what it and its nodes said. It leaves no node running."""
    started = subprocess.Popen(
        ["ros2", *words],
        env=os.environ | {"ROS_DOMAIN_ID": str(domain)},
        text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    try:
        said, _ = started.communicate(timeout=seconds)
        return started.returncode, said
    finally:
        with suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)


def test_two_episodes_from_the_operator_to_their_replay(domain: int, tmp_path: Path) -> None:
    words = ["device:=scripted", "robot:=sim", "skill:=open_drawer", "episodes:=2", "seed:=3", "min_free_mb:=10.0"]
    status, said = ros2(domain, "launch", "diwa_data", "teleop_record.launch.py", *words, f"bag_dir:={tmp_path}")
    assert status == 0, said
    for text in ("recording 000000", "finished 000001", "2 episodes are done"):
        assert text in said, said
    began, ended = (
        set(re.findall(rf"\[INFO\] \[(\S+)\]: process {how}", said)) for how in ("started", "has finished cleanly")
    )
    assert len(began) > 3, said
    assert began == ended, said
    check_bags(tmp_path)


def check_bags(folder: Path) -> None:
    """They are whole, and their actions succeed again."""
    bags = find_bags([folder])
    assert [bag.name for bag in bags] == ["000000", "000001"]
    for path in bags:
        with Bag(path) as bag:
            static = messages.image_topic("static")
            assert bag.topics[static] == bag.sidecar.topics[static].count > 60
            assert abs(bag.topics[messages.camera_info_topic("gripper")] - bag.topics[static]) <= 2
            assert bag.sidecar.mark("success") is not None
    dataset = folder / "d.h5"
    build_dataset([folder], dataset, DatasetConfig(workers=1))
    assert all(len(episode) > 20 for episode in load_dataset(dataset).episodes)
    assert [result.succeeded for result in replay(dataset)] == [True, True]
