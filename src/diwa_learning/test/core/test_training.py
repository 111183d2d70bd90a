"""The shared loop: continuing to the bit, refusing what does not fit, Ctrl-C."""

import json
import os
import signal
import time
from dataclasses import dataclass, replace

import pytest
import torch

from diwa_data.errors import DiwaError
from diwa_data.progress import listening
from diwa_data.spec import Spec
from diwa_learning.core import run as training
from diwa_learning.core.checkpoint import load_checkpoint
from diwa_learning.core.run import TrainingRun, load_state, save_state


@dataclass(frozen=True)
class ToyConfig:
    """A regression with dropout and noise, so that all generators matter."""

    width: int = 8
    updates: int = 20
    save_every: int = 5
    seed: int = 3


def train(out, config=ToyConfig(), kill_at=None, interrupt_at=None, inputs=None, signals=(signal.SIGINT,)):
    with TrainingRun(out, "policy", config, Spec(), world_model_hash="abc", inputs=inputs) as run:
        if run.finished:
            return run
        model = torch.nn.Sequential(
            torch.nn.Linear(4, config.width), torch.nn.Dropout(0.5), torch.nn.Linear(config.width, 1)
        )
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.updates)
        generator = torch.Generator().manual_seed(config.seed)
        run.track(model=model, optimizer=optimizer, schedule=schedule, generator=generator)
        for step in run.steps(config.updates):
            if step == kill_at:
                raise MemoryError
            inputs_ = torch.from_numpy(run.rng.normal(size=(16, 4))).float()
            inputs_ += 0.1 * torch.randn(16, 4, generator=generator)
            loss = (model(inputs_) - inputs_.sum(1, keepdim=True)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            run.log(step, {"loss": loss})
            if step == interrupt_at:
                for number in signals:
                    os.kill(os.getpid(), number)
        run.finish(model.state_dict(), {"loss": float(loss.detach())})
        return run


def weights(out):
    return load_checkpoint(out, "policy").weights


def assert_equal(one, two):
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_seed_that_no_generator_takes_is_refused(tmp_path):
    for seed in (-1, 1 << 63):
        with pytest.raises(DiwaError, match=f"seed is {seed}; it must be 0 or more"):
            train(tmp_path, ToyConfig(seed=seed))


def test_a_killed_run_continues_to_the_same_bits(tmp_path):
    train(tmp_path / "straight")
    with pytest.raises(MemoryError):
        train(tmp_path / "killed", kill_at=13)
    run = train(tmp_path / "killed")
    assert_equal(weights(tmp_path / "straight"), weights(tmp_path / "killed"))
    assert [step for step, _ in run.history["loss"]] == list(range(20))
    assert not (tmp_path / "killed" / "resume").exists()


def test_a_run_that_is_older_than_a_setting_continues(tmp_path):
    with pytest.raises(MemoryError):
        train(tmp_path, kill_at=13)
    header = json.loads((tmp_path / "config.json").read_text())
    del header["config"]["width"]
    (tmp_path / "config.json").write_text(json.dumps(header))
    with pytest.raises(DiwaError, match=r"config\.width was \d+, is 3\. Restore them"):
        train(tmp_path, ToyConfig(width=3))
    assert train(tmp_path).finished


def test_ctrl_c_ends_the_step_saves_and_continues(tmp_path, capsys):
    train(tmp_path / "straight")
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "stopped", interrupt_at=7)
    assert signal.getsignal(signal.SIGINT) is before
    assert "stopped after step 8" in capsys.readouterr().out
    train(tmp_path / "stopped")
    assert "continuing" in capsys.readouterr().out
    assert_equal(weights(tmp_path / "straight"), weights(tmp_path / "stopped"))


@pytest.mark.parametrize("signals", [(signal.SIGTERM,), (signal.SIGINT, signal.SIGTERM)])
def test_sigterm_does_as_ctrl_c_and_both_at_once_count_as_one(tmp_path, signals):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, interrupt_at=7, signals=signals)
    assert signal.getsignal(signal.SIGTERM) is before
    assert load_state(tmp_path / "resume" / "state.safetensors")["step"] == 8


def test_a_later_second_signal_drops_the_step(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "_SAME_SIGNAL", -1.0)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, interrupt_at=7, signals=(signal.SIGINT, signal.SIGINT))
    assert load_state(tmp_path / "resume" / "state.safetensors")["step"] == 5  # of the last save


def test_listeners_hear_the_steps_and_the_latest_of_every_curve(tmp_path):
    heard = []
    with listening(heard.append):
        run = train(tmp_path)
    assert [standing.done for standing in heard] == list(range(21))
    assert heard[-1].values == {name: curve[-1][1] for name, curve in run.history.items()}
    assert heard[-1].values.keys() == {"loss", "updates_per_s", "peak_memory_gib"}
    assert (heard[-1].title, heard[-1].unit) == ("policy", "updates")


