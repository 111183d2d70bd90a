"""The skills that come with the package: complete, described, and able to do what they are for."""

import shutil

import pytest

from diwa_cli.video import read_video
from diwa_data.limits import MotionLimits
from diwa_deploy.bundle import SHIPPED, dreaming_skills, installed_skills, load_bundle
from diwa_deploy.control import SkillRunner
from diwa_sim.table import SimConfig, SimulatedPanda
from diwa_sim.tasks import PAPER_TASKS


@pytest.fixture
def only_shipped(tmp_path, monkeypatch):
    """Nothing is installed by the user."""
    monkeypatch.setenv("DIWA_HOME", str(tmp_path))


def test_there_is_one_of_each_skill_and_they_are_small(only_shipped):
    assert set(installed_skills()) == set(PAPER_TASKS)
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*")) < 15e6


@pytest.mark.parametrize("skill", PAPER_TASKS)
def test_a_card_says_what_it_is_worth_and_how_it_came_about(skill):
    card = load_bundle(SHIPPED / skill).card
    assert card["finetuned"]["rate"] > card["base"]["rate"]
    assert card["command"].startswith(("diwa sweep", "diwa demo"))
    assert card["versions"]["torch"]


def test_two_of_three_times_a_light_goes_on(only_shipped):
    robot = SimulatedPanda(SimConfig())
    runner = SkillRunner("turn_on_led", None, robot.spec, MotionLimits())
    done = 0
    for seed in range(3):
        robot.reset("turn_on_led", seed)
        runner.run(robot, 72, seed, success_ticks=3)
        done += robot.succeeded()
    robot.close()
    assert done >= 2


def test_the_drawers_dream_can_be_seen_at_once_and_the_others_say_what_to_do(only_shipped, diwa, tmp_path):
    assert dreaming_skills() == ["open_drawer"]
    out = tmp_path / "dream.mp4"
    ran = diwa("dream", "--skill", "open_drawer", "--clips", "1", "--horizon", "4", "--out", out)
    assert ran.status == 0, ran.err
    assert "clip 1: open_drawer from start 0" in ran.out
    assert len(read_video(out)[0]) >= 12
    ran = diwa("dream", "--skill", "turn_on_led", "--out", tmp_path / "other.mp4")
    assert (ran.status, len(ran.err.splitlines())) == (2, 1)
    assert "try --skill open_drawer, whose dreams can be seen at once; or" in ran.err
    assert "with `diwa demo --skill turn_on_led`" in ran.err
    assert not (tmp_path / "other.mp4").exists()
    shutil.copytree(SHIPPED / "close_drawer", tmp_path / "skills" / "open_drawer")  # the user's own goes before
    assert dreaming_skills() == []
