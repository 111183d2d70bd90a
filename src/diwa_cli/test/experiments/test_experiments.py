"""Ranking and choosing among checkpoints, by hand."""

from diwa_cli.experiments.experiment import Judged, dreamt, ranking, selection
from diwa_data.spec import Spec
from diwa_learning.core.checkpoint import Checkpoint
from diwa_learning.finetune.train import FinetuneConfig

JUDGED = [
    Judged("a", "open_drawer", 0, dream_success=0.9, score=0.5, truth=0.4),
    Judged("a", "open_drawer", 5, dream_success=0.8, score=0.7, truth=0.8),
    Judged("a", "open_drawer", 10, dream_success=1.0, score=0.6, truth=0.5),
    Judged("b", "turn_on_led", 0, dream_success=0.2, score=0.1, truth=0.3),
    Judged("b", "turn_on_led", 10, dream_success=0.7, score=0.9, truth=0.9),
]


def test_ranks_against_the_truth_within_each_skill():
    found = ranking(JUDGED)
    assert found["checkpoints"] == 5
    assert found["score"]["spearman"] == 1.0
    assert found["dream_success"]["spearman"] == 0.7  # ranks 2 4 3 1 5 of the truth, 3 2 4 1 5: 1 - 6 * 6 / (5 * 24)
    low, high = found["dream_success"]["interval"]
    assert (low, high) == (-0.5, 1.0)  # the first skill alone, the second alone


def test_an_offset_between_skills_ranks_nothing():
    easy = [Judged("a", "open_drawer", n, 0.9, 0.9 - 0.1 * n, 0.8 + 0.1 * n) for n in range(2)]
    hard = [Judged("b", "turn_on_led", n, 0.2, 0.2 - 0.1 * n, 0.2 + 0.1 * n) for n in range(2)]
    assert ranking([*easy, *hard])["score"] == {"spearman": -1.0, "interval": [-1.0, -1.0]}


def test_where_all_are_equal_there_is_no_correlation():
    still = [Judged("a", "open_drawer", n, 1.0, 0.1 * n, 0.5) for n in range(3)]
    found = ranking(still)
    assert (found["not_counted"], found["score"]["spearman"]) == (["open_drawer"], None)
    alone = ranking([*still, *JUDGED[3:]])
    assert alone["skills"] == ["turn_on_led"]
    assert alone["score"] == {"spearman": 1.0, "interval": None}


def test_what_choosing_gains_is_a_mean_over_runs():
    found = selection(JUDGED, chosen={"a": 5, "b": 10})
    assert found == {"base": 35.0, "chosen": 85.0, "last": 70.0, "best": 85.0}


def test_a_checkpoint_has_the_dreams_before_it_and_the_base_those_of_the_warm_up(tmp_path):
    success, deviation = [0.2, 0.4, 0.6, 0.8, 1.0, 1.0], [0.1, 0.3, 0.2, 0.2, 0.5, 0.8]
    curves = {"dream_success": list(enumerate(success)), "deviation": list(enumerate(deviation))}
    config = {"critic_warmup": 1, "dream": {}, "ppo": {}}
    checkpoint = Checkpoint(tmp_path, "finetune", {}, config, Spec(), {"history": curves}, None, "hash")
    assert checkpoint.config_as(FinetuneConfig).critic_warmup == 1
    found = dreamt(checkpoint, kept=[1, 3, 6])
    assert {n: [round(value, 4) for value in pair] for n, pair in found.items()} == {
        0: [0.3, 0.3],
        3: [0.4, 0.4],
        6: [0.9333, 0.6333],
    }
