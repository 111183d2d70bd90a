"""Skills one after the other, on a robot that is a point: what moves between them, and where a sequence ends."""

import dataclasses
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from diwa_data.errors import DiwaError
from diwa_data.limits import MotionLimits
from diwa_data.motion import metres_outside
from diwa_data.pose import Pose, rotation_distance
from diwa_data.robot import Observation
from diwa_data.spec import Spec
from diwa_deploy.bundle import SHIPPED, StartRegion
from diwa_deploy.control import ControlResult, Stopped, Tick
from diwa_deploy.sequence import SequenceConfig, SkillSequence, find_bundles, load_runners
from diwa_learning.world_model.model import load_world_model

DOWN = Rotation.from_rotvec([np.pi, 0, 0])
START = Pose(np.array([0.5, 0.0, 0.3]), DOWN)
LOW = Pose(np.array([0.35, 0.2, 0.05]), Rotation.from_euler("z", 0.6) * DOWN)
"""Where a skill leaves the hand."""
REGION = StartRegion((0.4, -0.1, 0.25), (0.6, 0.1, 0.35), tuple(DOWN.as_quat().tolist()), 0.1)


@dataclass
class PointRobot:
    """Is at every goal at once, or with `held` nowhere else than it was."""

    spec: Spec = field(default_factory=Spec)
    pose: Pose = START
    held: bool = False
    stop_after: int = 10_000
    commands: list[tuple[Pose, float]] = field(default_factory=list)

    def observe(self):
        if len(self.commands) >= self.stop_after:
            raise Stopped("stopped by the operator")
        return Observation({}, self.pose, self.pose, 0.08, 0.0, 0.0)

    def command(self, goal, gripper):
        self.commands.append((goal, gripper))
        if not self.held:
            self.pose = goal


@dataclass
class Skill:
    """A runner that takes one tick, ends as it is told, and leaves the hand somewhere."""

    reasons: list[str]
    start: StartRegion | None = REGION
    leaves: Pose = LOW
    limits: MotionLimits = field(default_factory=MotionLimits)
    began: list[tuple[Pose, int]] = field(default_factory=list)

    def run(self, robot, max_steps, seed, success_ticks, on_tick):
        self.began.append((robot.pose, seed))
        tick = Tick(np.array([0, 0, 0, 0, 0, 0, -1.0], np.float32), 0.9, (), 0.0)
        on_tick(None, tick)
        robot.pose = self.leaves
        return ControlResult(self.reasons[len(self.began) - 1], [tick])


def run(robot, runners, skills, seed=7, **settings):
    told = []
    sequence = SkillSequence(skills, runners, SequenceConfig(**settings))
    parts = list(sequence.run(robot, 9, seed, on_tick=lambda place, *_: told.append(place)))
    return parts, told


def test_the_hand_goes_up_across_and_down_slowly_and_the_gripper_stays_as_it_was():
    robot, skills = PointRobot(), {name: Skill(["success"]) for name in ("a", "b")}
    parts, told = run(robot, skills, ["a", "b"])
    assert [(part.index, part.skill, part.reason) for part in parts] == [(0, "a", "success"), (1, "b", "success")]
    assert (parts[0].moving, parts[1].moving) == (0, len(robot.commands))
    assert [place.moving for place in told] == [False, *[True] * parts[1].moving, False]
    places = np.array([LOW.position, *(goal.position for goal, _ in robot.commands)])
    assert {gripper for _, gripper in robot.commands} == {-1.0}
    steps = np.diff(places, axis=0)
    assert np.linalg.norm(steps, axis=1).max() < 0.1 / 7.5 + 1e-6
    aside = np.linalg.norm(steps[:, :2], axis=1) > 1e-9
    assert places[1:][aside, 2] == pytest.approx(0.35), "it crosses at the top of the region"
    turned = [rotation_distance(one.rotation, LOW.rotation) for one, _ in robot.commands]
    assert max(turned[: aside.argmax()]) < 1e-6, "it does not turn on the way up"
    began, seed = skills["b"].began[0]
    np.testing.assert_allclose(began.position, REGION.middle.position, atol=1e-6)
    assert seed == 8


def test_a_hand_that_is_where_the_skill_may_begin_is_not_moved_and_a_skill_may_come_twice():
    robot, skill = PointRobot(), Skill(["success"] * 3, leaves=Pose(np.array([0.41, 0.09, 0.26]), DOWN))
    parts, _ = run(robot, {"a": skill}, ["a", "a", "a"])
    assert ([part.done for part in parts], [part.moving for part in parts]) == ([True] * 3, [0] * 3)
    assert [seed for _, seed in skill.began] == [7, 8, 9]


def test_a_skill_that_fails_is_tried_once_more_from_a_safe_pose_then_the_sequence_ends():
    skills = {"a": Skill(["success"]), "b": Skill(["max_steps"] * 9, leaves=START), "c": Skill(["success"])}
    parts, told = run(PointRobot(), skills, ["a", "b", "c"])
    assert [(part.skill, part.reason, len(part.tries)) for part in parts] == [
        ("a", "success", 1),
        ("b", "max_steps", 2),
    ]
    np.testing.assert_allclose(skills["b"].began[1][0].position, REGION.middle.position, atol=1e-6)
    assert {place.attempt for place in told if place.moving} == {0, 1}, "also from where it may begin anyway"
    assert skills["c"].began == []
    again = Skill(["max_steps", "success"])
    parts, _ = run(PointRobot(), {"a": again}, ["a"])
    assert (parts[0].reason, len(parts[0].tries), parts[0].moving > 0) == ("success", 2, True)
    assert len(run(PointRobot(), {"a": Skill(["max_steps"])}, ["a"], tries=1)[0][0].tries) == 1


