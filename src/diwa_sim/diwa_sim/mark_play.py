"""`diwa mark-play`: marks of simulated play, in place of a person who watches its film."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from diwa_data.config import Job
from diwa_data.dataset.dataset import load_dataset
from diwa_data.dataset.play_marks import PlayMarks, read_play_marks, spans_of, write_play_marks
from diwa_data.errors import DiwaError
from diwa_data.files import require_output
from diwa_sim.environments import is_done


@dataclass(frozen=True)
class MarkPlayJob(Job):
    """Write when a skill is done in simulated play, for `diwa train-reward --play-marks`.

    The scene state tells it, in place of a person who watches the film. For a real robot's play, write the file by
    hand.
    """

    command_name: ClassVar[str] = "mark-play"
    check_out: ClassVar[Callable[[Path], None]] = staticmethod(require_output)

    play: Path
    """HDF5 file with play of the simulated robot."""
    out: Path
    """CSV file to write, with the columns skill, episode, from and to (seconds since the episode's first frame)."""
    skill: str = "open_drawer"
    """Simulated task whose marks to write."""

    def run(self) -> None:
        """Write the file and say how much of the play it marks."""
        data = load_dataset(self.play, images=False)
        if blind := [episode.name for episode in data.episodes if episode.scene_state is None]:
            raise DiwaError(f"{self.play}, episode {blind[0]}, has no scene state: write the marks by hand")
        marks: PlayMarks = {}
        ticks = 0
        for episode in data.episodes:
            assert episode.scene_state is not None
            done = is_done(self.skill, episode.scene_state[0], episode.scene_state, data.spec.scene_state)
            marks[episode.name] = spans_of(done, episode.received - episode.received[0])
            ticks += int(done.sum())
        if self.out.exists() and read_play_marks(self.out, self.skill) != marks:
            raise DiwaError(f"{self.out} has other marks, which may be somebody's work: choose another file")
        write_play_marks(self.out, self.skill, marks)
        share, count = ticks / sum(map(len, data.episodes)), sum(map(len, marks.values()))
        print(
            f"{self.out}: {self.skill} is done in {count} spans of {len(marks)} episodes, {100 * share:.0f} % of them"
        )
