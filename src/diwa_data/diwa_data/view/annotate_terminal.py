"""Marking a folder's attempts in a terminal: the film in coloured half blocks, the keys of the page."""

from __future__ import annotations

import os
import re
import select
import termios
import time
import tty
from contextlib import suppress

import cv2
import numpy as np

from diwa_data.errors import DiwaError
from diwa_data.recording.marks import Outcome
from diwa_data.view.annotate import Annotator, Entry, Undone
from diwa_data.view.film import Film

HELP = "s success  f fail  c no mark  u undo   arrows: picture, second   SPACE play   n p next, previous   q end"
SPEED = 2.0
"""Times real time at which it plays."""
_MARKS: dict[str, Outcome] = {"s": "success", "f": "fail", "c": "none"}
_KEYS = re.compile(r"\x1b[\[O][0-9;]*[A-Za-z~]|.", re.DOTALL)
_NAMES = {"A": "up", "B": "down", "C": "right", "D": "left", "H": "home", "F": "end", "1~": "home", "4~": "end"}
_HELD = 0.8  # seconds in which a key for a mark that comes again is still held, and marks no second attempt
_TICK = 0.05  # seconds between looks at the clock while it plays
_OPEN, _CLOSE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"


class TerminalView:
    """The view that is seen and typed at, without the terminal: `press` a key, `play` some time, `lines` to show."""

    def __init__(self, annotator: Annotator):
        """Opens the first attempt without a mark."""
        self._annotator = annotator
        self.ended, self.said = False, ""
        self.open(annotator.next_unmarked() or 0)
        self.said = "; ".join(filter(None, [*annotator.problems, self.said]))

    def open(self, number: int, seconds: float = 0.0, playing: bool = True) -> None:
        """Show an attempt, from a time on; a damaged one says why it cannot be shown."""
        self.number, self.said = min(max(number, 0), len(self._annotator) - 1), ""
        self._film: Film | None = None
        self._times: list[float] = []
        try:
            self._film, self._times = self._annotator.film(self.number), self._annotator.times(self.number)
        except DiwaError as error:
            self.said = str(error)
        self.playing, self.seconds = playing and bool(self._times), 0.0
        self.seek(seconds)

    def seek(self, seconds: float) -> None:
        """Go to the picture at a time."""
        self._index = max(0, int(np.searchsorted(self._times, seconds + 1e-6, side="right")) - 1)
        self.seconds = seconds

    def play(self, seconds: float) -> bool:
        """Let time pass; whether another picture is to be shown."""
        if not self.playing:
            return False
        before = self._index
        self.seek(self.seconds + SPEED * seconds)
        self.playing = self._index < len(self._times) - 1
        return self._index != before or not self.playing

    def press(self, key: str) -> None:
        """Do what a key says; unknown keys do nothing."""
        if key == "q":
            self.ended = True
        elif key == "u":
            self._take_back(self._annotator.undo())
        elif key in ("n", "p"):
            self.open(self.number + (1 if key == "n" else -1))
        elif self._times and key in _MARKS:
            self._mark(_MARKS[key])
        elif self._times and key == " ":
            self.seek(0.0 if self._index == len(self._times) - 1 else self.seconds)
            self.playing = not self.playing
        elif self._times and key in _NAMES.values():
            self.playing = False
            self.seek(self._time_at(key))

    def lines(self, columns: int, rows: int) -> list[str]:
        """At most `rows` lines of at most `columns` characters."""
        entry = self._annotator.entry(self.number)
        head = f"{entry.name}  {entry.about}  {_word(entry)}   [{self._annotator.progress()}]"
        now = self._times[self._index] if self._times else 0.0
        state = "playing" if self.playing else "paused"
        foot = [_bar(entry, now, columns), f"{now:.2f} of {entry.seconds:.2f} s, {state}   {self.said}", HELP]
        picture = half_blocks(self._film.image(self._index), columns, rows - 1 - len(foot)) if self._film else []
        return [head[:columns], *picture, *(line[:columns] for line in foot)][:rows]

    def _time_at(self, key: str) -> float:
        last = len(self._times) - 1
        if key in ("left", "right"):
            return self._times[min(max(self._index + (1 if key == "right" else -1), 0), last)]
        if key in ("home", "end"):
            return self._times[0 if key == "home" else last]
        return min(max(self._times[self._index] + (1 if key == "up" else -1), self._times[0]), self._times[last])

    def _mark(self, outcome: Outcome) -> None:
        entry = self._annotator.mark(self.number, outcome, self._times[self._index])
        following = self._annotator.next_unmarked(self.number)
        if outcome != "none" and following is not None:
            self.open(following)
        self.playing = self.playing and following is not None
        self.said = f"{entry.name}: {_word(entry)}" + ". All are marked." * (following is None)

    def _take_back(self, undone: Undone | None) -> None:
        if undone is None:
            self.said = "nothing to undo"
            return
        self.open(undone.entry.number, undone.seconds, playing=False)
        self.said = f"{undone.entry.name}: {_word(undone.entry)} again"


