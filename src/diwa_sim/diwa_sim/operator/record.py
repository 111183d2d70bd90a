"""Record the simulated robot: by hand, or under the scripted operator with several processes at once."""

from __future__ import annotations

import dataclasses
import math
import multiprocessing
import time
from collections.abc import Iterator
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diwa_data.errors import DiwaError
from diwa_data.files import read_object, remove, require_same_settings, write_json
from diwa_data.locks import FolderLock
from diwa_data.processes import children_without_interrupts, process_pool
from diwa_data.progress import progress
from diwa_data.recording.bag_writer import HIDDEN, tell_unfinished, unfinished_episodes
from diwa_data.recording.recorder import EpisodeRecorder, RecordConfig
from diwa_data.skills import require_skill
from diwa_data.teleop.clutch import Teleoperator
from diwa_data.teleop.devices import open_device
from diwa_sim.operator.by_hand import record_by_hand
from diwa_sim.operator.episode_log import EpisodeLog, episode_labels, episode_seed
from diwa_sim.operator.play import Performance
from diwa_sim.table import CONTROL_RATE, SimConfig, SimulatedPanda

MAX_ATTEMPTS = 8
"""Starts that are tried until a demonstration succeeds."""
_FREE = ("episodes", "minutes", "workers", "devices")  # what may change between two runs into one folder


def record(out: Path, config: RecordConfig, sim: SimConfig | None = None) -> list[Path]:
    """Record `config.episodes` demonstrations of `config.skill`, or `config.minutes` of play, into `out`.

    An episode of the scripted operator depends on the config, its seed and its own number only. Finished episodes are
    kept, so a second run continues; a changed config is refused. Returns the episodes' folders.
    """
    count = config.episodes
    if config.skill:
        require_skill(config.skill)
    else:
        count = math.ceil(config.minutes * 60 / config.episode_seconds)
    with FolderLock(Path(out)):
        return _record(Path(out), config, sim or SimConfig(), count)


def _record(out: Path, config: RecordConfig, sim: SimConfig, count: int) -> list[Path]:
    """What `record` does in its folder."""
    paths = [out / f"{index:06d}" for index in range(count)]
    if config.device != "scripted":
        if left := tell_unfinished(out):
            raise DiwaError(f"{left}, or delete {unfinished_episodes(out)[0]} if nobody wants it; then record on")
        with closing(open_device(config.device, config.devices, "--device scripted")) as controller:
            require_same_config(out, config, sim)
            robot = SimulatedPanda(sim)
            recorder = EpisodeRecorder(out, robot.spec, config.storage)
            record_by_hand(robot, recorder, config, len(_missing(paths)), controller, robot.window())
        return [path for path in paths if path.exists()]
    require_same_config(out, config, sim)
    todo = _missing(paths)
    title = f"recording {config.skill or 'play'}"
    started, seconds = time.monotonic(), 0.0
    with progress(title, count, "episodes", count - len(todo)) as bar:
        for recorded in _episodes(todo, out, config, sim):
            seconds += recorded
            bar.advance(note=f"{seconds / (time.monotonic() - started):.1f}x real time")
    return paths


def _missing(paths: list[Path]) -> list[int]:
    """Numbers of the episodes that are not recorded yet."""
    return [index for index, path in enumerate(paths) if not path.exists()]


def record_episode(robot: SimulatedPanda, recorder: EpisodeRecorder, index: int, config: RecordConfig) -> float:
    """Record episode number `index` into `recorder`; returns its length in seconds.

    A demonstration that fails is discarded and done again from another start, as an operator would.
    """
    for attempt in range(MAX_ATTEMPTS):
        seed = episode_seed(config, index, attempt)
        if config.skill:
            robot.reset(config.skill, seed)
        else:
            robot.reset_play(seed)
        recorder.start(robot.time, episode_labels(robot, config, index, attempt, seed), f"{index:06d}")
        if _perform(robot, recorder, config, np.random.default_rng((config.seed, index, attempt))):
            recorder.stop(robot.time)
            return robot.time
        recorder.discard()
    raise DiwaError(f"the operator failed {MAX_ATTEMPTS} times at {config.skill}, episode {index}: change record.seed")


def _perform(robot: SimulatedPanda, recorder: EpisodeRecorder, config: RecordConfig, rng: np.random.Generator) -> bool:
    """One episode; False if a demonstration was not marked a success and held in time."""
    performance = Performance(robot, config.skill, config.episode_seconds, rng)
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


@dataclass(frozen=True)
class _Job:
    """What every process of a recording shares."""

    out: Path
    config: RecordConfig
    sim: SimConfig


def _episodes(todo: list[int], out: Path, config: RecordConfig, sim: SimConfig) -> Iterator[float]:
    """Record the episodes `todo`; yields the length in seconds of each as it is done."""
    job = _Job(out, config, sim)
    workers = min(config.workers, len(todo))
    if workers <= 1:
        _start_worker(job)
        yield from map(_work, todo)
        return
    pool = process_pool(workers, _start_worker, job)
    try:
        with children_without_interrupts():
            futures = [pool.submit(_work, index) for index in todo]
        for future in as_completed(futures):
            yield future.result()
    except BrokenProcessPool as error:
        raise DiwaError(
            "a recording process died (out of memory?): run again to continue, or lower record.workers"
        ) from error
    except BaseException:
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        for left_over in out.glob(f"{HIDDEN}*"):
            remove(left_over)


_worker: tuple[SimulatedPanda, EpisodeRecorder, RecordConfig] | None = None


def _start_worker(job: _Job) -> None:
    global _worker
    robot = SimulatedPanda(job.sim)
    _worker = robot, EpisodeRecorder(job.out, robot.spec, job.config.storage), job.config


def _work(index: int) -> float:
    assert _worker is not None
    robot, recorder, config = _worker
    with recorder:
        return record_episode(robot, recorder, index, config)


def require_same_config(out: Path, config: RecordConfig, sim: SimConfig) -> None:
    """Keep the config beside the episodes; refuse to mix episodes of two."""
    settings = {"record": dataclasses.asdict(config), "sim": dataclasses.asdict(sim)}
    for name in _FREE:
        del settings["record"][name]
    path = out / "record.json"
    if not path.exists():
        write_json(path, settings)
        return
    earlier = read_object(path, "record into another folder")
    known = {section: {name: earlier.get(section, {}).get(name) for name in settings[section]} for section in settings}
    require_same_settings(out, known, settings, otherwise="record into another folder")
