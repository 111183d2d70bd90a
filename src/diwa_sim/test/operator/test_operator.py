import itertools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from diwa_data.errors import DiwaError
from diwa_data.teleop.clutch import Command, ControllerState, TeleopConfig, Teleoperator
from diwa_sim.operator import plans
from diwa_sim.operator.operator import ScriptedOperator
from diwa_sim.operator.plans import MAX_DEMONSTRATION, MAX_LEAVING, demonstration, play, spoilt
from diwa_sim.scene import SCENE_STATE
from diwa_sim.steps import DT, Habits, Reach, Step, up
from diwa_sim.table import SimulatedPanda
from diwa_sim.tasks import PAPER_TASKS, TASKS
from diwa_sim.techniques import Manner, Stroke, look


def teleoperate(
    robot: SimulatedPanda, operator: ScriptedOperator, seconds: float
) -> Iterator[tuple[ControllerState, Command]]:
    """Drive the robot through the real clutch until the operator has finished."""
    teleoperator = Teleoperator(robot.spec, TeleopConfig())
    teleoperator.reset(robot.target_pose, 1.0)
    while not operator.finished and robot.time < seconds:
        controller = operator.read()
        command = teleoperator.step(controller, robot.measured_pose)
        robot.advance(command.target, command.gripper)
        yield controller, command


def operator_for(robot: SimulatedPanda, plan: Iterator[Step], seed: int = 0, **habits: object) -> ScriptedOperator:
    rng = np.random.default_rng(seed)
    drawn = Habits.draw(rng)
    return ScriptedOperator(robot, plan, Habits(**{**vars(drawn), **habits}), rng)  # type: ignore[arg-type]


@pytest.mark.parametrize("skill", PAPER_TASKS)
def test_demonstrations_succeed_in_time_hold_still_after_the_mark_and_go_away(
    robot: SimulatedPanda, skill: str
) -> None:
    too_slow = 0  # a slow operator who misses twice: the recorder drops it and takes the next
    for seed in range(3):
        rng = np.random.default_rng(seed)
        robot.reset(skill, seed)
        begun = robot.scene_state()
        operator = operator_for(robot, demonstration(robot, skill, Habits.draw(rng), rng), seed)
        marked, speeds, previous = 0.0, [], robot.target_pose.position
        for controller, command in teleoperate(robot, operator, seconds=MAX_DEMONSTRATION + MAX_LEAVING):
            if "success" in controller.events:
                marked, place = robot.time, command.target.position
                assert robot.succeeded(), "the mark comes after the fact"
            if marked and robot.time < marked + 1.0:
                assert np.linalg.norm(command.target.position - previous) < 0.0025
            if not marked or robot.time < marked + 1.0:
                speeds.append(np.abs(command.target.position - previous).max() / DT)
            previous = command.target.position
        if not operator.finished:
            too_slow += 1
            continue
        assert marked, f"seed {seed}"
        assert robot.time - marked >= 1.5
        assert np.linalg.norm(robot.measured_pose.position - place) > 0.05, "the hand went away"
        assert TASKS[skill].margin(robot.scene_names, begun, robot.scene_state()) >= 0, "and left it as it was"
        assert np.mean(np.array(speeds) > 0.28) < 0.01, "little motion near full scale"
    assert too_slow <= 1


def test_a_missed_handle_is_tried_again(robot: SimulatedPanda, monkeypatch: pytest.MonkeyPatch) -> None:
    robot.reset("open_drawer", 0)
    rng = np.random.default_rng(0)
    habits = replace(Habits.draw(rng), pause=0.0)
    monkeypatch.setattr(plans, "SLIP_LOW", (0.0, 0.0, 0.08))  # far above the handle
    monkeypatch.setattr(plans, "SLIP_HIGH", (0.0, 0.0, 0.08))
    monkeypatch.setattr(Stroke, "misses", 1.0)
    reaches = []

    def watched() -> Iterator[Step]:
        for step in demonstration(robot, "open_drawer", habits, rng):
            reaches.append(step)
            yield step

    for _ in teleoperate(robot, operator_for(robot, watched(), 0), seconds=14):
        pass
    assert robot.succeeded()
    assert sum(isinstance(step, Reach) for step in reaches) == 11, "four for the miss, a lift, four that work, two away"


