"""Small real objects that the tests of this package share."""

import pytest
import torch
from diwa_data.spec import Spec
from diwa_learning.rssm import RSSMConfig
from diwa_learning.world_model import WorldModel, WorldModelConfig


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
    )


@pytest.fixture
def tiny_world_model(tiny_config) -> WorldModel:
    """That model, untrained, always the same."""
    torch.manual_seed(5)
    return WorldModel(tiny_config, Spec()).eval().requires_grad_(False)


@pytest.fixture
def random_frames():
    """Make a batch of random frames: `random_frames(2, 3)` -> images camera -> (2, 3, 64, 64, 3) uint8 and state."""

    def make(*leading: int, seed: int = 0):
        generator = torch.Generator().manual_seed(seed)
        images = {
            name: torch.randint(256, (*leading, 64, 64, 3), dtype=torch.uint8, generator=generator)
            for name in ("static", "gripper")
        }
        return images, torch.randn(*leading, 10, generator=generator)

    return make
