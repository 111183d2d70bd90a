"""CALVIN's data: hand-computed actions, import of play and demonstrations, damage, resuming, what is unpickled."""

import io
import json
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diwa_data.calvin.convert import CalvinImportConfig, CalvinPiece, demonstrations, import_calvin, play
from diwa_data.calvin.format import (
    FrameRange,
    frame_path,
    pose_of,
    read_annotations,
    read_array,
    read_episodes,
    read_frame,
)
from diwa_data.dataset.dataset import Dataset, load_dataset
from diwa_data.errors import DiwaError
from diwa_data.images import preprocess
from diwa_data.pose import Pose, integrate, relative_action, robot_state
from diwa_data.skills import Goal, recorded_goal
from diwa_data.spec import CALVIN, Spec
from diwa_data.testing.synthetic import LED_AT, robot_observation, scene_observation, write_calvin
from diwa_data.view.inspect import inspect_path

LENGTHS = [40, 25]
"""Frames 0 to 39 and 40 to 64."""
SEGMENTS = [
    ("open_drawer", 2, 20),
    ("open_drawer", 41, 60),
    ("open_drawer", 5, 22),  # overlaps the first
    ("turn_on_led", 10, 39),
    ("turn_off_led", 0, 12),  # never done
    ("push_red_block_left", 3, 30),
    ("open_drawer", 45, 64),  # ends with the episode
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_calvin(tmp_path_factory.mktemp("calvin") / "task_D_D/training", LENGTHS, SEGMENTS)


@pytest.fixture(scope="module")
def imported(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    out = tmp_path_factory.mktemp("out") / "play.h5"
    import_calvin(folder, out, CalvinImportConfig(episode_frames=16, workers=1))
    return load_dataset(out, CALVIN)


def pose(position: list[float], euler: list[float]) -> Pose:
    return pose_of(np.array([*position, *euler]))


@pytest.mark.parametrize(
    ("start", "end", "gripper", "expected"),
    [
        (([0.1, 0.2, 0.3], [3.0, 0, 1.5]), ([0.11, 0.2, 0.25], [3.0, 0, 1.5]), 1.0, [0.5, 0, -1, 0, 0, 0, 1]),
        (([0, 0, 0], [3.0, 0.1, 1.5]), ([0, 0, 0], [3.02, 0.09, 1.45]), -1.0, [0, 0, 0, 0.4, -0.2, -1, -1]),
        (([0, 0, 0], [3.13, 0, 0]), ([0, 0, 0], [3.14 - 2 * np.pi, 0, 0]), 1.0, [0, 0, 0, 0.2, 0, 0, 1]),
        (([0, 0, 0], [0, 0, 3.1]), ([0.004, 0, 0], [0, 0, -3.1]), 1.0, [0.2, 0, 0, 0, 0, 1, 1]),
    ],
)
def test_relative_actions_by_hand(start, end, gripper, expected) -> None:
    """x 50 per metre, x 20 per radian, clipped, Euler angles subtracted the short way round."""
    action = relative_action(pose(*start), pose(*end), gripper, CALVIN.action)
    np.testing.assert_allclose(action, expected, atol=1e-5)


angle, tilt, unit = st.floats(-3.1415, 3.1415), st.floats(-1.4, 1.4), st.floats(-1, 1)


@settings(max_examples=200)
@given(st.tuples(angle, tilt, angle), st.tuples(unit, unit, unit))
def test_euler_subtraction_is_calvins_and_integration_its_inverse(start, turn) -> None:
    begin, action = pose([0, 0, 0], list(start)), np.array([0, 0, 0, *turn, 1])
    end = pose([0, 0, 0], list(np.array(start) + 0.05 * np.array(turn)))
    np.testing.assert_allclose(relative_action(begin, end, 1.0, CALVIN.action), action, atol=1e-5)
    reached = integrate(begin, action, CALVIN.action)
    np.testing.assert_allclose(reached.rotation.as_matrix(), end.rotation.as_matrix(), atol=1e-6)


def test_the_contract_of_calvin() -> None:
    assert (CALVIN.rate, CALVIN.frames_per_tick, CALVIN.state_dim, len(CALVIN.scene_state)) == (30.0, 1, 10, 24)
    assert CALVIN.scene_state[:7] == ("slider", "drawer", "button", "switch", "bulb", "led", "red_x")
    assert CALVIN.scene_state[23] == "pink_rz"
    assert Spec.from_json(CALVIN.to_json(), "here") == CALVIN
    np.testing.assert_array_equal(CALVIN.action.null, [0, 0, 0, 0, 0, 0, 1])  # +1 opens


def test_play_holds_every_transition_once(folder: Path, imported: Dataset) -> None:
    episodes = imported.episodes
    assert [len(episode) for episode in episodes] == [17, 17, 8, 17, 9]
    assert sum(len(episode) - 1 for episode in episodes) == sum(LENGTHS) - len(LENGTHS)
    np.testing.assert_array_equal(episodes[0].images["static"][-1], episodes[1].images["static"][0])
    np.testing.assert_allclose(episodes[3].stamp[:2], [40 / 30, 41 / 30])
    assert {episode.attributes["source"] for episode in episodes} == {"play"}
    assert not any(episode.success.any() for episode in episodes)


def test_rows_are_calvins_frames(folder: Path, imported: Dataset) -> None:
    episode = imported.episodes[1]  # frames 16 to 32
    frame = read_frame(frame_path(folder, 20))
    for camera in CALVIN.cameras:
        np.testing.assert_array_equal(episode.images[camera.name][4], preprocess(frame.images[camera.name], camera))
    np.testing.assert_array_equal(episode.state[4], robot_state(pose_of(robot_observation(20)), 0.04))
    np.testing.assert_array_equal(episode.scene_state[4], scene_observation(20))
    np.testing.assert_allclose(episode.action[4], [0.05, 0, 0.2, 0.2, 0, 0, -1], atol=1e-6)
    np.testing.assert_array_equal(episode.action[-1], [0, 0, 0, 0, 0, 0, -1])  # the last row holds


def test_actions_lead_from_pose_to_pose(imported: Dataset) -> None:
    """Integrated from the first pose, the actions give the recorded ones, past roll = pi as well."""
    episode = imported.episodes[0]
    reached = Pose.from_state(episode.state[0])
    for action, state in zip(episode.action[:-1], episode.state[1:], strict=True):
        reached = integrate(reached, action, CALVIN.action)
        np.testing.assert_allclose(robot_state(reached, state[9]), state, atol=1e-5)


def test_workers_change_nothing(folder: Path, imported: Dataset, tmp_path: Path) -> None:
    import_calvin(folder, tmp_path / "play.h5", CalvinImportConfig(episode_frames=16, workers=2))
    for one, other in zip(imported.episodes, load_dataset(tmp_path / "play.h5").episodes, strict=True):
        np.testing.assert_array_equal(one.action, other.action)
        np.testing.assert_array_equal(one.images["gripper"], other.images["gripper"])


def test_demonstrations_are_marked_where_the_task_is_done(folder: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "demos.h5"
    import_calvin(folder, out, CalvinImportConfig(skill="open_drawer", count=2, workers=1))
    for episode in load_dataset(out).episodes:
        assert episode.attributes["skill"] == "open_drawer"
        labels = episode.attributes["labels"]
        assert labels["instruction"] == "please open drawer"
        assert recorded_goal(labels, "open_drawer", "labels") == Goal("drawer", 0.0, 0.12)
        first = round(episode.stamp[0] * 30) % 40  # frame of its episode
        wanted = next(t for t in range(40) if scene_observation(first + t)[1] - scene_observation(first)[1] >= 0.12)
        assert episode.attributes["success_tick"] == wanted
        np.testing.assert_array_equal(episode.success, np.arange(len(episode)) >= wanted)
    assert "success marks: 2 where the scene state meets the task, 0 at" in capsys.readouterr().out
    assert "2 demonstration open_drawer" in inspect_path(out)


@pytest.mark.parametrize(
    ("skill", "length", "mark", "how"),
    [("turn_on_led", 30, LED_AT - 10, "condition"), ("turn_off_led", 13, 12, "segment end")],
)
def test_marks_of_lights_and_of_tasks_never_done(folder, tmp_path, skill, length, mark, how) -> None:
    import_calvin(folder, tmp_path / "demos.h5", CalvinImportConfig(skill=skill, count=1, workers=1))
    (episode,) = load_dataset(tmp_path / "demos.h5").episodes
    assert (len(episode), episode.attributes["success_tick"]) == (length, mark)
    assert episode.attributes["labels"]["mark"] == how


def test_any_annotated_task_is_a_skill(tmp_path: Path) -> None:
    folder = write_calvin(tmp_path / "data", [20], [("lift_red_block_table", 2, 12)])
    import_calvin(folder, tmp_path / "demos.h5", CalvinImportConfig("lift_red_block_table", count=1, workers=1))
    (episode,) = load_dataset(tmp_path / "demos.h5").episodes
    assert (episode.attributes["skill"], episode.attributes["success_tick"]) == ("lift_red_block_table", 10)
    assert recorded_goal(episode.attributes["labels"], "lift_red_block_table", "labels") is None
    with pytest.raises(DiwaError, match=r"'lift_red_block'; choose one of lift_red_block_table\. Did you mean"):
        import_calvin(folder, tmp_path / "x.h5", CalvinImportConfig("lift_red_block", workers=1))


def test_demonstrations_overlap_last_and_the_seed_chooses(folder: Path) -> None:
    some = [
        [each.segment for each in demonstrations(folder, CalvinImportConfig(skill="open_drawer", count=1, seed=seed))]
        for seed in range(8)
    ]
    assert len({segments[0] for segments in some}) > 1
    for seed in range(8):
        config = CalvinImportConfig(skill="open_drawer", count=2, seed=seed)
        one, other = (each.segment for each in demonstrations(folder, config))
        assert one.last < other.first
    assert len(demonstrations(folder, CalvinImportConfig(skill="open_drawer", count=0))) == 4
    with pytest.raises(DiwaError, match="4 annotated segments of open_drawer, not 50"):
        demonstrations(folder, CalvinImportConfig(skill="open_drawer"))


def test_annotations_stay_in_their_episode(folder: Path) -> None:
    annotations = read_annotations(folder)
    assert annotations[0].task == "open_drawer"
    assert annotations[0].segment == FrameRange(2, 20)
    assert annotations[6].segment == FrameRange(45, 64)
    assert read_episodes(folder) == [FrameRange(0, 39), FrameRange(40, 64)]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A folder of one episode of 24 frames that a test may damage."""
    return write_calvin(tmp_path / "data", [24], [("open_drawer", 100, 120)], first=100)


def damage(path: Path, **arrays: np.ndarray) -> None:
    with np.load(path) as file:
        whole = dict(file)
    np.savez(path, **{key: value for key, value in (whole | arrays).items() if value is not None})


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda path: path.unlink(), "episode_0000110.npz is missing, and 0 other frames"),
        (lambda path: path.write_bytes(path.read_bytes()[:3000]), "episode_0000110.npz is not a frame of CALVIN"),
        (lambda path: path.write_bytes(b""), "episode_0000110.npz is not a frame of CALVIN"),
        (lambda path: np.save(path.open("wb"), np.zeros(3)), "episode_0000110.npz is not a frame of CALVIN"),
        (lambda path: damage(path, scene_obs=None), "episode_0000110.npz is not a frame of CALVIN.*scene_obs"),
        (lambda path: damage(path, robot_obs=np.zeros(16)), r"episode_0000110.npz: robot_obs is float64 \(16,\)"),
        (lambda path: damage(path, rgb_static=np.zeros((200, 200, 3))), "rgb_static is float64"),
        (lambda path: damage(path, scene_obs=np.full(24, np.nan)), "episode_0000110.npz: scene_obs is not finite"),
        (lambda path: damage(path, rel_actions=np.full(7, 0.0)), "gripper of 1 or -1"),
    ],
)
def test_a_bad_frame_is_named_and_a_second_run_continues(copy: Path, tmp_path: Path, harm, message) -> None:
    path, out = frame_path(copy, 110), tmp_path / "play.h5"
    good, config = path.read_bytes(), CalvinImportConfig(episode_frames=8, workers=1)
    harm(path)
    with pytest.raises(DiwaError, match=message):
        import_calvin(copy, out, config)
    assert not out.exists()
    parts = {part: part.stat().st_mtime_ns for part in (tmp_path / ".play.h5.parts").glob("*.h5")}
    path.write_bytes(good)
    assert len(parts) == (0 if "missing" in message else 1)
    import_calvin(copy, out, config)
    assert [len(episode) for episode in load_dataset(out).episodes] == [9, 9, 8]


@pytest.mark.parametrize(
    ("array", "more", "message"),
    [
        (np.zeros(4, "U3"), b"", "not plain numbers"),
        (np.zeros(4, [("x", float)]), b"", "not plain numbers"),
        (np.zeros(9), b"", "more than 64 bytes"),
        (np.zeros(4), b"x", "but more bytes"),
    ],
)
def test_an_array_file_is_read_only_if_it_holds_the_numbers_that_it_says(array, more: bytes, message: str) -> None:
    file = io.BytesIO()
    np.save(file, array)
    with pytest.raises(ValueError, match=message):
        read_array(io.BytesIO(file.getvalue() + more), 64)


def test_an_array_file_that_says_more_than_it_has_costs_no_memory() -> None:
    file = io.BytesIO()
    np.lib.format.write_array_header_2_0(file, {"descr": "<f8", "fortran_order": True, "shape": (2, 4)})
    assert read_array(io.BytesIO(file.getvalue() + bytes(64))).flags.f_contiguous
    with pytest.raises(ValueError, match="but 8 bytes"):
        read_array(io.BytesIO(file.getvalue() + bytes(8)))


def test_importing_again_is_a_no_op_and_other_pieces_are_refused(copy: Path, tmp_path: Path, capsys) -> None:
    out, config = tmp_path / "play.h5", CalvinImportConfig(workers=1)
    import_calvin(copy, out, config)
    written = out.stat().st_mtime_ns
    import_calvin(copy, out, config)
    assert "complete already" in capsys.readouterr().out
    assert out.stat().st_mtime_ns == written
    with pytest.raises(DiwaError, match="begun with other settings: config"):
        import_calvin(copy, out, CalvinImportConfig(skill="open_drawer", count=1, workers=1))


def test_data_of_another_convention_are_refused(copy: Path, tmp_path: Path) -> None:
    for number in range(100, 124):
        path = frame_path(copy, number)
        damage(path, rel_actions=read_frame(path).action * np.array([1, 1, 0.5, 1, 1, 1, 1]))
    with pytest.raises(DiwaError, match=r"episode_0000100.npz: rel_actions is .* 0.1, .* say .* 0.2, .* 100 %"):
        import_calvin(copy, tmp_path / "play.h5", CalvinImportConfig(workers=1))


@pytest.mark.parametrize(
    ("skill", "where", "message"),
    [
        ("", "..", "no ep_start_end_ids.npy: name .*data"),
        ("", "lang_annotations", "no ep_start_end_ids.npy: name a folder with"),
        ("sweep", ".", "unknown annotated task of .* 'sweep'"),
        ("turn_on_led", ".", "unknown annotated task of .* 'turn_on_led'"),
    ],
)
def test_what_cannot_be_imported(copy: Path, tmp_path: Path, skill: str, where: str, message: str) -> None:
    copy.rename(copy.parent / "training")
    with pytest.raises(DiwaError, match=message.replace("data", "training")):
        import_calvin(
            (copy.parent / "training" / where).resolve(), tmp_path / "x.h5", CalvinImportConfig(skill, workers=1)
        )


def test_memory_holds_few_frames(tmp_path: Path) -> None:
    """A segment of 300 frames, 7.4 MB at the networks' size, needs a fraction of that."""
    folder = write_calvin(tmp_path / "data", [300])
    piece = CalvinPiece(folder, play(folder, CalvinImportConfig(workers=1))[0].segment)
    with h5py.File(tmp_path / "part.h5", "w") as file:
        tracemalloc.start()
        piece.build(file)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(file["0/state"]) == 300
    assert peak < 5e6, f"{peak / 1e6:.1f} MB"


def test_labels_say_where_an_episode_comes_from(imported: Dataset) -> None:
    attributes = imported.episodes[3].attributes
    assert attributes["bag"] == "episode_0000040 to 56"
    assert json.loads(json.dumps(attributes["labels"])) == {"source": "play"}
