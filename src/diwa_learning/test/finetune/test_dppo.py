"""DPPO on the toy task itself: bookkeeping, the filter, learning, continuing to the bit."""

import json
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from toy import DPPO, RIGHT, STILL, ConstantPolicy, LineEnvironments, line_observation

from diwa_data.config import load_section
from diwa_data.errors import DiwaError
from diwa_data.spec import Spec
from diwa_learning.finetune.dppo import DPPOConfig, EnvironmentRollouts, Practice, dppo
from diwa_learning.policy.base import Exploration, FinetunedPolicy
from diwa_learning.policy.checkpoint import load_policy
from diwa_learning.world_model.latents import embed_clips, filter_frame, filtered_states, whole

SEEDS = range(100, 1000)
PRACTICE = Practice(lambda skill, count: nullcontext(LineEnvironments(count)), SEEDS, {"task": "line"})


class Noted(LineEnvironments):
    """Remembers the seeds that it was started from."""

    def reset(self, *, seed, options):
        rows = np.flatnonzero(options["reset_mask"]).tolist()
        self.started = [*getattr(self, "started", []), *((row, seed[row]) for row in rows)]
        return super().reset(seed=seed, options=options)


def rollouts(toy_files, environments, **changes):
    config = replace(DPPO, exploration=Exploration(std_floor=0.0), **changes)
    return EnvironmentRollouts(toy_files.world.model, environments, SEEDS, config, torch.Generator().manual_seed(3))


def test_bookkeeping_of_episodes_that_succeed(toy_files):
    """A chunk moves the hand by 0.24, from at most 0.2: the third one passes 0.7; what began then is cut at the end."""
    environments = Noted(5)
    rollout = rollouts(toy_files, environments, chunks=8, horizon=6).rollout(ConstantPolicy(RIGHT))
    ends = torch.tensor([0, 0, 1, 0, 0, 1, 0, 0]).expand(5, 8)
    assert torch.equal(rollout.terminated, ends.bool())
    assert torch.equal(rollout.success, ends.bool())
    assert torch.equal(rollout.reward, ends.float())
    assert torch.equal(rollout.age, torch.tensor([1, 2, 3, 1, 2, 3, 1, 2]).expand(5, 8))
    assert torch.equal(rollout.done, torch.tensor([0, 0, 1, 0, 0, 1, 0, 1]).expand(5, 8).bool())
    assert [row for row, _ in environments.started] == [*range(5)] * 3
    seeds = [seed for _, seed in environments.started]
    assert len(set(seeds)) == 15
    assert all(seed in SEEDS for seed in seeds)


def test_bookkeeping_of_episodes_that_are_cut(toy_files):
    rollout = rollouts(toy_files, LineEnvironments(4), chunks=5, horizon=2).rollout(ConstantPolicy(STILL))
    assert not rollout.terminated.any()
    assert not rollout.reward.any()
    assert torch.equal(rollout.done, torch.tensor([0, 1, 0, 1, 1]).expand(4, 5).bool())
    assert torch.equal(rollout.age, torch.tensor([1, 2, 1, 2, 1]).expand(4, 5))


def test_only_what_ended_starts_anew(toy_files):
    """The hands differ in pace, so that episodes end at different times."""
    environments = Noted(3)
    paced = environments.step
    environments.step = lambda actions: paced(actions * np.array([1, 2, 0.5], np.float32)[:, None])
    rollout = rollouts(toy_files, environments, chunks=6, horizon=6).rollout(ConstantPolicy(RIGHT))
    assert rollout.age.tolist() == [[1, 2, 3, 1, 2, 3], [1, 2, 1, 2, 1, 2], [1, 2, 3, 4, 5, 6]]
    assert [row for row, _ in environments.started] == [0, 1, 2, 1, 0, 1]
    going = ~rollout.done[:, :-1]
    assert torch.equal(rollout.features[:, 1:][going], rollout.next_features[:, :-1][going])
    gone = rollout.done[:, :-1]
    assert (rollout.features[:, 1:][gone] != rollout.next_features[:, :-1][gone]).any(dim=-1).all()


def test_an_iteration_depends_on_policy_and_generator_alone(toy_files):
    """An environment's past does not matter: what a continued run relies on."""
    source = rollouts(toy_files, LineEnvironments(4), chunks=3)
    first = source.rollout(ConstantPolicy(RIGHT))
    saved = source.rng.get_state()
    second = source.rollout(ConstantPolicy(RIGHT))
    other = rollouts(toy_files, LineEnvironments(4), chunks=3)
    other.rng.set_state(saved)
    assert torch.equal(other.rollout(ConstantPolicy(RIGHT)).next_features, second.next_features)
    assert not torch.equal(first.features, second.features)


