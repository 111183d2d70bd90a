"""Controller -> clutch and limits -> absolute target poses; the only publisher of the target while it runs."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from rclpy.node import Node

from diwa_data.errors import DiwaError
from diwa_data.motion import BelievedPose
from diwa_data.pose import Pose
from diwa_data.recording import messages
from diwa_data.robot_config import RobotConfig
from diwa_data.ros import clock
from diwa_data.ros.arm_mode import ModeConfig, ModeWatch
from diwa_data.ros.node import Diagnostics, every, read_parameters, run_node
from diwa_data.ros.topics import (
    LATCHED,
    SENSOR,
    ControllerPublisher,
    TopicController,
    on_graph,
    other_publishers,
    publisher,
    subscribe,
)
from diwa_data.teleop.clutch import GRIPPER_REPEAT, ControllerState, TeleopConfig, Teleoperator
from diwa_data.teleop.devices import Controller, DeviceConfig, Feedback, open_device


@dataclass(frozen=True)
class TeleopNodeConfig:
    """Parameters of `teleop`."""

    robot: RobotConfig = field(default_factory=RobotConfig)
    """The robot; only its contract matters here."""
    device: str = "vive"
    """vive, webxr, keyboard, or scripted (another node publishes the controller)."""
    devices: DeviceConfig = field(default_factory=DeviceConfig)
    """Settings of the devices."""
    teleop: TeleopConfig = field(default_factory=TeleopConfig)
    """Clutch, limits and rate."""
    max_pose_age: float = 0.2
    """Seconds without a measured pose after which no target is published."""
    mode: ModeConfig = field(default_factory=ModeConfig)
    """Where the arm says in which mode it is."""


PATIENCE = 2.5
"""Seconds without any measured pose after which the operator is told."""


class Arm:
    """The arm of a teleoperator: where it is, whether that is believed, and whether it obeys this node alone."""

    def __init__(self, node: Node, config: TeleopNodeConfig, on_known: Callable[[Pose], str]):
        """`on_known` is called with a pose from which to start anew, and answers why it cannot (empty if it can)."""
        self._node, self._max_age, self._on_known = node, config.max_pose_age, on_known
        self._believed = BelievedPose(config.teleop.limits, config.robot.plausible)
        self._others: str | None = None  # unknown until it was looked
        self._problem, self._begun = "no measured pose yet", time.monotonic()
        self._measured, self._commanded = (
            on_graph(node, name) for name in (messages.CURRENT_POSE, messages.TARGET_POSE)
        )
        self._told_mode, self._mode = "", ModeWatch(node, config.mode, self._on_mode)
        subscribe(node, messages.CURRENT_POSE, self._on_pose, SENSOR, config.robot.base_frame)
        every(node, 0.5, self._look_around)

    @property
    def pose(self) -> Pose | None:
        """Measured; None while it is not believed."""
        return self._believed.pose

    @property
    def problem(self) -> str:
        """Reason why no target may be published now; empty if it may."""
        if not self._problem and clock.now() - self._believed.received > self._max_age:
            self.lose(f"no {self._measured} for {self._max_age} s")
        return self._problem

    def lose(self, problem: str) -> None:
        """From now on no target may be published, until the arm is known again."""
        self._problem = problem
        self._node.get_logger().error(f"the target brakes, then none is published: {problem}")

    def _on_pose(self, pose: Pose) -> None:
        self._believed.update(pose, clock.now())
        if self._believed.problem:
            if not self._problem:
                self.lose(self._believed.problem)
        elif self._problem and self._others == "" and not self._mode.problem:
            problem = self._on_known(pose)
            if problem:
                self._node.get_logger().warn(problem, throttle_duration_sec=PATIENCE)
            self._problem, self._told_mode = problem, ""

    def _on_mode(self, problem: str) -> None:
        if self._told_mode != problem:
            self._told_mode = problem
            self.lose(problem)

    def _look_around(self) -> None:
        """An arm's controller may ignore two publishers both, or obey both."""
        if self._believed.received == -math.inf and time.monotonic() - self._begun > PATIENCE:
            self._begun = float("inf")
            published = self._node.count_publishers(self._measured)
            why = "its publisher is silent" if published else "nobody publishes it"
            self.lose(f"nothing on {self._measured}: {why}")
        self._others = other_publishers(self._node, self._commanded)
        if self._others and not self._problem.endswith("stop it"):
            self.lose(f"{self._others} publishes {self._commanded} too: stop it")


