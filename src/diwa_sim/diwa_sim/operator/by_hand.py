"""Record the simulated robot under a person's hand, in real time, one episode after another."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

from diwa_data.recording.recorder import EpisodeRecorder, RecordConfig
from diwa_data.teleop.clutch import ControllerState, Teleoperator
from diwa_data.teleop.devices import Controller, Feedback
from diwa_sim.operator.episode_log import DT, EpisodeLog, episode_labels, episode_seed
from diwa_sim.table import CONTROL_RATE, SimulatedPanda


class RealTime:
    """Waits for the next control step; a step that comes late is not made up for."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep):
        self._clock, self._sleep = clock, sleep
        self._due = clock()

    def wait(self) -> None:
        now = self._clock()
        self._due = max(self._due + DT, now)
        self._sleep(self._due - now)


class HandRecording:
    """The session of one operator. `start` puts the scene at the episode's own start, as replay will.

    A running episode ends with `stop` or after `config.episode_seconds`. `discard` throws it away, or, between two,
    sets the last one of this session aside.
    """

    def __init__(self, robot: SimulatedPanda, recorder: EpisodeRecorder, config: RecordConfig, left: int):
        """`left`: number of episodes to record."""
        self._robot, self._recorder, self._config, self._left = robot, recorder, config, left
        self._teleoperator = Teleoperator(robot.spec, config.teleop, CONTROL_RATE)
        self._log = EpisodeLog(robot, recorder)
        self._reset()

    @property
    def recording(self) -> bool:
        """An episode is running."""
        return self._recorder.recording

    @property
    def complete(self) -> bool:
        """All episodes are recorded."""
        return self._left == 0

    def step(self, controller: ControllerState) -> list[str]:
        """One control step of 1/60 s; returns lines for the operator."""
        said = [self._event(event) for event in controller.events]
        if self.complete:
            return said
        command = self._teleoperator.step(controller, self._robot.measured_pose)
        self._robot.advance(command.target, command.gripper)
        if self.recording:
            self._log.step(replace(controller, events=()), command)
            if self._robot.time >= self._config.episode_seconds - DT / 2:
                said.append(self._event("stop"))
        return said

    def _event(self, event: str) -> str:
        was_recording, before = self.recording, len(self._recorder.finished)
        if event == "start" and not was_recording:
            self._reset()
        said = self._recorder.event(event, self._robot.time)
        finished = len(self._recorder.finished) - before  # -1: the last one was discarded
        self._left -= finished
        if self.recording and not was_recording:
            self._log.begin()
        elif finished or was_recording != self.recording:
            self._reset()
        return f"{said}; {self._left} to go" if finished > 0 else said

    def _reset(self) -> None:
        """The scene at the start of the next episode; the operator must press the deadman anew."""
        if not self.complete:
            index = int(self._recorder.next_name)
            seed = episode_seed(self._config, index, 0)
            self._robot.reset(self._config.skill, seed) if self._config.skill else self._robot.reset_play(seed)
            self._recorder.labels = episode_labels(self._robot, self._config, index, 0, seed)
        self._teleoperator.reset(self._robot.target_pose, 1.0)


def record_by_hand(
    robot: SimulatedPanda,
    recorder: EpisodeRecorder,
    config: RecordConfig,
    count: int,
    controller: Controller,
    window: AbstractContextManager[Any],
) -> None:
    """Record `count` episodes in real time from an open device.

    `window` shows the scene (`SimulatedPanda.window`).
    """
    with window as view, recorder:
        print(controller.instructions, flush=True)
        session, pace, feedback = HandRecording(robot, recorder, config, count), RealTime(), Feedback(controller)
        print(f"{count} episodes of {config.skill or 'play'} to record: start the first when you are ready")
        while not session.complete and view.is_running():
            state = controller.read()
            for line in session.step(state):
                print(line, flush=True)
            feedback.update(state, session.recording)
            view.sync()
            pace.wait()
