"""Marks of simulated play say what its scene state says."""

import numpy as np
import pytest

from diwa_data.dataset.dataset import BuildDatasetJob, load_dataset
from diwa_data.dataset.play_marks import done_ticks, read_play_marks
from diwa_data.errors import DiwaError
from diwa_data.recording.recorder import RecordConfig
from diwa_sim.mark_play import MarkPlayJob
from diwa_sim.operator.record import record
from diwa_sim.tasks import is_done


def test_marks_are_those_of_the_scene_and_no_others_are_overwritten(tmp_path, capsys):
    record(tmp_path / "bags", RecordConfig(minutes=0.2, episode_seconds=6.0, workers=2, seed=3))
    BuildDatasetJob((tmp_path / "bags",), tmp_path / "play.h5").run()
    play = load_dataset(tmp_path / "play.h5")
    for skill in ("turn_on_lightbulb", "turn_off_lightbulb"):
        out = tmp_path / f"{skill}.csv"
        for _ in range(2):  # again, as after an interruption
            MarkPlayJob(tmp_path / "play.h5", out, skill).run()
        marks = read_play_marks(out, skill)
        assert f"{skill} is done in {sum(map(len, marks.values()))} spans of 2 episodes" in capsys.readouterr().out
        for episode in play.episodes:
            true = is_done(skill, episode.scene_state[0], episode.scene_state)
            seconds = episode.received - episode.received[0]
            np.testing.assert_array_equal(done_ticks(marks[episode.name], seconds + 0.01), true)
    before = (tmp_path / "turn_off_lightbulb.csv").read_bytes()
    with pytest.raises(DiwaError, match="no mark of turn_on_lightbulb"):
        MarkPlayJob(tmp_path / "play.h5", tmp_path / "turn_off_lightbulb.csv", "turn_on_lightbulb").run()
    (tmp_path / "mine.csv").write_text("skill,episode,from,to\nturn_on_lightbulb,0,0,1\n")
    with pytest.raises(DiwaError, match="has other marks, which may be somebody's work"):
        MarkPlayJob(tmp_path / "play.h5", tmp_path / "mine.csv", "turn_on_lightbulb").run()
    assert (tmp_path / "turn_off_lightbulb.csv").read_bytes() == before
    with pytest.raises(DiwaError, match="fly"):
        MarkPlayJob(tmp_path / "play.h5", tmp_path / "none.csv", "fly").run()
