"""The tasks with the cube: what counts as done, and how the scripted operator does them, in demonstrations and play."""

from collections.abc import Iterator, Mapping

import numpy as np
import pytest

from diwa_data.teleop.clutch import TeleopConfig, Teleoperator
from diwa_sim.operator.plans import Performance
from diwa_sim.scene import SCENE_STATE
from diwa_sim.steps import Habits
from diwa_sim.table import SimConfig, SimulatedPanda
from diwa_sim.tasks import PAPER_TASKS, TASKS, succeeded
from diwa_sim.techniques import Carry, Manner

NAMES = (*SCENE_STATE, "block_x", "block_y", "block_z")
CUBE = {"cube_x": 0.34, "cube_y": -0.1, "cube_z": 0.025}
BLOCK = {"block_x": 0.32, "block_y": 0.03, "block_z": 0.02}


@pytest.fixture(scope="module")
def furnished() -> Iterator[SimulatedPanda]:
    robot = SimulatedPanda(SimConfig(objects=("block",)))
    yield robot
    robot.close()


def state(values: Mapping[str, float]) -> np.ndarray:
    """A scene state that is zero but for `values`."""
    return np.array([values.get(name, 0.0) for name in NAMES])


@pytest.mark.parametrize(
    ("task", "begun", "done", "not_yet"),
    [
        ("push_cube", CUBE, {"cube_x": 0.441}, {"cube_x": 0.439}),
        ("push_cube", CUBE, {"cube_x": 0.441, "cube_z": 0.044}, {"cube_x": 0.441, "cube_z": 0.046}),
        ("push_cube", CUBE, {"cube_x": 0.46}, {"cube_x": 0.22}),
        ("lift_cube", CUBE, {"cube_z": 0.0751}, {"cube_z": 0.0749}),
        ("put_cube_in_drawer", CUBE | {"drawer": 0.15}, {"cube_x": 0.5, "cube_y": 0.19, "cube_z": 0.045},
         {"cube_x": 0.5, "cube_y": 0.19, "cube_z": 0.08}),
        ("put_cube_in_drawer", CUBE | {"drawer": 0.15}, {"cube_x": 0.5, "cube_y": 0.32, "cube_z": 0.045},
         {"cube_x": 0.5, "cube_y": 0.34, "cube_z": 0.045}),
        ("put_cube_in_drawer", CUBE | {"drawer": 0.15}, {"cube_x": 0.455, "cube_y": 0.19, "cube_z": 0.045},
         {"cube_x": 0.40, "cube_y": 0.19, "cube_z": 0.045}),
        ("stack_cubes", CUBE | BLOCK, {"cube_x": 0.32, "cube_y": 0.03, "cube_z": 0.065},
         {"cube_x": 0.32, "cube_y": 0.03, "cube_z": 0.08}),
        ("stack_cubes", CUBE | BLOCK, {"cube_x": 0.34, "cube_y": 0.03, "cube_z": 0.065},
         {"cube_x": 0.355, "cube_y": 0.03, "cube_z": 0.065}),
    ],
)  # fmt: skip
def test_goals_judge_the_change_since_the_reset(task: str, begun: dict, done: dict, not_yet: dict) -> None:
    assert succeeded(task, state(begun), state(begun | done), NAMES)
    assert not succeeded(task, state(begun), state(begun | not_yet), NAMES)
    assert not succeeded(task, state(begun), state(begun), NAMES)
    many = TASKS[task].margin(NAMES, state(begun), np.stack([state(begun), state(begun | done)]))
    assert (many >= 0).tolist() == [False, True]


def perform(
    robot: SimulatedPanda, skill: str, seed: int, tasks: tuple[str, ...] = ()
) -> tuple[Performance, np.ndarray, list[float]]:
    """A performance through the real clutch: it, the scene states (T, N) and the gripper's widths when closed."""
    performance = Performance(robot, skill, 30.0, np.random.default_rng((7, seed)), tasks, 1.0)
    teleoperator = Teleoperator(robot.spec, TeleopConfig())
    teleoperator.reset(robot.target_pose, 1.0)
    states, held = [], []
    while not performance.over:
        command = teleoperator.step(performance.read(), robot.measured_pose)
        robot.advance(command.target, command.gripper)
        states.append(robot.scene_state())
        held += [robot.gripper_width] if command.gripper < 0 else []
    return performance, np.array(states), held


@pytest.mark.parametrize("skill", [name for name in TASKS if name not in PAPER_TASKS])
def test_the_operator_does_every_task_in_time(furnished: SimulatedPanda, skill: str) -> None:
    for seed in range(2):
        furnished.reset(skill, seed)
        performance, states, held = perform(furnished, skill, seed)
        assert performance.good, f"seed {seed}"
        assert furnished.succeeded()
        assert not TASKS[skill].margin(furnished.scene_names, states[0], states[0]) >= 0
        around = np.abs(np.array(held) - 0.05) < 0.003  # the cube's width: fingers hold it
        assert (around.sum() > 20) == (skill != "push_cube")
        if skill != "push_cube":
            assert states[:, 8].max() > 0.075, "it is carried through the air"


def test_what_is_undone_when_the_hand_goes_away_is_no_demonstration(
    furnished: SimulatedPanda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Carry, "lasts", True)  # its author forgot that what is held up falls
    furnished.reset("lift_cube", 0)
    performance, states, _ = perform(furnished, "lift_cube", 0)
    margin = TASKS["lift_cube"].margin(furnished.scene_names, states[0], states)
    assert margin.max() >= 0, "it was done"
    assert margin[-1] < 0
    assert performance.over
    assert not performance.good


def test_a_try_that_grasps_nothing_is_noticed(furnished: SimulatedPanda) -> None:
    furnished.reset("lift_cube", 1)
    habits = Habits.draw(np.random.default_rng(0))
    technique, closed = TASKS["lift_cube"].technique, []
    for blind in (False, True):
        steps = technique.attempt(furnished, habits, Manner(np.array([0.0, 0.0, 0.09]), blind=blind))
        closed.append(sum(getattr(step, "closed", False) for step in steps))
    assert closed == [2, 2], "close, lift"


def test_play_with_tasks_moves_the_cube_more(robot: SimulatedPanda) -> None:
    ways = []
    for tasks in ((), ("lift_cube", "push_cube")):
        moved = 0.0
        for seed in range(2):
            robot.reset("", seed)
            _, states, _ = perform(robot, "", seed, tasks)
            moved += np.abs(np.diff(states[::30, 6:9], axis=0)).sum()
        ways.append(moved)
    assert ways[1] > 0.3 + ways[0]
