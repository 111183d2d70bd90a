"""Two processes under torchrun train what one does, and continue each other's state."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from diwa_data.errors import DiwaError
from diwa_learning.core.checkpoint import load_checkpoint
from diwa_learning.core.device import ALONE, Processes
from diwa_learning.world_model.config import WorldModelConfig
from diwa_learning.world_model.rssm import RSSMConfig
from diwa_learning.world_model.train import WorldModelJob

CONFIG = WorldModelConfig(
    depth=2,
    rssm=RSSMConfig(recurrent=12, categoricals=3, classes=4, hidden=10),
    robot_state_weight=1.0,
    image_components=2,
    component_weight=1.0,
    slow_features=2,
    slow_weight=1.0,
    imagined_steps=2,
    target=True,
    updates=8,
    batch_size=3,
    sequence_length=6,
    decode_fraction=0.5,
    log_every=2,
    check_every=4,
    save_every=3,
)
SCRIPT = """
import os, signal, sys, time
from pathlib import Path
import test_parallel as here
from diwa_learning.world_model import train as phase

play, out, dies, stops = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
plain, updates = phase.update, []

def update(*args):
    updates.append(args)
    if len(updates) == dies:
        os._exit(9)
    if len(updates) == stops and os.environ["RANK"] == "1":
        os.kill(os.getppid(), signal.SIGTERM)
        time.sleep(1)
    return plain(*args)

phase.update = update
phase.WorldModelJob((play,), out, here.CONFIG).run()
"""


@pytest.fixture
def play(tmp_path, make_episode, write_dataset):
    """A dataset of some episodes, one shorter than a sequence."""
    return write_dataset(tmp_path / "play.h5", [make_episode(length, seed=length) for length in (20, 14, 9, 5, 4)])


def two(tmp_path, play, out, dies=0, stops=0):
    """Train in two processes; each dies in its update number `dies`, torchrun is told to stop in number `stops`."""
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    paths = [os.path.dirname(__file__), *sys.path]
    command = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", script, play, out, dies, stops]
    return subprocess.run(
        [sys.executable, "-m", *map(str, command)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def assert_close(a, b):
    one, other = (load_checkpoint(path, "world_model").weights for path in (a, b))
    for name, weight in one.items():
        torch.testing.assert_close(weight, other[name], rtol=1e-5, atol=1e-5)


def test_two_processes_reach_the_weights_of_one_also_when_they_were_killed(tmp_path, play):
    WorldModelJob(datasets=(play,), out=tmp_path / "one", config=CONFIG).run()
    done = two(tmp_path, play, tmp_path / "two")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("world_model: ") == 1 + done.stdout.count("frames, ")
    assert_close(tmp_path / "one", tmp_path / "two")
    metrics = [load_checkpoint(tmp_path / name, "world_model").metrics for name in ("one", "two")]
    curves = [np.array([value for _, value in each["history"]["loss"]]) for each in metrics]
    np.testing.assert_allclose(*curves, rtol=1e-4)

    killed = two(tmp_path, play, tmp_path / "killed", dies=6)
    assert killed.returncode != 0
    assert (tmp_path / "killed" / "resume" / "state.safetensors").is_file()
    stopped = two(tmp_path, play, tmp_path / "killed", stops=2)
    assert "stopped after step 5" in stopped.stdout, stopped
    assert two(tmp_path, play, tmp_path / "killed").returncode == 0
    straight, resumed = (load_checkpoint(tmp_path / name, "world_model").hash for name in ("two", "killed"))
    assert straight == resumed


def test_rows_cover_a_batch_once_and_one_process_has_them_all():
    device = torch.device("cpu")
    rows = [Processes(rank, 3, device).rows(8) for rank in range(3)]
    assert [row for part in rows for row in range(8)[part]] == list(range(8))
    assert ALONE.rows(8) == slice(0, 8)
    with pytest.raises(DiwaError, match="a batch of 2 sequences cannot be split over 3 processes"):
        Processes(0, 3, device).rows(2)
