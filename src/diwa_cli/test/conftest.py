"""Small real objects that the tests of this package share."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from diwa_cli.main import main
from diwa_cli.run_folder import Run, RunFolder, SweepFolder
from diwa_cli.video import write_video
from diwa_data.spec import CALVIN, Spec
from diwa_learning.core.checkpoint import save_checkpoint, weights_hash
from diwa_learning.policy.checkpoint import PolicyNetConfig, describe, make_policy, policy_weights
from diwa_learning.policy.train import PolicyConfig
from diwa_learning.reward.classifier import DecodedReward, RewardClassifier, RewardConfig
from diwa_learning.world_model.config import WorldModelConfig
from diwa_learning.world_model.model import WorldModel
from diwa_learning.world_model.rssm import RSSMConfig
from diwa_sim.tasks import SCENE_STATE

BASE_WINS, TUNED_WINS = [True, False, False, True], [True, True, False, True]


def evaluation(policies, seeds, config):
    """`evaluation.json` of policies (name -> successes per start)."""
    rates = {
        n: {"successes": sum(w), "rollouts": len(w), "rate": 0.5, "interval": [0.1, 0.9]} for n, w in policies.items()
    }
    return {
        "config": {"skill": "open_drawer", "max_steps": 72, **config},
        "policies": rates,
        "differences": {
            "finetuned - base": {"points": 25.0, "interval": [-20.0, 60.0], "both": 2, "only_base": 0,
                                 "only_finetuned": 1, "neither": 1},
        },
        "rollouts": [
            {"policy": name, "seed": seed, "success": win, "steps": 40, "probabilities": [0.1], "interventions": {},
             "latency_ms": [5.0, 9.0]}
            for name, wins in policies.items() for seed, win in zip(seeds, wins, strict=True)
        ],
    }  # fmt: skip


def write(path: Path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


@pytest.fixture(scope="session")
def run(tmp_path_factory) -> Path:
    """The folder of a demo as `diwa demo` leaves it, without recordings and datasets."""
    folder = SweepFolder(tmp_path_factory.mktemp("run"))
    one = RunFolder(folder, Run("open_drawer", 0, 0.1))
    curve = {"000000": [True, False], "000010": [True, True]}
    write(one.curve / "evaluation.json", evaluation(curve, [1, 2], {"seeds": "curve"}))
    frames = [np.full((20, 40, 3), 10 * i, np.uint8) for i in range(5)]
    for name, wins, final in (("base", BASE_WINS, one.base_final), ("finetuned", TUNED_WINS, one.final)):
        write(final / "evaluation.json", evaluation({name: wins}, [1, 2, 3, 4], {"seeds": "final"}))
        write_video(final / f"videos/{name}_1.mp4", frames, 7.5)
    steps = list(range(10))
    curves = {
        "world_model": {"loss": [[s, 10.0 - s] for s in steps]},
        "policy": {"loss": [[s, 1.0 / (s + 1)] for s in steps]},
        "reward": {"loss": [[s, 3.0 - 0.1 * s] for s in steps]},
        "finetuned": {name: [[s, 0.05 * s] for s in steps] for name in ("dream_success", "approx_kl", "bc_kl")},
    }
    score = {"precision": 0.96, "recall": 0.9, "positives": 40, "negatives": 200}
    strip = {"psnr": [30.0, 25.0], "ssim": [0.9, 0.8], "still_psnr": [28.0, 20.0], "kl": [1.0, 1.5]}
    kl = {"recorded": 1.0, "shuffled": 2.5}
    extra = {
        "world_model": {"open_loop_steps": strip, "parameters": 12_000, "steps": 10, "frames": 1500, "action_kl": kl},
        "reward": {"filtered": score, "imagined": score, "dreams": {"demonstrated": 0.9, "idle": 0.01}},
        "finetuned": {"imagined_actions": 72000, "iteration": 0, "steps": 10, "scores": {"0": 0.45, "10": 0.25}},
    }
    for name, history in curves.items():
        write(getattr(one, name) / "metrics.json", {"history": history, **extra.get(name, {})})
    picture = np.zeros((8, 16, 3), np.uint8)
    cv2.imwrite(str(one.world_model / "open_loop.png"), picture)
    write(one.replay, {"minimum": 0.95, "shares": {"open_drawer": 1.0}, "episodes": [{"succeeded": True}]})
    write(folder.results, {"stages": {
        "record": {"seconds": 61.5, "commands": {"record_play": "diwa record --out x"}},
        "finetune": {"seconds": 12.25, "commands": {"finetune": "diwa finetune --out <y>"}},
    }})  # fmt: skip
    config = {
        "sweep": {"skills": ["open_drawer"], "seeds": [0], "seed": 0, "curve_checkpoints": 5},
        "final": {"seeds": "final", "rollouts": 4},
    }
    versions, machine = {"diwa-ros2": "0.1.0"}, {"cores": 2}
    write(folder.description, {"command": "diwa demo", "versions": versions, "machine": machine, "config": config})
    return folder.path


@dataclass(frozen=True)
class Checkpoints:
    """Untrained networks of the simulated robot, as checkpoint folders."""

    world_model: Path
    policy: Path
    other_policy: Path
    reward: Path


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory) -> Checkpoints:
    """Smallest sizes; the two policies differ in their weights."""
    return make_checkpoints(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture(scope="session")
def hybrid_checkpoints(tmp_path_factory) -> Checkpoints:
    """The same with a hybrid world model, whose decoder gives the reward."""
    return make_checkpoints(tmp_path_factory.mktemp("hybrid"), scene_state=True, robot_state_weight=1.0)


@pytest.fixture(scope="session")
def calvin_checkpoints(tmp_path_factory) -> Checkpoints:
    """The same for CALVIN's robot."""
    return make_checkpoints(tmp_path_factory.mktemp("calvin"), CALVIN)


