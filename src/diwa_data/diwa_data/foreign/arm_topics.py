"""The messages of an arm with topics of its own -> ours, and our target -> its own. ROS-free: the node carries them.

Messages are objects with the fields of their types, whichever library made them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from diwa_data.errors import DiwaError
from diwa_data.foreign.transforms import Transforms, oldest, pose_of
from diwa_data.foreign.values import joints_in, number_in, pose_in
from diwa_data.pose import Pose
from diwa_data.recording import messages
from diwa_data.recording.messages import gripper_width
from diwa_data.robot_config import RobotConfig, TargetTopic, WidthTopic

TF, TF_STATIC = "/tf", "/tf_static"
FINGER = "finger_width"
"""Joint that holds the gripper's width in the joint states that are made here."""
MAX_AGE = 1.0
"""Seconds after which a width, or the arm's joints, are too old to be told with newer values."""


@dataclass(frozen=True, eq=False)
class Told:
    """A message of ours."""

    topic: str
    data: memoryview


class ArmTopics:
    """Takes in what the arm and its gripper say. A message gives at most one of ours, under its own stamp."""

    def __init__(self, robot: RobotConfig):
        topics = robot.topics
        self._base, self._field = robot.base_frame, topics.pose.field
        self._hand = Transforms(robot.base_frame, topics.pose.child) if topics.pose.child else None
        self.pose_topic = topics.pose.topic
        """The arm's own topic of its pose; empty if it is one of ours, or from /tf."""
        self._joints = JointTopics(robot) if topics.adapts_joints else None

    @property
    def topics(self) -> list[str]:
        """Topics to `take` from."""
        frames, joints = [TF, TF_STATIC] if self._hand else [], self._joints.topics if self._joints else []
        return list(dict.fromkeys(filter(None, [*frames, self.pose_topic, *joints])))

    @property
    def gives(self) -> list[str]:
        """Topics of ours that are told."""
        pose = [messages.CURRENT_POSE] if self._hand or self.pose_topic else []
        return [*pose, *([self._joints.ours] if self._joints else [])]

    def take(self, topic: str, message: Any, received: float, now: float) -> Iterator[Told]:
        """The form of a message of `topic` on our topics; `received` is monotonic, `now` the time of day, seconds.

        Raises `DiwaError` if the message does not hold what it should, or that is not finite.
        """
        if self._hand and topic in (TF, TF_STATIC):
            if self._hand.feed(message, topic == TF_STATIC) and self._hand.moves:
                chain = self._hand.now()
                yield self._told(pose_of(chain, TF), oldest(chain) or now, self._base)
        elif topic == self.pose_topic:
            found = pose_in(message, self._field, topic)
            yield self._told(found.pose, stamp_of(message, now), found.frame or self._base)
        if self._joints and topic in self._joints.topics:
            yield from self._joints.take(topic, message, received, now)

    def unused(self) -> dict[str, str]:
        """Our topics of which nothing is told though messages come, and why."""
        found = self._joints.unused() if self._joints else {}
        if self._hand and not (self._hand.is_known and self._hand.moves):
            found[messages.CURRENT_POSE] = no_way(self._hand)
        return found

    def _told(self, pose: Pose, stamp: float, frame: str) -> Told:
        return Told(messages.CURRENT_POSE, messages.encode_pose(pose, stamp, frame))