class TeleopNode(Node):
    """Publishes no target before a measured pose is believed, and none while another node publishes them.

    After a fault (a pose that is lost or not plausible, an arm that is moved by something else) the target brakes, and
    on a real arm the operator must press the deadman before it is published again.
    """

    def __init__(self) -> None:
        super().__init__("teleop", automatically_declare_parameters_from_overrides=True)
        config = read_parameters(self, TeleopNodeConfig, "teleop.limits")
        self._teleoperator = Teleoperator(config.robot.spec, config.teleop)
        if config.teleop.limits != config.robot.limits:
            self.get_logger().warning(
                "teleop.limits are not robot.limits, which recordings are labelled with: write them under robot alone"
            )
        scripted = config.device == "scripted"
        self._device: Controller = TopicController(self) if scripted else open_device(config.device, config.devices)
        self._raw = None if scripted else ControllerPublisher(self)
        self.get_logger().info(f"{config.device}: {self._device.instructions}")
        self._feedback, self._recording, self._valid = Feedback(self._device), False, False
        self._gripper, self._gripper_sent = 1.0, -float("inf")
        self._known = False  # what the trigger says: until then, what the gripper holds is not dropped
        self._interventions: Counter[str] = Counter()
        self._frame, simulated = config.robot.base_frame, bool(config.robot.scene_state)
        self._start_pose = config.robot.start_pose
        self._by_press = not simulated  # a simulated scene is put back between episodes, arm and all
        self._armed, self._released = True, False
        self._arm = Arm(self, config, self._start_anew)
        self._target = publisher(self, messages.TARGET_POSE, 1)
        has_gripper = config.robot.action.gripper
        self._gripper_command = publisher(self, messages.GRIPPER_COMMAND, LATCHED) if has_gripper else None
        self._diagnostics = Diagnostics(self)
        subscribe(self, messages.RECORDING, self._on_recording, LATCHED)
        every(self, 1.0 / config.teleop.rate, self._step)
        every(self, 1.0, self._report)

    def close(self) -> None:
        """Give the device back."""
        self._device.close()

    def _start_anew(self, pose: Pose) -> str:
        """The arm is known, for the first time or again; why the target cannot begin there, empty if it can."""
        if not self._teleoperator.at_rest:
            return "the target still brakes"
        again = self._teleoperator.target is not None
        try:
            self._teleoperator.reset(pose, self._gripper)
        except DiwaError as error:
            return str(error)
        self._armed = not (again and self._by_press)
        self._released = False
        cure = "release the deadman and press it again" if self._by_press and again else "press the deadman to move"
        self.get_logger().info(f"the target is the measured pose: {cure}")
        return ""

    def _on_recording(self, episode: str) -> None:
        begins, self._recording = bool(episode) and not self._recording, bool(episode)
        if begins and self._arm.pose and (problem := self._start_pose.problem(self._arm.pose)):
            self.get_logger().warn(f"{episode} begins, but {problem}")

    def _step(self) -> None:
        now, controller = time.time(), self._device.read()
        if self._raw:
            self._raw.publish(controller, now)
        self._feedback.update(controller, self._recording)
        if self._valid and not controller.valid:
            self.get_logger().warn("the controller is lost: press the deadman again when it is back")
        self._valid = controller.valid
        self._known = self._known or controller.valid
        if self._arm.problem or self._arm.pose is None:
            if not self._teleoperator.at_rest:
                self._target(messages.encode_pose(self._teleoperator.brake().target, now, self._frame))
            return
        if not self._armed and not self._pressed_anew(controller, self._arm.pose):
            return
        command = self._teleoperator.step(controller, self._arm.pose)
        self._interventions.update(command.interventions)
        self._target(messages.encode_pose(command.target, now, self._frame))
        if self._teleoperator.is_left:
            self._arm.lose("the arm is elsewhere than its target: something else moves it, or it does not obey")
        changed = command.gripper != self._gripper or clock.now() - self._gripper_sent >= GRIPPER_REPEAT
        if changed and self._known and self._gripper_command:
            self._gripper, self._gripper_sent = command.gripper, clock.now()
            self._gripper_command(messages.encode_float(command.gripper))

    def _pressed_anew(self, controller: ControllerState, pose: Pose) -> bool:
        """The deadman was released since the fault, and is pressed: the target begins where the arm is now."""
        self._armed = self._released and controller.deadman and controller.valid
        if not self._armed:
            self._released = self._released or not controller.deadman
            try:
                self._teleoperator.reset(pose, self._gripper)
            except DiwaError as error:
                self._released = False
                self.get_logger().warn(str(error), throttle_duration_sec=5.0)
                return False
            self._teleoperator.step(replace(controller, deadman=False), pose)
        return self._armed

    def _report(self) -> None:
        told = dict(self._interventions)
        self._diagnostics.add("target", self._arm.problem, controller_valid=self._valid, gripper=self._gripper, **told)
        self._diagnostics.publish()
        self._interventions.clear()


def main() -> None:
    """The node `teleop`."""
    run_node(TeleopNode)


if __name__ == "__main__":
    main()
