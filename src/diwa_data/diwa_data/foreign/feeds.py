"""From messages of others to the samples of our own streams. Images and poses are decoded where a tick needs them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from diwa_data.errors import DiwaError
from diwa_data.foreign.mapping import CommandMapping, NumberMapping, PoseMapping
from diwa_data.foreign.transforms import Transforms, oldest, pose_of
from diwa_data.foreign.values import JOINTS, MessageType, joints_in, number_in, pose_in
from diwa_data.images import crop_for_recording, image_of
from diwa_data.recording.messages import header_stamp
from diwa_data.spec import CameraSpec
from diwa_data.ticks import Sample

OPEN, CLOSE = 1.0, -1.0


@dataclass(frozen=True, eq=False)
class Message:
    """A serialised message of a bag."""

    bag: Path
    topic: str
    kind: MessageType
    data: bytes
    received: float

    @property
    def where(self) -> str:
        """Names it in errors."""
        return f"{self.bag}: {self.topic} at {self.received:.3f} s"

    @cached_property
    def decoded(self) -> Any:
        """The message object; raises `DiwaError` on damage."""
        return self.kind.decode(self.data, self.where)

    @property
    def stamp(self) -> float:
        """Its header's, seconds; when it was received if it has none, or a publisher left that empty."""
        if not self.kind.has_header:
            return self.received
        if len(self.data) < 12:
            raise DiwaError(f"{self.where}: message of {len(self.data)} bytes is not a {self.kind.name}")
        return header_stamp(self.data) or self.received


class Feed(Protocol):
    """Makes the samples of a stream."""

    @property
    def latched(self) -> bool:
        """A sample holds however old it is."""

    def take(self, message: Message) -> Iterator[Sample]:
        """The samples that a message gives: one, or none."""

    def value(self, sample: Sample) -> Any:
        """The value of a sample, as `Source.value`."""

    def missing(self) -> str:
        """A line on what the messages lack for a sample, and what they held, after all were taken."""


@dataclass
class Images:
    """A camera's images, cut and resized as our own recorder does."""

    camera: CameraSpec
    latched = False

    def take(self, message: Message) -> Iterator[Sample]:
        yield Sample(message, message.stamp, message.received)

    def value(self, sample: Sample) -> Any:
        message = sample.value
        try:
            return crop_for_recording(image_of(message.decoded), self.camera)
        except DiwaError as error:
            text = str(error)
            raise DiwaError(text if text.startswith(message.where) else f"{message.where}: {text}") from error

    def missing(self) -> str:
        return "no image"


@dataclass
class Poses:
    """Poses in the messages of a topic."""

    mapping: PoseMapping
    base_frame: str

    @property
    def latched(self) -> bool:
        return self.mapping.latched

    def take(self, message: Message) -> Iterator[Sample]:
        yield Sample(message, message.stamp, message.received)

    def value(self, sample: Sample) -> Any:
        message = sample.value
        found = pose_in(message.decoded, self.mapping.field, message.where)
        if self.base_frame and found.frame and found.frame != self.base_frame.lstrip("/"):
            raise DiwaError(
                f"{message.where} is in the frame {found.frame!r}, not in {self.base_frame!r}, that of the base: "
                "choose another topic, or set base_frame in the mapping"
            )
        return found.pose

    def frame(self, sample: Sample) -> str:
        """The frame that a pose is in; empty where nobody says."""
        return self.base_frame or pose_in(sample.value.decoded, self.mapping.field, sample.value.where).frame

    def missing(self) -> str:
        return "no pose"


@dataclass
class Chain:
    """The pose of a frame, from transforms."""

    transforms: Transforms
    latched: bool
    bag: Path

    def take(self, message: Message) -> Iterator[Sample]:
        if self.transforms.feed(message.decoded, message.topic.endswith("tf_static")) and self.transforms.moves:
            chain = self.transforms.now()
            yield Sample(chain, oldest(chain) or message.received, message.received)

    def value(self, sample: Sample) -> Any:
        return pose_of(sample.value, f"{self.bag}: at {sample.received:.3f} s")

    def frame(self, _: Sample) -> str:
        """The frame that the pose is in."""
        return self.transforms.parent

    def missing(self) -> str:
        parent, child = self.transforms.parent, self.transforms.child
        if self.transforms.is_known:
            return f"only static transforms between {parent} and {child}, so the hand never moves"
        return f"no transforms between {parent} and {child}; frames there are: {_listed(self.transforms.frames)}"


class Numbers:
    """Numbers in the messages of a topic, scaled."""

    def __init__(self, mapping: NumberMapping):
        self.mapping, self.latched = mapping, mapping.latched
        self._joints: dict[str, None] = {}

    def take(self, message: Message) -> Iterator[Sample]:
        if message.kind.name == JOINTS and not self.mapping.field:
            self._joints |= dict.fromkeys(message.decoded.name)
            if not self.mapping.joints or joints_in(message.decoded, self.mapping.joints, message.where) is None:
                return
        yield Sample(message, message.stamp, message.received)

    def value(self, sample: Sample) -> float:
        """The number; raises `DiwaError` if it is not finite."""
        message, mapping = sample.value, self.mapping
        if mapping.joints:
            found = joints_in(message.decoded, mapping.joints, message.where)
            assert found is not None
        else:
            found = number_in(message.decoded, mapping.field, message.where)
        if not math.isfinite(found):
            raise DiwaError(f"{message.where}: {found} is not finite")
        return mapping.scale * found + mapping.offset

    def missing(self) -> str:
        wanted = (
            f"no message with joints {', '.join(self.mapping.joints)}" if self.mapping.joints else "no joints listed"
        )
        return f"{wanted}; joints there are: {_listed(list(self._joints))}"


class Commands(Numbers):
    """Commands to the gripper: +1 opens, -1 closes."""

    def __init__(self, mapping: CommandMapping):
        super().__init__(mapping)
        self._command, self.latched = mapping, True

    def value(self, sample: Sample) -> float:
        """+1 or -1; a number as value is the command before the first message."""
        if isinstance(sample.value, float):
            return sample.value
        opens = (super().value(sample) >= self._command.threshold) != self._command.inverted
        return OPEN if opens else CLOSE


class CommandsOfWidth(Numbers):
    """Commands as the width shows them: closed from `close_below` down, open from `open_above` up, else as before."""

    def __init__(self, width: NumberMapping, command: CommandMapping):
        super().__init__(width)
        self._command, self._now, self.latched = command, 0.0, True

    def take(self, message: Message) -> Iterator[Sample]:
        for sample in super().take(message):
            width, low, high = super().value(sample), self._command.close_below, self._command.open_above
            if width > high or width < low:
                self._now = OPEN if width > high else CLOSE
            elif not self._now:
                self._now = OPEN if width >= (low + high) / 2 else CLOSE
            yield sample._replace(value=self._now)

    def value(self, sample: Sample) -> float:
        """+1 or -1."""
        return sample.value


def _listed(names: list[str]) -> str:
    return ", ".join(names[:40]) + f" and {len(names) - 40} more" * (len(names) > 40) if names else "none"
