"""Success marks after recording, and the pictures that show where they belong."""

from __future__ import annotations

from pathlib import Path

import cv2
import pytest

from diwa_data.dataset.align import DatasetConfig
from diwa_data.dataset.dataset import build_dataset, load_dataset
from diwa_data.errors import DiwaError
from diwa_data.recording import messages
from diwa_data.recording.recover import annotate
from diwa_data.recording.sidecar import SIDECAR, Sidecar
from diwa_data.view.inspect import contact_sheet, inspect_path, save_contact_sheet


def success_ticks(bag: Path, out: Path) -> list[int]:
    """Ticks of the dataset of one bag that count as a success."""
    build_dataset([bag], out, DatasetConfig(workers=1))
    (episode,) = load_dataset(out).episodes
    return episode.success.nonzero()[0].tolist()


def test_a_mark_is_set_moved_and_taken_back_without_touching_a_message(bags, tmp_path):
    bag = bags / "000000"
    stored = {path.name: path.read_bytes() for path in bag.iterdir() if path.name != SIDECAR}
    assert annotate(bag, None).endswith("success at 2.00 s (by the operator)")
    assert success_ticks(bag, tmp_path / "as_recorded.h5") == list(range(15, 23))  # 3 s at 7.5 Hz, done at 2.0 s
    assert annotate(bag, 2.5).endswith("success at 2.50 s (by annotation)")
    assert success_ticks(bag, tmp_path / "moved.h5") == list(range(19, 23))
    assert annotate(bag, None, never=True).endswith("no success (by annotation)")
    assert success_ticks(bag, tmp_path / "never.h5") == []
    assert "annotated: success taken back" in inspect_path(bag)
    assert "success marks: 0 of 2" in inspect_path(bags)
    assert {path.name: path.read_bytes() for path in bag.iterdir() if path.name != SIDECAR} == stored
    assert Sidecar.read(bag).events == [("start", 0.0), ("success", 2.0), ("stop", 3.0)]


def test_play_can_get_a_mark(bags, tmp_path):
    assert success_ticks(bags / "000001", tmp_path / "play.h5") == []
    annotate(bags / "000001", 1.0)
    assert success_ticks(bags / "000001", tmp_path / "marked.h5") == list(range(8, 15))


def test_a_dataset_of_other_marks_is_not_taken_for_this_one(bags, tmp_path):
    success_ticks(bags / "000000", tmp_path / "d.h5")
    annotate(bags / "000000", 1.0)
    with pytest.raises(DiwaError, match="begun with other settings: bags was "):
        success_ticks(bags / "000000", tmp_path / "d.h5")


@pytest.mark.parametrize(
    ("success", "never", "message"),
    [
        (2.98, False, "outside of .*000000, which lasts 2.97 s"),
        (-0.1, False, "outside of"),
        (float("nan"), False, "success at nan s is outside of"),
        (1.0, True, "give only one"),
    ],
)
def test_what_cannot_be_marked_is_refused_and_changes_nothing(bags, success, never, message):
    before = (bags / "000000" / SIDECAR).read_bytes()
    with pytest.raises(DiwaError, match=message):
        annotate(bags / "000000", success, never)
    assert (bags / "000000" / SIDECAR).read_bytes() == before


def test_thumbnails_show_both_cameras_with_times_and_success(bags, tmp_path):
    save_contact_sheet(bags / "000000", tmp_path / "sheet.png")
    sheet = cv2.imread(str(tmp_path / "sheet.png"))[..., ::-1]
    assert sheet.shape == (18 + 2 * 40, 12 * 48, 3)
    green = (sheet[0] == (0, 160, 60)).all(axis=1).reshape(12, 48)
    assert green.all(axis=1).tolist() == [False] * 8 + [True] * 4  # 2.0 of 2.97 s
    square = (sheet == (200, 40, 40)).all(axis=2)  # what the synthetic cameras see moves
    assert square[18:58].any()
    assert square[58:].any()
    assert (contact_sheet(bags / "000001", columns=3)[:3] == 255).all()
    with pytest.raises(DiwaError, match=r"sheet\.jpg is not a \.png file"):
        save_contact_sheet(bags / "000000", tmp_path / "sheet.jpg")


def test_thumbnails_of_anything_but_one_bag_name_one(bags, tmp_path):
    (tmp_path / "d.h5").touch()
    (tmp_path / "empty").mkdir()
    for path, message in (
        (bags, f"{bags} is not a bag: thumbnails show one episode, such as {bags / '000000'}"),
        (tmp_path / "d.h5", "d.h5 is not a bag"),
        (tmp_path / "empty", "holds no finished episode"),
    ):
        with pytest.raises(DiwaError, match=message):
            save_contact_sheet(path, tmp_path / "sheet.png")
    assert not (tmp_path / "sheet.png").exists()


def test_a_bag_without_its_clock_says_so(tmp_path, spec):
    from diwa_data.recording.recorder import EpisodeRecorder

    with EpisodeRecorder(tmp_path, spec, min_free_mb=0) as recorder:
        recorder.start(0.0, {})
        bag = recorder.stop(103.0)
    for looked in (lambda: annotate(bag, 1.0), lambda: contact_sheet(bag)):
        with pytest.raises(DiwaError, match=f"no message on {messages.image_topic('static')}"):
            looked()


def test_failure_is_marked_and_overrules(bags, tmp_path):
    bag = bags / "000000"
    assert annotate(bag, None, fail=2.5).endswith("fail at 2.50 s (by annotation)")
    assert success_ticks(bag, tmp_path / "failed.h5") == []
    (episode,) = load_dataset(tmp_path / "failed.h5").episodes
    assert (episode.outcome, episode.attributes["withdrawn_tick"]) == ("fail", 15)  # the operator's success, at 2 s
    assert "annotated: success taken back, fail at 2.50 s" in inspect_path(bag)
    assert "outcomes: success 0, fail 1, none 1" in inspect_path(bags)
    assert "outcomes: success 0, fail 1, none 0" in inspect_path(tmp_path / "failed.h5")
    assert annotate(bag, 1.0).endswith("success at 1.00 s (by annotation)")
    assert "annotated: success at 1.00 s\n" in inspect_path(bag)
    with pytest.raises(DiwaError, match="give only one"):
        annotate(bag, 1.0, fail=2.0)
    with pytest.raises(DiwaError, match=r"fail at 2\.98 s is outside of"):
        annotate(bag, None, fail=2.98)
