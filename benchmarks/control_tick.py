"""One deployment step at paper sizes: two 200x200 images in, one action out, 20 denoising steps; 99th percentile.

Every tick is counted, also those that sample a new chunk; the target stands for the slowest of them.
"""

from __future__ import annotations

import time

import numpy as np
import torch
from common import Measurement
from scipy.spatial.transform import Rotation

from diwa_data.pose import Pose
from diwa_data.robot import Observation
from diwa_data.spec import Spec
from diwa_learning.agent import Agent
from diwa_learning.policy.checkpoint import PolicyNetConfig, make_policy
from diwa_learning.reward.classifier import RewardClassifier
from diwa_learning.world_model.config import WorldModelConfig
from diwa_learning.world_model.model import WorldModel


def main(ticks: int = 1000) -> None:
    torch.manual_seed(0)
    spec = Spec()
    model = WorldModel(WorldModelConfig(), spec).eval().requires_grad_(False).to(memory_format=torch.channels_last)
    policy = make_policy(PolicyNetConfig(), model.feature_dim, spec.action_dim)
    agent = Agent(model, policy, RewardClassifier(model.feature_dim, 512), spec)
    rng = np.random.default_rng(0)
    images = {c.name: rng.integers(0, 255, (*c.record_size, 3), np.uint8) for c in spec.cameras}
    pose = Pose(np.zeros(3), Rotation.identity())
    observation = Observation(images, pose, pose, 0.08, 0.0, 0.0)
    action, milliseconds = spec.action.null, []
    for _ in range(ticks + 40):
        started = time.perf_counter()
        action = agent.act(observation, action).action
        milliseconds.append(1e3 * (time.perf_counter() - started))
    Measurement("control_tick_p99_ms", float(np.percentile(milliseconds[40:], 99)), "ms", 25).print()


if __name__ == "__main__":
    main()
