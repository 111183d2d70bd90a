"""On a robot a classifier of single frames decides, and in dreams it has no say."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import toy

from diwa_data.pose import Pose
from diwa_data.robot import Observation
from diwa_learning.agent import Agent
from diwa_learning.core.checkpoint import load_checkpoint
from diwa_learning.reward.calibration import align
from diwa_learning.reward.classifier import NEGATIVE, POSITIVE, RewardClassifier, RewardConfig
from diwa_learning.reward.data import Items
from diwa_learning.reward.train import RewardJob, load_reward
from diwa_learning.world_model.latents import embed_clips, filtered_states, whole
from diwa_learning.world_model.model import load_world_model


@pytest.fixture(scope="module")
def checked(toy_files, tmp_path_factory):
    """Checkpoint folders of the same classifier, by what judges on a robot."""
    folders = {}
    for judge in ("latents", "images", "both"):
        folders[judge] = tmp_path_factory.mktemp(judge) / "reward"
        config = replace(toy.REWARD, on_robot=judge)
        files = (toy_files.demonstrations_path, toy_files.world_model_path, folders[judge], toy_files.play_path)
        RewardJob(*files, config).run()
    return folders


def seen_of(world, episode):
    """Features and pictures of an episode's frames."""
    clips = embed_clips(world.model, [whole(episode)])
    noise = world.model.rssm.noise(*clips.valid.shape, rng=torch.Generator().manual_seed(0))
    return filtered_states(world.model, clips, noise).features, world.model.pictures(clips.embeds)


def test_dreams_are_judged_the_same_with_it(toy_files, checked):
    world = load_world_model(toy_files.world_model_path)
    without, with_it = (load_reward(checked[each], world).classifier for each in ("latents", "images"))
    features, _ = seen_of(world, toy_files.demonstrations.episodes[0])
    assert without.frame is None
    assert with_it.frame is not None
    assert torch.equal(without.probability(features), with_it.probability(features))
    assert float(without.threshold) == float(with_it.threshold)


@pytest.mark.parametrize("judge", ["latents", "images", "both"])
def test_a_robot_is_told_what_the_judge_says(toy_files, checked, judge):
    world = load_world_model(toy_files.world_model_path)
    classifier = load_reward(checked[judge], world).classifier
    features, pictures = seen_of(world, toy_files.demonstrations.episodes[0])
    said, latents = classifier.seen_probability(features, pictures), classifier.probability(features)
    if judge == "latents":
        assert torch.equal(said, latents)
    else:
        shown = classifier.frame.probability(pictures)
        assert torch.equal(said, shown if judge == "images" else torch.minimum(shown, latents))
    done = classifier.is_success(said)[0]
    assert done.any()
    assert not done[: len(done) // 3].any()


def test_a_filter_that_always_believes_in_success_does_not_stop_a_robot(toy_files, checked):
    """Latents that say success at every tick: the images alone decide, and they show it at the end only."""
    world = load_world_model(toy_files.world_model_path)
    classifier = toy.Sure()
    classifier.on_robot = "images"
    classifier.frame = load_reward(checked["images"], world).classifier.frame
    classifier.threshold.copy_(load_reward(checked["images"], world).classifier.threshold)
    features, pictures = seen_of(world, toy_files.demonstrations.episodes[0])
    assert classifier.is_success(classifier.probability(features)).all()
    done = classifier.is_success(classifier.seen_probability(features, pictures))[0]
    assert done.any()
    assert not done[: len(done) // 3].any()
    still = pictures[:, :1].expand_as(pictures)
    assert not classifier.is_success(classifier.seen_probability(features, still)).any()


def test_an_agent_reports_what_its_images_show(toy_files, checked):
    world = load_world_model(toy_files.world_model_path)
    classifier = load_reward(checked["images"], world).classifier
    agent = Agent(world.model, toy.ConstantPolicy([0.0] * 7), classifier, world.spec)
    rng, pose = np.random.default_rng(0), Pose.from_quaternion(np.array([0.4, 0.0, 0.3]), np.array([1.0, 0, 0, 0]))
    images = {c.name: rng.integers(0, 256, (*c.record_size, 3), np.uint8) for c in world.spec.cameras}
    said = agent.act(Observation(images, pose, pose, 0.08, 0.0, 0.0), world.spec.action.null).success_probability
    assert said == float(classifier.frame.probability(world.model.pictures(agent.embed)))


def test_the_robot_state_is_no_part_of_what_it_sees(toy_files):
    world = load_world_model(toy_files.world_model_path)
    episode = toy_files.demonstrations.episodes[0]
    moved = replace(episode, state=np.roll(episode.state, 3, axis=0))
    here, there = (embed_clips(world.model, [whole(each)]).embeds for each in (episode, moved))
    assert not torch.equal(here, there)
    assert torch.equal(world.model.pictures(here), world.model.pictures(there))


@pytest.mark.parametrize("threshold", [0.5, 0.9, 1 - 2**-24])
def test_aligned_logits_pass_the_threshold_of_the_latents_as_often_as_allowed(threshold):
    torch.manual_seed(0)
    frame, config = RewardClassifier(3, 8), RewardConfig(missed_success=0.1)
    with torch.no_grad():
        frame.head[-1].bias.copy_(torch.tensor([0.0, 3.0]))
    some = torch.rand(200, 3)
    zeros = torch.zeros(200, dtype=torch.int64)
    labels = torch.tensor([POSITIVE, NEGATIVE]).repeat(100)
    with torch.no_grad():
        align(frame, Items(some, labels, zeros.bool(), zeros, zeros), threshold, config)
    passed = (frame.probability(some[labels == POSITIVE]) >= threshold).float().mean()
    assert 0.85 <= float(passed) <= (1.0 if threshold > 0.999 else 0.95)  # float32 knows few numbers there


@pytest.mark.parametrize("held", [0, 1, 5])
def test_few_or_no_held_out_successes_and_all_of_them_allowed_to_be_missed(held):
    frame, none = RewardClassifier(3, 8), torch.zeros(held, dtype=torch.int64)
    with torch.no_grad():
        align(
            frame,
            Items(torch.rand(held, 3), none + POSITIVE, none.bool(), none, none),
            0.9,
            RewardConfig(missed_success=1.0),
        )
    assert all(part.isfinite().all() for part in frame.parameters())


def test_a_finished_check_is_in_the_checkpoint(checked):
    weights = load_checkpoint(checked["both"], "reward").weights
    assert any(name.startswith("frame.") for name in weights)
    assert not any(name.startswith("frame.") for name in load_checkpoint(checked["latents"], "reward").weights)
