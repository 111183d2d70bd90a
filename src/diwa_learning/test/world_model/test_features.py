"""Filtering and imagining recorded frames; one path for training and deployment (docs/method.md, check 3)."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from diwa_data.dataset.align import DatasetConfig, ticks_of
from diwa_data.dataset.dataset import build_dataset, load_dataset, require_one_skill
from diwa_data.errors import DiwaError
from diwa_data.recording import messages
from diwa_data.recording.bag_reader import Bag
from diwa_data.robot import Observation
from diwa_data.spec import Spec
from diwa_data.testing.synthetic import record_synthetic, synthetic_image, synthetic_pose
from diwa_learning.agent import Agent, NoClassifier
from diwa_learning.policy.checkpoint import PolicyNetConfig, make_policy
from diwa_learning.world_model.latents import (
    Segment,
    embed_clips,
    embed_frames,
    filtered_states,
    imagined_states,
    whole,
)
from diwa_learning.world_model.model import WorldModel


@pytest.fixture
def clips(tiny_world_model, toy_files):
    return embed_clips(tiny_world_model, [whole(episode) for episode in toy_files.demonstrations.episodes[:3]])


def noise_for(model, clips, seed=0):
    return model.rssm.noise(*clips.valid.shape, rng=torch.Generator().manual_seed(seed))


def observations(bag):
    """The observations that a robot would have had at the ticks of a recording."""
    with Bag(bag) as source:
        for tick in ticks_of(source, DatasetConfig()):
            seen = {stream: source.value(stream, sample) for stream, sample in tick.samples.items()}
            images = {c.name: seen[messages.image_topic(c.name)] for c in source.spec.cameras}
            poses, width = (seen[messages.CURRENT_POSE], seen[messages.TARGET_POSE]), seen[messages.JOINT_STATES]
            yield Observation(images, *poses, width, tick.stamp, tick.received, np.array(seen[messages.SCENE_STATE]))


@pytest.mark.parametrize("hybrid", [False, True])
def test_check_03_trainer_and_agent_compute_the_same_logits(tmp_path, tiny_config, hybrid):
    """A bag through dataset and trainer code, and its frames through the deployed filter, with the same noise."""
    spec, seconds = Spec(scene_state=("drawer", "bulb")), 2.0
    torch.manual_seed(5)
    config = replace(tiny_config, scene_state=hybrid, robot_state_weight=float(hybrid))
    tiny_world_model = WorldModel(config, spec).eval().requires_grad_(False)
    bag = record_synthetic(tmp_path / "bags", spec, seconds, {"source": "demonstration", "skill": "open_drawer"})
    build_dataset([bag], tmp_path / "d.h5", DatasetConfig(workers=1))
    episode = load_dataset(tmp_path / "d.h5").episodes[0]
    clips = embed_clips(tiny_world_model, [whole(episode)])
    noise = noise_for(tiny_world_model, clips)
    trained = filtered_states(tiny_world_model, clips, noise)
    trained_logits = tiny_world_model.rssm.posterior(trained.h, clips.embeds)

    policy = make_policy(PolicyNetConfig(width=8, denoising_steps=2), tiny_world_model.feature_dim, 7)
    agent = Agent(tiny_world_model, policy, NoClassifier(), spec)
    executed = spec.action.null
    for t, seen in enumerate(observations(bag)):
        agent.filter(seen, executed, noise[:, t])
        assert torch.equal(agent.state.target, trained.target[:, t])
        assert torch.equal(agent.state.z, trained.z[:, t])
        embed = clips.embeds[:, t]
        assert torch.allclose(agent.embed, embed, atol=1e-5), "it is what the frame check judges"
        logits = tiny_world_model.rssm.posterior(agent.state.h, embed)
        assert (logits - trained_logits[:, t]).abs().max() < 1e-4
        executed = episode.action[t]
    assert t >= 12


def test_filtering_ignores_what_other_clips_are_padded_with(tiny_world_model, clips, toy_files):
    noise = noise_for(tiny_world_model, clips)
    together = filtered_states(tiny_world_model, clips, noise)
    for n in range(3):
        length = int(clips.valid[n].sum())
        alone = embed_clips(tiny_world_model, [whole(toy_files.demonstrations.episodes[n])])
        state = filtered_states(tiny_world_model, alone, noise[n : n + 1, :length])
        assert torch.allclose(together.h[n, :length], state.h[0], atol=1e-5)
        assert torch.equal(together.z[n, :length], state.z[0])


@pytest.mark.parametrize("context", [1, 3])
def test_imagination_begins_at_the_filtered_context_and_follows_the_actions(tiny_world_model, clips, context):
    noise = noise_for(tiny_world_model, clips)
    imagined = imagined_states(tiny_world_model, clips, noise, context)
    filtered = filtered_states(tiny_world_model, clips, noise)
    assert torch.allclose(imagined.features[:, :context], filtered.features[:, :context], atol=1e-6)
    state = filtered[:, context - 1]
    for t in range(context, context + 3):
        state = tiny_world_model.rssm.imagine_step(state, clips.actions[:, t - 1], noise[:, t])
        assert torch.allclose(imagined.h[:, t], state.h, atol=1e-6)
        assert torch.equal(imagined.z[:, t], state.z)
    unseen = replace(clips, embeds=torch.where(torch.arange(clips.embeds.shape[1])[:, None] < context, clips.embeds, 0))
    blind = imagined_states(tiny_world_model, unseen, noise, context)
    assert torch.equal(blind.z, imagined.z)
    everything = imagined_states(tiny_world_model, clips, noise, 1000)
    assert torch.equal(everything.z, filtered.z)


def test_same_seed_same_features(tiny_world_model, clips):
    first = filtered_states(tiny_world_model, clips, noise_for(tiny_world_model, clips, 1))
    second = filtered_states(tiny_world_model, clips, noise_for(tiny_world_model, clips, 1))
    other = filtered_states(tiny_world_model, clips, noise_for(tiny_world_model, clips, 2))
    assert torch.equal(first.features, second.features)
    assert not torch.equal(first.z, other.z)


def test_cut_takes_stretches_and_pads_behind_the_end(tiny_world_model, clips):
    length = int(clips.valid[1].sum())
    cut = clips.cut([1, 0], [length - 2, 3], 4)
    assert cut.valid.tolist() == [[True, True, False, False], [True] * 4]
    assert torch.equal(cut.embeds[1], clips.embeds[0, 3:7])
    assert torch.equal(cut.actions[0, :2], clips.actions[1, length - 2 : length])


def test_frames_embed_as_in_their_clip(tiny_world_model, toy_files, clips):
    episode = toy_files.demonstrations.episodes[2]
    embeds = embed_frames(tiny_world_model, episode, np.array([4, 0]))
    assert torch.allclose(embeds, clips.embeds[2, [4, 0]], atol=1e-6)


def test_parts_that_share_frames_embed_as_each_alone(tiny_world_model, toy_files):
    one, other = toy_files.demonstrations.episodes[1:3]
    parts = [Segment(other, 2, 5), Segment(one, 0, 4), Segment(other, 3, 8), Segment(other, 2, 5)]
    together = embed_clips(tiny_world_model, parts)
    assert together.valid.sum(1).tolist() == [3, 4, 5, 3]
    for n, part in enumerate(parts):
        alone = embed_clips(tiny_world_model, [part])
        assert torch.allclose(together.embeds[n, : len(part)], alone.embeds[0], atol=1e-6)
        assert torch.equal(together.actions[n, : len(part)], alone.actions[0])
        assert not together.embeds[n, len(part) :].any()


def test_nothing_to_encode_is_an_error(tiny_world_model):
    with pytest.raises(DiwaError, match="no recorded frames"):
        embed_clips(tiny_world_model, [])


def test_demonstrations_of_several_skills_are_refused(toy_files):
    first, second = toy_files.demonstrations.episodes[:2]
    second.attributes["skill"] = "close_drawer"
    with pytest.raises(DiwaError, match="close_drawer, open_drawer"):
        require_one_skill([first, second], "d.h5")


class TestAgent:
    """The control side: chunk queue, seeds, errors."""

    def agent(self, model, seed=0, ddim_steps=0):
        torch.manual_seed(seed)
        policy = make_policy(PolicyNetConfig(width=8, denoising_steps=3), model.feature_dim, 7)
        return Agent(model, policy, NoClassifier(), Spec(), ddim_steps)

    def observation(self, time=0.0):
        images = {name: synthetic_image(time, 200, 200) for name in ("static", "gripper")}
        return Observation(images, synthetic_pose(time), synthetic_pose(time), 0.08, time, time)

    def test_a_seed_fixes_every_action(self, tiny_world_model):
        agent, runs = self.agent(tiny_world_model), []
        for seed in (3, 3, 4):
            agent.reset(seed)
            runs.append([agent.act(self.observation(0.1 * t), Spec().action.null).action for t in range(6)])
        assert np.array_equal(runs[0], runs[1])
        assert not np.array_equal(runs[0], runs[2])

    def test_a_chunk_may_be_sampled_in_fewer_steps_without_noise(self, tiny_world_model):
        agent = self.agent(tiny_world_model, ddim_steps=2)
        agent.reset(3)
        action = agent.act(self.observation(), Spec().action.null).action
        rng = torch.Generator().manual_seed(3)
        tiny_world_model.rssm.noise(1, rng=rng)
        chains = agent.policy.sample(agent.state.features, agent.policy.draw_noise(1, rng), ddim_steps=2)
        assert chains.chains.shape[1] == 3
        assert np.array_equal(Spec().action.executed(chains.actions[0].detach().numpy())[0], action)
        with pytest.raises(DiwaError, match=r"ddim_steps is 4; it must lie in \[0, 3\]"):
            self.agent(tiny_world_model, ddim_steps=4)

    def test_actions_are_executable_and_unjudged_without_a_classifier(self, tiny_world_model):
        decision = self.agent(tiny_world_model).act(self.observation(), Spec().action.null)
        assert np.array_equal(Spec().action.executed(decision.action.copy()), decision.action)
        assert decision.action.shape == (7,)
        assert np.isnan(decision.success_probability)

    def test_filters_every_tick_and_samples_every_fourth(self, tiny_world_model):
        agent = self.agent(tiny_world_model)
        left, states = [], []
        for t in range(5):
            agent.act(self.observation(0.1 * t), Spec().action.null)
            left.append(len(agent._queue))
            states.append(agent.state.h)
        assert left == [3, 2, 1, 0, 3]
        assert all(not torch.equal(a, b) for a, b in itertools.pairwise(states))

    def test_missing_camera_is_an_error(self, tiny_world_model):
        seen = self.observation()
        broken = Observation({"static": seen.images["static"]}, seen.pose, seen.target, 0.08, 0.0, 0.0)
        with pytest.raises(DiwaError, match="gripper"):
            self.agent(tiny_world_model).act(broken, Spec().action.null)

    def test_a_hybrid_model_refuses_a_robot_without_scene_state(self, tiny_config):
        spec = Spec(scene_state=("drawer",))
        model = WorldModel(replace(tiny_config, scene_state=True, robot_state_weight=1.0), spec)
        with pytest.raises(DiwaError, match="sees the scene state, which is not known here"):
            self.agent(model).act(self.observation(), Spec().action.null)
