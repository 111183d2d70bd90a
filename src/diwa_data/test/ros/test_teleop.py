"""The teleop node: one publisher of targets that no controller, no arm and no rival makes jump."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from diwa_data.limits import MotionLimits
from diwa_data.pose import Pose
from diwa_data.recording import messages

pytestmark = pytest.mark.ros

HOME = Pose(np.array([0.5, 0.0, 0.3]), Rotation.from_rotvec([np.pi, 0, 0]))
DT = 1 / 60


class Hand:
    """A controller and an arm that does what it is told, both published at 60 Hz while `run` runs."""

    def __init__(self, topics):
        self._topics = topics
        self.position, self.held, self.trigger = np.zeros(3), False, 0.0
        self.arm: Pose | None = HOME
        self.follows = True
        self.targets = topics.subscribe(messages.TARGET_POSE)
        self.grippers = topics.subscribe(messages.GRIPPER_COMMAND)

    def run(self, seconds: float, velocity=(0.0, 0.0, 0.0)) -> None:
        """Go on for a while, the controller at `velocity` (m/s)."""
        for _ in range(round(seconds / DT)):
            begun = time.monotonic()
            self.position = self.position + np.array(velocity) * DT
            if self.follows and self.arm is not None and self.targets:
                self.arm = self.targets[-1]
            now = time.time()
            self._send(messages.CONTROLLER_POSE, messages.encode_pose(Pose(self.position, Rotation.identity()), now))
            buttons = np.array([self.held, True])
            self._send(messages.CONTROLLER_JOY, messages.encode_joy(np.array([self.trigger]), buttons, now))
            if self.arm is not None:
                self._send(messages.CURRENT_POSE, messages.encode_pose(self.arm, now))
            time.sleep(max(0.0, DT - (time.monotonic() - begun)))

    def press(self) -> None:
        """Release, then hold the deadman."""
        self.held = False
        self.run(0.2)
        self.held = True
        self.run(0.2)

    def _send(self, topic: str, data: memoryview) -> None:
        self._topics.publish(topic, data)


@pytest.fixture
def hand(topics) -> Hand:
    return Hand(topics)


@pytest.fixture
def teleop(start, hand):
    node = start("teleop", "device:=scripted")
    node.wait_for("scripted")
    hand.run(1.2)
    node.wait_for("the target is the measured pose")
    return node


def largest_step(targets: list[Pose]) -> float:
    """Metres between consecutive targets, per axis."""
    return float(max(np.abs(b.position - a.position).max() for a, b in itertools.pairwise(targets)))


def test_the_hand_moves_while_the_deadman_is_held_and_the_gripper_follows_the_trigger(hand, teleop):
    hand.press()
    before = hand.targets[-1].position
    hand.run(0.5, (0.1, 0, 0))
    hand.trigger = 1.0
    hand.run(0.5)
    moved = hand.targets[-1].position - before
    np.testing.assert_allclose(moved, [0.05, 0, 0], atol=0.004)
    hand.held = False
    hand.run(0.5, (0, 0.1, 0))
    np.testing.assert_allclose(hand.targets[-1].position - before, moved, atol=0.004)
    assert hand.grippers[0] == 1.0
    assert hand.grippers[-1] == -1.0


def test_a_controller_that_is_lost_or_teleports_moves_nothing(hand, teleop, fault):
    hand.press()
    hand.run(0.3, (0.1, 0, 0))
    hand.position = hand.position + np.full(3, 0.5)
    hand.run(0.3)
    after_jump = hand.targets[-1].position
    time.sleep(0.4)
    teleop.wait_for("the controller is lost: press the deadman again")
    hand.run(0.3, (0.1, 0, 0))
    np.testing.assert_allclose(hand.targets[-1].position, after_jump, atol=1e-6)
    hand.press()
    hand.run(0.3, (0.1, 0, 0))
    assert hand.targets[-1].position[0] - after_jump[0] == pytest.approx(0.03, abs=0.006)
    step, allowed = largest_step(hand.targets), MotionLimits().max_speed * DT
    assert step <= allowed + 1e-9
    fault(
        "the controller teleports by 87 cm, then is lost for 0.4 s, deadman held all the time",
        f"the target stood still until the deadman was pressed again; largest step {step * 1e3:.2f} mm, allowed "
        f"{allowed * 1e3:.2f} mm",
        "nothing",
    )


def test_two_publishers_of_the_target_stop_us(hand, teleop, topics, fault):
    hand.press()
    rival = topics.call(lambda: topics.node.create_publisher(_pose_message(), messages.TARGET_POSE, 1))
    hand.run(1.0)
    said = teleop.wait_for("none is published: /test publishes /diwa/target_pose too: stop it")
    hand.targets.clear()
    hand.run(0.5, (0.1, 0, 0))
    assert not hand.targets
    topics.call(lambda: topics.node.destroy_publisher(rival))
    teleop.forget()
    hand.run(1.5)
    teleop.wait_for("the target is the measured pose: release the deadman and press it again")
    assert not hand.targets, "the deadman was held all the time"
    hand.press()
    before = hand.targets[-1].position
    hand.run(0.3, (0.1, 0, 0))
    assert hand.targets[-1].position[0] > before[0] + 0.02
    fault(
        "a second publisher on /diwa/target_pose",
        f"said: {said.split(': ', 1)[-1]}; went on once it was gone",
        "nothing",
    )


def test_an_arm_that_is_silent_or_moved_by_something_else_is_not_pulled_back(hand, teleop, fault):
    hand.press()
    hand.run(0.3, (0.1, 0, 0))
    hand.arm = None
    hand.run(0.5, (0.1, 0, 0))
    teleop.wait_for("none is published: no /diwa/current_pose for 0.2 s")
    elsewhere = Pose(np.array([0.4, 0.2, 0.4]), HOME.rotation)
    hand.arm, hand.follows = elsewhere, False
    teleop.forget()
    hand.targets.clear()
    hand.run(0.5, (0.1, 0, 0))
    teleop.wait_for("the target is the measured pose: release the deadman and press it again")
    assert not hand.targets
    hand.press()
    assert hand.targets
    assert all(np.allclose(target.position, elsewhere.position, atol=1e-6) for target in hand.targets)
    teleop.forget()
    hand.arm = Pose(elsewhere.position + np.array([0.1, 0, 0]), HOME.rotation)
    hand.run(0.5)
    teleop.wait_for("none is published: the measured position jumped by 0.100 m")
    hand.targets.clear()
    hand.run(0.3)
    assert not hand.targets
    hand.press()
    np.testing.assert_allclose(hand.targets[0].position, hand.arm.position, atol=1e-6)
    fault(
        "the arm's pose is silent for 0.5 s, then 20 cm away; later something else moves it by 10 cm (reflex, guiding)",
        "no target until the deadman was released and pressed again; then the target is the measured pose",
        "nothing",
    )


def test_a_reflex_brakes_and_after_it_the_deadman_must_be_pressed_anew(hand, teleop, topics, fault):
    from std_msgs.msg import Int8

    mode = topics.call(lambda: topics.node.create_publisher(Int8, messages.ARM_MODE, 10))
    hand.press()
    hand.run(0.3, (0.1, 0, 0))
    hand.follows = False
    mode.publish(Int8(data=4))
    hand.run(0.5, (0.1, 0, 0))
    teleop.wait_for("the target brakes, then none is published: the arm is in mode 4 (reflex), not 2")
    hand.targets.clear()
    hand.run(0.5, (0.1, 0, 0))
    hand.press()
    assert not hand.targets, "still in the reflex"
    teleop.forget()
    mode.publish(Int8(data=2))
    hand.run(0.5, (0.1, 0, 0))
    teleop.wait_for("the target is the measured pose: release the deadman and press it again")
    assert not hand.targets
    hand.press()
    np.testing.assert_allclose(hand.targets[0].position, hand.arm.position, atol=1e-6)
    fault(
        "the arm stops with a reflex, which its mode says, and recovers",
        "braked; no target until the deadman was released and pressed anew; then the target is the measured pose",
        "nothing",
    )


def test_a_pose_in_another_frame_is_no_pose(start, hand):
    node = start("teleop", "device:=scripted", "robot.base_frame:=fr3_link0")
    node.wait_for("scripted")
    hand.run(1.0)
    node.wait_for("/diwa/current_pose is in the frame 'panda_link0', not in the robot's base 'fr3_link0'")
    assert not hand.targets


def test_a_nan_pose_is_no_pose(hand, teleop, fault):
    hand.press()
    hand.follows, hand.arm = False, Pose(np.full(3, np.nan), HOME.rotation)
    hand.run(0.6, (0.1, 0, 0))
    teleop.wait_for("is not finite: fix its publisher")
    teleop.wait_for("none is published: no /diwa/current_pose")
    assert all(np.isfinite(target.position).all() for target in hand.targets)
    fault("the arm reports NaN", "said so; no target until it reports a pose again", "nothing")


def test_kill_9_of_teleop_and_a_new_one_begins_where_the_arm_is(hand, teleop, start, fault):
    hand.press()
    hand.run(0.3, (0.1, 0, 0))
    hand.trigger = 1.0
    hand.run(0.2)
    teleop.kill()
    hand.run(0.5, (0.1, 0, 0))
    hand.targets.clear()
    hand.grippers.clear()
    again = start("teleop", "device:=scripted")
    again.wait_for("scripted")
    hand.run(1.0, (0.1, 0, 0))
    assert hand.targets, "the new one publishes"
    assert largest_step([hand.arm, *hand.targets]) < 1e-6, "and nothing moves before the deadman is pressed again"
    assert set(hand.grippers) == {-1.0}, "what is held is not dropped"
    fault(
        "kill -9 of teleop, deadman and trigger held",
        "the arm keeps its last target; the new one begins at the measured pose, the gripper stays closed and it waits "
        "for the deadman",
        "nothing",
    )


def _pose_message():
    from geometry_msgs.msg import PoseStamped

    return PoseStamped
