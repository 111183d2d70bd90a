"""World models made worse on purpose: how, and what is read from their dreams."""

import pytest
import torch

from diwa_cli.experiments.degraded import (
    AS_TRAINED,
    DegradeConfig,
    add_noise,
    drawing,
    dreams,
    gate_table,
    world_models,
)
from diwa_data.errors import DiwaError
from diwa_learning.core.checkpoint import load_checkpoint
from diwa_learning.world_model.config import WorldModelConfig
from diwa_learning.world_model.model import load_world_model


def test_noise_changes_what_is_imagined_and_nothing_that_is_filtered(checkpoints, tmp_path):
    add_noise(checkpoints.world_model, 1.0, tmp_path / "noisy")
    before, after = (load_checkpoint(path, "world_model") for path in (checkpoints.world_model, tmp_path / "noisy"))
    changed = {name for name, weight in after.weights.items() if not torch.equal(weight, before.weights[name])}
    assert changed == {"rssm.prior_head.0.weight", "rssm.prior_head.3.weight"}
    for name in changed:
        noise = after.weights[name] - before.weights[name]
        assert float(noise.std() / before.weights[name].std()) == pytest.approx(1.0, rel=0.3)
    assert before.hash != after.hash
    right, noisy = (load_world_model(path).model.rssm for path in (checkpoints.world_model, tmp_path / "noisy"))
    torch.manual_seed(0)
    embed, action, state = torch.randn(4, right.embed_dim), torch.rand(4, 7), right.initial(4)
    noise = right.noise(4)
    assert torch.equal(
        right.filter(state, action, embed, noise).features, noisy.filter(state, action, embed, noise).features
    )
    assert not torch.equal(right.prior(torch.randn(4, 12)), noisy.prior(torch.randn(4, 12)))


def test_each_is_named_after_how_it_is_worse(checkpoints, tmp_path, monkeypatch):
    trained = {}
    attempts = (tmp_path / "attempts.h5",)

    def train(play, out, attempts, config):
        trained[out] = config, attempts

    monkeypatch.setattr("diwa_cli.experiments.degraded.train", train)
    config = DegradeConfig(early=(0.25,), data=(0.1,), noise=(0.3, 1))
    made = world_models(checkpoints.world_model, tmp_path / "play.h5", attempts, config)
    assert list(made) == [
        "25 % of the updates", "10 % of the play", "prior with noise of 0.3", "prior with noise of 1",
    ]  # fmt: skip
    made["25 % of the updates"](tmp_path / "early")
    early, failed = trained[tmp_path / "early"]
    assert early.updates == WorldModelConfig().updates // 4
    assert failed == attempts


@pytest.mark.parametrize(
    ("settings", "message"), [({"early": (0.0,)}, "degrade.early has 0"), ({"data": (2,)}, "has 2")]
)
def test_impossible_shares_are_refused(settings, message):
    with pytest.raises(DiwaError, match=message):
        DegradeConfig(**settings)


def test_what_dreams_said_is_of_the_base_and_of_the_last_three_iterations():
    success, deviation = [0.2, 0.4, 0.6, 0.9, 1.0, 0.8], [0.1, 0.3, 0.2, 0.5, 0.7, 0.6]
    found = dreams({"dream_success": list(enumerate(success)), "deviation": list(enumerate(deviation))}, base=2)
    assert {name: {k: round(v, 4) for k, v in both.items()} for name, both in found.items()} == {
        "dream_success": {"base": 0.3, "end": 0.9},
        "deviation": {"base": 0.2, "end": 0.6},
        "score": {"base": 0.3, "end": 0.5},  # 0.9 - (0.6 - 0.2)
    }


def test_the_gate_is_counted_against_what_fine_tuning_gained():
    def row(name, base, finetuned, verdict):
        wrong = verdict == "refused"
        figure = {"value": 0.1 if wrong else 0.5, "decisive": True, "passed": not wrong}
        return {
            "world_model": name,
            "base": {"rate": base, "rollouts": 40},
            "finetuned": {"rate": finetuned, "rollouts": 40},
            "difference": {"points": 100 * (finetuned - base)},
            "gate": {"verdict": verdict, "figures": {"filtered_play": figure}},
        }

    rows = [
        row(AS_TRAINED, 0.4, 0.9, "passed"),
        row("caught", 0.4, 0.5, "refused"),
        row("missed", 0.4, 0.35, "passed"),
        row("refused for nothing", 0.4, 0.7, "refused"),
    ]
    found = gate_table(rows)
    assert found["counts"] == {"bad": 2, "caught": 1, "others": 2, "passed": 1}
    assert found["rows"][1] == {
        "world_model": "caught", "base": 0.4, "finetuned": 0.5, "rollouts": 40, "gain": 10.0, "bad": True,
        "refused": True, "failed": ["filtered_play"], "figures": {"filtered_play": 0.1},
    }  # fmt: skip


def test_rows_are_drawn_from_the_least_error_on():
    part = {"base": {"rate": 0.4}, "finetuned": {"rate": 0.7}, "dream_success": {"end": 0.9}, "score": {"end": 0.8}}
    rows = [
        {"world_model": name, "hand_error_mm": error, **part} for name, error in ((AS_TRAINED, 9.0), ("worse", 30.0))
    ]
    assert "hand error in imagination" in drawing(rows[::-1])
