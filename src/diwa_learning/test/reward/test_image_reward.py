"""The classifier of decoded images, trained on the toy task."""

from dataclasses import replace

import pytest
import torch
import toy

from diwa_data.errors import DiwaError
from diwa_learning.reward.classifier import FRAMES, ImageClassifier
from diwa_learning.reward.train import RewardJob, load_reward
from diwa_learning.world_model.model import WorldModel


@pytest.fixture(scope="module")
def reward(toy_files, tmp_path_factory):
    """A reward from images."""
    out = tmp_path_factory.mktemp("images") / "run"
    config = replace(toy.REWARD, kind="images", epochs=12, latent_samples=1, imagined_every=16, play_segments=16)
    paths = toy_files.demonstrations_path, toy_files.world_model_path, out, toy_files.play_path
    RewardJob(*paths, config).run()
    return load_reward(out, toy_files.world)


def test_it_learns_the_task_from_what_the_model_decodes(reward):
    assert isinstance(reward.classifier, ImageClassifier)
    for origin in ("filtered", "imagined"):
        score = reward.checkpoint.metrics[origin]
        assert score["precision"] > 0.8, (origin, score)
        assert score["recall"] > 0.6, (origin, score)


def test_its_checkpoint_holds_its_own_weights_alone(reward):
    names = {name.partition(".")[0] for name in reward.checkpoint.weights}
    assert names == {"encoders", "embedding", "head", "threshold"}


def test_states_are_judged_by_their_images_alone_whatever_their_number(toy_files):
    torch.manual_seed(0)
    model = toy_files.world.model
    classifier = ImageClassifier(model, 8).requires_grad_(False)
    features = torch.randn(2, FRAMES // 2 + 3, model.feature_dim)
    whole = classifier.probability(features)
    assert whole.shape == features.shape[:2]
    torch.testing.assert_close(whole[1, -1], classifier.probability(features[1, -1:])[0])
    images = model.decode(features[0, :2])
    codes = [classifier.encoders[name](image.permute(0, 3, 1, 2)) for name, image in images.items()]
    by_hand = classifier.head(classifier.embedding(torch.cat(codes, -1))).softmax(-1)[:, 1]
    torch.testing.assert_close(whole[0, :2], by_hand)


def test_a_packed_world_model_is_refused(toy_files):
    model = toy_files.world.model
    packed = WorldModel(model.config, model.spec, decodes=False)
    with pytest.raises(DiwaError, match="decodes no images"):
        ImageClassifier(packed, 8)
