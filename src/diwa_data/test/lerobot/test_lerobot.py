"""Export to LeRobot's format: layout and numbers by hand, what LeRobot reads of it, every refusal."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import h5py
import imageio_ffmpeg
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from diwa_data.dataset.align import DatasetConfig
from diwa_data.dataset.dataset import Dataset, build_dataset, load_dataset
from diwa_data.errors import DiwaError
from diwa_data.lerobot import export as lerobot
from diwa_data.lerobot import files as lerobot_files
from diwa_data.lerobot.export import export_lerobot
from diwa_data.lerobot.files import FrameTables, ImageStatistics, exact, vector_statistics
from diwa_data.spec import CameraSpec, Spec
from diwa_data.testing.synthetic import record_synthetic

STATIC, GRIPPER = "observation.images.static", "observation.images.gripper"


@pytest.fixture(scope="module")
def built(recorded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """23 ticks of a demonstration, success from tick 15 on; 15 ticks of play."""
    out = tmp_path_factory.mktemp("datasets") / "D.h5"
    build_dataset([recorded], out, DatasetConfig(workers=1))
    return out


@pytest.fixture
def parquet():
    """pyarrow's reader."""
    return pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed (extra `lerobot`)")


def write_dataset(path: Path, images: list[np.ndarray]) -> Path:
    """A dataset of one camera with these images (T, H, W, 3) uint8; the first episode opens the drawer."""
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        file.attrs["spec"] = Spec(cameras=(CameraSpec("static", size=images[0].shape[1:3]),)).to_json()
        for number, frames in enumerate(images):
            group, length = file.create_group(f"episodes/{number:06d}"), len(frames)
            group["static"] = frames
            group["state"] = rng.normal(size=(length, 10)).astype(np.float32)
            group["action"] = rng.uniform(-1, 1, (length, 7)).astype(np.float32)
            group["success"] = np.arange(length) >= 3
            group["stamp"] = group["received"] = np.arange(length) / 7.5
            group.attrs.update(skill="" if number else "open_drawer", source="play", labels="{}")
    return path


