"""Live streams under the rule that datasets were built with: one observation a control tick."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

from diwa_data.pose import Pose
from diwa_data.recording import messages
from diwa_data.recording.messages import decode_value, gripper_width
from diwa_data.robot import Observation
from diwa_data.spec import Spec
from diwa_data.ticks import Sample, Tick, TickClock


class LiveStreams:
    """Serialised messages in, observations out; fed by one thread, waited on by another.

    The first camera is the clock (`diwa_data.ticks`). A tick whose frame did not come is left out and counted in
    `missed`: the arm held still then, and a repeated frame is never stepped on.
    """

    def __init__(self, spec: Spec, max_age: float):
        """`max_age`: seconds by which a stream may be older than the first camera's frame."""
        self._spec, self._max_age = spec, max_age
        self._images = {messages.image_topic(camera.name): camera.name for camera in spec.cameras}
        self.topics = (*self._images, messages.CURRENT_POSE, *[messages.JOINT_STATES][: spec.action.gripper])
        """Topics to `feed`; our own target is fed by `feed_target`."""
        self._changed = threading.Condition()
        self._received: dict[str, float] = {}
        self.restart()

    def restart(self) -> None:
        """Begin a skill: the first camera's next frame is tick 0."""
        clock, *others = self.topics
        with self._changed:
            ages = dict.fromkeys(others, self._max_age) | {messages.TARGET_POSE: math.inf}
            self._clock = TickClock(clock, ages, self._spec.record_rate, self._spec.frames_per_tick)
            self._due: Tick | None = None
            self._last = -1
            self.missed = 0

    def feed(self, topic: str, data: bytes, stamp: float, received: float) -> None:
        """One message, with its header stamp and the time it was received, seconds."""
        with self._changed:
            self._received[topic] = received
            self._clock.feed(topic, Sample(data, stamp, received))
            if topic != self.topics[0]:
                return
            for tick in self._clock.advance():
                if not tick.flagged:
                    self._due = tick
                    self._changed.notify_all()

    def feed_target(self, target: Pose, received: float) -> None:
        """A target that was published to the arm at `received`, seconds."""
        with self._changed:
            self._clock.feed(messages.TARGET_POSE, Sample(target, received, received))

    def ages(self, now: float) -> dict[str, float]:
        """Topic -> seconds since its last message; infinite before the first."""
        with self._changed:
            return {topic: now - self._received.get(topic, -float("inf")) for topic in self.topics}

    def wait(self, stopped: Callable[[], str], patience: float = 0.02) -> Observation | str:
        """The observation of the next tick, or why there is none: what `stopped` says once it says something.

        Raises `DiwaError` on a damaged image or a NaN pose.
        """
        with self._changed:
            while self._due is None:
                if reason := stopped():
                    return reason
                self._changed.wait(patience)
            tick, self._due = self._due, None
            self.missed += max(0, tick.index - self._last - 1)
            self._last = tick.index
        return self._observation(tick)

    def _observation(self, tick: Tick) -> Observation:
        values = {topic: decode_value(topic, tick.samples[topic].value, topic) for topic in self.topics}
        images = {name: values[topic] for topic, name in self._images.items()}
        joints = values.get(messages.JOINT_STATES)
        width = None if joints is None else gripper_width(joints, messages.JOINT_STATES)
        pose, target = values[messages.CURRENT_POSE], tick.samples[messages.TARGET_POSE].value
        return Observation(images, pose, target, width, tick.stamp, tick.received)
