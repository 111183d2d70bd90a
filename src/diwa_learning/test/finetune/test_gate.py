"""The gate: what it says of a world model that learned the toy task, and of ones that did not."""

import json
import math
import shutil
from dataclasses import replace

import h5py
import numpy as np
import pytest
import toy

from diwa_data.config import Source
from diwa_data.errors import DiwaError
from diwa_learning.core.checkpoint import load_checkpoint
from diwa_learning.finetune.checks import Check, CheckConfig, policy_check
from diwa_learning.finetune.gate import CheckJob, Verdict, check
from diwa_learning.finetune.train import FinetuneConfig, FinetuneJob
from diwa_learning.world_model.config import WorldModelConfig
from diwa_learning.world_model.rssm import RSSMConfig
from diwa_learning.world_model.train import WorldModelJob

LEARNED = WorldModelConfig(
    depth=2,
    rssm=RSSMConfig(recurrent=32, categoricals=4, classes=8, hidden=32),
    robot_state_weight=100.0,
    image_components=2,
    component_weight=300.0,
    target=True,
    imagined_steps=4,
    decode_fraction=0.1,
    updates=120,
    batch_size=6,
    sequence_length=12,
    learning_rate=5e-3,
)
SMALL = CheckConfig(clips=12, context=4, horizon=12, pictures=6, dreams=20)


@pytest.fixture(scope="module")
def good(toy_files, tmp_path_factory):
    out = tmp_path_factory.mktemp("good") / "world_model"
    WorldModelJob((toy_files.play_path,), out, LEARNED).run()
    return out


@pytest.fixture(scope="module")
def early(toy_files, tmp_path_factory):
    """One of few updates."""
    out = tmp_path_factory.mktemp("early") / "world_model"
    WorldModelJob((toy_files.play_path,), out, replace(LEARNED, updates=5)).run()
    return out


SLOW = {"imagined_play", "psnr_gain", "action_gain"}
"""Figures that take more updates to learn than a test has."""


def failing(verdict):
    """Names of what is wrong, but for what is slow."""
    return {each.name for each in verdict.checks if not each.passed} - SLOW


def test_a_model_that_learned_passes_and_one_that_did_not_is_refused_for_what_is_wrong(good, early, toy_files):
    passed, refused = (check(CheckJob(path, toy_files.play_path, config=SMALL)) for path in (good, early))
    assert failing(passed) == set(), passed.text()
    names = [each.name for each in passed.checks]
    assert names == ["hand_error", "filtered_play", "imagined_play", "psnr_gain", "action_gain", "kl"]
    assert failing(refused) >= {"filtered_play"}
    assert not refused.passed
    assert "of what pictures show" in refused.refusal
    assert refused.refusal.count("train the world model for more updates, or on more play") <= 2  # told once, or a part


def test_demonstrations_that_look_otherwise_are_seen(good, toy_files, tmp_path):
    """As after the camera has moved: the play that the model knows is as good as before."""
    other = shutil.copy(toy_files.demonstrations_path, tmp_path / "moved.h5")
    with h5py.File(other, "r+") as file:
        for episode in file["episodes"].values():
            episode["static"][:] = np.roll(episode["static"][:], 20, axis=2)
    files = (toy_files.play_path, None, None, None, None)
    usual, moved = (check(CheckJob(good, *files, path, SMALL)) for path in (toy_files.demonstrations_path, other))
    assert "demonstrations_error" not in failing(usual)
    assert failing(moved) == {"demonstrations_error"}
    for said in ("times as strange to it as play does (has a camera moved since?)", "train it on play from this setup"):
        assert said in moved.refusal


def test_the_command_writes_its_verdict_and_says_it_by_its_status(early, toy_files, tmp_path, capsys):
    job = CheckJob(early, toy_files.play_path, tmp_path / "out", config=SMALL)
    assert job.run() is False
    assert "refused" in capsys.readouterr().out
    found = json.loads((tmp_path / "out/check.json").read_text())
    assert found["verdict"] == "refused"
    assert found["figures"]["filtered_play"]["passed"] is False
    assert len(found["reasons"]) == sum(not f["passed"] and f["decisive"] for f in found["figures"].values())
    assert job.run() is False  # its own folder


