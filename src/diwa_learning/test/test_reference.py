"""The plain implementations that benchmarks measure ours against compute what ours does."""

import copy
import sys
from pathlib import Path

import pytest
import torch

from diwa_data.spec import Spec
from diwa_learning.finetune.imagination import Dream, DreamConfig
from diwa_learning.finetune.learner import BCWeight, Learner, PPOConfig
from diwa_learning.policy.checkpoint import PolicyNetConfig, make_policy
from diwa_learning.reward.classifier import RewardClassifier
from diwa_learning.world_model.config import WorldModelConfig
from diwa_learning.world_model.model import WorldModel
from diwa_learning.world_model.rssm import RSSMConfig, State

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
from reference import finetuning as reference

SIZES = RSSMConfig(recurrent=12, categoricals=3, classes=4, hidden=10)
DREAM = DreamConfig(dreams=6, chunks=5, horizon=3)
PPO = PPOConfig(trained_steps=4, epochs=2, minibatch=50, actor_learning_rate=1e-3, critic_width=8)
ALPHA = 0.3


@pytest.fixture
def parts():
    torch.manual_seed(0)
    model = WorldModel(WorldModelConfig(depth=2, rssm=SIZES), Spec()).requires_grad_(False)
    policy = make_policy(PolicyNetConfig(width=16, denoising_steps=6), model.feature_dim, 7)
    classifier = RewardClassifier(model.feature_dim, 8).requires_grad_(False)
    h, z = torch.randn(20, 12), model.rssm.sample(torch.randn(20, 3, 4))
    with torch.no_grad():
        classifier.threshold.fill_(float(classifier.probability(torch.cat([h, z], 1)).quantile(0.5)))
    return model, policy, classifier, (h, z)


def test_an_iteration_of_fine_tuning(parts):
    model, pretrained, classifier, (h, z) = parts
    rng = torch.Generator().manual_seed(1)
    learner = Learner(pretrained, model.feature_dim, PPO, DREAM.exploration, BCWeight(ALPHA), rng)
    policy, critic = learner.policy, learner.critic
    plain_prior = reference.PlainPrior(*vars(SIZES).values())
    plain_prior.load_state_dict(model.rssm.state_dict(), strict=False)
    plain = [reference.PlainPolicy(model.feature_dim, 16, 6) for _ in range(2)]
    for each, part in zip(plain, (policy.base, policy.trained), strict=True):
        each.load_state_dict(part.state_dict())
    plain_critic = copy.deepcopy(critic)

    starts = State(h, z, torch.zeros(20, 0), torch.zeros(20, 0))
    rollout = Dream(model, classifier, starts, DREAM, rng).rollout(policy)
    learner.update(rollout, train_actor=True)

    rng.manual_seed(1)
    done = reference.rollout(plain_prior, classifier, *plain, (h, z), rng, 6, 5, 3, 4)
    for name in ("features", "next_features", "chains", "reward"):
        torch.testing.assert_close(getattr(done, name), getattr(rollout, name), rtol=1e-4, atol=1e-5)
    assert torch.equal(done.done, rollout.done)
    assert rollout.terminated.any()
    assert not rollout.terminated.all()
    adams = (torch.optim.Adam(plain[1].parameters(), 1e-3), torch.optim.Adam(plain_critic.parameters(), 1e-3))
    reference.update(done, *plain, plain_critic, adams, rng, 4, PPO.epochs, PPO.minibatch, ALPHA)
    changed = policy.trained.state_dict()["trunk.hidden.weight"] - policy.base.state_dict()["trunk.hidden.weight"]
    assert changed.abs().max() > 1e-3
    for mine, theirs in ((policy.trained, plain[1]), (critic, plain_critic)):
        for name, tensor in mine.state_dict().items():
            torch.testing.assert_close(tensor, theirs.state_dict()[name], rtol=1e-3, atol=1e-4)
