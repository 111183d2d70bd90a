"""Record the simulated robot under a person's hand, in real time, one episode after another."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

from diwa_data.files import remove
from diwa_data.recording.recorder import EpisodeRecorder, RecordConfig
from diwa_data.teleop.clutch import ControllerState, Teleoperator
from diwa_data.teleop.opening import Controller, Feedback
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

    A running episode ends with `stop` or after `config.episode_seconds`. `discard` throws it away, or, between two, the
    last one of this session.
    """

    def __init__(self, robot: SimulatedPanda, recorder: EpisodeRecorder, config: RecordConfig, todo: list[int]):
        """`todo`: numbers of the episodes to record."""
        self._robot, self._recorder, self._config = robot, recorder, config
        self._todo, self._done = list(todo), 0
        self._teleoperator = Teleoperator(robot.spec, config.teleop, CONTROL_RATE)
        self._log: EpisodeLog | None = None
        self._finished: list[int] = []
        self._reset()

    @property
    def recording(self) -> bool:
        """An episode is running."""
        return self._log is not None

    @property
    def complete(self) -> bool:
        """All episodes are recorded."""
        return not self._todo

    def step(self, controller: ControllerState) -> list[str]:
        """One control step of 1/60 s; returns lines for the operator."""
        said = [line for event in controller.events for line in self._event(event)]
        if self.complete:
            return said
        command = self._teleoperator.step(controller, self._robot.measured_pose)
        self._robot.advance(command.target, command.gripper)
        if self._log:
            marks = tuple(event for event in controller.events if event == "success")
            self._log.step(replace(controller, events=marks), command)
            if self._robot.time >= self._config.episode_seconds - DT / 2:
                said += self._event("stop")
        return said

    def _event(self, event: str) -> list[str]:
        if self._log is None:
            actions: dict[str, Callable[[], list[str]]] = {"start": self._start, "discard": self._discard_last}
            return actions.get(event, lambda: ["nothing is being recorded"])()
        if event == "stop":
            return self._stop()
        if event == "discard":
            self._recorder.discard()
            self._reset()
            return ["discarded"]
        return [f"success at {self._robot.time:.1f} s"] if event == "success" else ["an episode is running already"]

    def _start(self) -> list[str]:
        index = self._todo[0]
        self._reset()
        labels = episode_labels(self._robot, self._config, index, 0, episode_seed(self._config, index, 0))
        self._recorder.start(labels, f"{index:06d}")
        self._log = EpisodeLog(self._robot, self._recorder)
        self._log.begin()
        return [f"recording {index:06d}"]

    def _stop(self) -> list[str]:
        index = self._todo.pop(0)
        self._recorder.event("stop", self._robot.time)
        self._recorder.stop()
        self._finished.append(index)
        said = [f"finished {index:06d}, {self._robot.time:.1f} s; {len(self._todo)} to go"]
        self._reset()
        return said

    def _discard_last(self) -> list[str]:
        if not self._finished:
            return ["nothing to discard in this session"]
        index = self._finished.pop()
        remove(self._recorder.folder / f"{index:06d}")
        self._todo.insert(0, index)
        self._reset()
        return [f"discarded {index:06d}"]

    def _reset(self) -> None:
        """The scene at the start of the next episode; the operator must press the deadman anew."""
        self._log = None
        if self._todo:
            seed = episode_seed(self._config, self._todo[0], 0)
            self._robot.reset(self._config.skill, seed) if self._config.skill else self._robot.reset_play(seed)
        self._teleoperator.reset(self._robot.target_pose, 1.0)


def record_by_hand(
    robot: SimulatedPanda,
    recorder: EpisodeRecorder,
    config: RecordConfig,
    todo: list[int],
    controller: Controller,
    window: AbstractContextManager[Any],
) -> None:
    """Record the episodes `todo` in real time from an open device.

    `window` shows the scene (`SimulatedPanda.window`).
    """
    with window as view, recorder:
        print(controller.instructions, flush=True)
        session, pace, feedback = HandRecording(robot, recorder, config, todo), RealTime(), Feedback(controller)
        print(f"{len(todo)} episodes of {config.skill or 'play'} to record: start the first when you are ready")
        while not session.complete and view.is_running():
            state = controller.read()
            for line in session.step(state):
                print(line, flush=True)
            feedback.update(state, session.recording)
            view.sync()
            pace.wait()
