import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from diwa_data.errors import DiwaError
from diwa_data.interpolator import Interpolator
from diwa_data.limits import MotionLimits
from diwa_data.pose import Pose, interpolate, rotation_distance
from diwa_data.robot_config import load_robot, robot_file
from diwa_sim import tasks
from diwa_sim.scene import SCENE_STATE
from diwa_sim.starts import DRAWER_OPEN, SLIDER_LEFT, StartConfig
from diwa_sim.steps import CONTROL_RATE, up
from diwa_sim.table import SimConfig, SimulatedPanda
from diwa_sim.tasks import PAPER_TASKS, sample_start

PRE_STATE = {
    "open_drawer": ("drawer", 0, 0.03),
    "close_drawer": ("drawer", DRAWER_OPEN - 0.03, DRAWER_OPEN),
    "move_slider_left": ("slider", 0, 0.04),
    "move_slider_right": ("slider", SLIDER_LEFT - 0.04, SLIDER_LEFT),
    "turn_on_lightbulb": ("bulb", 0, 0),
    "turn_off_lightbulb": ("bulb", 1, 1),
    "turn_on_led": ("led", 0, 0),
    "turn_off_led": ("led", 1, 1),
}


@pytest.mark.parametrize("skill", PAPER_TASKS)
def test_reset_puts_the_skills_furniture_in_its_pre_state_and_varies_the_rest(
    robot: SimulatedPanda, skill: str
) -> None:
    states, hands = [], []
    for seed in range(12):
        robot.reset(skill, seed)
        states.append(robot.scene_state())
        hands.append(robot.measured_pose.position)
        assert not robot.succeeded()
    part, low, high = PRE_STATE[skill]
    values = np.array(states)[:, SCENE_STATE.index(part)]
    assert ((values >= low) & (values <= high)).all()
    for i, name in enumerate(SCENE_STATE[:8]):
        own = name == part or (part == "bulb" and name == "lever") or name == "button"
        assert own or np.ptp(np.array(states)[:, i]) > 0.02, name
    assert (np.ptp(hands, axis=0) > [0.1, 0.15, 0.07]).all()


def test_same_seed_same_bits_other_seed_other_start(robot: SimulatedPanda) -> None:
    def start(seed: int) -> list[np.ndarray]:
        robot.reset("open_drawer", seed)
        observation = robot.observe()
        return [*observation.images.values(), observation.pose.position, robot.scene_state(), *robot.joints()]

    first, other, again = start(3), start(4), start(3)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(first[:5], other[:5], strict=True))


def test_same_commands_give_the_same_bits(robot: SimulatedPanda) -> None:
    def run() -> np.ndarray:
        robot.reset("open_drawer", 5)
        for _ in range(6):
            robot.command(moved(robot.target_pose, [0.01, 0.02, -0.02]), -1.0)
        return np.concatenate([robot.scene_state(), *robot.joints()])

    np.testing.assert_array_equal(run(), run())


def test_command_reaches_the_goal_and_the_arm_follows(robot: SimulatedPanda) -> None:
    robot.reset("open_drawer", 0)
    begin = robot.measured_pose
    target = Pose(begin.position + np.array([-0.02, 0.03, 0.01]), Rotation.from_euler("z", 0.08) * begin.rotation)
    robot.command(target, 1.0)
    assert robot.time == pytest.approx(1 / 7.5)
    assert np.linalg.norm(robot.measured_pose.position - target.position) < 0.04
    assert np.linalg.norm(robot.observe().target.position - target.position) < 0.02
    for _ in range(6):
        robot.command(target, 1.0)
    assert np.linalg.norm(robot.measured_pose.position - target.position) < 1e-3
    assert rotation_distance(robot.measured_pose.rotation, target.rotation) < 5e-3


def test_one_command_equals_eight_steps_of_the_interpolator(robot: SimulatedPanda) -> None:
    robot.reset("open_drawer", 1)
    goal = moved(robot.target_pose, [0.0, 0.02, 0.02])
    robot.command(goal, 1.0)
    one = np.concatenate(robot.joints())
    robot.reset("open_drawer", 1)
    interpolator = Interpolator(MotionLimits().within(robot.spec), CONTROL_RATE)
    interpolator.reset(robot.target_pose)
    interpolator.command(goal, robot.spec.tick)
    for _ in range(8):
        robot.advance(interpolator.step(robot.measured_pose).pose, 1.0)
    np.testing.assert_allclose(np.concatenate(robot.joints()), one, atol=1e-9)
    robot.command(goal, 1.0)  # goes on from where `advance` has put the target
    for _ in range(4):
        robot.command(goal, 1.0)
    np.testing.assert_allclose(robot.target_pose.position, goal.position, atol=1e-6)


