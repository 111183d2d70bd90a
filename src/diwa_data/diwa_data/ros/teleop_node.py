"""Controller -> clutch and limits -> absolute target poses; the only publisher of the target while it runs."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field, replace

from rclpy.node import Node

from diwa_data import clock
from diwa_data.errors import DiwaError
from diwa_data.pose import Pose
from diwa_data.recording import messages
from diwa_data.robot_config import RobotConfig
from diwa_data.ros.arm import Arm
from diwa_data.ros.controller_topics import ControllerPublisher, TopicController
from diwa_data.ros.diagnostics import Diagnostics
from diwa_data.ros.parameters import read_parameters
from diwa_data.ros.running import every, run_node
from diwa_data.ros.topics import LATCHED, hear, publisher
from diwa_data.teleop.clutch import GRIPPER_REPEAT, ControllerState, TeleopConfig, Teleoperator
from diwa_data.teleop.config import DeviceConfig
from diwa_data.teleop.opening import Controller, Feedback, open_device


@dataclass(frozen=True)
class TeleopNodeConfig:
    """Parameters of `teleop`."""

    robot: RobotConfig = field(default_factory=RobotConfig)
    """The robot; only its contract matters here."""
    device: str = "vive"
    """vive, webxr, keyboard, or scripted: a controller that another node publishes."""
    devices: DeviceConfig = field(default_factory=DeviceConfig)
    """Settings of the devices."""
    teleop: TeleopConfig = field(default_factory=TeleopConfig)
    """Clutch, limits and rate."""
    max_pose_age: float = 0.2
    """Seconds without a measured pose after which no target is published."""


class TeleopNode(Node):
    """Publishes no target before a measured pose is believed, and none while another node publishes them.

    After a fault (a pose that is lost or not plausible, an arm that is moved by something else) the target brakes, and
    on a real arm the operator must press the deadman before it is published again.
    """

    def __init__(self) -> None:
        super().__init__("teleop", automatically_declare_parameters_from_overrides=True)
        config = read_parameters(self, TeleopNodeConfig)
        self._teleoperator = Teleoperator(config.robot.spec, config.teleop)
        scripted = config.device == "scripted"
        self._device: Controller = TopicController(self) if scripted else open_device(config.device, config.devices)
        self._raw = None if scripted else ControllerPublisher(self)
        self.get_logger().info(f"{config.device}: {self._device.instructions}")
        self._feedback, self._recording, self._valid = Feedback(self._device), False, False
        self._gripper, self._gripper_sent = 1.0, -float("inf")
        self._known = False  # what the trigger says: until then, what the gripper holds is not dropped
        self._interventions: Counter[str] = Counter()
        self._frame, simulated = config.robot.base_frame, bool(config.robot.scene_state)
        self._by_press = not simulated  # a simulated scene is put back between episodes, arm and all
        self._armed, self._released = True, False
        self._arm = Arm(self, config.teleop.limits, config.robot, config.max_pose_age, self._start_anew)
        self._target = publisher(self, messages.TARGET_POSE, 1)
        self._gripper_command = publisher(self, messages.GRIPPER_COMMAND, LATCHED)
        self._diagnostics = Diagnostics(self)
        hear(self, messages.RECORDING, self._on_recording, LATCHED)
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
        cure = "release the deadman and press it anew" if self._by_press and again else "press the deadman to move"
        self.get_logger().info(f"the target is the measured pose: {cure}")
        return ""

    def _on_recording(self, episode: str) -> None:
        self._recording = bool(episode)

    def _step(self) -> None:
        now, controller = time.time(), self._device.read()
        if self._raw:
            self._raw.publish(controller, now)
        self._feedback.update(controller, self._recording)
        if self._valid and not controller.valid:
            self.get_logger().warn("the controller is lost: press the deadman anew when it is back")
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
        if changed and self._known:
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
