"""The baseline on simulated Pandas: the same frames as deployment sees, processes that end, the commands once."""

import dataclasses
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from functools import partial

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from diwa_cli.evaluation.dppo import checkpoints_by_steps, first_to_reach, parallel_environments, text
from diwa_cli.statistics import DPPO_SEEDS, SEEDS, SuccessRate
from diwa_data.errors import DiwaError
from diwa_data.limits import MotionLimits
from diwa_data.motion import SafetyFilter
from diwa_data.spec import Spec
from diwa_learning.agent import Agent, NoClassifier
from diwa_learning.core.checkpoint import load_checkpoint
from diwa_learning.finetune.dppo import DPPOConfig, EnvironmentRollouts
from diwa_learning.policy.checkpoint import PolicyNetConfig, make_policy
from diwa_learning.world_model.config import WorldModelConfig
from diwa_learning.world_model.model import WorldModel
from diwa_sim.table import SimulatedPanda
from diwa_sim.tasks import SCENE_STATE

SPEC = Spec(robot="panda_sim", scene_state=SCENE_STATE, limits=MotionLimits())
SMALL = ["--preset", "debug", "--ppo.trained-steps", "1", "--iterations", "6"]


@pytest.fixture(scope="module")
def environments():
    """Three, in this process."""
    make = partial(gymnasium.make, "diwa/Table-v0", skill="open_drawer")
    found = SyncVectorEnv([make] * 3, autoreset_mode=AutoresetMode.DISABLED)
    yield found
    found.close()


def assert_same(one, two):
    assert set(one) == set(two)
    for name, value in one.items():
        np.testing.assert_array_equal(value, two[name])


def test_processes_give_what_one_process_gives(environments):
    rng = np.random.default_rng(0)
    seeds, actions = (DPPO_SEEDS.start + np.arange(4)).tolist(), rng.uniform(-2, 2, (4, 3, 7)).astype(np.float32)
    with parallel_environments(3, 2, skill="open_drawer") as parallel:
        assert (parallel.num_envs, parallel.get_attr("contract")) == (3, (SPEC,) * 3)
        assert_same(parallel.reset(seed=seeds[:3])[0], environments.reset(seed=seeds[:3])[0])
        for action in actions:
            one, two = parallel.step(action), environments.step(action)
            assert_same(one[0], two[0])
            for number in (1, 2, 3):
                np.testing.assert_array_equal(one[number], two[number])
        last = [
            each.reset(seed=[0, 0, seeds[3]], options={"reset_mask": np.array([False, False, True])})[0]
            for each in (parallel, environments)
        ]
        assert_same(*last)
        assert last[0]["static"].shape == (3, 64, 64, 3)
        assert (one[2].dtype, one[2].tolist()) == (np.bool_, [False] * 3)


@pytest.mark.parametrize("hybrid", [False, True])
def test_features_are_those_of_the_agent_on_the_same_start(environments, checkpoints, hybrid):
    """Train/serve skew: the control loop's agent, safety filter and robot, fed the same noise and actions."""
    config = load_checkpoint(checkpoints.world_model, "world_model").config_as(WorldModelConfig)
    torch.manual_seed(1)
    config = dataclasses.replace(config, scene_state=hybrid, target=True, robot_state_weight=1.0)
    model = WorldModel(config, SPEC).eval()
    policy = make_policy(PolicyNetConfig(width=8, denoising_steps=2), model.feature_dim, 7)
    agent = Agent(model.requires_grad_(False), policy, NoClassifier(), SPEC)
    sampling = DPPOConfig(envs=3, chunks=1, horizon=1)
    source = EnvironmentRollouts(model, environments, DPPO_SEEDS, sampling, torch.Generator().manual_seed(5))
    rollout = source.rollout(policy)

    again = torch.Generator().manual_seed(5)
    seeds = DPPO_SEEDS.start + (torch.rand(3, generator=again).double().numpy() * len(DPPO_SEEDS)).astype(np.int64)
    first = model.rssm.noise(3, rng=again)
    policy.draw_noise(3, again)
    noise = [first, *(model.rssm.noise(3, rng=again) for _ in range(policy.chunk))]
    robot, safety = SimulatedPanda(), SafetyFilter(MotionLimits(), SPEC)
    for row, seed in enumerate(seeds):
        robot.reset("open_drawer", int(seed))
        agent.reset(0)
        executed, features = safety.reset(robot.observe().target), []
        for tick, raw in enumerate([*rollout.chains[row, 0, -1].numpy(), None]):
            observation = robot.observe()
            executed = safety.executed(observation.target) if tick else executed
            features.append(agent.filter(observation, executed, noise[tick][row : row + 1]))
            if raw is not None:
                command = safety.step(SPEC.action.executed(raw), observation.target)
                robot.command(command.goal, command.gripper)
        torch.testing.assert_close(rollout.features[row, 0], features[0][0], atol=1e-4, rtol=0)
        torch.testing.assert_close(rollout.next_features[row, 0], features[-1][0], atol=1e-4, rtol=0)
    robot.close()


