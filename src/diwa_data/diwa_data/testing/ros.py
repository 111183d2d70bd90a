"""Nodes in processes of their own, and the topics of an imaginary robot that can be stalled, broken and changed."""

from __future__ import annotations

import fcntl
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import rclpy
from geometry_msgs.msg import TransformStamped
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import JointState
from tf2_msgs.msg import TFMessage

from diwa_data.pose import Pose
from diwa_data.recording import messages
from diwa_data.robot_config import CAMERAS
from diwa_data.ros.topics import DEPTH, LATCHED, publisher, subscribe
from diwa_data.testing.synthetic import JOINTS, READY, synthetic_image, synthetic_pose
from diwa_data.testing.waiting import PATIENCE

T = TypeVar("T")

SIZE = (40, 48)
"""Height and width of its images, pixels."""
PARAMETERS = tuple(f"robot.{camera}.record_size:=[{SIZE[0]},{SIZE[1]}]" for camera in CAMERAS)
"""Parameters that make nodes expect them."""


@contextmanager
def own_domain() -> Iterator[int]:
    """A ROS domain from 80 to 101 that no other test here uses, nor did of late: nodes that were killed linger."""
    locks = {Path(tempfile.gettempdir()) / f"diwa_domain_{number}.lock": number for number in range(80, 102)}
    for path in sorted(locks, key=lambda path: path.stat().st_mtime if path.exists() else 0.0):
        with path.open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield locks[path]
            path.touch()
            return
    raise RuntimeError("all ROS domains from 80 to 101 are in use")