def test_a_start_outside_of_the_limits_is_refused() -> None:
    low = SimulatedPanda(limits=MotionLimits(workspace_high=(0.3, 0.5, 0.8)))
    with pytest.raises(DiwaError, match="outside of the workspace"):
        low.reset("open_drawer", 0)


def test_plus_one_opens_the_gripper(robot: SimulatedPanda) -> None:
    robot.reset("open_drawer", 2)
    widths = []
    for gripper in (-1.0, 1.0):
        for _ in range(6):
            robot.command(robot.target_pose, gripper)
        widths.append(robot.gripper_width)
    assert widths[0] < 0.005
    assert widths[1] > 0.07


def test_contact_stops_the_hand_at_the_table(robot: SimulatedPanda) -> None:
    robot.reset("open_drawer", 0)
    place = Pose(np.array([0.35, 0.0, 0.05]), robot.target_pose.rotation)
    for z in [*np.linspace(robot.target_pose.position[2], 0.0, 20), *[-0.03] * 5]:
        robot.command(Pose(np.array([*place.position[:2], z]), place.rotation), -1.0)
    assert 0.0 < robot.measured_pose.position[2] < 0.02  # the fingertips end 9 mm below


def test_the_button_toggles_once_per_press(robot: SimulatedPanda) -> None:
    robot.reset("turn_on_led", 0)
    begin, top = robot.target_pose, robot.site("button_top")
    above = Pose(top + up(0.05), begin.rotation)
    for fraction in np.linspace(0.05, 1.0, 20):
        robot.command(interpolate(begin, above, fraction), -1.0)
    lights = []
    for height in (0.05, -0.01, -0.01, 0.05, -0.01):
        for _ in range(12):
            robot.command(moved(above, [0, 0, height - 0.05]), -1.0)
        lights.append(robot.scene_state()[SCENE_STATE.index("led")])
    assert lights == [0, 1, 1, 1, 0]
    assert robot.succeeded(), "done once is done"


def test_play_has_no_oracle(robot: SimulatedPanda) -> None:
    robot.reset("", 0)
    assert not robot.judged
    with pytest.raises(DiwaError, match="none of the simulated tasks"):
        robot.succeeded()


def test_a_target_that_is_not_finite_is_refused(robot: SimulatedPanda) -> None:
    robot.reset("", 0)
    with pytest.raises(DiwaError, match="nan"):
        robot.command(moved(robot.target_pose, [np.nan, 0, 0]), 1.0)
    with pytest.raises(DiwaError, match="nan"):
        robot.advance(moved(robot.target_pose, [np.nan, 0, 0]), 1.0)
    assert robot.time == 0


def test_a_skill_that_is_no_task_begins_as_play_does(robot: SimulatedPanda) -> None:
    robot.reset("juggle", 4)
    assert not robot.judged
    begun = robot.scene_state()
    robot.reset("", 4)
    np.testing.assert_array_equal(robot.scene_state(), begun)


def test_a_bad_seed_is_refused(robot: SimulatedPanda) -> None:
    with pytest.raises(DiwaError, match="-1"):
        robot.reset("open_drawer", -1)


def test_the_spread_of_starts_is_a_setting() -> None:
    still = StartConfig(spread_pos=(0, 0, 0), spread_yaw=0, spread_tilt=0)
    hands = [sample_start("open_drawer", seed, still).hand for seed in range(3)]
    assert all(np.array_equal(hand.position, hands[0].position) for hand in hands)
    assert SimConfig(still) != SimConfig()


def test_scene_state_is_named_in_the_spec(robot: SimulatedPanda) -> None:
    assert robot.spec.scene_state == tasks.SCENE_STATE
    assert robot.scene_state().shape == (13,)


def moved(pose: Pose, offset: list[float] | np.ndarray) -> Pose:
    return Pose(pose.position + offset, pose.rotation)


def test_the_nodes_of_the_simulated_robot_are_told_its_own_contract() -> None:
    assert load_robot(robot_file("sim")).spec == SimulatedPanda().spec
