"""Episodes as Rerun files, read back with Rerun's own reader; what cannot be shown is one clear error."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from diwa_data.dataset.align import DatasetConfig
from diwa_data.dataset.dataset import build_dataset, load_dataset
from diwa_data.errors import DiwaError
from diwa_data.recording.recover import annotate
from diwa_data.spec import CameraSpec
from diwa_data.teleop.clutch import ControllerState
from diwa_data.testing.synthetic import record_synthetic, synthetic_image, synthetic_pose
from diwa_data.view.rerun import save_view, serve_view, show_view

HIDDEN = """
import sys
sys.modules["rerun"] = None
from diwa_cli.main import main
sys.exit(main())
"""


@pytest.fixture(scope="session")
def dataset(recorded, tmp_path_factory) -> Path:
    """Both recorded episodes, 23 and 15 ticks."""
    out = tmp_path_factory.mktemp("dataset") / "d.h5"
    build_dataset([recorded], out, DatasetConfig(workers=1))
    return out


class Rows:
    """Entities of a Rerun file: seconds on both timelines and the values of one component."""

    def __init__(self, path: Path):
        chunk = pytest.importorskip("rerun.chunk", reason="rerun-sdk is not installed (extra `view`)")
        self._batches: dict[str, list[Any]] = defaultdict(list)
        for part in chunk.RrdReader(path).stream().to_chunks():
            self._batches[str(part.entity_path)] += [] if part.is_static else [part.to_record_batch()]

    def count(self) -> dict[str, int]:
        """Entity -> number of rows in time."""
        return {entity: len(self.seconds(entity)) for entity, batches in self._batches.items() if batches}

    def seconds(self, entity: str, timeline: str = "received") -> np.ndarray:
        """(rows,) in the order of time."""
        columns = [batch.column(timeline).cast("int64").to_numpy() for batch in self._batches[entity]]
        return np.sort(np.concatenate(columns)) * 1e-9

    def values(self, entity: str, component: str) -> list[Any]:
        """The component's first instance in each row, in the order of time."""
        rows: list[tuple[int, Any]] = []
        for batch in self._batches[entity]:
            times = batch.column("received").cast("int64").to_pylist()
            rows += zip(times, (row[0] for row in batch.column(component).to_pylist()), strict=True)
        return [value for _, value in sorted(rows, key=lambda row: row[0])]


def rows_of(path: Path, episode: str | None, out: Path) -> Rows:
    """The Rerun file that `diwa view --save` writes."""
    pytest.importorskip("rerun", reason="rerun-sdk is not installed (extra `view`)")
    save_view(path, episode, out)
    return Rows(out)