class Program:
    """A program in its own process group, and what it and its children have said."""

    def __init__(self, domain: int, *command: str):
        """Run `command` in a ROS domain."""
        environment = os.environ | {"ROS_DOMAIN_ID": str(domain)}
        self._process = subprocess.Popen(
            command,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.said: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_for(self, text: str, seconds: float = PATIENCE) -> str:
        """The first line said from now on, or before, that holds `text`."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for line in list(self.said):
                if text in line:
                    return line
            time.sleep(0.02)
        raise AssertionError(f"{text!r} was not said within {seconds} s, but:\n" + "\n".join(self.said))

    def forget(self) -> None:
        """Only what is said from now on counts."""
        self.said.clear()

    def kill(self) -> None:
        """As `kill -9`, of its children too."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def end(self) -> None:
        """Ctrl-C, so that what it has to write is written, and `kill -9` after 5 s."""
        if self.running:
            with suppress(subprocess.TimeoutExpired, ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGINT)
                self._process.wait(5)
        self.kill()

    def send_signal(self, number: int = signal.SIGINT) -> None:
        """Send a signal to all of them, as a terminal does."""
        os.killpg(self._process.pid, number)

    def stop(self, number: int = signal.SIGINT) -> int:
        """Send a signal to all of them; the exit status."""
        self.send_signal(number)
        return self.wait()

    def interrupt(self) -> tuple[float, float]:
        """Send Ctrl-C; seconds until it had ended, and those in which its main thread did not wait for a core."""
        begun, before = time.monotonic(), self._waiting()
        self.send_signal()
        waited = before
        while self.running:
            waited = max(waited, self._waiting())
            time.sleep(0.005)
        seconds = time.monotonic() - begun
        return seconds, max(0.0, seconds - (waited - before))

    def _waiting(self) -> float:
        """Seconds that its main thread has waited for a core; 0 where the kernel does not say."""
        with suppress(OSError, IndexError, ValueError):
            return int(Path(f"/proc/{self._process.pid}/schedstat").read_text().split()[1]) / 1e9
        return 0.0

    def wait(self, seconds: float = PATIENCE) -> int:
        """The exit status, once it has ended."""
        status = self._process.wait(seconds)
        self._reader.join(5)
        return status

    @property
    def running(self) -> bool:
        """It has not ended."""
        return self._process.poll() is None

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.said.append(line.rstrip())


class NodeProcess(Program):
    """A node in its own process."""

    def __init__(self, module: str, domain: int, *parameters: str, remaps: Iterable[str] = ()):
        """Run `python -m module` with ROS parameters `name:=value` and remaps `name:=name` in a domain."""
        words = [word for parameter in parameters for word in ("-p", parameter)]
        words += [word for remap in remaps for word in ("-r", remap)]
        super().__init__(domain, sys.executable, "-m", module, "--ros-args", *words)


class Topics:
    """Publishes and subscribes to topics from a thread of this process."""

    def __init__(self, domain: int, namespace: str = ""):
        self._context = Context()
        rclpy.init(context=self._context, domain_id=domain)
        self.node = Node("test", namespace=namespace, context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._publishers: dict[str, Callable[[memoryview], None]] = {}
        self._calls: queue.Queue[tuple[Callable[[], Any], Future]] = queue.Queue()
        self.received: dict[str, list] = {}
        self._open = True
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def publish(self, topic: str, data: memoryview, qos: object = 10) -> None:
        """Publish serialised `data`."""
        if topic not in self._publishers:
            self._publishers[topic] = self.call(lambda: publisher(self.node, topic, qos))
        self._publishers[topic](data)

    def call(self, make: Callable[[], T]) -> T:
        """`make()` in the thread that spins: what adds to the node must not come in between."""
        done: Future[T] = Future()
        self._calls.put((make, done))
        return done.result(timeout=10)

    def subscribe(self, topic: str) -> list:
        """A list that fills with the values of a topic, all of them on a busy machine too."""
        self.received[topic] = []
        self.call(lambda: subscribe(self.node, topic, self.received[topic].append, DEPTH))
        return self.received[topic]

    def event(self, name: str) -> None:
        """An operator's event."""
        self.publish(messages.EPISODE_EVENT, messages.encode_string(name))

    def close(self) -> None:
        self._open = False
        self._thread.join()
        self.node.destroy_node()
        self._context.try_shutdown()

    def _spin(self) -> None:
        while self._open:
            self._executor.spin_once(timeout_sec=0.05)
            while not self._calls.empty():
                make, done = self._calls.get()
                done.set_result(make())


class SyntheticRobot:
    """Publishes what a robot and its cameras do, at 30 Hz, until it is closed."""

    def __init__(self, topics: Topics, qos: object = 10, silent: Collection[str] = ()):
        self._topics, self._qos = topics, qos
        self.silent = set(silent)
        """Topics that are left out."""
        self.renamed: dict[str, str] = {}
        """Topics that have another name."""
        self.stamp_offset = 0.0
        """Added to the cameras' header stamps, seconds."""
        self.frozen_stamp: float | None = None
        """Header stamp of all cameras, if they are frozen, seconds."""
        self.size = SIZE
        """Height and width of what its cameras send."""
        self.encoding = b"rgb8"
        """Encoding that its cameras name, four letters."""
        self.pose: Callable[[float], Pose] = synthetic_pose
        self.frame = messages.BASE_FRAME
        """Frame of its poses."""
        self.frames = 0
        self._open = True
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._open = False
        self._thread.join()

    def _run(self) -> None:
        begun = time.monotonic()
        while self._open:
            time.sleep(max(0.0, begun + self.frames / 30 - time.monotonic()))
            self._frame(time.time(), time.monotonic() - begun)
            self.frames += 1

    def _frame(self, now: float, elapsed: float) -> None:
        pose = self.pose(elapsed)
        self._send(messages.CURRENT_POSE, messages.encode_pose(pose, now, self.frame))
        self._send(messages.TARGET_POSE, messages.encode_pose(pose, now, self.frame))
        self._send(messages.JOINT_STATES, messages.encode_joints(JOINTS, READY, np.zeros(9), now))
        if self.frames % 30 == 0:
            self._send(messages.GRIPPER_COMMAND, messages.encode_float(1.0))
        stamp = now + self.stamp_offset if self.frozen_stamp is None else self.frozen_stamp
        for camera in reversed(CAMERAS):
            image = messages.encode_image(synthetic_image(elapsed, *self.size), stamp, f"{camera}_camera")
            named = bytes(image).replace(b"rgb8\0", self.encoding + b"\0", 1)
            self._send(messages.image_topic(camera), memoryview(named))

    def _send(self, topic: str, data: memoryview) -> None:
        if topic not in self.silent:
            self._topics.publish(self.renamed.get(topic, topic), data, self._qos)


class OtherArm:
    """An arm with topics of its own: its pose by /tf at 60 Hz, best effort, its joints and its gripper's elsewhere."""

    KNUCKLE = 0.4
    """Radians: a Robotiq that is half open, 0.0425 m."""

    def __init__(self, topics: Topics, gripper: bool = True, pose: Callable[[float], Pose] = synthetic_pose):
        """`pose`: where the hand is, so many seconds after the beginning."""
        node = topics.node
        kinds: dict[str, tuple[Any, Any]] = {
            "/tf": (TFMessage, qos_profile_sensor_data),
            "/tf_static": (TFMessage, LATCHED),
            "/ur/joint_states": (JointState, qos_profile_sensor_data),
        }
        kinds |= {"/gripper/joint_states": (JointState, 10)} if gripper else {}
        self._publishers = topics.call(
            lambda: {name: node.create_publisher(kind, name, qos) for name, (kind, qos) in kinds.items()}
        )
        self._pose, self.silent = pose, set[str]()
        """Topics that are left out."""
        self._mount = Pose.from_quaternion(np.array([0.0, 0.0, 0.1]), [0, 0, 1, 0])
        self._open = True
        self._publishers["/tf_static"].publish(TFMessage(transforms=[self._link("flange", "tool0", self._mount, 0.0)]))
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._open = False
        self._thread.join()

    def _run(self) -> None:
        begun = time.monotonic()
        back = self._mount.rotation.inv()
        while self._open:
            elapsed, now = time.monotonic() - begun, time.time()
            tool = self._pose(elapsed)
            rotation = tool.rotation * back
            flange = Pose(tool.position - rotation.apply(self._mount.position), rotation)
            self._send("/tf", TFMessage(transforms=[self._link("base", "flange", flange, now)]))
            self._send("/ur/joint_states", self._state(now, shoulder=0.1, elbow=elapsed))
            if "/gripper/joint_states" in self._publishers:
                self._send("/gripper/joint_states", self._state(now, knuckle=self.KNUCKLE))
            time.sleep(1 / 60)

    def _send(self, topic: str, message: Any) -> None:
        if topic not in self.silent:
            self._publishers[topic].publish(message)

    def _link(self, parent: str, child: str, pose: Pose, now: float) -> Any:
        link = TransformStamped()
        link.header.frame_id, link.child_frame_id = parent, child
        link.header.stamp.sec, link.header.stamp.nanosec = int(now), int(now % 1 * 1e9)
        for name, value in zip("xyz", pose.position.tolist(), strict=True):
            setattr(link.transform.translation, name, value)
        for name, value in zip("xyzw", pose.quaternion.tolist(), strict=True):
            setattr(link.transform.rotation, name, value)
        return link

    def _state(self, now: float, **positions: float) -> Any:
        state = JointState(name=list(positions), position=list(positions.values()))
        state.header.stamp.sec, state.header.stamp.nanosec = int(now), int(now % 1 * 1e9)
        return state