def decoded(cell: dict) -> np.ndarray:
    """The rgb image of a cell of the parquet file."""
    return cv2.imdecode(np.frombuffer(cell["bytes"], np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def test_rows_by_hand(parquet, built, tmp_path):
    done = export_lerobot(built, tmp_path / "out")
    assert (done.repo_id, done.episodes, done.frames, done.tasks) == ("local/out", 2, 38, ("open drawer", "play"))
    files = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*"))
    assert files == [
        "README.md",
        "data/chunk-000/file-000.parquet",
        "meta/episodes/chunk-000/file-000.parquet",
        "meta/info.json",
        "meta/stats.json",
        "meta/tasks.parquet",
        "spec.json",
    ]
    assert done.size == sum((tmp_path / "out" / file).stat().st_size for file in files)
    demonstration, play = load_dataset(built).episodes
    rows = parquet.read_table(tmp_path / "out/data/chunk-000/file-000.parquet").to_pylist()
    assert len(rows) == 23 + 15
    last = rows[21]  # the action from tick 21 to tick 22, the last one
    assert last["action"] == demonstration.action[21].tolist()
    assert last["observation.state"] == demonstration.state[21].tolist()
    np.testing.assert_array_equal(decoded(last[GRIPPER]), demonstration.images["gripper"][21])
    assert rows[22]["action"][:6] == [0.0] * 6
    assert [row["next.success"] for row in rows[:23]] == [False] * 14 + [True] * 9
    assert not any(row["next.success"] for row in rows[23:])
    second = rows[24]
    numbers = {key: second[key] for key in ("index", "episode_index", "frame_index", "task_index")}
    assert numbers == {"index": 24, "episode_index": 1, "frame_index": 1, "task_index": 1}
    assert second["timestamp"] == np.float32(1 / 7.5)
    np.testing.assert_array_equal(decoded(second[STATIC]), play.images["static"][1])


def test_failed_attempts_are_left_out(parquet, spec, tmp_path):
    for fail in (1.0, None):
        record_synthetic(tmp_path / "bags", spec, 1.5, {"source": "demonstration", "skill": "pick_cup"}, fail=fail)
    build_dataset([tmp_path / "bags"], tmp_path / "d.h5", DatasetConfig(workers=1))
    done = export_lerobot(tmp_path / "d.h5", tmp_path / "out")
    assert (done.episodes, done.left_out, done.tasks) == (1, 1, ("pick cup",))
    (meta,) = parquet.read_table(tmp_path / "out/meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert (meta["episode_index"], meta["length"]) == (0, done.frames)


def test_metadata_by_hand(parquet, built, spec, tmp_path):
    export_lerobot(built, tmp_path / "out", repo_id="lab/drawer")
    meta = tmp_path / "out/meta"
    info = json.loads((meta / "info.json").read_text())
    assert (info["codebase_version"], info["fps"], info["splits"]) == ("v3.0", 7.5, {"train": "0:2"})
    assert (info["total_episodes"], info["total_frames"], info["total_tasks"]) == (2, 38, 2)
    assert (info["robot_type"], info["video_path"], info["chunks_size"]) == ("panda_sim", None, 1000)
    assert info["features"][STATIC] == {
        "dtype": "image",
        "shape": [16, 16, 3],
        "names": ["height", "width", "channels"],
    }
    state = info["features"]["observation.state"]
    assert (state["shape"], len(state["names"]), state["names"][-1]) == ([10], 10, "gripper_width")
    assert info["features"]["action"]["names"][:4] == ["delta_x", "delta_y", "delta_z", "delta_roll"]
    assert info["features"]["next.success"] == {"dtype": "bool", "shape": [1], "names": None}
    tasks = parquet.read_table(meta / "tasks.parquet").to_pylist()
    assert tasks == [{"task_index": 0, "task": "open drawer"}, {"task_index": 1, "task": "play"}]
    first, second = parquet.read_table(meta / "episodes/chunk-000/file-000.parquet").to_pylist()
    assert (first["tasks"], first["length"], second["length"]) == (["open drawer"], 23, 15)
    assert (second["dataset_from_index"], second["dataset_to_index"], second["data/file_index"]) == (23, 38, 0)
    play = load_dataset(built).episodes[1]
    np.testing.assert_allclose(second["stats/action/mean"], play.action.mean(axis=0), atol=1e-6)
    brightest = [[[value / 255]] for value in play.images["static"].max(axis=(0, 1, 2))]
    assert (second[f"stats/{STATIC}/max"], second[f"stats/{STATIC}/count"]) == (brightest, [15])
    whole = json.loads((meta / "stats.json").read_text())
    assert set(whole) == set(info["features"])
    actions = np.concatenate([episode.action for episode in load_dataset(built).episodes])
    np.testing.assert_allclose(whole["action"]["q90"], np.quantile(actions, 0.9, axis=0), atol=1e-6)
    assert whole[STATIC]["count"] == whole["action"]["count"] == [38]
    assert Spec.from_json((tmp_path / "out/spec.json").read_text(), "spec.json") == spec
    assert 'LeRobotDataset("lab/drawer")' in (tmp_path / "out/README.md").read_text()


def test_files_that_are_full_are_followed_by_new_ones(parquet, built, tmp_path, monkeypatch):
    monkeypatch.setattr(lerobot_files, "DATA_MEGABYTES", 0)
    monkeypatch.setattr(lerobot_files, "VIDEO_SECONDS", 4.0)  # of 23 / 7.5 + 15 / 7.5 = 5.1 s
    monkeypatch.setattr(lerobot_files, "CHUNK_SIZE", 1)
    export_lerobot(built, tmp_path / "out", video=True)
    second = parquet.read_table(tmp_path / "out/meta/episodes/chunk-000/file-000.parquet").to_pylist()[1]
    assert (second["data/chunk_index"], second["data/file_index"]) == (1, 0)
    places = [second[f"videos/{STATIC}/{key}"] for key in ("chunk_index", "file_index", "from_timestamp")]
    assert places == [1, 0, 0.0]
    assert second[f"videos/{STATIC}/to_timestamp"] == pytest.approx(15 / 7.5)
    for file in ("data/chunk-001/file-000.parquet", f"videos/{GRIPPER}/chunk-001/file-000.mp4"):
        assert (tmp_path / "out" / file).is_file()
    assert parquet.read_table(tmp_path / "out/data/chunk-001/file-000.parquet")["index"].to_pylist()[0] == 23


@pytest.fixture
def lerobot_dataset(tmp_path, monkeypatch):
    """LeRobot's own reader, its cache in the test's folder."""
    reason = "lerobot is not installed"
    module = pytest.importorskip("lerobot.datasets.lerobot_dataset", reason=reason)
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return module.LeRobotDataset


def equal_but_for_images(item: dict, dataset: Dataset, number: int, tick: int) -> None:
    """A frame as LeRobot reads it, with the next two actions, against the dataset."""
    episode = dataset.episodes[number]
    assert (item["episode_index"], item["frame_index"]) == (number, tick)
    assert item["task"] == ["open drawer", "play"][number]
    assert item["timestamp"] == np.float32(tick / 7.5)
    np.testing.assert_array_equal(item["observation.state"], episode.state[tick])
    final = len(episode) - 1
    np.testing.assert_array_equal(item["action"], episode.action[[tick, min(tick + 1, final)]])
    assert item["action_is_pad"].tolist() == [False, tick == final]
    assert bool(item["next.success"]) == episode.success[min(tick + 1, final)]


def every_tick(dataset: Dataset) -> list[tuple[int, int]]:
    return [(n, tick) for n, episode in enumerate(dataset.episodes) for tick in range(len(episode))]


def test_lerobot_reads_exact_images(lerobot_dataset, built, tmp_path):
    export_lerobot(built, tmp_path / "out")
    read = lerobot_dataset("local/out", root=tmp_path / "out", delta_timestamps={"action": [0, 1 / 7.5]})
    dataset = load_dataset(built)
    assert (len(read), read.num_episodes, read.fps) == (38, 2, 7.5)
    for index, (number, tick) in enumerate(every_tick(dataset)):
        equal_but_for_images(read[index], dataset, number, tick)
        for name, images in dataset.episodes[number].images.items():
            image = read[index][f"observation.images.{name}"].permute(1, 2, 0).numpy() * 255
            np.testing.assert_array_equal(image.round().astype(np.uint8), images[tick])


def test_lerobot_reads_videos(lerobot_dataset, built, tmp_path):
    from lerobot.datasets import video_utils

    if not hasattr(video_utils, "decode_video_frames_pyav"):
        pytest.skip("this lerobot decodes videos with torchcodec or torchvision only")
    shades = np.add.outer(np.array([0, 3, 7]), np.linspace(10, 240, 40))  # of 40 ticks, by channel
    frames = np.broadcast_to(shades.T[:, None, None], (40, 15, 18, 3)).astype(np.uint8)
    path = write_dataset(tmp_path / "D.h5", [frames[:25], frames[25:]])
    export_lerobot(path, tmp_path / "out", video=True)
    read = lerobot_dataset(
        "local/out", root=tmp_path / "out", delta_timestamps={"action": [0, 1 / 7.5]}, video_backend="pyav"
    )
    dataset = load_dataset(path)
    for index, (number, tick) in enumerate(every_tick(dataset)):
        equal_but_for_images(read[index], dataset, number, tick)
        image = read[index][STATIC].permute(1, 2, 0).numpy() * 255
        np.testing.assert_allclose(image, dataset.episodes[number].images["static"][tick], atol=2.5)


def test_statistics_agree_with_lerobots(lerobot_dataset, built, tmp_path):
    from lerobot.datasets.compute_stats import get_feature_stats

    export_lerobot(built, tmp_path / "out")
    read = lerobot_dataset("local/out", root=tmp_path / "out")
    episodes = load_dataset(built).episodes
    states = np.concatenate([episode.state for episode in episodes])
    images = np.concatenate([episode.images["static"] for episode in episodes]).transpose(0, 3, 1, 2)
    theirs = {
        "observation.state": get_feature_stats(states.astype(float), axis=0, keepdims=False),
        STATIC: get_feature_stats(images / 255, axis=(0, 2, 3), keepdims=True),
    }
    for feature, expected in theirs.items():
        found = read.meta.stats[feature]
        assert set(found) == set(expected)
        for key in ("min", "max", "mean", "std", "count"):
            np.testing.assert_allclose(found[key], np.reshape(expected[key], found[key].shape), atol=1e-6)
    for key in ("q01", "q50", "q99"):  # theirs come from histograms
        np.testing.assert_allclose(read.meta.stats[STATIC][key].ravel(), theirs[STATIC][key].ravel(), atol=1 / 255)


@given(arrays(np.uint8, st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.just(3))))
def test_image_statistics_are_those_of_the_pixels(images):
    half = len(images) // 2
    statistics, rest = ImageStatistics(), ImageStatistics()
    statistics.add(images[:half])
    rest.add(images[half:])
    statistics.merge(rest)
    found = statistics.summary()
    pixels = images.reshape(-1, 3) / 255
    for key, expected in {
        "min": pixels.min(axis=0),
        "max": pixels.max(axis=0),
        "mean": pixels.mean(axis=0),
        "std": pixels.std(axis=0),
        "q50": np.quantile(pixels, 0.5, axis=0, method="inverted_cdf"),
    }.items():
        np.testing.assert_allclose(found[key], expected.reshape(3, 1, 1), atol=1e-12)
    assert found["count"] == [len(images)]


def test_vector_statistics_by_hand():
    found = vector_statistics(np.array([[0.0, 1.0], [10.0, 1.0]], np.float32))
    assert (found["min"], found["max"], found["mean"], found["std"]) == ([0, 1], [10, 1], [5, 1], [5, 0])
    assert (found["q10"], found["q50"], found["count"]) == ([1, 1], [5, 1], [2])
    assert vector_statistics(np.array([False, True, True, True]))["mean"] == [0.75]


def test_rates_are_the_fractions_that_were_meant():
    assert [str(exact(rate)) for rate in (7.5, 10.0, 30 / 7)] == ["15/2", "10", "30/7"]


def test_an_existing_folder_is_refused_and_stays(built, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").write_text("")
    with pytest.raises(DiwaError, match="out exists already: delete it, or choose another --out"):
        export_lerobot(built, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


@pytest.mark.parametrize("name", ["user", "a/b/c", "a b/c", "/b"])
def test_a_name_that_the_hub_refuses(built, tmp_path, name):
    with pytest.raises(DiwaError, match="must be user/name"):
        export_lerobot(built, tmp_path / "out", repo_id=name)
    assert list(tmp_path.iterdir()) == []


def test_an_episode_without_an_action_is_refused(tmp_path):
    with pytest.raises(DiwaError, match=r"episode 000001 has 1 ticks, an episode has 2 or more"):
        export_lerobot(
            write_dataset(tmp_path / "D.h5", [np.zeros((length, 8, 8, 3), np.uint8) for length in (3, 1)]),
            tmp_path / "out",
        )


def test_without_the_package_the_error_names_the_cure(built, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DiwaError, match=r"needs pyarrow: .*pip install -e '\.\[lerobot\]'"):
        export_lerobot(built, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("video", [False, True])
def test_an_interrupted_export_leaves_nothing(parquet, built, tmp_path, monkeypatch, video):
    encoders: list[subprocess.Popen] = []
    start = subprocess.Popen

    def spied(*args, **kwargs) -> subprocess.Popen:
        encoders.append(start(*args, **kwargs))
        return encoders[-1]

    def interrupted(*_) -> None:
        raise KeyboardInterrupt

    imageio_ffmpeg.get_ffmpeg_exe()  # the first call of a process runs it, to see that it can
    monkeypatch.setattr(subprocess, "Popen", spied)
    monkeypatch.setattr(FrameTables, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export_lerobot(built, tmp_path / "out", video=video)
    assert list(tmp_path.iterdir()) == []
    assert len(encoders) == (2 if video else 0)
    assert all(encoder.poll() is not None for encoder in encoders)


def test_a_folder_that_appears_meanwhile_is_kept(parquet, built, tmp_path, monkeypatch):
    monkeypatch.setattr(lerobot, "dataset_card", lambda *_: (tmp_path / "out").mkdir() or "")
    with pytest.raises(DiwaError, match="out is a folder, which is never replaced"):
        export_lerobot(built, tmp_path / "out")
    assert list(tmp_path.rglob("*")) == [tmp_path / "out"]


@pytest.mark.parametrize("video", [False, True])
def test_a_full_disk_is_one_error(parquet, tiny_disk, tmp_path, video):
    noise = np.random.default_rng(0).integers(0, 256, (400, 64, 64, 3), np.uint8)  # 4.9 MB as PNG, 2.3 MB as video
    path = write_dataset(tmp_path / "D.h5", [noise])
    with pytest.raises(DiwaError, match=r"no space left to write .*out"):
        export_lerobot(path, tiny_disk / "out", video=video)
    assert list(tiny_disk.iterdir()) == []
