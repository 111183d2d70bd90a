import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from diwa_data.errors import DiwaError
from diwa_data.limits import MotionLimits
from diwa_data.recording import messages
from diwa_data.recording.bag_reader import find_bags, read_episode
from diwa_data.recording.bag_writer import HIDDEN
from diwa_data.recording.recorder import EpisodeRecorder, RecordConfig
from diwa_data.recording.sidecar import Sidecar
from diwa_data.skills import Goal, recorded_goal
from diwa_data.teleop.clutch import TeleopConfig
from diwa_sim.operator.record import record, record_episode
from diwa_sim.starts import StartConfig
from diwa_sim.table import SimConfig, SimulatedPanda
from diwa_sim.tasks import is_done

LIMITS = MotionLimits(max_tilt=1.1)
PLAY = RecordConfig(minutes=0.1, episode_seconds=3.0, workers=1, seed=7, teleop=TeleopConfig(limits=LIMITS))


@pytest.fixture(scope="module")
def demonstrations(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    config = RecordConfig(skill="turn_on_led", episodes=2, failures=2, workers=2)
    return record(tmp_path_factory.mktemp("bags"), config)


def test_demonstrations_carry_streams_events_and_what_replay_needs(
    demonstrations: list[Path], robot: SimulatedPanda
) -> None:
    sidecar = Sidecar.read(demonstrations[1])
    assert sidecar.complete
    assert sidecar.spec == robot.spec
    assert [name for name, _ in sidecar.events] == ["start", "success", "stop"]
    labels = sidecar.labels
    assert (labels["source"], labels["skill"], labels["index"]) == ("demonstration", "turn_on_led", 1)
    assert recorded_goal(labels, "turn_on_led", "labels") == Goal("led", 0.0, 0.5)
    streams = read_episode(demonstrations[1])
    robot.reset(labels["skill"], labels["seed"])
    first = robot.observe()
    for camera in robot.spec.cameras:
        np.testing.assert_array_equal(streams[messages.image_topic(camera.name)][0].value, first.images[camera.name])
    np.testing.assert_array_equal(streams[messages.SCENE_STATE][0].value, robot.scene_state())
    np.testing.assert_allclose(streams[messages.TARGET_POSE][0].value.position, robot.target_pose.position)
    frames = np.array([sample.received for sample in streams[messages.image_topic("static")]])
    np.testing.assert_allclose(np.diff(frames), 1 / 30, atol=1e-6)
    targets = np.array([sample.received for sample in streams[messages.TARGET_POSE]])
    np.testing.assert_allclose(np.diff(targets), 1 / 60, atol=1e-6)


def test_spoilt_attempts_follow_and_fail(demonstrations: list[Path]) -> None:
    assert [path.name for path in demonstrations] == ["000000", "000001", "failed-000000", "failed-000001"]
    for path in demonstrations[2:]:
        sidecar = Sidecar.read(path)
        assert (sidecar.outcome, sidecar.labels["spoilt"]) == ("fail", True)
        assert [name for name, _ in sidecar.events] == ["start", "fail", "stop"]
        scene = np.stack([sample.value for sample in read_episode(path)[messages.SCENE_STATE]])
        assert not is_done("turn_on_led", scene[0], scene).any()


def test_an_episode_depends_on_its_number_only_and_a_second_run_continues(tmp_path: Path) -> None:
    first = record(tmp_path / "a", PLAY)
    assert [path.name for path in first] == ["000000", "000001"]
    written = first[0].joinpath("metadata.yaml").stat().st_mtime_ns
    longer = dataclasses.replace(PLAY, minutes=0.15)
    again = record(tmp_path / "a", longer)
    assert len(again) == 3
    assert first[0].joinpath("metadata.yaml").stat().st_mtime_ns == written, "finished episodes are kept"
    other = record(tmp_path / "b", dataclasses.replace(longer, workers=2))
    for here, there in zip(again, other, strict=True):
        one, two = read_episode(here), read_episode(there)
        assert one.keys() == two.keys()
        for topic in (messages.SCENE_STATE, messages.image_topic("static"), messages.image_topic("gripper")):
            assert len(one[topic]) == len(two[topic]) == 91
            assert all(np.array_equal(a.value, b.value) for a, b in zip(one[topic], two[topic], strict=True))
    sidecar = Sidecar.read(again[0])
    assert (sidecar.labels["source"], sidecar.spec.limits) == ("play", LIMITS)


def test_a_changed_config_is_refused_by_name(tmp_path: Path) -> None:
    record(tmp_path, dataclasses.replace(PLAY, minutes=0.05))
    with pytest.raises(DiwaError, match=r"record\.seed was 7, is 8"):
        record(tmp_path, dataclasses.replace(PLAY, seed=8))
    with pytest.raises(DiwaError, match=r"sim\.start"):
        record(tmp_path, PLAY, SimConfig(StartConfig(spread_yaw=0.1)))


def test_bad_requests_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(DiwaError, match="fly"):
        record(tmp_path / "a", RecordConfig(skill="fly"))
    with pytest.raises(DiwaError, match="no SteamVR; try --device scripted "):
        record(tmp_path / "a", RecordConfig(device="vive"))
    assert not (tmp_path / "a").exists()


def test_tasks_that_the_scene_is_not_made_for_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    for config, sim, said in (
        (RecordConfig(skill="lift_cube"), SimConfig(fixed_gripper=True), "'lift_cube' needs fingers"),
        (RecordConfig(tasks=("stack_cubes",)), SimConfig(), "'stack_cubes' needs the object 'block'"),
        (RecordConfig(tasks=("fly",)), SimConfig(), "unknown simulated task 'fly'"),
        (RecordConfig(tasks=("lift_cube",), task_share=float("nan")), SimConfig(), "task_share is nan"),
        (RecordConfig(skill="turn_on_led", failures=-3), SimConfig(), "record.failures is -3"),
        (RecordConfig(), SimConfig(objects=("cup",)), "unknown object of the scene 'cup'"),
    ):
        with pytest.raises(DiwaError, match=said):
            record(tmp_path / "a", config, sim)
    assert not (tmp_path / "a").exists()


def test_an_operator_who_always_fails_is_an_error(tmp_path: Path) -> None:
    caged = MotionLimits(workspace_low=(0.2, -0.5, 0.15))  # no handle is that high up
    config = RecordConfig(skill="open_drawer", episodes=1, workers=1, teleop=TeleopConfig(limits=caged))
    with pytest.raises(DiwaError, match="failed 8 times at open_drawer"):
        record(tmp_path, config)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [*(f"000000-failed-{attempt}" for attempt in range(8)), "record.json"]


def test_failed_tries_are_kept_under_names_of_their_own(
    tmp_path: Path, robot: SimulatedPanda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diwa_sim.operator.record.MAX_ATTEMPTS", 2)
    monkeypatch.setattr("diwa_sim.operator.record._perform", lambda *_: False)  # an attempt takes seconds
    config = RecordConfig(skill="open_drawer")
    for _ in range(2):  # once more, as after an interruption: what was kept stays
        with EpisodeRecorder(tmp_path, robot.spec) as recorder, pytest.raises(DiwaError, match="failed 2 times"):
            record_episode(robot, recorder, "000003", config)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000003-failed-0", "000003-failed-1"]
    for attempt, bag in enumerate(find_bags([tmp_path])):
        sidecar = Sidecar.read(bag)
        assert (sidecar.outcome, sidecar.labels["attempt"]) == ("fail", attempt)
        assert [event.value for event in read_episode(bag)[messages.EPISODE_EVENT]] == ["start", "fail", "stop"]


def test_a_spoilt_attempt_that_succeeds_is_done_again_until_one_fails(
    tmp_path: Path, robot: SimulatedPanda, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([False] * 12 + [True])  # more often than a demonstration may go wrong
    monkeypatch.setattr("diwa_sim.operator.record._perform", lambda *_: next(answers))
    with EpisodeRecorder(tmp_path, robot.spec) as recorder:
        record_episode(robot, recorder, "failed-000000", RecordConfig(skill="turn_on_led"))
    assert [path.name for path in tmp_path.iterdir()] == ["failed-000000"]
    assert Sidecar.read(tmp_path / "failed-000000").labels["attempt"] == 12


def test_ctrl_c_leaves_nothing_half_written_and_a_second_run_continues(tmp_path: Path) -> None:
    config = "RecordConfig(minutes=2, episode_seconds=4, seed=3)"
    code = (
        "from pathlib import Path; from diwa_data.recording.recorder import RecordConfig\n"
        "from diwa_sim.operator.record import record\n"
        f"if __name__ == '__main__': record(Path({str(tmp_path)!r}), {config})"
    )
    script = tmp_path.with_suffix(".py")
    script.write_text(code)
    process = subprocess.Popen([sys.executable, script], stderr=subprocess.PIPE, start_new_session=True)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("0*")) and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert errors.decode().rstrip().endswith("KeyboardInterrupt")
    finished = sorted(path.name for path in tmp_path.iterdir())
    assert all(name == "record.json" or Sidecar.read(tmp_path / name).complete for name in finished)
    count = len(finished) - 1
    assert 0 < count < 30
    record(tmp_path, RecordConfig(minutes=(count + 1) * 4 / 60, episode_seconds=4, seed=3, workers=1))
    assert len(list(tmp_path.iterdir())) >= count + 1


def test_recording_by_hand_begins_with_what_a_killed_recorder_left(tmp_path: Path) -> None:
    """Recording its number again would delete the episode that a person has played."""
    left = tmp_path / f"{HIDDEN}000003-77" / "000003"
    left.mkdir(parents=True)
    with pytest.raises(DiwaError, match=rf"1 unfinished: 000003; save with 'diwa recover {tmp_path}', or delete"):
        record(tmp_path, RecordConfig(device="keyboard", skill="open_drawer"))
    assert left.is_dir()
