"""The simulated robot on the real robot's topics: cameras, poses, joints, gripper and scene state, in real time."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from rclpy.node import Node

from diwa_data.errors import DiwaError
from diwa_data.motion import is_finite
from diwa_data.pose import Pose, rotation_distance
from diwa_data.recording import messages
from diwa_data.robot_config import RobotConfig
from diwa_data.ros.node import every, interruptible, read_parameters, run_node
from diwa_data.ros.topics import LATCHED, on_graph, publisher, subscribe
from diwa_data.skills import skill_name
from diwa_sim.steps import CONTROL_RATE, DT
from diwa_sim.table import SimConfig, SimulatedPanda
from diwa_sim.tasks import goal_labels
from diwa_sim.urdf import urdf

NEAR_POS, NEAR_ROT = 0.03, 0.15
"""Metres, rad from the hand within which the first target after a reset must be; others were meant for before."""
MAX_LATE = 0.5
"""Seconds behind real time after which the simulation gives up catching up."""


@dataclass(frozen=True)
class SimRobotConfig:
    """Parameters of `sim_robot`."""

    robot: RobotConfig = field(default_factory=RobotConfig)
    """Robot file. Its cameras must be some of the scene's, and its scene state, if it has one, the table's.
    Without a gripper in its contract the fingers stay closed."""
    skill: str = ""
    """Skill whose start the scene is set up for; empty, or no simulated task = any start."""
    seed: int = 0
    """Seed of the starts."""
    window: bool = False
    """Show the scene in a window."""
    sim: SimConfig = field(default_factory=SimConfig)
    """Distribution of start states; cameras, gripper and objects are those of `robot`."""


class SimRobotNode(Node):
    """60 Hz: follow the target; every second step publish. `stop` and `discard` put the scene at its next start."""

    def __init__(self) -> None:
        super().__init__("sim_robot", automatically_declare_parameters_from_overrides=True)
        self._config = read_parameters(self, SimRobotConfig)
        if self._config.skill:
            skill_name(self._config.skill)
        spec = self._config.robot.spec
        self._sim = self._config.sim.like(spec)
        with interruptible():
            self._robot = SimulatedPanda(self._sim)
        if spec.scene_state not in ((), self._robot.spec.scene_state):
            right = ", ".join(self._robot.spec.scene_state)
            raise DiwaError(f"robot.scene_state is {', '.join(spec.scene_state)}; the table's is {right}")
        self._steps_per_frame = round(CONTROL_RATE / spec.record_rate)
        self._publish_on: dict[str, Callable[[memoryview], None]] = {}
        self._infos: dict[str, Callable[[float], None]] = {}
        for camera in self._robot.spec.cameras:
            matrix, size = self._robot.intrinsics(camera.name, camera.record_size), camera.record_size
            info = messages.encode_camera_info(matrix, size, time.time(), f"{camera.name}_camera")
            publish = publisher(self, messages.camera_info_topic(camera.name), LATCHED)
            self._infos[messages.image_topic(camera.name)] = partial(_publish_info, publish, info)
        self._frames, self._tf = publisher(self, messages.TF), on_graph(self, messages.TF)
        description = urdf(self._robot.model, self._config.robot.base_frame)
        publisher(self, messages.ROBOT_DESCRIPTION, LATCHED)(messages.encode_string(description))
        self._labels = publisher(self, messages.EPISODE_LABELS, LATCHED)
        self._episode = 0
        self._reset()
        subscribe(self, messages.TARGET_POSE, self._on_target, 1, self._config.robot.base_frame)
        subscribe(self, messages.GRIPPER_COMMAND, self._on_gripper)
        subscribe(self, messages.EPISODE_EVENT, self._on_event)
        self._window = contextlib.ExitStack()
        self._view = self._window.enter_context(self._robot.window()) if self._config.window else None
        with interruptible():
            self._robot.observe()  # the first image takes long
        self._steps, self._begun = 0, time.monotonic()
        every(self, DT, self._catch_up)

    def close(self) -> None:
        """Free window and renderers."""
        self._window.close()
        self._robot.close()

    def _reset(self) -> None:
        """Put the scene at its next start, and tell the seed of it."""
        seed = int(np.random.SeedSequence((self._config.seed, self._episode)).generate_state(1)[0])
        self._robot.reset(self._config.skill, seed)
        self._target, self._gripper, self._followed = self._robot.target_pose, 1.0, False
        labels = {"seed": seed, "sim": dataclasses.asdict(self._sim), "index": self._episode}
        self._labels(messages.encode_string(json.dumps(labels | goal_labels(self._config.skill))))
        self._episode += 1

    def _on_target(self, target: Pose) -> None:
        near = (
            np.linalg.norm(target.position - self._target.position) < NEAR_POS
            and rotation_distance(target.rotation, self._target.rotation) < NEAR_ROT
        )
        self._followed = self._followed or bool(near)
        if self._followed and is_finite(target):
            self._target = target

    def _on_gripper(self, command: float) -> None:
        self._gripper = command

    def _on_event(self, event: str) -> None:
        if event in ("stop", "discard"):
            self._reset()

    def _catch_up(self) -> None:
        """Make the steps that are due by now."""
        due = int((time.monotonic() - self._begun) * CONTROL_RATE)
        if (due - self._steps) * DT > MAX_LATE:
            self.get_logger().warn("the simulation is slower than real time", throttle_duration_sec=5.0)
            self._begun += (due - self._steps) * DT
            return
        for _ in range(due - self._steps):
            self._step()

    def _step(self) -> None:
        self._robot.advance(self._target, self._gripper)
        self._steps += 1
        if self._steps % self._steps_per_frame == 0:
            self._publish()
            if self._view:
                self._view.sync()

    def _publish(self) -> None:
        now, base = time.time(), self._config.robot.base_frame
        if self.count_subscribers(self._tf):  # else they would cost as much as the images
            self._frames(messages.encode_transforms(self._robot.transforms(base), now))
        for topic, data in self._robot.frame_messages(now, base):
            if topic not in self._publish_on:
                self._publish_on[topic] = publisher(self, topic, name=self._config.robot.name_on_graph(topic))
            self._publish_on[topic](data)
            if topic in self._infos:  # with every image and under its stamp: so RViz and image_proc pair them
                self._infos[topic](now)


def _publish_info(publish: Callable[[memoryview], None], info: memoryview, now: float) -> None:
    publish(messages.restamped(info, now))


def main() -> None:
    """The node `sim_robot`."""
    run_node(SimRobotNode)


if __name__ == "__main__":
    main()
