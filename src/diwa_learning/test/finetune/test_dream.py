"""Dreams on the toy task's world model; docs/method.md, check 7 (reduced)."""

import copy

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from toy import RIGHT, STILL, ConstantPolicy

from diwa_data.spec import ActionSpec, Spec
from diwa_learning.finetune.imagination import Dream, DreamConfig, Rollout
from diwa_learning.finetune.start_states import StartConfig, start_states
from diwa_learning.policy.base import Exploration
from diwa_learning.policy.checkpoint import PolicyNetConfig, make_policy
from diwa_learning.reward.classifier import SuccessClassifier

QUIET = Exploration(std_floor=0.0)


@pytest.fixture
def setting(toy_files, toy_reward):
    """World model and a classifier that is sure above one half: how its threshold is chosen is tested elsewhere."""
    classifier = copy.deepcopy(toy_reward.classifier)
    classifier.threshold.fill_(0.5)
    return toy_files.world.model, classifier


def dream(setting, **changes):
    model, classifier = setting
    config = DreamConfig(dreams=8, chunks=12, horizon=6, exploration=QUIET, **changes)
    return Dream(model, classifier, model.rssm.initial(3), config, torch.Generator().manual_seed(0))


def test_executed_is_the_contracts_function():
    actions = np.random.default_rng(0).normal(size=(5, 4, 7)).astype(np.float32) * 1.5
    actions[0, 0, 6], actions[0, 1, 6] = 0.0, -0.0
    found = ActionSpec().executed(torch.from_numpy(actions))
    assert np.array_equal(found.numpy(), ActionSpec().executed(actions))
    assert found.dtype == torch.float32


def test_check_07_idle_dreams_earn_nothing_and_demonstrated_ones_the_recall(toy_files, toy_reward):
    """Reduced: on the toy's model, with the figures that training left in the checkpoint."""
    metrics = toy_reward.checkpoint.metrics
    assert metrics["dreams"]["idle"] <= 0.1
    assert metrics["dreams"]["demonstrated"] >= metrics["imagined"]["recall"] - 0.15
    assert metrics["imagined"]["recall"] > 0.8
    assert metrics["imagined"]["precision"] >= 0.95


def test_moving_right_succeeds_where_standing_still_does_not(toy_files, setting):
    model, classifier = setting
    config = StartConfig(count=40, context=1, first_share=1.0, play_share=0.0)
    starts = start_states(model, classifier, toy_files.demonstrations.episodes, [], config, seed=0)
    rates = {}
    for name, action in (("still", STILL), ("right", RIGHT)):
        settings = DreamConfig(dreams=20, chunks=6, horizon=6, exploration=QUIET)
        mdp = Dream(model, classifier, starts, settings, torch.Generator().manual_seed(0))
        rates[name] = mdp.rollout(ConstantPolicy(action)).success_rate(6)
    assert rates["still"] < 0.2
    assert rates["right"] > 0.8


def test_rollout_bookkeeping(setting):
    rollout = dream(setting).rollout(ConstantPolicy(RIGHT))
    assert torch.equal(rollout.done, rollout.terminated | (rollout.age == 6) | (torch.arange(12) == 11))
    assert torch.equal(rollout.reward, rollout.terminated.float())
    assert torch.equal(rollout.age[:, 0], torch.ones(8, dtype=torch.int64))
    expected = torch.where(rollout.done[:, :-1], 1, rollout.age[:, :-1] + 1)
    assert torch.equal(rollout.age[:, 1:], expected)


def test_a_dream_goes_on_from_its_own_state_or_from_a_start(setting):
    rollout = dream(setting).rollout(ConstantPolicy(RIGHT))
    going = ~rollout.done[:, :-1]
    assert torch.equal(rollout.features[:, 1:][going], rollout.next_features[:, :-1][going])
    assert rollout.features[:, 1:][~going].abs().max() == 0  # all starts of this bank are zero states
    assert rollout.next_features[rollout.done].abs().min(dim=-1).values.shape[0] >= 8


def test_probability_reward_is_the_mean_of_a_chunk_and_never_ends_a_dream(setting):
    mdp = dream(setting, reward="probability")
    seen = []
    probability = mdp.classifier.probability
    mdp.classifier.probability = lambda features: seen.append(probability(features)) or seen[-1]
    rollout = mdp.rollout(ConstantPolicy(RIGHT))
    del mdp.classifier.probability
    assert not rollout.terminated.any()
    assert [each.shape for each in seen] == [(8, 4)] * 12
    assert torch.equal(rollout.reward, torch.stack([each.mean(1) for each in seen], 1))
    assert torch.equal(probability(rollout.next_features), torch.stack([each[:, -1] for each in seen], 1))