def reset_with_one_killed():
    with parallel_environments(2, 2, skill="open_drawer") as parallel:
        os.kill(parallel.processes[1].pid, signal.SIGKILL)
        parallel.reset(seed=[0, 1])


def test_a_killed_process_is_one_error():
    before = multiprocessing.active_children()
    with pytest.raises(DiwaError, match=r"ended \(exit code -9.*fewer --envs"):
        reset_with_one_killed()
    assert multiprocessing.active_children() == before


def test_an_error_in_a_process_arrives_as_itself(recwarn, monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "disable")
    message = "no off-screen rendering with disable"
    with pytest.raises(DiwaError, match=message), parallel_environments(1, 1, skill="open_drawer") as parallel:
        parallel.reset(seed=[0])
    assert not recwarn


def test_no_process_outlives_a_killed_parent():
    code = """
import sys, time
from diwa_cli.evaluation.dppo import parallel_environments
if __name__ == "__main__":
    with parallel_environments(2, 2, skill="open_drawer") as parallel:
        print(*[process.pid for process in parallel.processes], flush=True)
        time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    workers = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(workers) == 2
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 20
    while any(is_running(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(is_running(pid) for pid in workers)


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(("envs", "workers"), [(0, 1), (1, 0)])
def test_impossible_numbers_are_refused(envs, workers):
    with pytest.raises(DiwaError, match="choose at least 1 of each"), parallel_environments(envs, workers):
        pass


def test_seeds_are_nobody_elses():
    assert all(DPPO_SEEDS.stop <= seeds.start or seeds.stop <= DPPO_SEEDS.start for seeds in SEEDS.values())
    assert DPPO_SEEDS.start >= 2**32


def start(checkpoints, out):
    """`diwa dppo` as a user starts it, in a process group of its own."""
    words = ["dppo", "--policy", checkpoints.policy, "--world-model", checkpoints.world_model, "--out", out]
    command = [sys.executable, "-m", "diwa_cli.main", *map(str, words), *SMALL]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


@pytest.fixture(scope="module")
def tuned(checkpoints, tmp_path_factory):
    """A finished run."""
    out = tmp_path_factory.mktemp("dppo") / "run"
    assert start(checkpoints, out).wait(timeout=300) == 0
    return out


class TestCommands:
    """`diwa dppo` and what is done with its result."""

    def test_it_leaves_checkpoints_with_their_steps(self, tuned):
        kept = checkpoints_by_steps(tuned)
        assert [path.name for path in kept.values()] == ["000002", "000004", "run"]
        assert list(kept) == [steps * 3 * 4 * 4 for steps in (2, 4, 6)]
        metrics = load_checkpoint(tuned, "finetune").metrics
        assert (metrics["skill"], metrics["environment_steps"], metrics["alpha_bc"]) == ("open_drawer", 288, 0.0)

    def test_evaluate_takes_it(self, diwa, tuned, checkpoints, tmp_path):
        networks = ["--world-model", checkpoints.world_model, "--reward", checkpoints.reward, "--out", tmp_path]
        small = ["--rollouts", "1", "--max-steps", "2", "--videos", "0", "--workers", "1", "--seeds", "tuning"]
        ran = diwa("evaluate", "--policies", "base", checkpoints.policy, "dppo", tuned, *networks, *small)
        assert (ran.status, "dppo - base: +0 points" in ran.out) == (0, True)

    def test_ctrl_c_saves_and_the_same_command_continues_to_the_same_bits(self, tuned, checkpoints, tmp_path):
        interrupted = start(checkpoints, tmp_path / "run")
        while not list((tmp_path / "run" / "iterations").glob("*")):
            assert interrupted.poll() is None, interrupted.stderr.read()
            time.sleep(0.01)
        os.killpg(interrupted.pid, signal.SIGINT)  # as a terminal does: to the workers too
        out, err = interrupted.communicate(timeout=60)
        assert (interrupted.returncode, "the same command continues" in err, "Traceback" in err) == (130, True, False)
        assert "stopped after step" in out
        again = start(checkpoints, tmp_path / "run")
        assert "continuing" in again.communicate(timeout=300)[0]
        one, two = (load_checkpoint(path, "finetune").weights for path in (tuned, tmp_path / "run"))
        assert all(torch.equal(one[name], two[name]) for name in one)

    def test_it_practises_until_as_good_as_a_judged_policy(self, diwa, checkpoints, tmp_path):
        judged = tmp_path / "judged"
        words = ["dppo", "--policy", checkpoints.policy, "--world-model", checkpoints.world_model]
        words += ["--out", tmp_path / "run", *SMALL, "--until", judged]
        ran = diwa(*words)
        assert (ran.status, "holds no evaluation" in ran.err, (tmp_path / "run").exists()) == (2, True, False)
        judged.mkdir()
        policies = {"base": {"rate": 1.0}, "finetuned": {"rate": 0.0}}
        (judged / "evaluation.json").write_text(json.dumps({"policies": policies}))
        assert diwa(*words).status == 0
        assert load_checkpoint(tmp_path / "run", "finetune").metrics["environment_steps"] < 288

    def test_steps_to_match(self, diwa, tuned, checkpoints):
        words = ["dppo", "--no-practise", "--policy", checkpoints.policy, "--world-model", checkpoints.world_model]
        words += ["--reward", checkpoints.reward, "--workers", "1"]
        words += ["--evaluate.rollouts", "1", "--evaluate.max-steps", "2"]
        ran = diwa(*words, "--out", tuned, "--until", "0.85")
        assert ran.status == 0, ran.err
        assert "--workers is deprecated: it is --evaluate.workers now" in ran.err
        assert ran.out.splitlines()[-1] == "85 %: not reached within 288 environment steps"
        found = json.loads((tuned / "curve" / "dppo.json").read_text())
        assert (found["environment_steps"], [p["environment_steps"] for p in found["curve"]]) == (None, [96, 192, 288])
        ran = diwa(*words, "--out", tuned, "--until", "0")
        assert ran.out.splitlines()[-1] == "0 %: reached after 96 environment steps"
        ran = diwa(*words, "--out", tuned)
        assert (ran.status, "name the success rate to reach" in ran.err) == (2, True)
        ran = diwa(*words, "--out", checkpoints.policy, "--until", "1")
        assert (ran.status, "holds no checkpoint of `diwa dppo`" in ran.err) == (2, True)


def test_the_first_checkpoint_that_reaches_a_rate_counts():
    rates = {steps: SuccessRate(wins, 20) for steps, wins in ((100, 8), (200, 17), (300, 16), (400, 19))}
    assert [first_to_reach(rates, rate) for rate in (0.1, 0.85, 0.9, 0.99)] == [100, 200, 400, None]
    assert text(rates, 0.85, 200).splitlines()[-1] == "85 %: reached after 200 environment steps"