def test_an_operator_may_rest_in_the_middle_of_a_stroke(robot: SimulatedPanda) -> None:
    robot.reset("open_drawer", 0)
    rng = np.random.default_rng(0)
    habits = replace(Habits.draw(rng), pause=0.5, aim=np.zeros(3))
    plan = TASKS["open_drawer"].technique.attempt(robot, habits, Manner())
    opened = [look(robot, "drawer") for _ in teleoperate(robot, operator_for(robot, plan), seconds=9)]
    still = np.abs(np.diff(opened)) < 2e-4
    resting = still & (np.array(opened[1:]) > 0.03) & (np.array(opened[1:]) < 0.14)
    assert 0.2 < resting.sum() * DT < 0.8
    assert opened[-1] > 0.15


def test_a_blind_operator_makes_the_whole_stroke(robot: SimulatedPanda) -> None:
    ends = {}
    for blind in (False, True):
        robot.reset("open_drawer", 0)
        habits = replace(Habits.draw(np.random.default_rng(0)), pause=0.0)
        plan = TASKS["open_drawer"].technique.attempt(robot, habits, Manner(np.array([0.0, 0.0, 0.09]), blind=blind))
        for _ in teleoperate(robot, operator_for(robot, plan), seconds=9):
            pass
        ends[blind] = robot.target_pose.position[0]
        assert look(robot, "drawer") < 0.03
    assert ends[True] < ends[False] - 0.1


def test_the_first_reading_is_not_held_and_nothing_moves_until_it_is_pressed(robot: SimulatedPanda) -> None:
    robot.reset("open_drawer", 0)
    begin = robot.target_pose
    operator = operator_for(robot, iter([Reach(lambda: begin.position + up(0.1))]))
    (controller, command), *_ = itertools.islice(teleoperate(robot, operator, 1.0), 1)
    assert not controller.deadman
    np.testing.assert_array_equal(command.target.position, begin.position)


def test_a_short_arm_reclutches_and_still_arrives_without_a_jump(robot: SimulatedPanda) -> None:
    robot.reset("open_drawer", 0)
    goal = robot.target_pose.position + np.array([0, 0.2, 0.1])
    operator = operator_for(robot, iter([Reach(lambda: goal, timeout=9.0)]), arm=0.08)
    previous, releases, held = robot.target_pose.position, 0, False
    for controller, command in teleoperate(robot, operator, 10.0):
        releases += held and not controller.deadman
        held = controller.deadman
        assert np.abs(command.target.position - previous).max() < 0.3 * DT + 1e-9
        assert command.interventions == ()
        previous = command.target.position
    assert releases >= 2
    assert np.linalg.norm(previous - goal) < 0.03


def test_play_changes_the_table_and_is_mostly_in_contact_with_it(robot: SimulatedPanda) -> None:
    robot.reset("", 1)
    rng = np.random.default_rng(1)
    operator = operator_for(robot, play(robot, Habits.draw(rng), rng), 1)
    states, grippers, near = [], set(), []
    sites = ("drawer_handle", "slider_knob", "lever_tip", "button_top")
    for _, command in teleoperate(robot, operator, 60.0):
        states.append(robot.scene_state())
        grippers.add(command.gripper)
        hand = robot.measured_pose.position
        near.append(min(np.linalg.norm(robot.site(site) - hand) for site in sites) < 0.12)
    travel = np.abs(np.diff(states, axis=0)).sum(0)
    assert not operator.finished, "play has no end"
    assert grippers == {-1.0, 1.0}
    assert np.mean(near) > 0.5
    moved = {name for name, distance in zip(SCENE_STATE, travel, strict=True) if distance > 0.05}
    assert len(moved & {"drawer", "slider", "lever", "bulb", "led"}) >= 4, moved


def test_spoilt_attempts_also_end_where_a_success_would(robot: SimulatedPanda) -> None:
    behind = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        robot.reset("turn_on_lightbulb", seed)
        lever, plan = robot.site("lever_tip")[0], spoilt(robot, "turn_on_lightbulb", Habits.draw(rng), rng)
        events, low = [], []
        for controller, _ in teleoperate(robot, operator_for(robot, plan, seed), MAX_DEMONSTRATION + MAX_LEAVING):
            events.append(controller.events)
            if robot.measured_pose.position[2] < robot.site("lever_tip")[2] + 0.02:
                low.append(robot.measured_pose.position[0])
        failed = ("fail",) in events
        assert failed != robot.succeeded()
        behind.append(failed and max(low, default=0.0) > lever + 0.01)
    assert 1 <= sum(behind) <= 4, "a third or so: the hand behind the lever in the dark"


def test_unknown_skill_is_refused(robot: SimulatedPanda) -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(DiwaError, match="fly"):
        next(demonstration(robot, "fly", Habits.draw(rng), rng))