def test_a_finished_run_is_left_alone(tmp_path, capsys):
    train(tmp_path)
    stamp = (tmp_path / "weights.safetensors").stat().st_mtime_ns
    assert train(tmp_path).finished
    assert "is finished" in capsys.readouterr().out
    assert (tmp_path / "weights.safetensors").stat().st_mtime_ns == stamp
    assert any((tmp_path / "tensorboard").iterdir())


def test_a_changed_configuration_is_refused_with_both_values(tmp_path):
    with pytest.raises(MemoryError):
        train(tmp_path, kill_at=6)
    with pytest.raises(DiwaError, match=r"config.width was 8, is 16"):
        train(tmp_path, replace(ToyConfig(), width=16))
    with pytest.raises(DiwaError, match=r"inputs.data was None, is 'b.h5'"):
        train(tmp_path, inputs={"data": "b.h5"})
    with (
        pytest.raises(DiwaError, match=r"spec.rate is 15"),
        TrainingRun(tmp_path, "policy", ToyConfig(), replace(Spec(), rate=15.0), world_model_hash="abc"),
    ):
        pass
    with (
        pytest.raises(DiwaError, match=r"world_model was 'abc', is 'def'"),
        TrainingRun(tmp_path, "policy", ToyConfig(), Spec(), world_model_hash="def"),
    ):
        pass


def test_a_folder_of_something_else_is_refused(tmp_path):
    train(tmp_path / "policy")
    with pytest.raises(DiwaError, match="holds a policy run, not reward"):
        TrainingRun(tmp_path / "policy", "reward", ToyConfig(), Spec())
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.txt").write_text("precious")
    with pytest.raises(DiwaError, match="choose another folder"):
        train(tmp_path / "notes")


def test_two_processes_never_train_in_one_folder(tmp_path):
    busy = pytest.raises(DiwaError, match=r"in use by process \d+ on .* choose another folder")
    with TrainingRun(tmp_path, "policy", ToyConfig(), Spec(), world_model_hash="abc"), busy:
        train(tmp_path)
    train(tmp_path)
    assert not (tmp_path / ".lock").exists()


def test_a_damaged_state_is_refused(tmp_path):
    with pytest.raises(MemoryError):
        train(tmp_path, kill_at=6)
    state = tmp_path / "resume" / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-40])
    with pytest.raises(DiwaError, match=r"state\.safetensors is damaged"):
        train(tmp_path)


def test_a_loss_that_is_nan_names_the_step(tmp_path):
    with TrainingRun(tmp_path, "reward", ToyConfig(), Spec()) as run:
        run.track()
        run.step = 2
        run.log(2, {"accuracy": 1.0, "loss": torch.tensor(0.0)})
        with pytest.raises(DiwaError, match="reward: loss is nan at step 2"):
            run.log(2, {"accuracy": 1.0, "loss": torch.tensor(float("nan"))})
        assert run.history["loss"] == [(2, 0.0)]


def test_a_watched_value_is_checked_before_anything_is_saved(tmp_path):
    def explode(out, at):
        with TrainingRun(out, "reward", ToyConfig(), Spec()) as run:
            run.track()
            for step in run.steps(20):
                run.watch(norm=torch.tensor(float("inf") if step == at else 0.0))
                if step == 7:
                    run.log(step, {"loss": 1.0})

    explode(tmp_path / "between", at=2)  # forgotten: what is infinite in training stays so
    for name, at, saved in (("save", 4, False), ("log", 7, True)):
        with pytest.raises(DiwaError, match="reward: norm is inf at step"):
            explode(tmp_path / name, at=at)
        assert (tmp_path / name / "resume" / "state.safetensors").exists() == saved


def test_curves_hold_throughput_and_memory(tmp_path):
    with TrainingRun(tmp_path, "reward", ToyConfig(), Spec()) as run:
        run.track()
        for step in run.steps(6, "frames", per_step=100):
            time.sleep(0.02)
            if step % 2 == 0:
                run.log(step, {"loss": 1.0})
    rates = dict(run.history["frames_per_s"])
    assert rates.keys() == {2, 4}
    assert all(2000 < rate < 5000 for rate in rates.values())
    assert 0.05 < run.history["peak_memory_gib"][-1][1] < 64


def test_sigterm_ends_the_step_and_saves_too(tmp_path):
    def terminated():
        with TrainingRun(tmp_path, "reward", ToyConfig(), Spec()) as run:
            run.track()
            for step in run.steps(20):
                if step == 2:
                    os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        terminated()
    assert load_state(tmp_path / "resume" / "state.safetensors")["step"] == 3


def test_nested_state_survives_the_file(tmp_path):
    state = {
        "a": {0: torch.arange(3), "1": [torch.tensor(2.5), None, "text"]},
        "numpy": torch.zeros(0, dtype=torch.uint8),
        "big": 2**100,
    }
    save_state(tmp_path / "s", state)
    loaded = load_state(tmp_path / "s")
    assert loaded["a"][0].tolist() == [0, 1, 2]
    assert float(loaded["a"]["1"][0]) == 2.5
    assert loaded["a"]["1"][1:] == [None, "text"]
    assert loaded["big"] == 2**100