def test_nothing_there_is_said_before_a_missing_display(tmp_path, monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    missing = tmp_path / "MISSING"
    for look in (show_view, serve_view, lambda path, episode: save_view(path, episode, tmp_path / "e.rrd")):
        with pytest.raises(DiwaError, match=f"{missing} does not exist"):
            look(missing, None)


def test_a_bag_becomes_a_rerun_file(bags, tmp_path):
    annotate(bags / "000000", 2.5)
    rows = rows_of(bags / "000000", None, tmp_path / "e.rrd")
    assert rows.count() == {
        "/cameras/static": 90,
        "/cameras/gripper": 90,
        "/events": 4,
        "/plots/gap_ms/static": 89,
        "/plots/gap_ms/gripper": 89,
        "/plots/gripper/command": 2,
        "/plots/gripper/width_cm": 90,
        "/plots/lead_cm": 90,
        "/world/hand": 90,
        "/world/hand_trail": 89,
        "/world/target": 181,
        "/world/target_trail": 180,
    }
    assert rows.values("/events", "TextLog:text") == ["start", "success", "success (annotated)", "stop"]
    np.testing.assert_allclose(rows.seconds("/events"), [0, 2, 2.5, 3], atol=1e-6)
    np.testing.assert_allclose(rows.seconds("/world/hand"), np.arange(90) / 30, atol=1e-6)
    positions = rows.values("/world/hand", "Transform3D:translation")
    np.testing.assert_allclose(positions[45], synthetic_pose(1.5).position, atol=1e-6)
    np.testing.assert_allclose(rows.values("/plots/gripper/width_cm", "Scalars:scalars"), 4.0)
    assert rows.values("/plots/gripper/command", "Scalars:scalars") == [1.0, -1.0]
    behind = np.linalg.norm(synthetic_pose(1.5).position - synthetic_pose(1.5 - 1 / 60).position)
    lead = rows.values("/plots/lead_cm", "Scalars:scalars")
    assert lead[45] == pytest.approx(100 * behind, abs=1e-3)  # targets are received 1 ms after they are issued


def test_images_are_those_of_the_bag_and_both_storages_are_read(bags, spec, tmp_path):
    rows = rows_of(bags, "000001", tmp_path / "e.rrd")
    blob = np.array(rows.values("/cameras/static", "EncodedImage:blob")[30], np.uint8)
    shown = cv2.imdecode(blob, cv2.IMREAD_COLOR)[..., ::-1].astype(float)
    assert np.abs(shown - synthetic_image(1.0, *spec.cameras[0].record_size)).mean() < 8


def test_a_lost_frame_is_a_gap_and_a_stamp_is_not_when_it_was_received(spec, tmp_path):
    rows = rows_of(record_synthetic(tmp_path, spec, 1.0, {}, skip={10, 11}), None, tmp_path / "e.rrd")
    gaps = rows.values("/plots/gap_ms/static", "Scalars:scalars")
    assert len(gaps) == 27
    assert max(gaps) == gaps[9] == 100.0
    late = rows.seconds("/world/target") - rows.seconds("/world/target", "stamp")
    np.testing.assert_allclose(late[1:], 0.001, atol=1e-6)


def test_the_controller_is_shown(spec, tmp_path):
    from diwa_data.recording.recorder import EpisodeRecorder

    with EpisodeRecorder(tmp_path, spec, min_free_mb=0) as recorder:
        recorder.start(100.0, {})
        for step, held in enumerate((False, True, True)):
            recorder.controller(ControllerState(synthetic_pose(0.0), held, 0.5 * step), 100 + step, 100 + step)
        bag = recorder.stop(103.0)
    rows = rows_of(bag, None, tmp_path / "e.rrd")
    assert rows.values("/plots/controller/deadman", "Scalars:scalars") == [0, 1, 1]
    assert rows.values("/plots/controller/trigger", "Scalars:scalars") == [0, 0.5, 1]
    assert rows.seconds("/plots/controller/trigger", "stamp").tolist() == [0, 1, 2]


def test_an_episode_of_a_dataset_becomes_a_rerun_file(dataset, tmp_path):
    rows, episode = rows_of(dataset, None, tmp_path / "e.rrd"), load_dataset(dataset).episodes[0]
    count = rows.count()
    assert {entity: count[entity] for entity in ("/cameras/static", "/world/hand", "/world/target_trail")} == {
        "/cameras/static": 23,
        "/world/hand": 23,
        "/world/target_trail": 22,
    }
    for number, name in enumerate(("x", "y", "z", "roll", "pitch", "yaw", "gripper")):
        values = rows.values(f"/plots/action/{name}", "Scalars:scalars")
        np.testing.assert_allclose(values, episode.action[:, number], atol=1e-6)
    assert rows.values("/plots/marks/success", "Scalars:scalars") == episode.success.tolist()
    quaternions = rows.values("/world/hand", "Transform3D:quaternion")
    assert abs(np.dot(quaternions[0], synthetic_pose(0.0).quaternion)) == pytest.approx(1, abs=1e-5)
    assert rows_of(dataset, "000001", tmp_path / "second.rrd").count()["/cameras/gripper"] == 15


def test_flagged_ticks_are_seen(spec, tmp_path):
    bag = record_synthetic(tmp_path, spec, 2.0, {}, skip={20})
    build_dataset([bag], tmp_path / "d.h5", DatasetConfig(workers=1))
    rows = rows_of(tmp_path / "d.h5", "000000", tmp_path / "e.rrd")
    assert np.flatnonzero(rows.values("/plots/marks/flagged", "Scalars:scalars")).tolist() == [5]
    assert rows.values("/events", "TextLog:text") == ["tick 5 is flagged: a frame is missing or a stream too old"]


@pytest.mark.parametrize(
    ("name", "episode", "message"),
    [
        ("nowhere", None, "nowhere does not exist"),
        ("bags", "000007", "has no episode '000007': it has 000000 to 000001"),
        ("bags/000000", "000001", "has no episode '000001': it has 000000 to 000000"),
        ("d.h5", "000002", "has no episode '000002': it has 000000 to 000001"),
        ("bags/000000/episode.json", None, "cannot be read as a dataset"),
    ],
)
def test_an_unknown_episode_is_refused_and_leaves_no_file(bags, dataset, tmp_path, name, episode, message):
    pytest.importorskip("rerun", reason="rerun-sdk is not installed (extra `view`)")
    (tmp_path / "d.h5").symlink_to(dataset)
    with pytest.raises(DiwaError, match=message):
        save_view(tmp_path / name, episode, tmp_path / "out" / "e.rrd")
    assert not any(tmp_path.glob("out/*"))


def test_a_full_disk_is_one_error_and_leaves_no_file(spec, tiny_disk, tmp_path):
    bag = record_synthetic(tmp_path / "bags", replace(spec, cameras=(CameraSpec("static"),)), 4.0, {}, noise=True)
    pytest.importorskip("rerun", reason="rerun-sdk is not installed (extra `view`)")
    with pytest.raises(DiwaError, match=r"e\.rrd could not be written .*is the disk full"):
        save_view(bag, None, tiny_disk / "e.rrd")
    assert not any(tiny_disk.iterdir())


def test_another_ending_is_refused(bags, tmp_path):
    with pytest.raises(DiwaError, match=r"e\.mp4 is not a \.rrd file"):
        save_view(bags, None, tmp_path / "e.mp4")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems always have a display")
def test_without_a_display_the_error_names_what_works(bags, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(DiwaError, match=r"--save EPISODE\.rrd, or --serve"):
        show_view(bags, None)


def test_without_the_package_the_error_names_the_cure(bags, tmp_path):
    words = ["view", str(bags), "--save", str(tmp_path / "e.rrd")]
    done = subprocess.run(
        [sys.executable, "-c", HIDDEN, *words], env=os.environ, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert done.stderr == "error: diwa view needs rerun-sdk: in the clone's folder, run pip install -e '.[view]'\n"
