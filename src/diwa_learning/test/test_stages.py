"""Stages by name: the settings come from preset and parameters, the folders by default from one another."""

import re
from dataclasses import replace

import pytest

from diwa_data.errors import DiwaError
from diwa_learning.core.checkpoint import is_finished, load_checkpoint
from diwa_learning.jobs import Checkpoints, TrainConfig, folder, paths, train, train_config


def test_given_settings_go_over_the_preset_and_those_over_the_defaults():
    given = {"stage": "policy", "preset": "laptop", "policy": {"epochs": 7, "net": {"width": 9}}}
    config = train_config(given, "here")
    assert (config.policy.epochs, config.policy.net.width) == (7, 9)
    assert config.policy.learning_rate == 1e-3  # of the preset
    assert config.policy.batch_size == 256  # the default
    assert train_config({}, "here").world_model.depth == 16
    assert train_config({"preset": "paper"}, "here").world_model.depth == 48
    assert (
        train_config({"world_model": {"scene_state": True}}, "here").world_model.robot_state_weight > 0
    )  # the preset's


def test_sections_of_other_commands_are_left_out_and_unknown_keys_are_not():
    assert train_config({"demo": {"rollouts": 4}}, "here") == train_config({}, "here")
    assert train_config({"preset": "debug"}, "here").dataset == ""  # its section `dataset` is build-dataset's
    with pytest.raises(DiwaError, match=r"^here: unknown key 'robot'; known: stage, preset, dataset"):
        train_config({"robot": {}}, "here")
    with pytest.raises(DiwaError, match=r"^here\.policy\.net: unknown key 'widht'; known: .*width"):
        train_config({"policy": {"net": {"widht": 9}}}, "here")
    with pytest.raises(DiwaError, match=r"policy\.epochs.* \"int\""):
        train_config({"policy": {"epochs": 1.5}}, "here")
    with pytest.raises(
        DiwaError, match="unknown preset 'huge'; choose one of calvin, calvin_laptop, debug, laptop, paper"
    ):
        train_config({"preset": "huge"}, "here")


def test_an_ensemble_was_called_guard(capsys, tmp_path, monkeypatch):
    config = train_config({"stage": "guard", "guard": {"width": 9}, "checkpoints": {"guard": "g"}}, "here")
    assert (config.stage, config.ensemble.width, config.checkpoints.ensemble) == ("ensemble", 9, "g")
    told = capsys.readouterr().err.splitlines()
    assert told == [
        f"here{place}: guard is deprecated: it is ensemble now" for place in ("", ": stage", ": checkpoints")
    ]
    with pytest.raises(DiwaError, match="here: guard and ensemble are the same: give ensemble alone"):
        train_config({"guard": {}, "ensemble": {}}, "here")
    monkeypatch.setenv("DIWA_HOME", str(tmp_path))
    assert folder("ensemble") == tmp_path / "runs" / "ensemble"
    (tmp_path / "runs" / "guard").mkdir(parents=True)
    assert folder("ensemble") == tmp_path / "runs" / "guard"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.h5", ["a.h5"]),
        ("a.h5,b.h5", ["a.h5", "b.h5"]),
        (" a.h5 , /c/b#1.h5 ", ["a.h5", "/c/b#1.h5"]),
        ("'a, b.h5' c.h5", ["a, b.h5", "c.h5"]),
        ("", []),
    ],
)
def test_paths_stand_between_commas_or_spaces(text, expected):
    assert [str(path) for path in paths(text)] == expected


def test_an_open_quote_is_refused():
    with pytest.raises(DiwaError, match="is not a list of paths: No closing quotation"):
        paths("'a.h5")


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        (TrainConfig("dream"), "unknown stage 'dream'; choose one of world_model, ensemble, policy, reward, finetune"),
        (TrainConfig(), "unknown stage ''"),
        (TrainConfig("world_model"), "stage world_model takes one or more files as dataset, given: none"),
        (
            TrainConfig("policy", dataset="a.h5,b.h5"),
            "stage policy takes one file with demonstrations of one skill as dataset, given: a.h5,b.h5",
        ),
        (
            TrainConfig("world_model", dataset="a.h5", play="b.h5"),
            "stage world_model has no use for play: it takes dataset, attempts",
        ),
        (
            TrainConfig("reward", dataset="a.h5", checkpoints=Checkpoints(policy="p", reward="r")),
            "stage reward has no use for policy, reward: it takes dataset, skill, world_model, play",
        ),
    ],
)
def test_what_does_not_fit_the_stage_is_refused(config, problem):
    with pytest.raises(DiwaError, match=re.escape(problem)):
        train(config)


def test_every_stage_finds_what_the_stages_before_left(toy_files, tmp_path, monkeypatch):
    monkeypatch.setenv("DIWA_HOME", str(tmp_path))
    play, demonstrations = str(toy_files.play_path), str(toy_files.demonstrations_path)
    config = train_config({"preset": "debug", "stage": "world_model", "dataset": f"{play}, {demonstrations}"}, "here")
    assert train(config) == tmp_path / "runs" / "world_model"
    quick = replace(config.ensemble, updates=4, width=8, stretches=4)
    assert train(replace(config, stage="ensemble", ensemble=quick)) == tmp_path / "runs" / "ensemble"
    config = replace(config, dataset=demonstrations)
    assert train(replace(config, stage="policy")) == tmp_path / "runs" / "open_drawer" / "policy"
    assert train(replace(config, stage="reward", play=play)) == tmp_path / "runs" / "open_drawer" / "reward"
    paying = replace(config.finetune, dream=replace(config.finetune.dream, penalty=0.05))
    out = train(replace(config, stage="finetune", play=play, skill="open_drawer", finetune=paying))
    assert out == folder("finetune", "open_drawer") == tmp_path / "runs" / "open_drawer" / "finetuned"
    assert (
        load_checkpoint(out, "finetune").world_model_hash == load_checkpoint(folder("world_model"), "world_model").hash
    )
    assert any(value for _, value in load_checkpoint(out, "finetune").metrics["history"]["deviation"])


def test_another_folder_and_another_world_model(toy_files, tmp_path):
    given = {"stage": "policy", "preset": "debug", "policy": {"epochs": 2}}
    config = train_config(given | {"dataset": str(toy_files.demonstrations_path), "out": str(tmp_path / "p")}, "here")
    with pytest.raises(DiwaError, match="holds demonstrations of open_drawer, not of turn_on_led"):
        train(replace(config, skill="turn_on_led"))
    checkpoints = Checkpoints(world_model=str(toy_files.world_model_path))
    assert train(replace(config, checkpoints=checkpoints)) == tmp_path / "p"
    assert is_finished(tmp_path / "p")
    with pytest.raises(DiwaError, match="no checkpoint folder"):
        train(replace(config, checkpoints=Checkpoints(world_model=str(tmp_path / "nothing"))))
