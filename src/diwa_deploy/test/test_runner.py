"""Shipped skills on a robot that stands still: loaded, checked, run, packed; refused with the reason."""

import dataclasses
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from diwa_data.errors import DiwaError
from diwa_data.limits import MotionLimits
from diwa_data.pose import Pose
from diwa_data.robot import Observation
from diwa_data.spec import Spec
from diwa_deploy import control
from diwa_deploy.bundle import SHIPPED, load_bundle, pack_bundles, write_bundle
from diwa_deploy.control import SkillRunner
from diwa_learning.world_model.model import load_world_model

SKILL = "turn_on_led"


@pytest.fixture(scope="module")
def spec() -> Spec:
    """The contract of the shipped skills."""
    return load_world_model(SHIPPED / "world_model", decodes=False).spec


@pytest.fixture(scope="module")
def runner(spec: Spec) -> SkillRunner:
    return SkillRunner(SKILL, SHIPPED / SKILL, spec, MotionLimits())


class StillRobot:
    """Sees black images, hears commands, and does not move."""

    def __init__(self, spec: Spec, start: Pose):
        self.spec, self._start = spec, start
        self.targets: list[np.ndarray] = []

    def observe(self) -> Observation:
        now = len(self.targets) * self.spec.tick
        images = {camera.name: np.zeros((*camera.record_size, 3), np.uint8) for camera in self.spec.cameras}
        return Observation(images, self._start, self._start, 0.08, now, now)

    def command(self, goal: Pose, gripper: float) -> None:
        self.targets.append(goal.position)


def run(runner: SkillRunner, spec: Spec, seed: int) -> np.ndarray:
    """The positions (6, 3) that a run of six ticks commands."""
    robot = StillRobot(spec, runner.start.middle)
    result = runner.run(robot, max_steps=6, seed=seed, success_ticks=0)
    assert (result.reason, result.steps) == ("max_steps", 6)
    return np.array(robot.targets)


def test_a_run_is_its_seed_and_keeps_near_a_hand_that_does_not_follow(runner: SkillRunner, spec: Spec) -> None:
    targets = run(runner, spec, seed=1)
    np.testing.assert_array_equal(targets, run(runner, spec, seed=1))
    assert np.abs(targets - run(runner, spec, seed=2)).max() > 1e-4
    lead = np.linalg.norm(targets - runner.start.middle.position, axis=1)
    assert 0 < lead.max() < 0.05 + np.sqrt(3) * 0.04, "one lead and one action"


def test_a_run_decides_with_its_own_threads_and_gives_the_caller_its_back(spec: Spec) -> None:
    before, seen = torch.get_num_threads(), []
    runner = SkillRunner(SKILL, SHIPPED / SKILL, spec, MotionLimits(), threads=3)
    robot = StillRobot(spec, runner.start.middle)
    run = partial(runner.run, robot, 2, 0, 0, lambda *_: seen.append(torch.get_num_threads()))
    for call in (runner.warm_up, run):
        call()
        assert torch.get_num_threads() == before
    thread = threading.Thread(target=run)  # as in the node, whose executor loaded the skill
    thread.start()
    thread.join()
    assert (seen, torch.get_num_threads()) == ([3] * 4, before)


def test_a_machine_that_decides_too_late_is_told_what_to_do(spec: Spec, monkeypatch) -> None:
    check = control.check_bundle(SKILL, SHIPPED / SKILL, spec, MotionLimits())
    assert (check.name, check.good) == (SKILL, float(check.text.split(" ms")[0]) < 500 * spec.tick)
    monkeypatch.setattr(SkillRunner, "warm_up", lambda self: 1.0)
    check = control.check_bundle(SKILL, SHIPPED / SKILL, spec, MotionLimits())
    assert (check.good, check.text) == (False, "1000 ms a decision, a tick is 133 ms: end what else runs here")


def test_a_robot_of_another_contract_and_a_policy_that_is_not_there_are_refused(spec: Spec) -> None:
    slower = dataclasses.replace(spec, action=dataclasses.replace(spec.action, max_pos=0.01))
    check = control.check_bundle(SKILL, SHIPPED / SKILL, slower, MotionLimits())
    assert not check.good
    assert "max_pos" in check.text
    with pytest.raises(DiwaError, match="holds no policy 'base': write the bundle with its base policy too"):
        SkillRunner(SKILL, SHIPPED / SKILL, spec, MotionLimits(), policy="base")


def test_other_limits_than_those_of_the_recordings_are_told_of_and_refused_by_nobody(runner, spec: Spec) -> None:
    assert runner.about_limits == "", "the shipped skills do not know theirs"
    model, slow = runner._agent.world_model, MotionLimits(max_speed=0.1)
    model.spec = dataclasses.replace(spec, limits=MotionLimits())
    try:
        assert runner.about_limits == ""
        runner.limits = slow
        assert runner.about_limits == slow.compared(MotionLimits()) != ""
    finally:
        model.spec, runner.limits = spec, MotionLimits()


def test_the_machine_is_checked_for_space(monkeypatch) -> None:
    assert [check.name for check in control.check_machine()] == ["GPU", "disk"]
    monkeypatch.setattr(control, "NEEDED_MB", 1e12)
    disk = list(control.check_machine())[-1]
    assert not disk.good
    assert disk.text.endswith(": free some")


def test_packing_what_is_packed_changes_no_decision(runner: SkillRunner, spec: Spec, tmp_path: Path) -> None:
    bundles = [load_bundle(SHIPPED / skill) for skill in (SKILL, "close_drawer")]
    packed = pack_bundles(bundles, tmp_path / "skills")
    assert packed == [tmp_path / "skills" / bundle.skill for bundle in bundles]
    again = SkillRunner(SKILL, packed[0], spec, MotionLimits())
    np.testing.assert_allclose(run(again, spec, seed=1), run(runner, spec, seed=1), atol=1e-3)

    for wrong, message in (([], "no bundle to pack"), (bundles[:1] * 2, f"2 of the bundles are of {SKILL}")):
        with pytest.raises(DiwaError, match=message):
            pack_bundles(wrong, tmp_path / "other")
    with pytest.raises(DiwaError, match="exists already"):
        pack_bundles(bundles, tmp_path / "skills")
    assert [path.name for path in tmp_path.iterdir()] == ["skills"]


def test_a_bundle_with_its_base_policy_runs_both(spec: Spec, tmp_path: Path) -> None:
    shipped = load_bundle(SHIPPED / SKILL)
    parts = {name: getattr(shipped, name) for name in ("world_model", "policy", "reward")}
    other = load_bundle(SHIPPED / "close_drawer").policy
    bundle = write_bundle(tmp_path / SKILL, parts | {"base": other}, {"skill": SKILL})
    assert (bundle.policy_named("finetuned"), bundle.policy_named("base")) == (bundle.policy, bundle.path / "base")
    with pytest.raises(DiwaError, match="holds no policy 'best'"):
        bundle.policy_named("best")
    runners = [SkillRunner(SKILL, bundle.path, spec, MotionLimits(), policy) for policy in ("finetuned", "base")]
    assert runners[0].start is None, "the card names no region"
    poses = Pose.from_quaternion(np.array([0.4, 0.0, 0.3]), np.array([1.0, 0.0, 0.0, 0.0]))
    targets = []
    for one in runners:
        robot = StillRobot(spec, poses)
        one.run(robot, 4, seed=0, success_ticks=0)
        targets.append(robot.targets)
    assert not np.allclose(*targets, atol=1e-4)
