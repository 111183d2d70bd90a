"""From buttons that are down to what they mean: short and long presses, and buttons that have frozen."""

from __future__ import annotations

from collections.abc import Collection

LONG_PRESS = 1.5
"""Seconds for which the menu button is held to discard an episode."""


class EpisodeButtons:
    """Menu: start or stop on a short press, discard on a long one. Mark: success.

    Buttons that are down when they are first seen were pressed in the dark: they count from their next press on.
    """

    def __init__(self) -> None:
        self.recording = False
        """A short press stops; set it when an episode began or ended without the button."""
        self._down: dict[str, float] = {}
        self._spent: set[str] = set()
        self._blind = True

    def update(self, pressed: Collection[str], now: float) -> tuple[str, ...]:
        """Events since the last call, given the buttons that are down (`menu`, `mark`) at `now` seconds."""
        if self._blind:
            self._spent, self._blind = set(pressed), False
        self._spent &= set(pressed)
        before = self._down
        self._down = {name: before.get(name, now) for name in pressed if name not in self._spent}
        events = []
        if "mark" in self._down and "mark" not in before:
            events.append("success")
        if "menu" in self._down and now - self._down["menu"] >= LONG_PRESS:
            events.append("discard")
            self._spent.add("menu")
            del self._down["menu"]
            self.recording = False
        elif "menu" in before and "menu" not in pressed:
            events.append("stop" if self.recording else "start")
            self.recording = not self.recording
        return tuple(events)

    def lose(self) -> None:
        """The buttons cannot be seen: presses that are under way are forgotten and cause no event."""
        self._down, self._blind = {}, True


class PacketWatch:
    """Tells whether a controller's packets still come: without input focus buttons freeze while poses go on."""

    def __init__(self, frozen_after: float):
        """`frozen_after`: seconds without a new packet after which buttons count as frozen."""
        self._frozen_after = frozen_after
        self._number: int | None = None
        self._since = 0.0

    def alive(self, number: int, now: float) -> bool:
        """Whether packet `number`, read at `now` seconds, or one within the last `frozen_after` was a new one."""
        if number != self._number:
            self._number, self._since = number, now
        return now - self._since < self._frozen_after
