"""Marks for a whole folder of recordings: which attempts there are, what each one's word is, and undoing.

`annotate_page.py` and `annotate_terminal.py` show it. Every mark is written at once, whole or not at all.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from diwa_data.errors import DiwaError
from diwa_data.files import FolderLock
from diwa_data.foreign.attempts import judged
from diwa_data.foreign.bag import ForeignBag, is_foreign
from diwa_data.foreign.mapping import BagMapping, load_mapping
from diwa_data.recording import messages
from diwa_data.recording.bag_reader import Bag, find_bags, is_bag
from diwa_data.recording.marks import MARKS, Mark, Outcome, Verdict, read_marks, verdict, write_marks
from diwa_data.recording.recover import annotate, reseal
from diwa_data.recording.sidecar import Sidecar
from diwa_data.recording.source import Attempt as Recorded
from diwa_data.view.film import Film, film_of, foreign_film_of, foreign_span

_FILMS = 4  # that are kept in memory


def annotate_bag(
    path: Path,
    success: float | None = None,
    fail: float | None = None,
    never: bool = False,
    mapping: Path | None = None,
) -> str:
    """Mark one bag, ours or another recorder's, at a time in seconds since its start; a line that says how it is now.

    Raises `DiwaError` as `annotate` does, and where the mapping finds several attempts.
    """
    if not is_bag(path):
        bags = find_bags([path])
        raise DiwaError(f"{path} holds {len(bags)} bags: name one, such as {bags[0]}, or leave the time out")
    if not is_foreign(path):
        return annotate(path, success, never, fail)
    given: dict[Outcome, float | None] = {"success": success, "fail": fail, "none": 0.0 if never else None}
    words = [(outcome, at) for outcome, at in given.items() if at is not None]
    if len(words) > 1:
        raise DiwaError("give only one of --success, --fail and --never")
    with Annotator(path, mapping) as annotator:
        if len(annotator) > 1:
            raise DiwaError(f"{path} holds {len(annotator)} attempts: mark each on the page, and leave the time out")
        entry = annotator.mark(0, *words[0]) if words else annotator.entry(0)
    shown = "no mark" if entry.at is None else f"{entry.outcome} at {entry.at:.2f} s"
    return f"{path}: {entry.seconds:.2f} s, {shown}"


class Attempt(Protocol):
    """One recording, or a part of one, that gets a word."""

    name: str
    """Path of its bag below the folder."""
    start: float
    end: float
    """Seconds received."""

    @property
    def about(self) -> str:
        """Who did what, for the heading."""

    def film(self) -> Film:
        """Its pictures. Raises `DiwaError` if the bag is damaged."""

    def state(self) -> Any:
        """Its marks as they are, for `restore`."""

    def verdict(self) -> Verdict:
        """The word that stands."""

    def mark(self, outcome: Outcome, at: float) -> None:
        """Give it a word at a time, seconds received; `none` takes every mark back."""

    def restore(self, state: Any) -> None:
        """Put its marks back as they were."""


class OwnAttempt:
    """An episode of our recorders: marks are annotations in its sidecar."""

    def __init__(self, bag: Path, name: str):
        """Raises `DiwaError` if the sidecar is damaged, or the episode is unfinished."""
        self.name, self._bag = name, bag
        sidecar = Sidecar.read(bag)
        clock = sidecar.topics.get(messages.image_topic(sidecar.spec.cameras[0].name))
        if not sidecar.complete:
            raise DiwaError(f"{bag} was not finished: salvage it with 'diwa recover {bag}'")
        start = sidecar.mark("start")
        last = clock.last if clock else max((topic.last for topic in sidecar.topics.values()), default=0.0)
        self.start = start if start is not None else clock.first if clock else 0.0
        self.end = max(last, self.start)
        labels = sidecar.labels
        self.about = " ".join(str(labels[key]) for key in ("source", "skill") if labels.get(key)) or "unlabelled"

    def film(self) -> Film:
        with Bag(self._bag) as bag:
            return film_of(bag, self.start, self.end)

    def state(self) -> dict[str, float | None]:
        return dict(Sidecar.read(self._bag).annotations)

    def verdict(self) -> Verdict:
        return Sidecar.read(self._bag).verdict

    def mark(self, outcome: Outcome, at: float) -> None:
        self._write(lambda sidecar: sidecar.annotate(outcome, at))

    def restore(self, state: dict[str, float | None]) -> None:
        def put_back(sidecar: Sidecar) -> None:
            sidecar.annotations = dict(state)

        self._write(put_back)

    def _write(self, change: Callable[[Sidecar], None]) -> None:
        """The sidecar is read again, which keeps what others wrote since."""
        sidecar = Sidecar.read(self._bag)
        change(sidecar)
        reseal(self._bag, sidecar)


class ForeignAttempt:
    """A bag of another recorder: marks lie in a file beside it."""

    about = "a bag of another recorder"

    def __init__(self, bag: Path, name: str, span: tuple[float, float]):
        """`span`: its first and last time, seconds received."""
        self.name, self._bag = name, bag
        self.start, self.end = span

    def film(self) -> Film:
        return foreign_film_of(self._bag, self.start, self.end)

    def state(self) -> list[Mark]:
        return [mark for mark in read_marks(self._bag) if self._is_mine(mark)]

    def verdict(self) -> Verdict:
        return verdict(self.state())

    def mark(self, outcome: Outcome, at: float) -> None:
        self.restore([Mark(outcome, at)] if outcome in MARKS else [])

    def restore(self, state: list[Mark]) -> None:
        write_marks(self._bag, [*(mark for mark in read_marks(self._bag) if not self._is_mine(mark)), *state])

    def _is_mine(self, mark: Mark) -> bool:
        return self.start <= mark.at <= self.end


class MappedAttempt(ForeignAttempt):
    """An episode that a mapping file cuts out of a bag of another recorder."""

    def __init__(self, bag: Path, name: str, span: tuple[float, float], mapping: BagMapping, attempt: Recorded):
        """`span`: of the bag; `attempt`: without what was marked beside it."""
        super().__init__(bag, name, (max(span[0], attempt.first), min(span[1], attempt.last)))
        self.about = f"{mapping.source} {mapping.skill}".strip()
        self._mapping, self._attempt = mapping, attempt

    def film(self) -> Film:
        with ForeignBag(self._bag, self._mapping) as bag:
            return film_of(bag, self.start, self.end)

    def verdict(self) -> Verdict:
        """As a dataset will have it: what was marked, or else what the mapping says."""
        (found,) = judged([self._attempt], read_marks(self._bag), self._mapping.success)
        if found.outcome == "success" and found.success_before_end is not None:
            return Verdict("success", max(self.start, self.end - found.success_before_end))
        at = found.success if found.outcome == "success" else verdict(self.state()).at
        return Verdict(found.outcome, self.end if at is None and found.outcome == "fail" else at)


def attempts_of(bag: Path, name: str, mapping: BagMapping | None) -> list[Attempt]:
    """Those that a bag holds. Raises `DiwaError` if it or its marks are damaged, or it lacks what the mapping names."""
    if not is_foreign(bag):
        return [OwnAttempt(bag, name)]
    span, marks = foreign_span(bag), read_marks(bag)
    if mapping is None:
        if len(marks) > 1:
            raise DiwaError(
                f"{bag} has marks of {len(marks)} attempts: name the mapping file that divides it (--mapping)"
            )
        return [ForeignAttempt(bag, name, span)]
    with ForeignBag(bag, mapping) as opened:
        found = opened.recorded
    names = [f"{name} #{number}" for number in range(len(found))] if len(found) > 1 else [name]
    return [MappedAttempt(bag, one, span, mapping, each) for one, each in zip(names, found, strict=True)]


@dataclass(frozen=True)
class Entry:
    """An attempt as it is shown: times in seconds since its start."""

    number: int
    name: str
    about: str
    seconds: float
    outcome: Outcome
    at: float | None


class Undone(NamedTuple):
    """A mark that was taken back."""

    entry: Entry
    """The attempt as it is marked now."""
    seconds: float
    """Where the mark was."""


class Annotator:
    """The attempts at or below a path; a context manager that keeps others from marking the same folder.

    Several threads may ask for films while one marks.
    """

    def __init__(self, path: Path, mapping: Path | None = None):
        """`mapping` cuts bags of other recorders into episodes; without it each is one.

        Raises `DiwaError` if there is no recording, all are damaged, or another process records or marks there.
        `problems` has a line for each recording that cannot be marked.
        """
        mapped = load_mapping(mapping) if mapping else None
        path = Path(path).absolute()
        bags, self.folder = find_bags([path]), path.parent if is_bag(path) else path
        self.attempts: list[Attempt] = []
        self.problems: list[str] = []
        for bag in bags:
            try:
                self.attempts += attempts_of(bag, str(bag.relative_to(self.folder)), mapped)
            except DiwaError as error:
                self.problems.append(str(error))
        if not self.attempts:
            raise DiwaError("; ".join(self.problems))
        self._words = [attempt.verdict().outcome for attempt in self.attempts]
        self._done: list[tuple[int, float, Any]] = []
        self._films: OrderedDict[int, Film] = OrderedDict()
        self._loading = [threading.Lock() for _ in self.attempts]
        self._writing = threading.RLock()
        self._lock = FolderLock(self.folder)

    def __enter__(self) -> Annotator:
        return self

    def __exit__(self, *_: object) -> None:
        self._writing.acquire()  # what is being written becomes whole, and nothing is written any more
        self._lock.release()

    def __len__(self) -> int:
        return len(self.attempts)

    def entry(self, number: int) -> Entry:
        """An attempt as it is marked now. Raises `DiwaError` if there is no such number."""
        attempt = self._attempt(number)
        outcome, at = attempt.verdict()
        self._words[number] = outcome
        seconds, since = attempt.end - attempt.start, None if at is None else at - attempt.start
        return Entry(number, attempt.name, attempt.about, seconds, outcome, since)

    def entries(self) -> list[Entry]:
        """All of them."""
        return [self.entry(number) for number in range(len(self))]

    def times(self, number: int) -> list[float]:
        """Times of the pictures of an attempt, seconds since its start."""
        start = self._attempt(number).start
        return [max(0.0, time - start) for time in self.film(number).times]

    def film(self, number: int) -> Film:
        """The pictures of an attempt, kept while they may be asked for again."""
        attempt = self._attempt(number)
        with self._loading[number]:
            film = self._films.get(number) or attempt.film()
            with self._writing:
                self._films[number] = film
                self._films.move_to_end(number)
                while len(self._films) > _FILMS:
                    self._films.popitem(last=False)
        return film

    def mark(self, number: int, outcome: Outcome, seconds: float) -> Entry:
        """Give an attempt a word, `seconds` after its start; returns how it is marked now.

        Raises `DiwaError` for an unknown number or word, and a time outside of the attempt.
        """
        attempt = self._attempt(number)
        if outcome not in (*MARKS, "none"):
            raise DiwaError(f"unknown mark {outcome!r}; choose one of {', '.join(MARKS)}, none")
        length = attempt.end - attempt.start
        if not -1e-6 <= seconds <= length + 1e-6:
            raise DiwaError(f"{seconds:g} s is outside of {attempt.name}, which lasts {length:.2f} s")
        with self._writing:
            before = attempt.state()
            attempt.mark(outcome, min(max(attempt.start + seconds, attempt.start), attempt.end))
            self._done.append((number, seconds, before))
            return self.entry(number)

    def undo(self) -> Undone | None:
        """Take the last mark of this session back; None if there is none."""
        with self._writing:
            if not self._done:
                return None
            number, seconds, before = self._done[-1]
            self.attempts[number].restore(before)
            self._done.pop()
            return Undone(self.entry(number), seconds)

    def next_unmarked(self, after: int = -1) -> int | None:
        """The first attempt without a mark behind `after`, or else from the beginning; None if all have one."""
        order = [*range(after + 1, len(self)), *range(after + 1)]
        return next((number for number in order if self._words[number] == "none"), None)

    def progress(self) -> str:
        """How far it is, in a line."""
        words = self._words
        marked = len(words) - words.count("none")
        return f"{marked} of {len(words)} marked ({words.count('success')} succeeded, {words.count('fail')} failed)"

    def _attempt(self, number: int) -> Attempt:
        if not 0 <= number < len(self.attempts):
            raise DiwaError(f"there is no attempt {number}: they are 0 to {len(self.attempts) - 1}")
        return self.attempts[number]
