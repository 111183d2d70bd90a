"""Small real objects that the tests of this package share."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from diwa_cli.evaluation.rollouts import Setting, tape_rollouts
from diwa_cli.main import main
from diwa_cli.video import write_video
from diwa_data.dataset.dataset import save_dataset
from diwa_data.limits import MotionLimits
from diwa_data.spec import CALVIN, Spec
from diwa_learning.core.checkpoint import load_checkpoint, save_checkpoint, weights_hash
from diwa_learning.policy.checkpoint import PolicyNetConfig, describe, make_policy, policy_weights
from diwa_learning.policy.train import PolicyConfig
from diwa_learning.reward.classifier import DecodedReward, RewardClassifier, RewardConfig
from diwa_learning.world_model.config import WorldModelConfig
from diwa_learning.world_model.model import WorldModel
from diwa_learning.world_model.rssm import RSSMConfig
from diwa_sim.table import SimConfig
from diwa_sim.tasks import SCENE_STATE

BASE_WINS, TUNED_WINS = [True, False, False, True], [True, True, False, True]
RUN = "open_drawer/seed_0/alpha_0.1"


def evaluation(policies, starts, config):
    """`evaluation.json` of policies (name -> successes per start)."""
    return {
        "config": {"skill": "open_drawer", "max_steps": 72, "rollouts": len(starts), **config},
        "policies": {name: {"successes": sum(wins), "rollouts": len(wins)} for name, wins in policies.items()},
        "rollouts": [
            {"policy": name, "seed": seed, "success": win, "steps": 40, "probabilities": [0.1], "interventions": {},
             "latency_ms": [5.0, 9.0]}
            for name, wins in policies.items() for seed, win in zip(starts, wins, strict=True)
        ],
    }  # fmt: skip


def write(path: Path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


@pytest.fixture(scope="session")
def write_run():
    """Writes a fine-tuning, with what stands behind it."""
    return make_run


def make_run(trained: Path, run: Path):
    """A fine-tuning as a sweep leaves it, with the policy and classifier behind it."""
    curve = {"000000": [True, False], "000010": [True, True]}
    write(run / "evaluation/curve/evaluation.json", evaluation(curve, [1, 2], {"seeds": "curve"}))
    frames = [np.full((20, 40, 3), 10 * i, np.uint8) for i in range(5)]
    for name, wins, folder in (("base", BASE_WINS, trained), ("finetuned", TUNED_WINS, run)):
        final = evaluation({name: wins}, [1, 2, 3, 4], {"seeds": "final"})
        write(folder / "evaluation/final/evaluation.json", final)
        write_video(folder / f"evaluation/final/videos/{name}_1.mp4", frames, 7.5)
    steps = list(range(10))
    score = {"precision": 0.96, "recall": 0.9, "positives": 40, "negatives": 200}
    dreams = {"demonstrated": 0.9, "idle": 0.01}
    write(trained / "policy/metrics.json", {"history": {"loss": [[s, 1.0 / (s + 1)] for s in steps]}})
    judged = {"filtered": score, "imagined": score, "dreams": dreams}
    write(trained / "reward/metrics.json", {"history": {"loss": [[s, 3.0 - 0.1 * s] for s in steps]}, **judged})
    curves = {name: [[s, 0.05 * s] for s in steps] for name in ("dream_success", "approx_kl", "bc_kl")}
    chosen = {"imagined_actions": 72000, "iteration": 0, "steps": 10, "scores": {"0": 0.45, "10": 0.25}}
    write(run / "finetuned/metrics.json", {"history": curves, **chosen})


@pytest.fixture(scope="session")
def run(tmp_path_factory) -> Path:
    """The folder of a sweep of one run, as `diwa demo` leaves it, without recordings and datasets."""
    folder = tmp_path_factory.mktemp("run")
    make_run(folder / "open_drawer/seed_0", folder / RUN)
    strip = {"psnr": [30.0, 25.0], "ssim": [0.9, 0.8], "still_psnr": [28.0, 20.0], "kl": [1.0, 1.5]}
    kl = {"recorded": 1.0, "shuffled": 2.5}
    about = {"open_loop_steps": strip, "parameters": 12_000, "steps": 10, "frames": 1500, "action_kl": kl}
    write(folder / "world_model/metrics.json", {"history": {"loss": [[s, 10.0 - s] for s in range(10)]}, **about})
    write(folder / "world_model/spec.json", asdict(Spec()))
    cv2.imwrite(str(folder / "world_model" / "open_loop.png"), np.zeros((8, 16, 3), np.uint8))
    replay = {"minimum": 0.95, "shares": {"open_drawer": 1.0}, "episodes": [{"succeeded": True}]}
    write(folder / "open_drawer/replay.json", replay)
    rates = {"rollouts": 4, "base": 50.0, "base_interval": [10.0, 90.0], "finetuned": 75.0,
             "finetuned_interval": [20.0, 95.0], "difference": 25.0, "interval": [-20.0, 60.0]}  # fmt: skip
    row = {"skill": "open_drawer", "alpha_bc": 0.1, **rates}
    counts = {"both": 2, "only_base": 0, "only_finetuned": 1, "neither": 1}
    stages = {
        "record": {"seconds": 61.5, "commands": {"record_play": "diwa record --out x"}},
        "finetune": {"seconds": 12.25, "commands": {f"{RUN}/finetune": "diwa finetune --out <y>"}},
    }
    write(folder / "results.json", {
        "skills": [{**row, "seeds": [0], "dppo": []}], "runs": [{**row, "seed": 0, **counts}], "failed": {},
        "left_out": {}, "stages": stages,
    })  # fmt: skip
    versions, machine = {"diwa-ros2": "0.1.0"}, {"cores": 2}
    config = {"sweep": {"skills": ["open_drawer"], "seed": 0}}
    write(folder / "run.json", {"command": "diwa demo", "versions": versions, "machine": machine, "config": config})
    return folder


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
def small_demo(checkpoints, tmp_path_factory) -> Path:
    """`runs/demo` of open_drawer, made small: untrained networks, and two of their rollouts for recordings."""
    demo = tmp_path_factory.mktemp("runs") / "demo"
    shutil.copytree(checkpoints.world_model, demo / "world_model")
    shutil.copytree(checkpoints.policy, demo / "open_drawer/seed_0/policy")
    doubting = load_checkpoint(checkpoints.reward, "reward")
    doubting.weights["head.2.bias"] += torch.tensor([5.0, -5.0])  # nothing is a success to it: dreams can start
    about, key, config = {"skill": "open_drawer"}, doubting.world_model_hash, doubting.config_as(RewardConfig)
    reward = demo / "open_drawer/seed_0/reward"
    save_checkpoint(reward, "reward", doubting.weights, config, doubting.spec, about, key)
    setting = Setting("open_drawer", checkpoints.world_model, checkpoints.reward, 16, MotionLimits(), SimConfig())
    rollouts = tape_rollouts(checkpoints.policy, [1, 2], setting)
    for name, shown in (
        ("open_drawer/demonstrations.h5", {"source": "demonstration", "skill": "open_drawer"}),
        ("play.h5", {"source": "play", "skill": ""}),
    ):
        episodes = [replace(episode, attributes={**episode.attributes, **shown}) for episode in rollouts]
        save_dataset(demo / name, doubting.spec, episodes)
    return demo


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
    """The outcome of a command."""

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
