"""A real, tiny task: a hand on a line, seen by both cameras, that succeeds by moving right.

x in [0, 1] moves by 0.1 times the first action; the cameras show a bright band from the left edge to x. Success is
x > 0.7. Small enough that a world model learns it in seconds, so that policies, rewards and dreams are tested on a
model that means something.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import torch

from diwa_data.dataset.dataset import Dataset, load_dataset
from diwa_data.spec import Spec
from diwa_learning.core.checkpoint import save_checkpoint
from diwa_learning.finetune.dppo import DPPOConfig
from diwa_learning.finetune.imagination import DreamConfig
from diwa_learning.finetune.learner import PPOConfig
from diwa_learning.finetune.start_states import StartConfig
from diwa_learning.finetune.train import FinetuneConfig
from diwa_learning.policy.base import ChainPolicy, Normal
from diwa_learning.policy.checkpoint import PolicyNetConfig
from diwa_learning.policy.train import PolicyConfig
from diwa_learning.reward.classifier import RewardConfig, SuccessClassifier
from diwa_learning.world_model.config import WorldModelConfig
from diwa_learning.world_model.latents import embed_clips, whole
from diwa_learning.world_model.model import LoadedWorldModel, WorldModel, load_world_model
from diwa_learning.world_model.rssm import RSSMConfig, balanced_kl, shift_actions

GOAL, SPEED = 0.7, 0.1
STILL, RIGHT = [0.0] * 6 + [1.0], [0.6] + [0.0] * 5 + [1.0]
POLICY = PolicyConfig(
    net=PolicyNetConfig(width=32, denoising_steps=8),
    epochs=40,
    batch_size=64,
    learning_rate=3e-3,
    ema_decay=0.95,
    ema_start=5,
    ema_every=1,
    latent_samples=2,
    save_every=8,
)
REWARD = RewardConfig(
    width=32,
    epochs=15,
    learning_rate=3e-3,
    latent_samples=2,
    horizon=40,
    play_segments=40,
    save_every=8,
    missed_success=0.0,  # of two held-out demonstrations one hard frame more or less sets the threshold
)
FINETUNE = FinetuneConfig(
    dream=DreamConfig(dreams=32, chunks=8, horizon=4, starts=StartConfig(count=80)),
    ppo=PPOConfig(
        trained_steps=4,
        gamma=0.95,
        minibatch=300,
        epochs=4,
        actor_learning_rate=1e-3,
        clip_low=0.05,
        clip_high=0.2,
        critic_width=16,
    ),
    iterations=10,
    critic_warmup=2,
    alpha_bc=0.02,
    checkpoint_every=4,
    save_every=3,
)
DPPO = DPPOConfig(
    envs=24,
    chunks=8,
    horizon=4,
    ppo=FINETUNE.ppo,
    iterations=10,
    critic_warmup=2,
    checkpoint_every=4,
    save_every=3,
)


class Column(SuccessClassifier):
    """Probability of success: one column of the features."""

    def __init__(self, column):
        super().__init__()
        self.column = column

    def probability(self, features):
        return features[:, self.column]


class Sure(SuccessClassifier):
    """Sees success everywhere."""

    def probability(self, features):
        return torch.ones(features.shape[:-1])


class LineEnvironments:
    """The task itself, as a `VectorEnvironment` of N hands on their lines."""

    def __init__(self, count: int):
        self.contract, self.num_envs = Spec(), count
        self.x, self.succeeded = np.zeros(count), np.zeros(count, bool)

    def get_attr(self, name: str) -> tuple:
        return (getattr(self, name),) * self.num_envs

    def reset(self, *, seed: list[int], options: dict) -> tuple:
        for row in np.flatnonzero(options["reset_mask"]):
            self.x[row], self.succeeded[row] = np.random.default_rng(seed[row]).uniform(0.0, 0.2), False
        return line_observation(self.x), {}

    def step(self, actions: np.ndarray) -> tuple:
        executed = self.contract.action.executed(actions)
        self.x = np.clip(self.x + SPEED * executed[:, 0], 0, 1)
        self.succeeded = self.succeeded | (self.x > GOAL)
        observed = line_observation(self.x) | {"executed": executed}
        return observed, self.succeeded.astype(float), self.succeeded, np.zeros_like(self.succeeded), {}


class ConstantPolicy(ChainPolicy):
    """Always the same chunk, without noise."""

    def __init__(self, action: list[float], chunk: int = 4):
        super().__init__(1, chunk, len(action))
        self.register_buffer("action", torch.tensor(action))

    def loss(self, features, actions, draws):
        return torch.zeros(())

    def project(self, features):
        return features

    def denoise(self, projected, chunk, k):
        return Normal(self.action.expand_as(chunk), torch.zeros(()))


@dataclass(frozen=True)
class ToyFiles:
    """Files of the toy task."""

    demonstrations_path: Path
    play_path: Path
    world_model_path: Path

    @property
    def demonstrations(self) -> Dataset:
        return load_dataset(self.demonstrations_path)

    @property
    def play(self) -> Dataset:
        return load_dataset(self.play_path)

    @property
    def world(self) -> LoadedWorldModel:
        return load_world_model(self.world_model_path)


def make_files(folder: Path) -> ToyFiles:
    """Write demonstrations, play and a trained world model."""
    rng = np.random.default_rng(0)
    files = ToyFiles(folder / "demonstrations.h5", folder / "play.h5", folder / "world_model")
    write_dataset(files.demonstrations_path, [demonstrate(rng) for _ in range(12)], "demonstration", "open_drawer")
    write_dataset(files.play_path, [wander(rng, 60) for _ in range(12)], "play", "")
    save_checkpoint(files.world_model_path, "world_model", *train_model(files), Spec(), {})
    return files


def demonstrate(rng: np.random.Generator) -> np.ndarray:
    """Actions along the line: steadily right at a pace of its own, then still for 10 ticks; first entry is x_0."""
    x = start = rng.uniform(0.0, 0.2)
    pace, moves = rng.uniform(0.3, 0.8), []
    while x <= GOAL:
        moves.append(float(np.clip(pace + rng.normal(0, 0.1), -1, 1)))
        x += SPEED * moves[-1]
    return np.array([start, *moves, *np.zeros(10)])


def wander(rng: np.random.Generator, length: int) -> np.ndarray:
    """Actions of a smooth random walk with pauses; first entry is x_0."""
    moves = np.clip(np.convolve(rng.normal(0, 1.2, length + 4), np.ones(5) / 5, "valid") * 2, -1, 1)
    moves *= np.repeat(rng.random(length // 12 + 1) < 0.6, 12)[:length]
    return np.array([rng.uniform(0, 1), *moves])


def positions(walk: np.ndarray) -> np.ndarray:
    """x at every tick of a walk."""
    x = [walk[0]]
    for move in walk[1:]:
        x.append(float(np.clip(x[-1] + SPEED * move, 0, 1)))
    return np.array(x)


def picture(x: float, size: int = 64) -> np.ndarray:
    """The image of both cameras: a bright band as wide as x."""
    image = np.full((size, size, 3), 30, np.uint8)
    image[:, : round(x * size)] = 220
    return image


def line_observation(x: np.ndarray) -> dict[str, np.ndarray]:
    """Cameras and states of hands at x (N,)."""
    images = np.stack([picture(each) for each in x])
    states = robot_states(x)
    return {"static": images, "gripper": images, "state": states, "target": states[:, :9]}


def robot_states(x: np.ndarray) -> np.ndarray:
    """(T, 10) robot states of positions (T,): the hand upright at (x, 0, 0), fingers apart."""
    states = np.zeros((len(x), 10), np.float32)
    states[:, 0], states[:, 3], states[:, 7], states[:, 9] = x, 1, 1, 0.08
    return states


def write_dataset(path: Path, walks: list[np.ndarray], source: str, skill: str) -> None:
    """Datasets in the layout of `diwa build-dataset`."""
    spec = Spec()
    with h5py.File(path, "w") as file:
        file.attrs["spec"] = spec.to_json()
        for number, walk in enumerate(walks):
            group = file.create_group(f"episodes/{number:06d}")
            x = positions(walk)
            action = np.tile(spec.action.null, (len(x), 1))
            action[:-1, 0] = walk[1:]
            group["static"] = group["gripper"] = np.stack([picture(each) for each in x])
            group["state"], group["action"] = robot_states(x), action
            group["success"] = np.maximum.accumulate(x > GOAL) if source == "demonstration" else np.zeros(len(x), bool)
            group["stamp"] = group["received"] = np.arange(len(x)) / spec.rate
            group.attrs.update({"source": source, "skill": skill, "labels": json.dumps({})})


def train_model(files: ToyFiles, updates: int = 400, length: int = 12) -> tuple[dict, WorldModelConfig]:
    """A world model of the line: weights and configuration.

    Only the RSSM learns, by having x read from its features: the encoders stay random, the decoders unused.
    """
    torch.manual_seed(0)
    config = WorldModelConfig(depth=2, rssm=RSSMConfig(recurrent=32, categoricals=4, classes=8, hidden=32))
    model = WorldModel(config, Spec())
    states = torch.from_numpy(np.concatenate([episode.state for episode in files.play.episodes]))
    model.set_state_statistics(states.mean(0), states.std(0))
    clips = embed_clips(model, [whole(e) for e in (*files.play.episodes, *files.demonstrations.episodes)])
    rooms = clips.valid.sum(dim=1) - length + 1
    readout = torch.nn.Linear(model.feature_dim, 1)
    adam = torch.optim.Adam([*model.rssm.parameters(), *readout.parameters()], 1e-2)
    for step in range(updates):
        adam.param_groups[0]["lr"] = 1e-2 * (1 - step / updates)
        rows = torch.multinomial(rooms.clamp_min(1).float(), 16, replacement=True)
        starts = (torch.rand(16) * rooms[rows].clamp_min(1)).long()
        batch = clips.cut(rows.tolist(), starts.tolist(), length)
        x = batch.embeds[..., -Spec().state_dim]  # the embedding ends in the normalised state, x first
        previous = shift_actions(batch.actions, model.null_action)
        observed = model.rssm.observe(batch.embeds, previous, torch.zeros_like(batch.valid))
        error = (readout(observed.states.features)[..., 0] - x).square()
        kl = balanced_kl(observed.posterior_logits, observed.prior_logits, 0.8)
        loss = (30 * error + kl)[batch.valid].mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    return model.state_dict(), config
