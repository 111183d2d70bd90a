"""Rollouts of a policy in environments, as the world model's filter sees them: experience of the baseline DPPO.

The MDP is the dream's with the truth in the model's place: a step is a chunk, chosen from the posterior state; the
reward is the environment's own, 1 for success, which ends the episode. A chunk is played to its end, and all its
actions are environment steps, those after a success too.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from diwa_data.robot import Frames, Played, VectorEnvironment
from diwa_data.spec import require_same
from diwa_learning.chain import ChainPolicy
from diwa_learning.dppo_config import DPPOConfig
from diwa_learning.dream import Rollout, empty_rollout
from diwa_learning.filtering import Belief, follow, unseen
from diwa_learning.sequences import model_state
from diwa_learning.streams import Streams
from diwa_learning.world_model import WorldModel


class EnvironmentRollouts:
    """N environments and their filter. Every iteration starts all of them anew, from seeds that `draws` draws.

    So an iteration depends on the policy and on the state of `draws` alone.

    Args:
        seeds: of the environments' starts.
        draws: of one run.
    """

    def __init__(
        self,
        model: WorldModel,
        environments: VectorEnvironment,
        seeds: range,
        trained_steps: int,
        config: DPPOConfig,
        draws: Streams,
    ):
        require_same(model.spec, environments.spec, "the environment")
        self.model, self.environments, self.seeds = model, environments, seeds
        self.trained_steps, self.config, self.draws = trained_steps, config, draws

    @torch.no_grad()
    def rollout(self, policy: ChainPolicy) -> Rollout:
        """One iteration of `policy`; what still goes on at its end is cut."""
        config, draws, count = self.config, self.draws, self.environments.count
        shape = (count, config.chunks)
        rollout = empty_rollout(shape, self.model.feature_dim, policy, self.trained_steps, draws.device)
        rows, seeds = np.arange(count), self._draw_seeds()
        belief = self._begin(self.environments.reset(rows, seeds), self._draw_noise())
        age = torch.zeros(count, dtype=torch.int64, device=draws.device)
        for t in range(config.chunks):
            features = belief.state.features
            noise = draws.normal(count, policy.steps + 1, policy.chunk, policy.action_dim)
            sample = policy.explore(features, noise, config.exploration)
            played = self.environments.play(sample.actions.cpu().numpy())
            belief, age = self._follow(belief, played), age + 1
            success = self._tensor(played.success)
            done = success | (age >= config.horizon) | (t == config.chunks - 1)
            rollout.features[:, t], rollout.next_features[:, t] = features, belief.state.features
            rollout.chains[:, t] = sample.chains[:, -self.trained_steps - 1 :]
            rollout.reward[:, t], rollout.success[:, t], rollout.terminated[:, t] = success, success, success
            rollout.done[:, t], rollout.age[:, t] = done, age
            if t < config.chunks - 1:
                belief, age = self._restart(belief, done), age * ~done
        return rollout

    def _restart(self, belief: Belief, done: Tensor) -> Belief:
        """Ended environments start anew; as many numbers are drawn however many they are."""
        seeds, noise, rows = self._draw_seeds(), self._draw_noise(), done.nonzero()[:, 0]
        if not len(rows):
            return belief
        which = rows.cpu().numpy()
        return belief.replaced(rows, self._begin(self.environments.reset(which, seeds[which]), noise[rows]))

    def _begin(self, frames: Frames, noise: Tensor) -> Belief:
        """Beliefs (M, ...) after first frames (M,), as deployment begins: from the zero state with the null action."""
        images, state = self._tensors(frames)
        null = self.model.null_action.expand(len(state), -1)
        return follow(self.model, unseen(self.model, state), images, state, null, noise)

    def _follow(self, belief: Belief, played: Played) -> Belief:
        """Beliefs (N, ...) after a chunk, filtered at every control tick."""
        (images, states), executed = self._tensors(played.frames), self._tensor(played.executed)
        for tick in range(executed.shape[1]):
            seen = {name: image[:, tick] for name, image in images.items()}
            belief = follow(self.model, belief, seen, states[:, tick], executed[:, tick], self._draw_noise())
        return belief

    def _draw_seeds(self) -> np.ndarray:
        """(N,) int64."""
        share = self.draws.uniform(self.environments.count).double().cpu().numpy()
        return self.seeds.start + (share * len(self.seeds)).astype(np.int64)

    def _draw_noise(self) -> Tensor:
        """(N, C, K) Gumbel."""
        sizes = self.model.rssm.config
        return self.draws.gumbel(self.environments.count, sizes.categoricals, sizes.classes)

    def _tensors(self, frames: Frames) -> tuple[dict[str, Tensor], Tensor]:
        state = model_state(frames.state, frames.scene_state, self.model.config.scene_state)
        return {name: self._tensor(image) for name, image in frames.images.items()}, self._tensor(state)

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.draws.device)
