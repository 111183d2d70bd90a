"""Serialised messages -> a `Session`; what it says, the streams' health and the status line -> the operator."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field

from rclpy.node import Node

from diwa_data import clock
from diwa_data.errors import DiwaError
from diwa_data.files import expanded
from diwa_data.recording import messages
from diwa_data.recording.bag_reader import needed_topics
from diwa_data.recording.bag_writer import Storage
from diwa_data.recording.session import Session, SessionConfig
from diwa_data.robot_config import RobotConfig
from diwa_data.ros.health import Health
from diwa_data.ros.offers import Offers
from diwa_data.ros.parameters import read_parameters
from diwa_data.ros.rosbag2_backend import Rosbag2Backend
from diwa_data.ros.running import every, run_node
from diwa_data.ros.topics import LATCHED, hear, publisher

_WAITING_EVERY = 5  # reports: between episodes the status line comes more rarely


@dataclass(frozen=True)
class RecorderConfig:
    """Parameters of `recorder`."""

    robot: RobotConfig = field(default_factory=RobotConfig)
    """The contract of what is recorded."""
    folder: str = "bags"
    """Folder of the episodes; an existing one continues."""
    storage: Storage = "mcap"
    """rosbag2 storage."""
    skill: str = ""
    """Skill that is demonstrated; empty = play."""
    operator: str = ""
    """Who teleoperates; goes into the labels."""
    min_free_mb: float = 1000.0
    """Free disk below which nothing is recorded, megabytes."""


class RecorderNode(Node):
    """Episodes begin and end with what is heard on `/diwa/episode_event`."""

    def __init__(self) -> None:
        super().__init__("recorder", automatically_declare_parameters_from_overrides=True)
        config = read_parameters(self, RecorderConfig)
        spec, folder = config.robot.spec, expanded(config.folder).resolve()
        source = "demonstration" if config.skill else "play"
        labels = {"source": source, "skill": config.skill, "operator": config.operator}
        required = tuple(needed_topics(spec))
        settings = SessionConfig(
            folder, config.storage, labels, config.min_free_mb, required, base_frame=config.robot.base_frame
        )
        self._session = Session(spec, settings, Rosbag2Backend)
        if self._session.unfinished:
            self.get_logger().warning(self._session.unfinished)
        infos = [messages.camera_info_topic(camera.name) for camera in spec.cameras]
        self._offers = Offers(
            self, [*required, *infos, messages.CONTROLLER_POSE, messages.CONTROLLER_JOY], self._on_message
        )
        self._recording = publisher(self, messages.RECORDING, LATCHED)
        self._recording(messages.encode_string(""))
        self._health, self._reports = Health(self, self._offers), 0
        hear(self, messages.EPISODE_EVENT, self._on_event)
        hear(self, messages.EPISODE_LABELS, self._on_labels, LATCHED)
        every(self, 0.5, self._offers.look)
        every(self, 1.0, self._report)
        what = config.skill or "play"
        self.get_logger().info(f"{what} goes into {folder}: press start (menu button, or n on the keyboard)")

    def close(self) -> None:
        """Finish a running episode."""
        self._say(self._session.close)

    def _on_message(self, topic: str, message_type: str, received: float, data: bytes) -> None:
        self._say(lambda: self._session.message(topic, message_type, received, data))

    def _on_event(self, event: str) -> None:
        self._say(lambda: self._session.event(event, clock.now()))
        self._recording(messages.encode_string(self._session.episode))

    def _on_labels(self, labels: str) -> None:
        try:
            self._session.label(dict(json.loads(labels)))
        except (json.JSONDecodeError, TypeError, ValueError):
            self.get_logger().error(f"{messages.EPISODE_LABELS} says {labels!r}, which is no JSON object: left out")

    def _say(self, act: Callable[[], str]) -> None:
        """Tell what `act()` says; an error loses the running episode at most, never the session."""
        try:
            said = act()
        except DiwaError as error:
            self.get_logger().error(str(error))
            self._recording(messages.encode_string(self._session.episode))
            return
        if said:
            self.get_logger().info(said)

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
