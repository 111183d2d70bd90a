"""A Panda (FER) without ros2_control, by `panda-python`: follows `/diwa/target_pose`, says pose, joints and mode."""

from __future__ import annotations

import importlib
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rclpy.node import Node
from std_msgs.msg import Int8
from std_srvs.srv import Trigger

from diwa_data.errors import DiwaError
from diwa_data.limits import MotionLimits
from diwa_data.pose import Pose
from diwa_data.recording import messages
from diwa_data.robot_config import RobotConfig
from diwa_data.ros import clock
from diwa_data.ros.arm_mode import GUIDING, USER_STOPPED, mode_words
from diwa_data.ros.node import every, read_parameters, run_node
from diwa_data.ros.topics import LATCHED, node_name, on_graph, publisher, subscribe
from diwa_deploy.collision import CollisionConfig
from diwa_deploy.gripper import GripperConfig, GripperWorker
from diwa_deploy.safety import Verdict, judge_joints
from diwa_deploy.target import TargetGate

JOINTS = [*(f"panda_joint{number}" for number in range(1, 8)), "panda_finger_joint1", "panda_finger_joint2"]
OPEN_WIDTH, SPEED, FORCE = 0.08, 0.1, 20.0
"""Metres, metres per second and newtons of the gripper."""


@dataclass(frozen=True)
class PandaArmConfig:
    """Parameters of `panda_arm`."""

    robot: RobotConfig = field(default_factory=RobotConfig)
    """The robot's file; every node is given the same."""
    hostname: str = ""
    """Address of the arm's control box."""
    rate: float = 60.0
    """Poses and joint states per second."""
    stiffness: tuple[float, float] = (400.0, 30.0)
    """Stiffness of the Cartesian impedance, in N/m and Nm/rad."""
    limits: MotionLimits = field(default_factory=MotionLimits)
    """Limits that every target must keep, whoever publishes it."""
    worker: GripperConfig = field(default_factory=GripperConfig)
    """Patience with the gripper."""
    collision: CollisionConfig = field(default_factory=CollisionConfig)
    """Thresholds of the arm's contact and collision detection."""


class Motion:
    """A blocking call to the gripper, in a thread of its own."""

    def __init__(self, call: Any, stop: Any):
        self._stop = stop
        self._thread = threading.Thread(target=call, daemon=True)
        self._thread.start()

    def done(self) -> bool:
        """It has returned."""
        return not self._thread.is_alive()

    def cancel(self) -> None:
        """Stop the fingers."""
        self._stop()


