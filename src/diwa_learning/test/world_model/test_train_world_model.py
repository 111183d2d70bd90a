"""The first phase on small real datasets: it learns, continues to the bit, and refuses what it must."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from diwa_data.dataset.dataset import load_dataset
from diwa_data.errors import DiwaError
from diwa_data.spec import Spec
from diwa_learning.core.checkpoint import load_checkpoint, read_header
from diwa_learning.world_model.config import WorldModelConfig
from diwa_learning.world_model.draws import draw
from diwa_learning.world_model.model import WorldModel, load_world_model
from diwa_learning.world_model.open_loop import action_check
from diwa_learning.world_model.replay import ReplayBuffer, held_out_of
from diwa_learning.world_model.rssm import RSSMConfig
from diwa_learning.world_model.train import WorldModelJob, adamw, update


@pytest.fixture
def play(tmp_path, make_episode, write_dataset):
    """A dataset of four episodes."""
    return write_dataset(tmp_path / "play.h5", [make_episode(length, seed=length) for length in (20, 14, 9, 5)])


@pytest.fixture
def demonstrations(tmp_path, make_episode, write_dataset):
    """A dataset of two short episodes."""
    return write_dataset(tmp_path / "demonstrations.h5", [make_episode(7, seed=71), make_episode(4, seed=72)])


def test_check_02_the_model_needs_the_action_that_led_to_each_frame(make_episode):
    config = WorldModelConfig(
        depth=2,
        rssm=RSSMConfig(recurrent=32, categoricals=4, classes=4, hidden=32),
        batch_size=8,
        sequence_length=8,
        robot_state=False,
        learning_rate=4e-3,
    )
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    replay = ReplayBuffer([make_episode(100, seed) for seed in range(4)], Spec(), config.sequence_length)
    model = WorldModel(config, Spec())
    optimizer = adamw(model, config)
    for _ in range(80):
        batch = replay.sample(config.batch_size, rng)
        model.loss(batch, draw(batch.valid, config)).total.backward()
        update(model, optimizer, config.gradient_clip)

    kl = action_check(model, ReplayBuffer([make_episode(200, seed=9)], Spec(), 20).sample(8, rng))
    assert min(kl["late"], kl["early"], kl["shuffled"]) > 5 * kl["recorded"]


def test_the_phase_leaves_a_checkpoint_with_metrics_and_a_filmstrip(
    tmp_path, play, demonstrations, tiny_config, capsys
):
    out = tmp_path / "world_model"
    WorldModelJob(datasets=(play, demonstrations), out=out, config=tiny_config).run()
    world_model = load_world_model(out)
    assert world_model.spec == Spec()
    metrics = load_checkpoint(out, "world_model").metrics
    assert metrics["parameters"] == sum(p.numel() for p in world_model.model.parameters())
    assert metrics["frames"] + metrics["held_out_frames"] == 20 + 14 + 9 + 5 + 7 + 4
    assert metrics["frames_per_s"] > 0
    assert metrics["action_kl"].keys() == {"recorded", "late", "early", "shuffled"}
    assert [step for step, _ in metrics["history"]["loss"]] == [0, 2, 4]
    assert [step for step, _ in metrics["history"]["open_loop_psnr"]] == [3]
    assert len(metrics["open_loop_steps"]["psnr"]) == len(metrics["open_loop_steps"]["kl"])
    assert {"open_loop.png", "tensorboard", "weights.safetensors"} <= {p.name for p in out.iterdir()}
    assert not (out / "resume").exists()
    assert 0.5 < float(world_model.model.state_std.mean()) < 1.5  # of the training frames
    assert "frames/s" in capsys.readouterr().out
    WorldModelJob(datasets=(play, demonstrations), out=out, config=tiny_config).run()
    assert "is finished" in capsys.readouterr().out


def test_of_attempts_the_failed_ones_are_learned_from(tmp_path, play, write_dataset, make_episode, tiny_config):
    outcomes = ("success", "fail", "none", "fail")
    attempts = [make_episode(length, length) for length in (30, 6, 40, 8)]
    attempts = [replace(e, attributes=e.attributes | {"outcome": o}) for e, o in zip(attempts, outcomes, strict=True)]
    path = write_dataset(tmp_path / "attempts.h5", attempts)
    WorldModelJob((play,), tmp_path / "world_model", tiny_config, (path,)).run()
    checkpoint = load_checkpoint(tmp_path / "world_model", "world_model")
    assert checkpoint.metrics["frames"] + checkpoint.metrics["held_out_frames"] == 20 + 14 + 9 + 5 + 6 + 8
    seen = read_header(checkpoint.path)["inputs"]["datasets"]
    assert [line.rpartition(",")[0] for line in seen] == [
        "play.h5: 4 episodes, 48 frames",
        "attempts.h5: 2 episodes, 14 frames",
    ]
    assert held_out_of(load_dataset(play), seen, tiny_config.held_out, np.random.default_rng(tiny_config.seed))

    good = write_dataset(tmp_path / "good.h5", [attempts[0]])
    with pytest.raises(DiwaError, match=r"good\.h5: none of its 1 attempts is marked failed"):
        WorldModelJob((play,), tmp_path / "other", tiny_config, (good,)).run()
    assert not (tmp_path / "other").exists()


def test_an_interrupted_run_continues_to_the_same_weights(tmp_path, play, tiny_config, monkeypatch):
    WorldModelJob(datasets=(play,), out=tmp_path / "straight", config=tiny_config).run()
    calls = 0

    def killed(*args):
        nonlocal calls
        calls += 1
        if calls == 5:
            raise MemoryError
        return update(*args)

    monkeypatch.setattr("diwa_learning.world_model.train.update", killed)
    with pytest.raises(MemoryError):
        WorldModelJob(datasets=(play,), out=tmp_path / "killed", config=tiny_config).run()
    assert (tmp_path / "killed" / "resume" / "state.safetensors").is_file()
    WorldModelJob(datasets=(play,), out=tmp_path / "killed", config=tiny_config).run()
    straight, killed_ = (load_checkpoint(tmp_path / name, "world_model") for name in ("straight", "killed"))
    assert straight.hash == killed_.hash
    assert straight.metrics["open_loop_steps"] == killed_.metrics["open_loop_steps"]


def test_a_changed_configuration_or_dataset_is_refused(tmp_path, play, demonstrations, tiny_config):
    out = tmp_path / "world_model"
    WorldModelJob(datasets=(play,), out=out, config=tiny_config).run()
    with pytest.raises(DiwaError, match=r"config\.rssm\.hidden was 10, is 11"):
        WorldModelJob(
            datasets=(play,), out=out, config=replace(tiny_config, rssm=replace(tiny_config.rssm, hidden=11))
        ).run()
    with pytest.raises(DiwaError, match=r"inputs\.datasets was .*play\.h5.*demonstrations\.h5"):
        WorldModelJob(datasets=(play, demonstrations), out=out, config=tiny_config).run()


def test_datasets_of_different_specs_are_refused(tmp_path, play, make_episode, write_dataset, tiny_config):
    other = write_dataset(tmp_path / "other.h5", [make_episode(9)], replace(Spec(), rate=15.0))
    with pytest.raises(DiwaError, match=r"other\.h5 was made for another .*spec\.rate is 15\.0, expected 7\.5"):
        WorldModelJob(datasets=(play, other), out=tmp_path / "out", config=tiny_config).run()
    with pytest.raises(DiwaError, match="no dataset given"):
        WorldModelJob(datasets=(), out=tmp_path / "out", config=tiny_config).run()
    assert not (tmp_path / "out").exists()


def test_a_nan_in_a_dataset_is_refused(tmp_path, make_episode, write_dataset, tiny_config):
    episode = make_episode(9)
    episode.state[4, 2] = np.nan
    bad = write_dataset(tmp_path / "bad.h5", [episode, make_episode(9)])
    with pytest.raises(DiwaError, match="state is not finite at tick 4"):
        WorldModelJob(datasets=(bad,), out=tmp_path / "out", config=tiny_config).run()


def test_a_loss_that_explodes_names_the_step_and_leaves_no_checkpoint(tmp_path, play, tiny_config):
    config = replace(tiny_config, learning_rate=1e30)
    with pytest.raises(DiwaError, match=r"world_model: loss is (nan|inf) at step \d"):
        WorldModelJob(datasets=(play,), out=tmp_path / "out", config=config).run()
    assert not (tmp_path / "out" / "weights.safetensors").exists()
    assert json.loads((tmp_path / "out" / "config.json").read_text())["config"]["learning_rate"] == 1e30


def test_the_same_seed_gives_the_same_weights_and_another_does_not(tmp_path, play, tiny_config):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        WorldModelJob(datasets=(play,), out=tmp_path / name, config=replace(tiny_config, seed=seed)).run()
    a, b, c = (load_checkpoint(tmp_path / name, "world_model").hash for name in "abc")
    assert a == b != c
