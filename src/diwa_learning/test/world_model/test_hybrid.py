"""The hybrid variant whole: a model of scene state is learned from recordings, and its decoder gives the reward."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from diwa_data.dataset.dataset import load_dataset
from diwa_data.errors import DiwaError
from diwa_data.skills import Goal
from diwa_data.spec import Spec
from diwa_learning.core.checkpoint import load_checkpoint
from diwa_learning.finetune.imagination import Dream, DreamConfig
from diwa_learning.finetune.start_states import start_states
from diwa_learning.policy.checkpoint import PolicyNetConfig, make_policy
from diwa_learning.reward.classifier import LEAST_ERROR, DecodedReward, RewardConfig, goal_of
from diwa_learning.reward.train import RewardJob, load_reward
from diwa_learning.world_model.config import WorldModelConfig
from diwa_learning.world_model.latents import embed_clips, filtered_states, whole
from diwa_learning.world_model.model import load_world_model
from diwa_learning.world_model.open_loop import open_loop
from diwa_learning.world_model.replay import ReplayBuffer
from diwa_learning.world_model.rssm import RSSMConfig
from diwa_learning.world_model.train import WorldModelJob

SPEC = Spec(scene_state=("drawer", "bulb"))
HYBRID = WorldModelConfig(
    depth=2,
    rssm=RSSMConfig(recurrent=32, categoricals=8, classes=8, hidden=32),
    robot_state_weight=1000.0,
    decode_fraction=0.05,
    scene_state=True,
    learning_rate=5e-3,
    final_learning_rate=5e-4,
    updates=120,
    batch_size=6,
    sequence_length=10,
    check_every=10**6,
    save_every=10**6,
    held_out=0.2,
)
REWARD = RewardConfig(kind="decoder", horizon=20, play_segments=10)
NO_GOAL = REWARD.goal


@pytest.fixture(scope="module")
def files(tmp_path_factory, write_dataset, make_episode):
    """Demonstrations of open_drawer and play, in which the first action pulls the drawer, and a model of both."""
    folder = tmp_path_factory.mktemp("hybrid")

    def pulled(episode, pull, bulb):
        """The episode with a drawer that follows `pull` (T,) metres a tick, and a lamp; nothing else is to be seen."""
        drawer = np.clip(np.cumsum(pull), 0.0, 0.16)
        episode.state[:] = 0.0
        for images in episode.images.values():
            images[:] = 128
        episode.action[:, 0] = np.append(np.diff(drawer) / 0.02, 0.0)
        return replace(episode, scene_state=np.stack([drawer, np.full(len(episode), float(bulb))], 1))

    rng = np.random.default_rng(0)
    demonstrations = []
    for seed in range(8):
        pull = np.where(np.arange(30) < 5 + seed, 0.0, 0.016)
        episode = pulled(make_episode(30, seed), pull, seed % 2)
        success = episode.scene_state[:, 0] >= 0.13
        labels = Goal("drawer", 0.0, 0.12).label("open_drawer")
        episode.attributes.update(source="demonstration", skill="open_drawer", labels=labels)
        demonstrations.append(replace(episode, success=np.maximum.accumulate(success)))
    play = [pulled(make_episode(60, 100 + n), rng.choice([-0.016, 0, 0.016], 60), n % 2) for n in range(8)]
    paths = folder / "demonstrations.h5", folder / "play.h5", folder / "world_model"
    write_dataset(paths[0], demonstrations, SPEC)
    write_dataset(paths[1], play, SPEC)
    WorldModelJob(datasets=tuple(paths[:2]), out=paths[2], config=HYBRID).run()
    return paths


@pytest.fixture(scope="module")
def reward_path(files, tmp_path_factory):
    demonstrations, play, world_model = files
    out = tmp_path_factory.mktemp("reward") / "run"
    RewardJob(demonstrations=demonstrations, world_model=world_model, out=out, play=play, config=REWARD).run()
    return out


def states_of(model, episodes):
    """Filtered states of all frames of episodes of one length."""
    clips = embed_clips(model, [whole(episode) for episode in episodes])
    noise = model.rssm.noise(*clips.valid.shape, rng=torch.Generator().manual_seed(0))
    return filtered_states(model, clips, noise)


def test_scene_state_is_decoded_better_than_by_its_mean(files):
    """Filtered, and open loop under the recorded actions."""
    model = load_world_model(files[2]).model
    episodes = load_dataset(files[0]).episodes
    scene = torch.from_numpy(np.stack([episode.scene_state for episode in episodes]))
    error = model.decode_state(states_of(model, episodes))[..., 10:] - scene
    deviation = model.state_std[10:]
    assert (error.square().mean((0, 1)).sqrt() < 0.5 * deviation).all(), error.square().mean((0, 1)).sqrt() / deviation
    result = open_loop(model, ReplayBuffer(episodes, SPEC, 22, hybrid=True).spread(8))
    assert list(result.errors) == ["position", "drawer", "bulb"]
    assert result.errors["drawer"].shape == (20,)
    assert result.errors["bulb"].mean() < 0.25
    metrics = load_checkpoint(files[2], "world_model").metrics
    assert len(metrics["open_loop_steps"]["drawer_error"]) == len(metrics["open_loop_steps"]["psnr"])


def test_a_dataset_without_scene_state_is_named(tmp_path, files, make_episode, write_dataset):
    real = write_dataset(tmp_path / "real.h5", [make_episode(9), make_episode(9, 1)])
    silent = write_dataset(tmp_path / "silent.h5", [make_episode(9), make_episode(9, 1)], SPEC)
    for path in (real, silent):
        with pytest.raises(DiwaError, match=rf"{path.name} holds no scene state.*--no-scene-state"):
            WorldModelJob(datasets=(path,), out=tmp_path / "out", config=HYBRID).run()
    assert not (tmp_path / "out").exists()
    damaged = replace(make_episode(9), scene_state=np.zeros((9, 3)))
    with pytest.raises(DiwaError, match=r"scene_state has shape \(9, 3\), its spec says \(9, 2\)"):
        load_dataset(write_dataset(tmp_path / "damaged.h5", [damaged], SPEC))


def test_the_decoded_reward_is_the_world_models_own_decoder(files, reward_path):
    world = load_world_model(files[2])
    judge = load_reward(reward_path, world).classifier
    states = states_of(world.model, load_dataset(files[0]).episodes)
    drawer, features = world.model.decode_state(states)[..., 10], states.features
    torch.testing.assert_close(judge.margin(features), drawer - 0.12, atol=1e-5, rtol=1e-5)
    verdict = judge.is_success(judge.probability(features))
    clear = (drawer - 0.12).abs() > 1e-4
    assert torch.equal(verdict[clear], (drawer > 0.12)[clear])
    assert verdict.any()
    assert not verdict.all()


def test_the_goal_is_as_given_or_as_recorded_or_asked_for(files):
    demos = load_dataset(files[0])
    assert goal_of(demos, "open_drawer", NO_GOAL) == Goal("drawer", 0.0, 0.12)
    assert goal_of(demos, "open_drawer", Goal("bulb", 0.0, 0.5)) == Goal("bulb", 0.0, 0.5)
    with pytest.raises(DiwaError, match=r"was recorded with no goal of pick_cup.*--goal.quantity"):
        goal_of(demos, "pick_cup", NO_GOAL)
    with pytest.raises(DiwaError, match=r"unknown number of the scene state 'drawers'; .*Did you mean 'drawer'"):
        goal_of(demos, "open_drawer", Goal("drawers", 0.0, 0.1))
    for change in (0.0, float("nan")):
        with pytest.raises(DiwaError, match=r"the goal of 'drawer' is .*a change that is not 0"):
            goal_of(demos, "open_drawer", Goal("drawer", 0.0, change))
    demos.episodes[0].attributes["labels"] = Goal("drawer", 0.0, 0.15).label("open_drawer")
    with pytest.raises(DiwaError, match="was recorded with several goals of open_drawer"):
        goal_of(demos, "open_drawer", NO_GOAL)


def test_the_decoded_reward_is_scored_like_the_classifier(files, reward_path, capsys):
    metrics = json.loads((reward_path / "metrics.json").read_text())
    assert (metrics["skill"], metrics["threshold"], metrics["items"]) == ("open_drawer", 0.5, 0)
    assert metrics["filtered"]["precision"] > 0.9
    assert metrics["filtered"]["recall"] > 0.8  # a model that has trained for seconds
    assert metrics["imagined"].keys() == metrics["filtered"].keys()
    assert metrics["dreams"]["idle"] < metrics["dreams"]["demonstrated"]
    assert LEAST_ERROR < float(load_checkpoint(reward_path, "reward").weights["error"]) < 0.03
    demonstrations, play, world_model = files
    RewardJob(demonstrations, world_model, reward_path, play, REWARD).run()
    assert "is finished" in capsys.readouterr().out


def test_dreams_take_it_as_they_take_a_classifier(files, reward_path):
    world = load_world_model(files[2])
    judge = load_reward(reward_path, world).classifier
    episodes = load_dataset(files[0]).episodes
    config = DreamConfig(dreams=4, chunks=3, horizon=3, starts=replace(DreamConfig().starts, count=20))
    starts = start_states(world.model, judge, episodes, [], config.starts, seed=0)
    policy = make_policy(PolicyNetConfig(width=8, denoising_steps=2), world.model.feature_dim, 7)
    rollout = Dream(world.model, judge, starts, config, torch.Generator()).rollout(policy)
    assert torch.equal(rollout.success, judge.probability(rollout.next_features) > judge.threshold)


def test_a_world_model_without_scene_state_is_refused(toy_files, tmp_path):
    with pytest.raises(DiwaError, match=r"decodes no scene state.*--kind classifier"):
        RewardJob(
            demonstrations=toy_files.demonstrations_path,
            world_model=toy_files.world_model_path,
            out=tmp_path / "r",
            config=replace(REWARD, epochs=2),
        ).run()
    assert not (tmp_path / "r").exists()


def test_probability_is_one_half_at_the_goal_and_rises_with_the_margin_over_the_error():
    judge = DecodedReward(1)
    judge.decoder = torch.nn.Identity()  # a feature is the margin itself
    judge.error.fill_(0.01)
    margins = torch.tensor([[-0.01], [0.0], [0.01]])
    torch.testing.assert_close(judge.probability(margins), torch.tensor([0.1587, 0.5, 0.8413]), atol=1e-3, rtol=0)