@pytest.mark.parametrize("reason", ["cancelled", "camera is 1.2 s old"])
def test_what_stops_a_skill_ends_the_sequence(reason):
    skills = {"a": Skill([reason]), "b": Skill(["success"])}
    robot = PointRobot()
    parts, _ = run(robot, skills, ["a", "b"])
    assert ([part.reason for part in parts], robot.commands, skills["b"].began) == ([reason], [], [])


@pytest.mark.parametrize("after", [0, 1, 17])
def test_a_stop_in_the_move_ends_it_at_once(after):
    robot = PointRobot(pose=START, stop_after=after)
    skills = {"a": Skill(["success"]), "b": Skill(["success"])}
    parts, _ = run(robot, skills, ["a", "b"])
    assert [part.reason for part in parts] == ["success", "stopped by the operator"]
    assert (len(robot.commands), parts[1].moving, parts[1].tries, skills["b"].began) == (after, after, (), [])


def test_an_arm_that_is_held_ends_the_sequence_in_bounded_time():
    robot = PointRobot(held=True)
    parts, _ = run(robot, {"a": Skill(["success"]), "b": Skill(["success"])}, ["a", "b"])
    assert parts[-1].reason == "the hand did not reach where its demonstrations began: something holds it"
    lead = max(np.linalg.norm(goal.position - LOW.position) for goal, _ in robot.commands)
    assert lead < 0.05 + 0.1 / 7.5 + 1e-6, "one lead and one step"
    assert len(robot.commands) < 20 * 7.5


def test_a_bundle_without_a_region_begins_where_the_hand_is_and_that_is_said():
    skills = {"a": Skill(["success"]), "b": Skill(["max_steps"], start=None)}
    robot = PointRobot()
    sequence = SkillSequence(["a", "b", "b"], skills, SequenceConfig())
    assert "began: b. They begin where the hand is, and are not tried again" in sequence.about_starts
    parts = list(sequence.run(robot, 9, 0))
    assert ([part.reason for part in parts], robot.commands) == (["success", "max_steps"], [])
    assert SkillSequence(["a"], skills, SequenceConfig()).about_starts == ""
    assert SkillSequence(["b"], skills, SequenceConfig()).problem(LOW) == ""
    assert "25 cm outside" not in SkillSequence(["a"], skills, SequenceConfig()).problem(START)
    assert "outside of where its demonstrations began" in SkillSequence(["a"], skills, SequenceConfig()).problem(LOW)


def test_what_cannot_be_run_is_refused_before_anything_moves():
    skills = {"a": Skill([])}
    for names, message in (
        ([], "the sequence is empty"),
        (["a", "b"], "skill 'b' of the sequence is not loaded: a are"),
    ):
        with pytest.raises(DiwaError, match=message):
            SkillSequence(names, skills, SequenceConfig())
    narrow = {"a": Skill([], limits=MotionLimits(workspace_high=(0.45, 0.5, 0.8)))}
    with pytest.raises(DiwaError, match=r"cannot be moved to where a begins: the hand at \(0.500"):
        SkillSequence(["a"], narrow, SequenceConfig())
    with pytest.raises(DiwaError, match=r"cannot be moved to where a begins: the hand at .*0.900"):
        SkillSequence(["a"], skills, SequenceConfig(height=0.9))
    for wrong in ({"speed": 0.0}, {"speed": np.nan}, {"tries": 0}, {"height": np.inf}):
        with pytest.raises(DiwaError, match=next(iter(wrong))):
            SequenceConfig(**wrong)


def test_bundles_are_loaded_once_each_and_one_of_another_contract_is_refused():
    spec = load_world_model(SHIPPED / "world_model", decodes=False).spec
    bundles = find_bundles(["turn_on_led", "open_drawer", "turn_on_led"], SHIPPED)
    assert list(load_runners(bundles, spec, MotionLimits())) == ["turn_on_led", "open_drawer"]
    slower = dataclasses.replace(spec, action=dataclasses.replace(spec.action, max_pos=0.01))
    with pytest.raises(DiwaError, match="max_pos"):
        load_runners(bundles, slower, MotionLimits())
    with pytest.raises(DiwaError, match="is the bundle of one skill"):
        find_bundles(["turn_on_led"], SHIPPED / "turn_on_led")
    with pytest.raises(DiwaError, match="not a skill bundle"):
        find_bundles(["turn_on_led", "fly"], SHIPPED)


places = st.tuples(st.floats(0.2, 0.8), st.floats(-0.5, 0.5), st.floats(0.0, 0.8))
turns = st.tuples(st.floats(-0.5, 0.5), st.floats(-0.5, 0.5), st.floats(-3.1, 3.1))


@settings(max_examples=40, deadline=None)
@given(places, turns, st.floats(0.02, 2.0), st.floats(0.0, 0.8))
def test_from_anywhere_the_hand_arrives_within_its_limits(place, turn, speed, height):
    leaves = Pose(np.array(place), Rotation.from_euler("xyz", turn) * DOWN)
    robot, skills = PointRobot(), {"a": Skill(["success"], leaves=leaves), "b": Skill(["success"])}
    parts, _ = run(robot, skills, ["a", "b"], speed=speed, height=height)
    assert parts[-1].done
    goals = [leaves, *(goal for goal, _ in robot.commands)]
    assert metres_outside(np.array([goal.position for goal in goals]), MotionLimits()) < 1e-9
    for before, after in pairwise(goals):
        assert np.abs(after.position - before.position).max() < min(speed / 7.5, 0.04) + 1e-6
        assert rotation_distance(before.rotation, after.rotation) < 0.4 / 7.5 + 1e-3