def test_filtering_environments_is_filtering_a_recording(toy_files):
    """The same frames, actions and noise as an episode of the dataset give the same states."""
    model, episode = toy_files.world.model, toy_files.demonstrations.episodes[0]
    clips = embed_clips(model, [whole(episode)])
    noise = model.rssm.noise(1, len(episode), rng=torch.Generator().manual_seed(0))
    expected = filtered_states(model, clips, noise)
    frames = [line_observation(episode.state[t : t + 1, 0].astype(float)) for t in range(len(episode))]
    filtered = model.rssm.initial(1)
    for t, frame in enumerate(frames):
        action = model.null_action[None] if t == 0 else torch.from_numpy(episode.action[t - 1 : t])
        images = {name: torch.from_numpy(frame[name]) for name in ("static", "gripper")}
        state, target = torch.from_numpy(frame["state"]), torch.from_numpy(episode.targets(Spec().action)[t : t + 1])
        filtered, _ = filter_frame(model, filtered, images, state, target, action, noise[:, t])
        assert torch.equal(filtered.z, expected.z[:, t])
        torch.testing.assert_close(filtered.h, expected.h[:, t], atol=1e-4, rtol=0)


def run(files, policy, out, config=DPPO, practice=PRACTICE):
    dppo(policy, files.world_model_path, out, config, practice)


@pytest.fixture(scope="module")
def tuned(toy_files, toy_policy_path, tmp_path_factory):
    out = tmp_path_factory.mktemp("dppo") / "run"
    run(toy_files, toy_policy_path, out)
    return out


def test_success_rises_in_the_environment(tuned):
    metrics = json.loads((tuned / "metrics.json").read_text())
    success = [value for _, value in metrics["history"]["environment_success"]]
    assert len(success) == 10
    assert sum(success[-3:]) / 3 > sum(success[:3]) / 3 + 0.05
    assert max(abs(value) for _, value in metrics["history"]["approx_kl_before_update"]) < 1e-6
    assert metrics["environment_steps"] == 10 * 24 * 8 * 4
    assert metrics["history"]["environment_steps"][3] == [3, 4 * 24 * 8 * 4]
    assert not any("dream" in name for name in [*metrics, *metrics["history"]])


def test_practice_ends_once_it_succeeds_often_enough(toy_files, toy_policy_path, tmp_path):
    run(toy_files, toy_policy_path, tmp_path / "run", replace(DPPO, enough=0.0))
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert len(metrics["history"]["environment_success"]) == 3, "a mean of three"
    assert metrics["environment_steps"] == 3 * 24 * 8 * 4


def test_it_loads_as_diwas_and_its_checkpoints_know_their_steps(tuned, toy_files):
    world = toy_files.world
    for path, steps in ((tuned / "iterations" / "000004", 4 * 768), (tuned / "iterations" / "000008", 8 * 768)):
        loaded = load_policy(path, Spec(), world.hash, world.model.feature_dim)
        assert isinstance(loaded.policy, FinetunedPolicy)
        assert loaded.checkpoint.metrics["environment_steps"] == steps
    last = load_policy(tuned, Spec(), world.hash, world.model.feature_dim)
    assert not torch.equal(last.policy.trained.trunk.hidden.weight, last.policy.base.trunk.hidden.weight)


def test_a_killed_run_continues_to_the_same_bits(
    tuned, toy_files, toy_policy_path, tmp_path, dies_in_update, assert_same_weights
):
    with dies_in_update(5):
        run(toy_files, toy_policy_path, tmp_path / "run")
    run(toy_files, toy_policy_path, tmp_path / "run")
    assert_same_weights(tuned, tmp_path / "run")


def test_a_run_continues_on_the_same_environments_alone(tuned, toy_files, toy_policy_path):
    with pytest.raises(DiwaError, match=r"inputs\.task was 'line', is 'circle'"):
        run(toy_files, toy_policy_path, tuned, practice=replace(PRACTICE, about={"task": "circle"}))


def test_environments_of_another_robot_are_refused(toy_files, toy_policy_path, tmp_path):
    def other(skill, count):
        environments = LineEnvironments(count)
        environments.contract = Spec(robot="other")
        return nullcontext(environments)

    with pytest.raises(DiwaError, match=r"spec\.robot"):
        run(toy_files, toy_policy_path, tmp_path / "x", practice=replace(PRACTICE, open=other))


def test_a_fine_tuned_policy_is_refused(tuned, toy_files, tmp_path):
    with pytest.raises(DiwaError, match="fine-tuned already"):
        run(toy_files, tuned, tmp_path / "x")


@pytest.mark.parametrize("preset", ["debug", "laptop", "robot", "paper"])
def test_presets_hold_only_known_keys(preset):
    config = load_section(DPPOConfig, "dppo", preset)
    assert config.alpha_bc == 0
    assert preset != "paper" or config == DPPOConfig()