def make_checkpoints(folder: Path, spec: Spec | None = None, **settings) -> Checkpoints:
    """Untrained networks of the robot of `spec`, ours by default, in `folder`; `settings` are the world model's."""
    spec = spec or Spec(robot="panda_sim", scene_state=SCENE_STATE)
    sizes = RSSMConfig(recurrent=12, categoricals=3, classes=4, hidden=10)
    config = WorldModelConfig(depth=2, rssm=sizes, **settings)
    torch.manual_seed(0)
    model = WorldModel(config, spec)
    save_checkpoint(folder / "world_model", "world_model", model.state_dict(), config, spec, {})
    key = weights_hash(folder / "world_model")
    net = PolicyNetConfig(width=8, denoising_steps=2)
    for name in ("policy", "other_policy"):
        policy = make_policy(net, model.feature_dim, spec.action_dim)
        about = describe(net, "open_drawer", trained_steps=0)
        save_checkpoint(folder / name, "policy", policy_weights(policy), PolicyConfig(net=net), spec, about, key)
    about = {"skill": "open_drawer"}
    reward: torch.nn.Module = RewardClassifier(model.feature_dim, 8)
    reward_config = RewardConfig(width=8)
    if config.scene_state:
        reward, reward_config = DecodedReward(model.feature_dim), RewardConfig(kind="decoder")
    save_checkpoint(folder / "reward", "reward", reward.state_dict(), reward_config, spec, about, key)
    return Checkpoints(*(folder / name for name in ("world_model", "policy", "other_policy", "reward")))


@pytest.fixture
def diwa(monkeypatch, capsys):
    """Run the command as a user would: `diwa("inspect", path)` -> status, stdout, stderr."""

    def run(*words):
        monkeypatch.setattr("sys.argv", ["diwa", *map(str, words)])
        try:
            status = main()
        except SystemExit as end:
            status = end.code
        out, err = capsys.readouterr()
        return Ran(status, out, err)

    return run


@dataclass(frozen=True)
class Ran:
    """What a command left."""

    status: int
    out: str
    err: str


@pytest.fixture
def interrupt_in_phase() -> Callable[[list[str | Path], str], None]:
    """Run a `diwa` command and press Ctrl-C when the phase is under way; it says how to go on."""

    def interrupt(arguments: list[str | Path], phase: str) -> None:
        command = [sys.executable, "-m", "diwa_cli.main", *arguments]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        ) as run:
            for line in run.stdout:
                if line.startswith(f"[{phase}]"):
                    break
            time.sleep(0.3)
            os.killpg(run.pid, signal.SIGINT)
            _, err = run.communicate(timeout=60)
        assert run.returncode in (130, -signal.SIGINT)  # both are 130 to a shell; the latter while importing
        assert err.strip().splitlines()[-1] == "interrupted; the same command continues"
        assert "Traceback" not in err

    return interrupt