class TestFinetune:
    """The toy world model's decoders are untrained, so that it is refused."""

    def job(self, toy_files, policy, reward, out, gate):
        config = replace(toy.FINETUNE, iterations=2, critic_warmup=1, gate=gate)
        files = (policy, reward, toy_files.world_model_path, toy_files.demonstrations_path)
        return FinetuneJob(*files, out, toy_files.play_path, config=config)

    def test_refused_before_anything_is_written(self, toy_files, toy_policy_path, toy_reward_path, tmp_path):
        out = tmp_path / "run"
        with pytest.raises(DiwaError, match="would mislead fine-tuning: imagined pictures are") as refusal:
            self.job(toy_files, toy_policy_path, toy_reward_path, out, "refuse").run()
        assert len(str(refusal.value).splitlines()) == 1
        assert not out.exists()

    def test_warned_goes_on_and_a_run_that_has_begun_has_passed(
        self, toy_files, toy_policy_path, toy_reward_path, tmp_path, capsys
    ):
        out = tmp_path / "run"
        self.job(toy_files, toy_policy_path, toy_reward_path, out, "warn").run()
        assert "finetune: warning: " in capsys.readouterr().out
        figures = json.loads((out / "check.json").read_text())["figures"]
        assert {"psnr_gain", "demonstrated_success", "idle_success", "invented_success", "base_success"} <= set(figures)
        assert figures["demonstrated_success"]["passed"]
        assert 0 <= figures["base_success"]["value"] <= 1
        self.job(toy_files, toy_policy_path, toy_reward_path, out, "refuse").run()
        assert load_checkpoint(out, "finetune").config["gate"] == "warn"


def test_limits_by_hand():
    one = Check("x", 0.5, "why", "cure", 0.4, math.inf)
    assert (one.passed, one.wanted) == (True, "at least 0.4")
    assert not replace(one, value=math.nan).passed
    assert replace(one, low=0.0, high=0.4).wanted == "0 to 0.4"
    assert json.loads(json.dumps(one.as_json()))["high"] is None
    wrong = replace(one, value=0.1)
    verdict = Verdict((one, wrong, replace(wrong, problem="where"), replace(wrong, decisive=False, problem="told")))
    assert (verdict.passed, verdict.refusal) == (False, "why; where: cure")


def test_success_in_dreams_against_what_is_known_or_plausible():
    known = CheckConfig(base_success=0.35)
    assert not policy_check(0.81, known).passed
    assert policy_check(0.6, known).passed
    assert policy_check(0.81, CheckConfig()).passed
    never, always = policy_check(0.0, CheckConfig()), policy_check(1.0, CheckConfig())
    assert [(each.passed, each.decisive) for each in (never, always)] == [(False, True), (False, False)]


@pytest.mark.parametrize(("settings", "message"), [({"base_success": 40.0}, "a share"), ({"clips": 1}, "clips is 1")])
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(DiwaError, match=message):
        CheckConfig(**settings)


def test_off_is_off_in_yaml_too(tmp_path):
    file = tmp_path / "off.yaml"
    file.write_text("/**:\n  ros__parameters:\n    finetune: {gate: off}\n")
    assert Source("laptop").section(FinetuneConfig, "finetune").gate == "refuse"
    assert Source("laptop", file).section(FinetuneConfig, "finetune").gate == "off"


def test_what_cannot_be_checked_is_an_error(good, toy_files):
    with pytest.raises(DiwaError, match="--policy needs --reward"):
        check(CheckJob(good, toy_files.play_path, policy=good))
    with pytest.raises(DiwaError, match="longer than the check's context of 100 frames"):
        check(CheckJob(good, toy_files.play_path, config=replace(SMALL, context=100)))
