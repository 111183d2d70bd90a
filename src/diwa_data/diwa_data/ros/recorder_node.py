"""Serialised messages -> a `Session`; what it says, the streams' health and the status line -> the operator."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import rosbag2_py
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node
from rclpy.task import Future
from std_srvs.srv import Trigger

from diwa_data.errors import DiwaError
from diwa_data.files import expanded
from diwa_data.recording import messages
from diwa_data.recording.bag_reader import needed_topics
from diwa_data.recording.bag_writer import Storage
from diwa_data.recording.recorder import EVENTS, Refusal
from diwa_data.recording.session import Session, Status
from diwa_data.robot_config import RobotConfig
from diwa_data.ros import clock
from diwa_data.ros.distributions import close_writer, topic_metadata
from diwa_data.ros.node import Diagnostics, every, read_parameters, run_node
from diwa_data.ros.topics import LATCHED, MatchedSubscriptions, publisher, subscribe
from diwa_data.skills import skill_name

PREFLIGHT = 2.0
"""Seconds after which the operator is told what is silent."""
_PRESETS = {"mcap": "zstd_fast", "sqlite3": "resilient"}
_WAITING_EVERY = 5  # reports: between episodes the status line comes more rarely


@dataclass(frozen=True)
class RecorderConfig:
    """Parameters of `recorder`."""

    robot: RobotConfig = field(default_factory=RobotConfig)
    """The robot, whose contract is recorded."""
    folder: str = "bags"
    """Folder of the episodes; recording continues in an existing one."""
    storage: Storage = "mcap"
    """Storage format of rosbag2."""
    skill: str = ""
    """Skill that is demonstrated; empty = play."""
    operator: str = ""
    """Name of the person who teleoperates, for the labels."""
    min_free_mb: float = 1000.0
    """Free disk space below which nothing is recorded, in megabytes."""
    extra_topics: tuple[str, ...] = ()
    """Further topics for the bag, of any type. The recorder does not wait for them, and datasets do not have them."""


class Health:
    """Watches for topics that fall silent, and for those that several nodes publish."""

    def __init__(self, node: Node, matched: MatchedSubscriptions, extra: Collection[str]):
        """`extra`: topics that only warn."""
        self._node, self._matched, self._extra = node, matched, {*extra}
        self._diagnostics = Diagnostics(node)
        self._begun = time.monotonic()
        self._silent: set[str] = set()
        self._rivals: dict[str, str] = {}

    def tell(self, status: Status, session: Session) -> None:
        """Call it once a second."""
        self._diagnose(status, session)
        if time.monotonic() - self._begun < PREFLIGHT:
            return
        log, rivals = self._node.get_logger(), self._matched.rivals(self._extra)
        silent = {*status.silent, *(self._extra - session.heard)}
        for topic in sorted(silent - self._silent):
            if topic in self._extra:
                log.warning(f"{self._matched.describe(topic)}; it is not recorded")
            else:
                log.error(self._matched.describe(topic))
        for topic in sorted(self._silent - silent):
            log.info(f"{self._matched.name(topic)} is received (again)")
        for topic in sorted(rivals.keys() - self._rivals.keys()):
            mixed = f"{self._matched.name(topic)} is published by {rivals[topic]}"
            log.error(f"{mixed}: what is recorded is mixed; stop all but one")
        self._silent, self._rivals = silent, rivals

    def _diagnose(self, status: Status, session: Session) -> None:
        values = {"episode": status.episode, "seconds": f"{status.seconds:.1f}", "finished": status.finished}
        self._diagnostics.add("session", "", **values, free_mb=f"{status.free_mb:.0f}")
        for topic, lost in self._matched.lost.items():
            problem = self._matched.describe(topic) if topic in status.silent else ""
            rate = f"{status.rates.get(topic, 0.0):.2f}"
            self._diagnostics.add(topic, problem, rate=rate, lost=lost, **session.numbers(topic))
        self._diagnostics.publish()


class Rosbag2Backend:
    """Writes serialised messages with rosbag2: MCAP in zstd chunks, or sqlite3 that survives a kill."""

    def __init__(self, bag: Path, storage: Storage):
        self._writer: Any = rosbag2_py.SequentialWriter()
        options = rosbag2_py.StorageOptions(uri=str(bag), storage_id=storage)
        options.storage_preset_profile = _PRESETS[storage]
        self._writer.open(options, rosbag2_py.ConverterOptions("cdr", "cdr"))
        self._topics: set[str] = set()

    def write(self, topic: str, message_type: str, nanoseconds: int, data: bytes | memoryview) -> None:
        if topic not in self._topics:
            self._writer.create_topic(topic_metadata(rosbag2_py, len(self._topics), topic, message_type))
            self._topics.add(topic)
        self._writer.write(topic, bytes(data), nanoseconds)

    def close(self) -> None:
        writer, self._writer = self._writer, None
        close_writer(writer)

    def abort(self) -> None:
        self.close()


def extra_names(extra: Sequence[str], ours: Collection[str]) -> dict[str, str]:
    """Names in the bag, where no namespace stands before them -> names on the graph.

    Raises `DiwaError` for what is not a name, and for what is recorded anyway.
    """
    names: dict[str, str] = {}
    for name in extra:
        if not re.fullmatch(r"/?[A-Za-z_]\w*(/[A-Za-z_]\w*)*", name, re.ASCII):
            raise DiwaError(f"extra_topics: {name!r} is not a name of a topic, such as /tf or wrench")
        kept = f"/{messages.relative(name)}"
        if kept in ours or kept in names:
            raise DiwaError(f"extra_topics: {name} is recorded already: leave it out")
        names[kept] = name
    return names


class RecorderNode(Node):
    """Episodes begin and end with the events on `/diwa/episode_event`, or with the services of their names."""

    def __init__(self) -> None:
        super().__init__("recorder", automatically_declare_parameters_from_overrides=True)
        config = read_parameters(self, RecorderConfig)
        spec, folder = config.robot.spec, expanded(config.folder).resolve()
        if config.skill:
            skill_name(config.skill)
        source, required = "demonstration" if config.skill else "play", tuple(needed_topics(spec))
        labels: dict[str, Any] = {"source": source, "skill": config.skill, "operator": config.operator}
        labels |= {"extra_topics": [*config.extra_topics]} if config.extra_topics else {}
        labels |= {"namespace": namespace} if (namespace := self.get_namespace().strip("/")) else {}
        settings = (required, config.storage, config.min_free_mb, config.robot.base_frame)
        self._session = Session(spec, folder, labels, *settings, Rosbag2Backend)
        if self._session.unfinished:
            self.get_logger().warning(self._session.unfinished)
        infos = [messages.camera_info_topic(camera.name) for camera in spec.cameras]
        topics = [*required, *infos, messages.CONTROLLER_POSE, messages.CONTROLLER_JOY, messages.ARM_MODE]
        topics += [messages.JOINT_STATES] if messages.JOINT_STATES not in topics else []  # of a robot without a gripper
        self._extra = extra_names(config.extra_topics, [*topics, messages.EPISODE_EVENT])
        names = {topic: config.robot.name_on_graph(topic) for topic in topics} | self._extra
        self._matched = MatchedSubscriptions(self, names, self._on_message)
        self._recording = publisher(self, messages.RECORDING, LATCHED)
        self._recording(messages.encode_string(""))
        self._health, self._reports = Health(self, self._matched, self._extra), 0
        self._event = publisher(self, messages.EPISODE_EVENT)
        self._asked: dict[str, list[Future]] = {name: [] for name in EVENTS}
        beside = ReentrantCallbackGroup()  # while one of them waits, messages and events come in
        for name in EVENTS:
            self.create_service(Trigger, f"~/{name}", partial(self._serve, name), callback_group=beside)
        subscribe(self, messages.EPISODE_EVENT, self._on_event)
        subscribe(self, messages.EPISODE_LABELS, self._on_labels, LATCHED)
        every(self, 0.5, self._look_around)
        every(self, 1.0, self._report)
        self.get_logger().info(
            f"{config.skill or 'play'} goes into {folder}: press start (menu button, or n on the keyboard)"
        )

    def close(self) -> None:
        """Finish a running episode."""
        self._say(self._session.close)

    def _on_message(self, topic: str, message_type: str, received: float, data: bytes) -> None:
        self._say(lambda: self._session.message(topic, message_type, received, data))

    def _look_around(self) -> None:
        self._matched.update()
        for topic in filter(self._matched.latched, self._extra):
            self._session.keep(topic)

    async def _serve(self, event: str, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """Publish an event, so that all who care hear it, and answer what came of it here, or why nothing did."""
        asked = Future(executor=self.executor)
        self._asked[event].append(asked)
        self._event(messages.encode_string(event))
        said = await asked
        response.success, response.message = not isinstance(said, Refusal), said
        return response

    def _on_event(self, event: str) -> None:
        said = self._say(lambda: self._session.event(event, clock.now()))
        self._recording(messages.encode_string(self._session.episode))
        for asked in self._asked.get(event, []):
            asked.set_result(said)
        self._asked[event] = []

    def _on_labels(self, labels: str) -> None:
        try:
            self._session.label(dict(json.loads(labels)))
        except (json.JSONDecodeError, TypeError, ValueError):
            self.get_logger().error(f"{messages.EPISODE_LABELS} says {labels!r}, which is not a JSON object: left out")

    def _say(self, act: Callable[[], str]) -> str:
        """Tell what `act()` says, and return it; an error loses the running episode at most, never the session."""
        try:
            said = act()
        except DiwaError as error:
            self.get_logger().error(str(error))
            self._recording(messages.encode_string(self._session.episode))
            return Refusal(error)
        if said:
            self.get_logger().info(said)
        return said

    def _report(self) -> None:
        status = self._session.status(clock.now())
        self._health.tell(status, self._session)
        if status.episode or self._reports % _WAITING_EVERY == 0:
            self.get_logger().info(status.line())
        self._reports += 1


def main() -> None:
    """The node `recorder`."""
    run_node(RecorderNode)


if __name__ == "__main__":
    main()
