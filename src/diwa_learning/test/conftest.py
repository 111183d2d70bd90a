"""Small real objects that the tests of this package share."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from diwa_data.dataset.dataset import Episode
from diwa_data.limits import columns_of
from diwa_data.spec import Spec
from diwa_learning.core.checkpoint import load_checkpoint
from diwa_learning.finetune.learner import Learner
from diwa_learning.policy.train import PolicyJob
from diwa_learning.reward.train import LoadedReward, RewardJob, load_reward
from diwa_learning.world_model.config import WorldModelConfig
from diwa_learning.world_model.model import WorldModel
from diwa_learning.world_model.replay import Batch
from diwa_learning.world_model.rssm import RSSMConfig

sys.path.insert(0, str(Path(__file__).parent))  # for the helpers that lie beside the tests
import toy


@pytest.fixture
def tiny_config() -> WorldModelConfig:
    """A world model that trains a step in milliseconds."""
    return WorldModelConfig(
        depth=2,
        rssm=RSSMConfig(recurrent=12, categoricals=3, classes=4, hidden=10),
        updates=6,
        batch_size=2,
        sequence_length=6,
        log_every=2,
        check_every=4,
        save_every=3,
        target=True,
    )


@pytest.fixture
def tiny_world_model(tiny_config) -> WorldModel:
    """That model, untrained, always the same."""
    torch.manual_seed(5)
    return WorldModel(tiny_config, Spec()).eval().requires_grad_(False)


@pytest.fixture
def random_frames():
    """Make random frames: `random_frames(2, 3)` -> images camera -> (2, 3, 64, 64, 3) uint8, state and target."""

    def make(*leading: int, seed: int = 0):
        generator = torch.Generator().manual_seed(seed)
        images = {
            name: torch.randint(256, (*leading, 64, 64, 3), dtype=torch.uint8, generator=generator)
            for name in ("static", "gripper")
        }
        state = torch.randn(*leading, 10, generator=generator)
        rotation = torch.linalg.qr(torch.randn(*leading, 3, 3, generator=generator)).Q
        return images, state, torch.cat([state[..., :3] + 0.1, columns_of(torch, rotation)], -1)

    return make


@pytest.fixture
def random_batch(random_frames):
    """Make random sequences: `random_batch(2, 5)` -> a Batch of 2 sequences of 5 frames, none padded."""

    def make(rows: int, length: int) -> Batch:
        images, state, target = random_frames(rows, length)
        actions = torch.rand(rows, length, 7, generator=torch.Generator().manual_seed(1)) * 2 - 1
        return Batch(images, state, target, actions, torch.ones(rows, length, dtype=torch.bool))

    return make


@pytest.fixture(scope="session")
def make_episode():
    """Make an episode whose pictures show what the last action did.

    Left and right half of the static camera are bright where the first two numbers of the action that led to the
    frame were positive; the wrist camera shows the third and fourth.
    """

    def make(length: int, seed: int = 0) -> Episode:
        rng = np.random.default_rng(seed)
        action = rng.choice([-1.0, 1.0], (length, 7)).astype(np.float32)
        led = np.concatenate([-np.ones((1, 7), np.float32), action[:-1]])
        images = {}
        for column, camera in enumerate(("static", "gripper")):
            halves = np.where(led[:, 2 * column : 2 * column + 2] > 0, 230, 20).astype(np.uint8)
            picture = halves.repeat(32, 1)[:, None, :, None]  # (T, 1, 64, 1)
            images[camera] = np.broadcast_to(picture, (length, 64, 64, 3)).copy()
        return Episode(
            name=f"{seed:06d}",
            images=images,
            state=rng.normal(size=(length, 10)).astype(np.float32),
            action=action,
            success=np.zeros(length, bool),
            stamp=np.arange(length) / 7.5,
            received=np.arange(length) / 7.5,
            scene_state=None,
            attributes={"skill": "", "source": "play", "labels": {}, "success_tick": -1},
        )

    return make


@pytest.fixture(scope="session")
def write_dataset():
    """Write episodes as an HDF5 dataset: `write_dataset(path, episodes)` -> path."""

    def write(path: Path, episodes: list[Episode], spec: Spec | None = None) -> Path:
        spec = spec or Spec()
        with h5py.File(path, "w") as file:
            file.attrs["spec"] = spec.to_json()
            for number, episode in enumerate(episodes):
                group = file.create_group(f"episodes/{number:06d}")
                for name in ("state", "action", "success", "stamp", "received"):
                    group[name] = getattr(episode, name)
                if episode.scene_state is not None:
                    group["scene_state"] = episode.scene_state
                for name, frames in episode.images.items():
                    group[name] = frames
                for key, value in episode.attributes.items():
                    group.attrs[key] = json.dumps(value) if isinstance(value, dict) else value
        return path

    return write


@pytest.fixture(scope="session")
def toy_files(tmp_path_factory) -> toy.ToyFiles:
    """Datasets of the toy task and a world model trained on them."""
    return toy.make_files(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="session")
def toy_policy_path(toy_files, tmp_path_factory) -> Path:
    """A policy of the toy task."""
    out = tmp_path_factory.mktemp("policy") / "run"
    PolicyJob(
        demonstrations=toy_files.demonstrations_path, world_model=toy_files.world_model_path, out=out, config=toy.POLICY
    ).run()
    return out


@pytest.fixture(scope="session")
def toy_reward_path(toy_files, tmp_path_factory) -> Path:
    """A reward of the toy task."""
    out = tmp_path_factory.mktemp("reward") / "run"
    RewardJob(
        demonstrations=toy_files.demonstrations_path,
        world_model=toy_files.world_model_path,
        out=out,
        play=toy_files.play_path,
        config=toy.REWARD,
    ).run()
    return out


@pytest.fixture(scope="session")
def toy_reward(toy_files, toy_reward_path) -> LoadedReward:
    """That reward, loaded."""
    world = toy_files.world
    return load_reward(toy_reward_path, world)


@pytest.fixture(scope="session")
def flow_policy(tmp_path_factory) -> Iterator[str]:
    """The policy class of docs/extending.md, under its name in settings: read from the page, where Python finds it."""
    page = (Path(__file__).parents[3] / "docs/extending.md").read_text()
    (text,) = re.findall(r'^```python title="flow_policy.py"\n(.*?)^```$', page, re.MULTILINE | re.DOTALL)
    folder = tmp_path_factory.mktemp("reader")
    (folder / "flow_policy.py").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield "flow_policy:FlowPolicy"


@pytest.fixture(params=["diffusion", "gaussian", "flow"])
def kind(request) -> str:
    """Every kind of policy, in settings."""
    return request.getfixturevalue("flow_policy") if request.param == "flow" else request.param


@pytest.fixture
def dies_in_update(monkeypatch) -> Callable[[int], AbstractContextManager[None]]:
    """Kill what happens inside `with dies_in_update(5):` when the fifth update by PPO begins."""

    @contextmanager
    def dies_in(number: int):
        update, calls = Learner.update, []

        def dies(self, *args, **kwargs):
            calls.append(1)
            if len(calls) == number:
                raise MemoryError
            return update(self, *args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(Learner, "update", dies)
            with pytest.raises(MemoryError):
                yield

    return dies_in


@pytest.fixture
def assert_same_weights() -> Callable[[Path, Path], None]:
    """Two checkpoints of fine-tuning hold the same weights, bit by bit."""

    def check(one: Path, other: Path) -> None:
        first, second = (load_checkpoint(path, "finetune").weights for path in (one, other))
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)

    return check
