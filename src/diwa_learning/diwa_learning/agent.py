"""The policy as deployed: filter every tick, act from a queue of chunks. Evaluation and robot use the same object."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diwa_data.images import preprocess_observation
from diwa_data.pose import robot_state
from diwa_data.robot import Observation
from diwa_data.spec import Spec, require_same
from diwa_learning.policy.base import ChainPolicy, require_ddim_steps
from diwa_learning.policy.checkpoint import load_policy
from diwa_learning.reward.classifier import SuccessClassifier
from diwa_learning.reward.train import load_reward
from diwa_learning.world_model.latents import filter_frame
from diwa_learning.world_model.model import WorldModel, load_world_model
from diwa_learning.world_model.replay import model_state
from diwa_learning.world_model.rssm import State


@dataclass(frozen=True)
class Decision:
    """The agent's wish at one tick."""

    action: np.ndarray
    """(A,) float32 as executed: clipped, gripper +1 or -1. Safety limits come after it."""
    success_probability: float
    """The classifier's view of the current state; NaN without a classifier."""


class NoClassifier(SuccessClassifier):
    """Stands where there is no classifier: every probability is NaN, and nothing is a success."""

    def probability(self, features: Tensor) -> Tensor:
        return torch.full(features.shape[:-1], float("nan"))


class Agent:
    """World model, policy and classifier as one controller of one robot (B = 1).

    The state is filtered at every tick with the action that was executed, inside chunks too; a new chunk is sampled
    when the queue is empty. All randomness comes from the seed of `reset`.
    """

    def __init__(
        self, world_model: WorldModel, policy: ChainPolicy, reward: SuccessClassifier, spec: Spec, ddim_steps: int = 0
    ):
        """`ddim_steps`: number of deterministic steps that a chunk is sampled in; 0 takes all K steps of the chain."""
        require_ddim_steps(ddim_steps, policy)
        self.ddim_steps = ddim_steps
        self.world_model, self.policy, self.reward, self.spec = world_model, policy, reward, spec
        self.success_threshold, self.success_ticks = float(reward.threshold), reward.success_ticks
        self.reset(0)

    def reset(self, seed: int) -> None:
        """Begin a skill: zero state, empty queue."""
        self.state = self.world_model.rssm.initial(1)
        """(1, ...) the world model's; the zero state before the first observation."""
        self.embed = torch.zeros(1, self.world_model.embed_dim)
        """(1, E) of the last observation."""
        self._rng = torch.Generator().manual_seed(seed)
        self._queue: deque[np.ndarray] = deque()

    @torch.inference_mode()
    def act(self, observation: Observation, executed: np.ndarray) -> Decision:
        """One control tick; `executed` (A,) is the action that led to this observation, the null action at first."""
        noise = self.world_model.rssm.noise(1, rng=self._rng)
        features = self.filter(observation, executed, noise)
        if not self._queue:
            chunk = self.sample(features, self.policy.draw_noise(1, self._rng))
            self._queue.extend(self.spec.action.executed(chunk[0].numpy()))
        probability = self.reward.seen_probability(features, self.world_model.pictures(self.embed))
        return Decision(self._queue.popleft(), float(probability))

    @torch.inference_mode()
    def filter(self, observation: Observation, executed: np.ndarray, noise: Tensor) -> Tensor:
        """Take in one observation: advances `state` and returns its features (1, F); noise (1, C, K) Gumbel.

        `embed` becomes the observation's.
        """
        frame = preprocess_observation(observation, self.spec)
        images = {name: torch.from_numpy(image)[None] for name, image in frame.images.items()}
        state = torch.from_numpy(model_state(frame.state, frame.scene_state, self.world_model.config.scene_state))[None]
        action = torch.from_numpy(np.asarray(executed, np.float32))[None]
        target = torch.from_numpy(robot_state(observation.target, None))[None]
        self.state, self.embed = self.advance(self.state, images, state, target, action, noise)
        return self.state.features

    def advance(
        self,
        before: State,
        images: Mapping[str, Tensor],
        state: Tensor,
        target: Tensor,
        executed: Tensor,
        noise: Tensor,
    ) -> tuple[State, Tensor]:
        """`filter_frame` of this agent's world model."""
        return filter_frame(self.world_model, before, images, state, target, executed, noise)

    def sample(self, features: Tensor, noise: Tensor) -> Tensor:
        """A chunk (1, H, A), not yet clipped, from features (1, F) and the policy's noise."""
        return self.policy.sample(features, noise, self.ddim_steps).actions


def load_agent(world_model: Path, policy: Path, reward: Path | None, spec: Spec, ddim_steps: int = 0) -> Agent:
    """An agent for the robot of `spec` from checkpoints; `policy` is a `policy` or a `finetune` checkpoint.

    Raises `DiwaError` when one is of another phase, spec or world model, or `ddim_steps` more than the policy has.
    """
    world = load_world_model(world_model, decodes=False)
    require_same(spec, world.spec, str(world_model))
    chosen = load_policy(policy, spec, world.hash, world.model.feature_dim).policy
    classifier = load_reward(reward, world).classifier if reward else NoClassifier()
    return Agent(world.model, chosen, classifier, spec, ddim_steps)