def half_blocks(image: np.ndarray, columns: int, rows: int) -> list[str]:
    """An rgb image (H, W, 3) as lines of upper half blocks in 24 bit colours, two pixels a character."""
    if columns < 1 or rows < 1:
        return []
    scale = min(columns / image.shape[1], 2 * rows / image.shape[0])
    width, height = max(1, int(image.shape[1] * scale)), max(2, int(image.shape[0] * scale) // 2 * 2)
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return [
        "".join(
            "\x1b[38;2;{};{};{}m\x1b[48;2;{};{};{}m▀".format(*above, *below)
            for above, below in zip(small[row].tolist(), small[row + 1].tolist(), strict=True)
        )
        + "\x1b[0m"
        for row in range(0, height, 2)
    ]


def keys(typed: str) -> list[str]:
    """The keys in what a terminal sent: characters in lower case, and names such as left."""
    found = [_NAMES.get(key[2:], "") if key.startswith("\x1b") else key.lower() for key in _KEYS.findall(typed)]
    return [key for key in found if key]


def annotate_in_terminal(annotator: Annotator) -> None:
    """Show and mark until q or Ctrl-C. Raises `DiwaError` where there is no terminal."""
    try:
        terminal = os.open("/dev/tty", os.O_RDWR)
        before = termios.tcgetattr(terminal)
    except OSError as error:
        raise DiwaError("--terminal needs a terminal, and this process has none: leave it out for the page") from error
    view = TerminalView(annotator)
    try:
        tty.setcbreak(terminal)
        _write(terminal, _OPEN)
        with suppress(KeyboardInterrupt):
            _loop(view, terminal)
    finally:
        with suppress(OSError, termios.error):  # it may be gone
            _write(terminal, _CLOSE)
            termios.tcsetattr(terminal, termios.TCSADRAIN, before)
        os.close(terminal)
    print(annotator.progress())


def _loop(view: TerminalView, terminal: int) -> None:
    last, stale, marked = time.monotonic(), True, -_HELD
    while not view.ended:
        if stale:
            _draw(view, terminal)
        ready = select.select([terminal], [], [], _TICK if view.playing else None)[0]
        now = time.monotonic()
        stale = view.play(now - last)
        if ready:
            typed = os.read(terminal, 256).decode(errors="ignore")
            if not typed:
                return  # it was closed
            for key in keys(typed):
                if key not in _MARKS or now - marked > _HELD:
                    view.press(key)
                marked = now if key in _MARKS else marked
            stale, now = True, time.monotonic()
        last = now


def _draw(view: TerminalView, terminal: int) -> None:
    size = os.get_terminal_size(terminal)
    lines = view.lines(size.columns or 80, size.lines or 24)
    _write(terminal, "\x1b[H" + "\x1b[K\r\n".join(lines) + "\x1b[K\x1b[J")


def _write(terminal: int, text: str) -> None:
    data = text.encode()
    while data:
        data = data[os.write(terminal, data) :]


def _bar(entry: Entry, now: float, columns: int) -> str:
    """The attempt as a line: where it is, and where its mark is."""
    place = {"success": "S", "fail": "F"}
    bar = ["-"] * max(columns, 1)

    def column(seconds: float) -> int:
        return min(max(int(seconds / (entry.seconds or 1.0) * (len(bar) - 1)), 0), len(bar) - 1)

    if entry.at is not None:
        bar[column(entry.at)] = place[entry.outcome]
    bar[column(now)] = "|"
    return "".join(bar)


def _word(entry: Entry) -> str:
    return "no mark" if entry.at is None else f"{entry.outcome} at {entry.at:.2f} s"