class PandaArmNode(Node):
    """Begins by holding the measured pose; after a reflex `~/recover` does so again.

    It follows the targets of one publisher, checks each once more, and holds near a joint's limit or a singularity.
    """

    def __init__(self) -> None:
        super().__init__("panda_arm", automatically_declare_parameters_from_overrides=True)
        self._config = read_parameters(self, PandaArmConfig, "limits")
        if not self._config.hostname:
            raise DiwaError("panda_arm needs the address of the control box: -p hostname:=172.16.0.2")
        try:
            self._panda_py = importlib.import_module("panda_py")
        except ModuleNotFoundError as error:
            raise DiwaError("no panda_py here: pip install panda-python (its libfranka must fit the arm)") from error
        self._panda = self._panda_py.Panda(self._config.hostname)
        has_gripper = self._config.robot.action.gripper
        self._gripper: Any = self._panda_py.libfranka.Gripper(self._config.hostname) if has_gripper else None
        self._width = float(self._gripper.read_once().width) if self._gripper else 0.0
        self._pose = publisher(self, messages.CURRENT_POSE)
        self._joints = publisher(self, messages.JOINT_STATES)
        self._mode = self.create_publisher(Int8, messages.relative(messages.ARM_MODE), 10)
        self._worker = GripperWorker(self._move_fingers, self._config.worker, self.get_logger().error)
        self._gate, self._margin, self._rivals = TargetGate(self._config.limits), Verdict("ok", ""), ""
        self._start()
        subscribe(self, messages.TARGET_POSE, self._on_target, 1, self._config.robot.base_frame)
        every(self, 0.5, self._look_around)
        if has_gripper:
            subscribe(self, messages.GRIPPER_COMMAND, self._worker.command, LATCHED)
        self.create_service(Trigger, "~/recover", self._recover)
        every(self, 1.0 / self._config.rate, self._report)
        self._open = True
        self._reader = threading.Thread(target=self._read_width, name="width", daemon=True)
        self._reader.start()

    def close(self) -> None:
        """Stop the controller: the arm brakes."""
        self._open = False
        self._reader.join()
        self._worker.close()
        self._panda.stop_controller()

    def _start(self) -> None:
        translation, rotation = self._config.stiffness
        if collision := self._config.collision:
            thresholds = collision.contact_torque, collision.torque, collision.contact_force, collision.force
            self._panda.get_robot().set_collision_behavior(*map(list, thresholds))
        impedance = np.diag([translation] * 3 + [rotation] * 3)
        self._controller = self._panda_py.controllers.CartesianImpedance(impedance=impedance)
        self._panda.start_controller(self._controller)

    def _look_around(self) -> None:
        """Two publishers of targets: none is followed."""
        topic = on_graph(self, messages.TARGET_POSE)
        names = sorted(map(node_name, self.get_publishers_info_by_topic(topic)))
        self._rivals = f"{', '.join(names)} publish {topic}" if len(names) > 1 else ""

    def _on_target(self, target: Pose) -> None:
        refusal = self._refusal(target)
        if refusal:
            self.get_logger().error(f"the arm holds: {refusal}", throttle_duration_sec=1.0)
            return
        self._controller.set_control(target.position, target.quaternion)

    def _refusal(self, target: Pose) -> str:
        """Why the arm does not follow `target`; empty if it does."""
        if self._rivals:
            return f"{self._rivals}: stop all but one"
        if self._margin.level == "hold":
            return f"{self._margin.reason}: move the arm by hand, then call ~/recover"
        return self._gate.refusal(target, self._measured(), clock.now())

    def _measured(self) -> Pose:
        return Pose.from_quaternion(self._panda.get_position(), self._panda.get_orientation())

    def _report(self) -> None:
        now, state = time.time(), self._panda.get_state()
        pose = self._measured()
        self._margin = judge_joints(JOINTS[:7], list(state.q), self._config.robot.joints)
        if self._margin.level == "warn":
            self.get_logger().warn(self._margin.reason, throttle_duration_sec=1.0)
        self._pose(messages.encode_pose(pose, now, self._config.robot.base_frame))
        fingers = [self._width / 2] * 2 if self._gripper else []
        positions, velocities = np.array([*state.q, *fingers]), np.array([*state.dq, *(0.0 for _ in fingers)])
        self._joints(messages.encode_joints(JOINTS[: len(positions)], positions, velocities, now))
        self._mode.publish(Int8(data=int(state.robot_mode.value)))

    def _read_width(self) -> None:
        """Reading the gripper blocks: not in the executor."""
        while self._open and self._gripper:
            self._width = float(self._gripper.read_once().width)
            time.sleep(0.05)

    def _move_fingers(self, wish: bool) -> Motion:
        if wish:
            return Motion(lambda: self._gripper.move(OPEN_WIDTH, SPEED), self._gripper.stop)
        return Motion(lambda: self._gripper.grasp(0.0, SPEED, FORCE, 0.0, OPEN_WIDTH), self._gripper.stop)

    def _recover(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """Clear a reflex, and hold the measured pose; answer why not."""
        if (mode := int(self._panda.get_state().robot_mode.value)) in (GUIDING, USER_STOPPED):
            response.message = f"the arm is in {mode_words(mode)}: let go of it, or release the user stop"
            return response
        try:
            self._panda.recover()
            self._gate.close()
            self._start()
        except Exception as error:  # of libfranka
            response.message = f"the arm could not recover: {error}"
            return response
        response.success, response.message = True, "recovered: holding the measured pose"
        return response


def main() -> None:
    """The node `panda_arm`."""
    run_node(PandaArmNode)


if __name__ == "__main__":
    main()