class JointTopics:
    """Joint states of the arm and the gripper's width as one message, at each of the arm's, or else the gripper's."""

    def __init__(self, robot: RobotConfig):
        self.ours, self._config = robot.joint_states, robot.topics.width
        """Our topic."""
        self._has_gripper = robot.action.gripper
        self._joints_topic = robot.topics.joints or (
            "" if self._config.topic else messages.relative(messages.JOINT_STATES)
        )
        self._width_topic = (self._config.topic or self._joints_topic) if self._has_gripper else ""
        self._arm: tuple[dict[str, tuple[float, float]], float] | None = None  # positions and velocities, seconds
        self._width: tuple[float, float] | None = None  # metres, seconds
        self._names: dict[str, None] = {}
        self._now = -math.inf

    @property
    def topics(self) -> list[str]:
        """Topics to `take` from."""
        return list(dict.fromkeys(filter(None, [self._joints_topic, self._width_topic])))

    def take(self, topic: str, message: Any, received: float, now: float) -> Iterator[Told]:
        """As `ArmTopics.take`."""
        self._now = received
        measured = topic == self._width_topic and self._measure(message, received)
        of_arm = topic == self._joints_topic and self._hear(message, received)
        arm = self._arm[0] if self._arm and received - self._arm[1] <= MAX_AGE else {}
        if not of_arm and not (measured and not arm):
            return
        if self._has_gripper:
            if not self._width or received - self._width[1] > MAX_AGE:
                return
            arm = arm | {FINGER: (self._width[0], 0.0)}
        positions, velocities = (np.array([each[n] for each in arm.values()]) for n in (0, 1))
        yield Told(self.ours, messages.encode_joints(list(arm), positions, velocities, stamp_of(message, now)))

    def unused(self) -> dict[str, str]:
        """As `ArmTopics.unused`."""
        if not self._has_gripper or self._now == -math.inf or (self._width and self._now - self._width[1] <= MAX_AGE):
            return {}
        wanted = ", ".join(self._config.joints) or "with finger in its name"
        known = f": no joint {wanted}; joints there are: {', '.join(self._names)}" if self._names else ""
        return {self.ours: f"no width of the gripper on {self._width_topic}{known}"}

    def _measure(self, message: Any, received: float) -> bool:
        """Whether it is a message about the gripper's width."""
        found = width_in(message, self._config, self._width_topic)
        if found is None:
            self._names |= dict.fromkeys(message.name)
            return False
        self._width = found, received
        return True

    def _hear(self, message: Any, received: float) -> bool:
        """Whether it is a message about joints that are none of the gripper's."""
        where = self._joints_topic
        if not (hasattr(message, "name") and hasattr(message, "velocity")):
            raise DiwaError(f"{where} holds no joints: it must be a sensor_msgs/msg/JointState")
        names, positions, velocities = list(message.name), list(message.position), list(message.velocity)
        if len(names) != len(positions):
            raise DiwaError(f"{where}: {len(names)} names of joints, but {len(positions)} positions")
        if len(velocities) != len(positions):
            velocities = [0.0] * len(positions)
        known = dict(zip(names, zip(positions, velocities, strict=True), strict=True))
        if self._has_gripper:  # its width is told once
            known = {
                name: each for name, each in known.items() if not ("finger" in name or name in self._config.joints)
            }
        if known:
            self._arm = known, received
        return bool(known)


class ArmTarget:
    """Our target as the arm wants it: in a frame of its own, if it has one."""

    def __init__(self, config: TargetTopic, base_frame: str):
        self.topic = config.topic
        """The arm's own topic; empty if it follows ours."""
        self._frame = config.frame or base_frame
        self._base = Transforms(config.frame, base_frame) if config.frame not in ("", base_frame) else None

    @property
    def topics(self) -> list[str]:
        """Topics to `hear`."""
        return [TF, TF_STATIC] if self._base else []

    def hear(self, topic: str, message: Any) -> None:
        """Take in transforms, which place our base in the arm's frame."""
        if self._base and topic in self.topics:
            self._base.feed(message, topic == TF_STATIC)

    def problem(self) -> str:
        """Reason why the target cannot be told; empty if it can."""
        return no_way(self._base) if self._base and not self._base.is_known else ""

    def told(self, target: Pose, stamp: float) -> memoryview:
        """The message. There must be no `problem`."""
        if self._base:
            base = pose_of(self._base.now(), TF)
            target = Pose(base.position + base.rotation.apply(target.position), base.rotation * target.rotation)
        return messages.encode_pose(target, stamp, self._frame)


def width_in(message: Any, config: WidthTopic, where: str) -> float | None:
    """The gripper's width in a message, metres; None in joint states of others. Raises `DiwaError` if there is none."""
    if hasattr(message, "name") and not config.field:
        if not config.joints and not any("finger" in name for name in message.name):
            return None
        found = joints_in(message, config.joints, where) if config.joints else gripper_width(message, where)
    else:
        found = number_in(message, config.field, where)
    if found is None:
        return None
    width = config.scale * found + config.offset
    if not math.isfinite(width):
        raise DiwaError(f"{where}: the gripper's width {width} is not finite: fix its publisher")
    return max(0.0, width)


def stamp_of(message: Any, otherwise: float) -> float:
    """Its header's, seconds; `otherwise` if it has none, or a publisher left that empty."""
    stamp = getattr(getattr(message, "header", None), "stamp", None)
    return (stamp.sec + 1e-9 * stamp.nanosec if stamp else 0.0) or otherwise


def no_way(transforms: Transforms) -> str:
    """Reason why there is no moving pose between two frames."""
    between = f"between {transforms.parent} and {transforms.child}"
    if transforms.is_known:
        return f"only static transforms {between}: the hand never moves"
    return f"no transforms {between}; frames there are: {', '.join(transforms.frames) or 'none'}"