class Script(SuccessClassifier):
    """Sure, or not, as a list says of every tick of every dream (N, ticks)."""

    def __init__(self, sure):
        super().__init__()
        self.chunks = iter(torch.tensor(sure).float().split(4, dim=1))

    def probability(self, features):
        return next(self.chunks)


def test_a_dream_is_done_when_three_states_running_are_sure_across_chunks(setting):
    """Dream 0: two at a chunk's end, one at the next one's beginning, then a new dream whose run begins at 0.

    Dream 1: never three running. Dream 2: cut at the horizon with two, which do not count for the next one.
    """
    sure = [
        [0, 0, 1, 1, 1, 0, 1, 1, 1, 0, 0, 0],
        [1, 1, 0, 1, 1, 0, 1, 1, 0, 1, 1, 0],
        [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 0, 0],
    ]
    model = setting[0]
    config = DreamConfig(dreams=3, chunks=3, horizon=2, exploration=QUIET)
    mdp = Dream(model, Script(sure), model.rssm.initial(3), config, torch.Generator().manual_seed(0))
    rollout = mdp.rollout(ConstantPolicy(STILL))
    assert rollout.terminated.int().tolist() == [[0, 1, 0], [0, 0, 0], [0, 0, 0]]
    assert rollout.done.int().tolist() == [[0, 1, 1], [0, 1, 1], [0, 1, 1]]
    assert torch.equal(rollout.reward, rollout.terminated.float())
    assert torch.equal(rollout.success, rollout.terminated)


def test_dreams_execute_what_the_robot_would(setting):
    """A chunk far outside [-1, 1] leads where the clipped one leads."""
    results = []
    for action in ([5.0] + [0.0] * 5 + [0.3], [1.0] + [0.0] * 5 + [1.0]):
        results.append(dream(setting).rollout(ConstantPolicy(action)).next_features.clone())
    assert torch.equal(results[0], results[1])


def test_compiled_dreams_are_the_same(setting):
    """A chunk is one graph without breaks, made once."""
    torch.manual_seed(0)
    policy = make_policy(PolicyNetConfig(width=8, denoising_steps=2), setting[0].feature_dim, 7)
    plain, fast = dream(setting), dream(setting)
    counter = CompileCounterWithBackend("aot_eager")
    fast._step = torch.compile(fast.step, backend=counter, dynamic=False, fullgraph=True)
    for _ in range(2):
        one, other = (mdp.rollout(policy) for mdp in (plain, fast))
        torch.testing.assert_close(other.next_features, one.next_features)
        assert torch.equal(other.done, one.done)
    assert counter.frame_count == 1


def test_success_rate_counts_only_dreams_that_had_the_whole_horizon():
    """Two dreams of 4 chunks, horizon 2. The first succeeds late, starts anew with one chunk left: not counted."""
    age = torch.tensor([[1, 2, 1, 1], [1, 2, 1, 2]])
    success = torch.tensor([[False, True, True, True], [False, False, False, True]])
    terminated = success
    nothing = torch.zeros(2, 4, 1)
    rollout = Rollout(
        nothing, nothing, nothing, success.float(), terminated, terminated, success, age, torch.zeros(2, 4)
    )
    # counted: dream 0's first (success) and second (success), dream 1's first (failure) and second (success)
    assert rollout.success_rate(2).item() == pytest.approx(3 / 4)
    assert rollout.mean_return(2).item() == pytest.approx(3 / 4)


def test_spec_null_action_is_still():
    assert Spec().action.null.tolist() == STILL


def test_bfloat16_dreams_stay_close_and_keep_float32_states(setting):
    """One chunk from the same starts with the same noise."""
    ends = {}
    for precision in ("float32", "bfloat16"):
        mdp = dream(setting, precision=precision)
        gumbel = setting[0].rssm.noise(4, 8, rng=mdp.rng)
        state = mdp.imagine(setting[0].rssm.initial(8), torch.tensor(RIGHT).expand(8, 4, 7), gumbel)[:, -1]
        assert state.h.dtype == state.z.dtype == torch.float32
        ends[precision] = state.h
    assert not torch.equal(ends["float32"], ends["bfloat16"])
    assert (ends["float32"] - ends["bfloat16"]).abs().median() < 0.02
