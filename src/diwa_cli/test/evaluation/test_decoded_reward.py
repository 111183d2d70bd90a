"""The reward from decoded scene state against the simulator's oracles."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from diwa_data.spec import Spec
from diwa_learning.reward.classifier import DecodedReward
from diwa_learning.world_model.config import WorldModelConfig
from diwa_learning.world_model.model import WorldModel
from diwa_learning.world_model.rssm import RSSMConfig
from diwa_sim.tasks import PAPER_TASKS, SCENE_STATE, TASKS, is_done, succeeded

scene_states = st.builds(
    lambda lengths, lights, cube: np.array([*lengths, *map(float, lights), *cube]),
    st.tuples(st.floats(-0.01, 0.17), st.floats(-0.01, 0.23), st.floats(-0.6, 0.6), st.floats(0.0, 0.02)),
    st.tuples(st.booleans(), st.booleans()),
    st.tuples(*[st.floats(-1, 1)] * 7),
)


@pytest.fixture(scope="module")
def told_model() -> WorldModel:
    """A hybrid model; its decoder's last bias is the state that it decodes, whatever the latent."""
    sizes = RSSMConfig(recurrent=4, categoricals=2, classes=2, hidden=4)
    config = WorldModelConfig(depth=2, rssm=sizes, scene_state=True, robot_state_weight=1.0)
    model = WorldModel(config, Spec(scene_state=SCENE_STATE)).requires_grad_(False)
    model.set_state_statistics(torch.full((23,), 0.3), torch.linspace(0.1, 0.7, 23))
    model.state_decoder[-1].weight.zero_()
    return model


@pytest.mark.parametrize("skill", PAPER_TASKS)
@given(now=scene_states)
def test_its_verdict_on_true_scene_states_is_the_oracles(told_model: WorldModel, skill: str, now: np.ndarray) -> None:
    model, number = told_model, SCENE_STATE.index(TASKS[skill].goal.quantity)
    assume(abs(TASKS[skill].goal.margin(now[number])) > 1e-5)  # what single precision tells apart
    model.state_decoder[-1].bias[10:] = ((torch.from_numpy(now) - model.state_mean[10:]) / model.state_std[10:]).float()
    state = model.rssm.initial(1)
    np.testing.assert_allclose(model.decode_state(state)[0, 10:], now, atol=1e-6)
    judge = DecodedReward(model.feature_dim)
    judge.take_decoder(model, TASKS[skill].goal)
    verdict = bool(judge.is_success(judge.probability(state.features)))
    assert verdict == is_done(skill, now, now)
    before = now.copy()
    before[number] = TASKS[skill].goal.before
    assert verdict == succeeded(skill, before, now)
