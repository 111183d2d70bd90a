"""Configuration of the baseline DPPO."""

from __future__ import annotations

from dataclasses import dataclass, field

from diwa_data.motion import MotionLimits
from diwa_learning.chain import Exploration
from diwa_learning.finetuner import PPOConfig


@dataclass(frozen=True)
class DPPOConfig:
    """Fine-tuning in environments; updates and sizes as DiWA's, which the paper's Table S.5 gives for both."""

    envs: int = 50
    """N, environments in parallel."""
    chunks: int = 36
    """T, chunks of each in an iteration."""
    horizon: int = 18
    """Chunks after which an episode is cut: 18 chunks of 4 actions are 72 actions, 9.6 s."""
    exploration: Exploration = field(default_factory=Exploration)
    """Noise of the chunks."""
    ppo: PPOConfig = field(default_factory=PPOConfig)
    """The updates."""
    iterations: int = 70
    """Rounds of acting and updating: 70 x 7,200 steps are 504,000, the most that Table I reports of a skill."""
    critic_warmup: int = 5
    """First iterations that train the critic alone."""
    enough: float | None = None
    """Mean success of three iterations' own rollouts, with their noise, that ends practice; None = `iterations` do."""
    alpha_bc: float = 0.0
    """Weight of KL(pi_pre || pi_theta). DPPO has none: the term guards against errors of a world model (Eq. 9)."""
    checkpoint_every: int = 5
    """Iterations between policy checkpoints in `iterations/`."""
    save_every: int = 1
    """Iterations between saves of the resumable state."""
    seed: int = 0
    """Of environments, critic, filter, chunks and minibatches."""
    limits: MotionLimits = field(default_factory=MotionLimits)
    """Safety limits, as on the robot."""
