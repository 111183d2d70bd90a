"""What the simulated robot publishes while an episode is recorded, and the labels that tell where it comes from."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from diwa_data.recording.recorder import EpisodeRecorder, RecordConfig
from diwa_data.teleop.clutch import GRIPPER_REPEAT, Command, ControllerState
from diwa_sim.table import CONTROL_RATE, SimulatedPanda

DT = 1.0 / CONTROL_RATE


class EpisodeLog:
    """Writes what the robot publishes: targets at 60 Hz, everything else with the frames at 30 Hz."""

    def __init__(self, robot: SimulatedPanda, recorder: EpisodeRecorder):
        self._robot, self._recorder = robot, recorder
        self._steps_per_frame = round(CONTROL_RATE / robot.spec.record_rate)

    def begin(self) -> None:
        """A new episode: latched commands and the first frame."""
        self._steps, self._gripper, self._gripper_sent = 0, 1.0, self._robot.time
        self._recorder.target(self._robot.target_pose, self._robot.time, self._robot.time)
        self._recorder.gripper(self._gripper, self._robot.time)
        self._frame()

    def step(self, controller: ControllerState, command: Command) -> None:
        """One control step, after the robot made it: a target is published when the arm has been told all of it."""
        self._steps += 1
        now = self._robot.time
        self._recorder.target(command.target, now, now)
        if command.gripper != self._gripper or now - self._gripper_sent >= GRIPPER_REPEAT - DT / 2:
            self._gripper, self._gripper_sent = command.gripper, now
            self._recorder.gripper(command.gripper, now)
        for event in controller.events:
            self._recorder.mark(event, now)
        if self._steps % self._steps_per_frame == 0:
            self._recorder.controller(controller, now, now)
            self._frame()

    def _frame(self) -> None:
        observation, joints = self._robot.observe(), self._robot.joint_state()
        now = observation.received
        self._recorder.pose(observation.pose, now, now)
        self._recorder.joints(list(joints.names), joints.positions, joints.velocities, now, now)
        self._recorder.scene_state(self._robot.scene_state(), now)
        for name in reversed(observation.images):  # the first camera is the clock: the others arrive before it
            self._recorder.image(name, observation.images[name], observation.stamp, now)


def episode_seed(config: RecordConfig, index: int, attempt: int) -> int:
    """Seed of the scene's start, of episode `index` at its `attempt`-th try."""
    return int(np.random.SeedSequence((config.seed, index, attempt)).generate_state(1)[0])


def episode_labels(robot: SimulatedPanda, config: RecordConfig, index: int, attempt: int, seed: int) -> dict[str, Any]:
    """What replay needs to reset the simulator identically, and where the episode comes from."""
    return {
        "source": "demonstration" if config.skill else "play",
        "skill": config.skill,
        "seed": seed,
        "operator": config.operator or config.device,
        "sim": dataclasses.asdict(robot.config),
        "record_seed": config.seed,
        "index": index,
        "attempt": attempt,
    }
