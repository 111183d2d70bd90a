"""Record the simulated robot: by hand, or under the scripted operator with several processes at once."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from diwa_data.config import Job
from diwa_data.errors import DiwaError
from diwa_data.files import FolderLock, read_object, remove, require_same_settings, write_json
from diwa_data.processes import run_unordered
from diwa_data.progress import progress
from diwa_data.recording import messages
from diwa_data.recording.bag_writer import HIDDEN, tell_unfinished, unfinished_episodes
from diwa_data.recording.recorder import EpisodeRecorder, RecordConfig
from diwa_data.skills import skill_name
from diwa_data.teleop.clutch import GRIPPER_REPEAT, Command, ControllerState, Teleoperator
from diwa_data.teleop.devices import Feedback, open_device
from diwa_sim.calvin.config import RECORDED_RATE, CalvinConfig
from diwa_sim.environments import EnvironmentConfig, Simulated, require_task, shared_robot
from diwa_sim.operator.plans import Performance
from diwa_sim.steps import CONTROL_RATE, DT
from diwa_sim.table import SimConfig, SimulatedPanda
from diwa_sim.tasks import TASKS, require_objects, scene_objects

MAX_ATTEMPTS = 8
"""Starts that are tried until a demonstration succeeds."""
_PLACES = {"sim": "table", "calvin": "calvin"}
MAX_SPOILT = 50
"""Starts that are tried until a spoilt attempt fails: a button is pressed through by most strokes that stop short."""
SPOILT = "failed-"
"""Names of spoilt attempts begin so."""
_FREE = ("episodes", "minutes", "failures", "workers", "devices", "keep_failed")
"""Settings that may change between two runs into one folder."""


@dataclass(frozen=True)
class SimulatedRecordConfig(EnvironmentConfig, RecordConfig):
    """`diwa record`: environment, skill, amount, operator and device."""


@dataclass(frozen=True)
class RecordJob(Job):
    """Teleoperate the simulated robot into rosbag2 episodes: play, or demonstrations with --skill."""

    command_name: ClassVar[str] = "record"
    section: ClassVar[str] = "record"

    out: Path
    """Folder of the episodes; an interrupted recording continues."""
    config: SimulatedRecordConfig = field(default_factory=SimulatedRecordConfig)
    """Environment, skill, amount, operator and device."""
    sim: SimConfig = field(default_factory=SimConfig)
    """Our simulated table."""

    def run(self) -> None:
        """Record, or continue."""
        record(self.out, self.config, self.config.chosen(self.sim))


def record(out: Path, config: RecordConfig, sim: SimConfig | CalvinConfig | None = None) -> list[Path]:
    """Record `config.episodes` demonstrations of `config.skill`, or `config.minutes` of play, into `out`.

    `config.failures` spoilt attempts at the skill follow.

    `sim` is our table or CALVIN's scene, which is recorded at 7.5 Hz whatever it says. An episode of the scripted
    operator depends on the config, its seed and its own number only. Finished episodes are kept, so a second run
    continues; a changed config is refused. Returns the episodes' folders.
    """
    out, sim, count = Path(out), sim or SimConfig(), config.episodes
    if isinstance(sim, CalvinConfig):
        sim = replace(sim, rate=RECORDED_RATE, data="")
    _require_known(config, sim)
    if not config.skill:
        count = math.ceil(config.minutes * 60 / config.episode_seconds)
    paths = [out / f"{index:06d}" for index in range(count)]
    with FolderLock(out):
        if config.device == "scripted" or isinstance(sim, CalvinConfig):
            spoilt = config.failures if config.skill else 0
            paths += [out / f"{SPOILT}{index:06d}" for index in range(spoilt)]
            _record_scripted(paths, out, config, sim)
        else:
            _record_by_hand(paths, out, config, sim)
    return [path for path in paths if path.exists()]


def _require_known(config: RecordConfig, sim: SimConfig | CalvinConfig) -> None:
    """Raise `DiwaError` for a task that there is none of, or whose object is not on the table."""
    if config.failures < 0:
        raise DiwaError(f"record.failures is {config.failures}: give 0 or more")
    if not 0 <= config.task_share <= 1:
        raise DiwaError(f"record.task_share is {config.task_share}: give a share from 0 to 1")
    scripted = config.device == "scripted"  # it knows the simulator's tasks only, a person shows anything
    if isinstance(sim, CalvinConfig):
        if not scripted:
            raise DiwaError(f"CALVIN's scene has no window for a person with --device {config.device}: use scripted")
        for name in (*([config.skill] if config.skill else []), *config.tasks):
            require_task(name, sim)
        return
    scene_objects(sim.objects)
    if config.skill:
        require_task(config.skill, sim) if scripted else skill_name(config.skill)
    for name in (*([config.skill] if config.skill in TASKS else []), *config.tasks):
        require_objects(name, sim.objects)
        if sim.fixed_gripper and TASKS[name].technique.grasps:
            raise DiwaError(f"the task {name!r} needs fingers that open and close: leave sim.fixed_gripper out")


def require_same_config(out: Path, config: RecordConfig, sim: SimConfig | CalvinConfig) -> None:
    """Keep the config beside the episodes; refuse to mix episodes of two."""
    place = "calvin" if isinstance(sim, CalvinConfig) else "sim"
    recorded = {name: value for name, value in dataclasses.asdict(config).items() if name not in (*_FREE, "calvin")}
    settings = {"record": {**recorded, "environment": _PLACES[place]}, place: dataclasses.asdict(sim)}
    path = out / "record.json"
    if not path.exists():
        write_json(path, settings)
        return
    earlier = read_object(path, "record into another folder")
    usual = {
        "record": dataclasses.asdict(SimulatedRecordConfig()),
        "sim": dataclasses.asdict(SimConfig()),
        "calvin": dataclasses.asdict(CalvinConfig()),
    }
    known = {
        section: {name: value for name, value in earlier.get(section, {}).items() if name in now}
        for section, now in settings.items()
    }
    require_same_settings(out, known, settings, otherwise="record into another folder", usual=usual)


def _record_scripted(paths: list[Path], out: Path, config: RecordConfig, sim: SimConfig | CalvinConfig) -> None:
    todo = [path.name for path in paths if not path.exists()]
    if todo:  # refuse what cannot be before anything is written
        put_at_start(shared_robot(sim, config.teleop.limits), config, 0)
    require_same_config(out, config, sim)
    work = partial(_record_named, out=out, config=config, sim=sim)
    died = "a recording process died (out of memory?): run again to continue, or lower record.workers"
    started, seconds = time.monotonic(), 0.0
    try:
        with progress(f"recording {config.skill or 'play'}", len(paths), "episodes", len(paths) - len(todo)) as bar:
            for recorded in run_unordered(work, todo, config.workers, died):
                seconds += recorded
                bar.advance(note=f"{seconds / (time.monotonic() - started):.1f}x real time")
    finally:
        for left_over in out.glob(f"{HIDDEN}*"):
            remove(left_over)


def _record_named(name: str, out: Path, config: RecordConfig, sim: SimConfig | CalvinConfig) -> float:
    robot = shared_robot(sim, config.teleop.limits)
    with EpisodeRecorder(out, robot.spec, config.storage) as recorder:
        return record_episode(robot, recorder, name, config)


def record_episode(robot: Simulated, recorder: EpisodeRecorder, name: str, config: RecordConfig) -> float:
    """Record the episode of this `name` into `recorder`; returns its length in seconds.

    A demonstration that fails is done again from another start, as an operator would; what failed is discarded, or with
    `config.keep_failed` marked and kept under a name of its own. A spoilt attempt that succeeds all the same is
    discarded and done again.
    """
    spoil, index = name.startswith(SPOILT), int(name.removeprefix(SPOILT))
    attempts = MAX_SPOILT if spoil else MAX_ATTEMPTS
    for attempt in range(attempts):
        seed = (config.seed, index, attempt, *([1] if spoil else []))
        labels = put_at_start(robot, config, index, attempt, seed)
        recorder.start(robot.time, {**labels, **({"spoilt": True} if spoil else {})}, name)
        if _perform(robot, recorder, config, np.random.default_rng(seed), spoil):
            recorder.stop(robot.time)
            return robot.time
        failed = f"{name}-failed-{attempt}"
        if config.keep_failed and not spoil and not (recorder.folder / failed).exists():
            recorder.mark("fail", robot.time)
            recorder.stop(robot.time, failed)
        recorder.discard()
    what = f"{'spoiling ' if spoil else ''}{config.skill}, episode {name}"
    raise DiwaError(f"the operator failed {attempts} times at {what}: change record.seed")


def put_at_start(
    robot: Simulated, config: RecordConfig, index: int, attempt: int = 0, entropy: tuple[int, ...] = ()
) -> dict[str, Any]:
    """Put the scene where episode `index` begins at its `attempt`-th try; `entropy` seeds the try.

    Returns the labels: what replay needs to do the same, and where the episode comes from.
    """
    seed = int(np.random.SeedSequence(entropy or (config.seed, index, attempt)).generate_state(1)[0])
    robot.reset(config.skill, seed)
    return {
        "source": "demonstration" if config.skill else "play",
        "skill": config.skill,
        "seed": seed,
        "operator": config.operator or config.device,
        "record_seed": config.seed,
        "index": index,
        "attempt": attempt,
        **robot.labels(config.skill),
    }


def _perform(
    robot: Simulated, recorder: EpisodeRecorder, config: RecordConfig, rng: np.random.Generator, spoil: bool
) -> bool:
    """One episode; False if a demonstration was not marked a success, or a spoilt one a failure, and held in time."""
    amounts = config.episode_seconds, rng, config.tasks, config.task_share
    performance = Performance(robot, config.skill, *amounts, spoil)
    teleoperator = Teleoperator(robot.spec, config.teleop, CONTROL_RATE)
    teleoperator.reset(robot.target_pose, 1.0)
    log = EpisodeLog(robot, recorder)
    log.begin()
    while not performance.over:
        controller = performance.read()
        command = teleoperator.step(controller, robot.measured_pose)
        robot.advance(command.target, command.gripper)
        log.step(controller, command)
    return performance.good


class EpisodeLog:
    """Writes what the robot publishes: targets at 60 Hz, everything else with the frames at 30 Hz."""

    def __init__(self, robot: Simulated, recorder: EpisodeRecorder):
        self._robot, self._recorder = robot, recorder
        self._steps_per_frame = round(CONTROL_RATE / robot.spec.record_rate)

    def begin(self) -> None:
        """A new episode: latched commands and the first frame."""
        now = self._robot.time
        self._steps, self._gripper, self._gripper_sent = 0, 1.0, now
        self._recorder.target(self._robot.target_pose, now, now)
        self._tell_gripper(now)
        self._frame()

    def step(self, controller: ControllerState, command: Command) -> None:
        """One control step, after the robot made it: a target is published when the arm has been told all of it."""
        self._steps += 1
        now = self._robot.time
        self._recorder.target(command.target, now, now)
        if command.gripper != self._gripper or now - self._gripper_sent >= GRIPPER_REPEAT - DT / 2:
            self._gripper, self._gripper_sent = command.gripper, now
            self._tell_gripper(now)
        for event in controller.events:
            self._recorder.mark(event, now)
        if self._steps % self._steps_per_frame == 0:
            self._recorder.controller(controller, now, now)
            self._frame()

    def _tell_gripper(self, now: float) -> None:
        if self._robot.spec.action.gripper:
            self._recorder.gripper(self._gripper, now)

    def _frame(self) -> None:
        now = self._robot.time
        for topic, data in self._robot.frame_messages(now):
            self._recorder.write(topic, now, data, messages.TYPES.get(topic, messages.IMAGE_TYPE))
        self._recorder.require_free()


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
        """The scene at the start of the next episode; the operator must press the deadman again."""
        if not self.complete:
            self._recorder.labels = put_at_start(self._robot, self._config, int(self._recorder.next_name))
        self._teleoperator.reset(self._robot.target_pose, 1.0)


def _record_by_hand(paths: list[Path], out: Path, config: RecordConfig, sim: SimConfig) -> None:
    """Record in real time what a person does with an open device, and show the scene in a window."""
    if left := tell_unfinished(out):
        raise DiwaError(f"{left}, or delete {unfinished_episodes(out)[0]} if nobody wants it; then continue recording")
    count = sum(not path.exists() for path in paths)
    with closing(open_device(config.device, config.devices, "--device scripted")) as controller:
        robot = SimulatedPanda(sim, config.teleop.limits)
        require_same_config(out, config, sim)
        with robot.window() as view, EpisodeRecorder(out, robot.spec, config.storage) as recorder:
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
