"""The long ones of the checks in docs/method.md, on the files that `make demo` left: `make verify`."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from diwa_cli.run_folder import SweepFolder, find_run, read_json
from diwa_cli.statistics import SEEDS
from diwa_data.dataset.dataset import load_dataset
from diwa_data.images import Frame
from diwa_learning import agent as agent_module
from diwa_learning.agent import Agent, NoClassifier
from diwa_learning.core.checkpoint import load_checkpoint
from diwa_learning.finetune.imagination import Dream, DreamConfig
from diwa_learning.finetune.start_states import start_states
from diwa_learning.finetune.train import FinetuneConfig
from diwa_learning.policy.checkpoint import load_policy
from diwa_learning.reward.train import load_reward
from diwa_learning.world_model.latents import embed_clips, filtered_states, whole
from diwa_learning.world_model.model import load_world_model
from diwa_learning.world_model.open_loop import action_check
from diwa_learning.world_model.replay import ReplayBuffer

pytestmark = pytest.mark.verify


@pytest.fixture(scope="module")
def run():
    folder = SweepFolder(Path(os.environ.get("DIWA_DEMO", "runs/demo")))
    if not folder.results.exists():
        pytest.skip(f"no finished demo in {folder.path}: run `make demo`, or set DIWA_DEMO")
    return find_run(folder.path)


@pytest.fixture(scope="module")
def world(run):
    return load_world_model(run.world_model)


@pytest.fixture(scope="module")
def judge(run, world):
    return load_reward(run.reward, world)


def test_check_02_kl_rises_when_actions_are_shifted_or_shuffled(run, world):
    play = load_dataset(run.play)
    replay = ReplayBuffer(play.episodes, play.spec, 50, hybrid=world.model.config.scene_state)
    clips = replay.sample(16, np.random.default_rng(0))
    kl = action_check(world.model, clips)
    assert min(kl["late"], kl["early"], kl["shuffled"]) > kl["recorded"], kl


def test_check_03_dataset_and_deployed_filter_agree(run, world, monkeypatch):
    """The stored 64x64 frames take the place of the camera's: resizing is the dataset's own function in both."""
    episode = load_dataset(run.demonstrations).episodes[0]
    model = world.model
    clips = embed_clips(model, [whole(episode)])
    noise = model.rssm.noise(*clips.valid.shape, rng=torch.Generator().manual_seed(0))
    expected = filtered_states(model, clips, noise)
    frames = iter(range(len(episode)))

    def stored(_observation, _spec):
        t = next(frames)
        scene = None if episode.scene_state is None else episode.scene_state[t]
        return Frame({name: images[t] for name, images in episode.images.items()}, episode.state[t], scene)

    monkeypatch.setattr(agent_module, "preprocess_observation", stored)
    policy = load_policy(run.policy, world.spec, world.hash, model.feature_dim).policy
    agent = Agent(model, policy, NoClassifier(), world.spec)
    executed = world.spec.action.null
    for t in range(len(episode)):
        agent.filter(None, executed, noise[:, t])
        logits = [model.rssm.posterior(h, clips.embeds[:, t]) for h in (agent.state.h, expected.h[:, t])]
        assert (logits[0] - logits[1]).abs().max() < 1e-4
        executed = episode.action[t]


def test_check_07_idle_dreams_earn_nothing_and_demonstrated_ones_the_recall(judge):
    dreams, recall = judge.checkpoint.metrics["dreams"], judge.checkpoint.metrics["imagined"]["recall"]
    assert dreams["idle"] <= 0.05
    assert dreams["demonstrated"] >= recall - 0.15


def test_check_08_demonstrations_replay(run):
    assert min(read_json(run.replay)["shares"].values()) >= 0.95


def test_check_10_one_set_of_averaged_weights(run, world):
    """The frozen half of the fine-tuned policy is the base, to the bit: the one that was evaluated."""
    feature_dim = world.model.feature_dim
    base, tuned = (
        load_policy(path, world.spec, world.hash, feature_dim).policy for path in (run.policy, run.finetuned)
    )
    averaged, frozen, trained = base.state_dict(), tuned.base.state_dict(), tuned.trained.state_dict()
    assert all(torch.equal(weight, frozen[name]) for name, weight in averaged.items())
    assert any(not torch.equal(weight, trained[name]) for name, weight in averaged.items())


def test_fine_tuning_did_not_lose_in_its_own_dreams(run, world, judge):
    """Fresh dreams from fresh noise: what PPO maximised has not gone down."""
    demonstrations, play = load_dataset(run.demonstrations), load_dataset(run.play)
    config = load_checkpoint(run.finetuned, "finetune").config_as(FinetuneConfig)
    dreams = DreamConfig(dreams=200, chunks=config.dream.horizon, horizon=config.dream.horizon)
    model = world.model
    starts = start_states(model, judge.classifier, demonstrations.episodes, play.episodes, dreams.starts, seed=123)
    rates = []
    for path in (run.policy, run.finetuned):
        policy = load_policy(path, world.spec, world.hash, model.feature_dim).policy
        dream = Dream(model, judge.classifier, starts, dreams, torch.Generator().manual_seed(0))
        rates.append(dream.rollout(policy).success_rate(dreams.horizon))
    assert rates[1] >= rates[0] - 0.05, rates


def test_results_are_the_rollouts_that_were_kept(run):
    (results,) = read_json(run.sweep.results)["runs"]
    for name, final in (("base", run.base_final), ("finetuned", run.final)):
        mine = [json.loads(line) for line in (final / "rollouts.jsonl").read_text().splitlines()]
        assert len(mine) == results["rollouts"]
        assert sum(rollout["success"] for rollout in mine) == pytest.approx(results[name] * len(mine) / 100)
        assert all(rollout["seed"] in SEEDS["final"] for rollout in mine)
