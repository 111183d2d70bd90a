"""rosbag2's own writer behind `bag_writer.Backend`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rosbag2_py

from diwa_data.recording.bag_writer import Storage
from diwa_data.ros.distributions import close_writer, topic_metadata

_PRESETS = {"mcap": "zstd_fast", "sqlite3": "resilient"}


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
