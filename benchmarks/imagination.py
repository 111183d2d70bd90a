"""Fine-tuning at fixed sizes: 50 dreams of 36 chunks, 256-wide policy on 512 features, 10 epochs, K' = 10.

Imagined actions per second, updates included.
"""

from __future__ import annotations

import statistics

import torch
from common import Measurement
from finetuning import operations
from turns import in_turn

from diwa_data.spec import Spec
from diwa_learning.finetune.imagination import Dream
from diwa_learning.finetune.learner import BCWeight, Learner
from diwa_learning.finetune.train import FinetuneConfig
from diwa_learning.policy.checkpoint import PolicyNetConfig, make_policy
from diwa_learning.reward.classifier import RewardClassifier
from diwa_learning.world_model.config import WorldModelConfig
from diwa_learning.world_model.model import WorldModel
from diwa_learning.world_model.rssm import RSSMConfig
from diwa_learning.world_model.train import matmul_peak


def main(iterations: int = 4) -> None:
    torch.manual_seed(0)
    spec, config = Spec(), FinetuneConfig()
    sizes = WorldModelConfig(depth=16, rssm=RSSMConfig(recurrent=256, categoricals=16, classes=16, hidden=256))
    model = WorldModel(sizes, spec).eval().requires_grad_(False)
    classifier = RewardClassifier(model.feature_dim, 512).requires_grad_(False)
    classifier.threshold.fill_(0.99)  # no dream succeeds: every chunk is dreamt
    policy = make_policy(PolicyNetConfig(width=256), model.feature_dim, spec.action_dim)
    rng = torch.Generator().manual_seed(0)
    learner = Learner(policy, model.feature_dim, config.ppo, config.dream.exploration, BCWeight(0.05), rng)
    embeds = torch.randn(500, model.embed_dim)
    starts = model.rssm.filter(model.rssm.initial(500), model.null_action.expand(500, -1), embeds)
    dream = Dream(model, classifier, starts, config.dream, rng)

    def iteration() -> None:
        learner.update(dream.rollout(learner.policy), train_actor=True)

    actions, (times,) = config.dream.dreams * config.dream.chunks * policy.chunk, in_turn([iteration], iterations)
    floor = actions / operations(iteration) * matmul_peak(model.device, torch.float32, size=4096)
    Measurement("imagined_actions_per_s", actions / statistics.median(times), "actions/s", 2500, floor=floor).print()


if __name__ == "__main__":
    main()
