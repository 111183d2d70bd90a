"""An arm with cameras behind topics, as the `Robot` that the control loop drives.

Three threads meet here: the executor feeds streams, the inference thread observes and commands, and a thread of its own
publishes targets at a steady rate, so that slow inference never delays a hold.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass, field

from rclpy.node import Node
from rosidl_runtime_py.utilities import get_message

from diwa_data import messages
from diwa_data.bags import decode_value, gripper_width, header_stamp
from diwa_data.errors import DiwaError
from diwa_data.motion import MotionLimits
from diwa_data.pose import Pose
from diwa_data.robot import Observation
from diwa_data.ros.distributions import SubscriptionEventCallbacks, with_received
from diwa_data.ros.offers import other_publishers
from diwa_data.ros.topics import LATCHED, SENSOR, message_type, publisher
from diwa_data.spec import Spec
from diwa_data.teleop import GRIPPER_REPEAT
from diwa_deploy.control import Stopped
from diwa_deploy.interpolator import Interpolator
from diwa_deploy.live import LiveStreams
from diwa_deploy.ros.mode import ModeConfig, ModeWatch
from diwa_deploy.watchdog import Verdict, WatchdogConfig, judge

OPEN_WIDTH = 0.07
"""Metres between fingers that count as open when the arm is armed; else the gripper is told to stay closed."""
_RIVALS_EVERY = 0.5  # seconds between looks for other publishers of the target


@dataclass(frozen=True)
class ArmConfig:
    """How targets reach the arm."""

    rate: float = 60.0
    """Targets per second, Hz."""
    limits: MotionLimits = field(default_factory=MotionLimits)
    """Safety limits, of every published step too."""
    watchdog: WatchdogConfig = field(default_factory=WatchdogConfig)
    """Ages at which it warns, holds and aborts."""
    max_age: float = 0.2
    """Seconds by which a stream may be older than the static frame of its tick."""
    mode: ModeConfig = field(default_factory=ModeConfig)
    """Where the arm says in which mode it is."""


class RosRobot:
    """Publishes targets between `arm` and `disarm` only. `observe` and `command` are for the inference thread."""

    def __init__(self, node: Node, spec: Spec, config: ArmConfig):
        self.spec = spec
        self._node, self._config = node, config
        self._streams = LiveStreams(spec, config.max_age)
        self._lock = threading.Lock()
        self._interpolator = Interpolator(config.limits, spec.tick, config.rate)
        self._measured: Pose | None = None
        self._gripper, self._width = spec.action.gripper_open, 0.0
        self._gripper_sent: tuple[float, float] = (0.0, -float("inf"))  # what, and when
        self._running, self._commanded = False, 0.0
        self._stop = ""
        self._interventions: Counter[str] = Counter()
        self._target = publisher(node, messages.TARGET_POSE, 1)
        self._gripper_command = publisher(node, messages.GRIPPER_COMMAND, LATCHED)
        for topic in self._streams.topics:
            self._subscribe(topic)
        self._mode = ModeWatch(node, config.mode, self.stop)
        self._thread: threading.Thread | None = None
        self._armed = threading.Event()

    @property
    def armed(self) -> bool:
        """Targets are published."""
        return self._armed.is_set()

    @property
    def interventions(self) -> Counter[str]:
        """Limits, warnings and holds, since the skill began: how many published targets each changed."""
        with self._lock:
            return Counter(self._interventions)

    @property
    def measured(self) -> Pose | None:
        """The hand; None before the first finite pose."""
        return self._measured

    @property
    def missed(self) -> int:
        """Ticks of this skill that were left out: their frame did not come, or inference was late."""
        return self._streams.missed

    def problem(self) -> str:
        """Why the arm cannot be armed or a skill cannot begin: rivals, or streams that are silent; empty if it can."""
        if rivals := other_publishers(self._node, messages.TARGET_POSE):
            return f"{rivals} publishes {messages.TARGET_POSE} too: stop it"
        ages = self._streams.ages(time.time())
        silent = [topic for topic, age in ages.items() if age > self._config.watchdog.abort]
        if silent:
            return f"nothing on {', '.join(silent)}: is its publisher running?"
        if self._measured is None:
            return f"no finite pose on {messages.CURRENT_POSE}"
        return self._mode.problem

    def arm(self) -> None:
        """Hold the measured pose, and from now on publish it. Raises `DiwaError` where there is a `problem`."""
        if problem := self.problem():
            raise DiwaError(problem)
        with self._lock:
            assert self._measured is not None
            self._interpolator.reset(self._measured)
            self._stop, self._gripper = "", 1.0 if self._width > OPEN_WIDTH else -1.0
        self._armed.set()
        self._thread = threading.Thread(target=self._publish, name="targets", daemon=True)
        self._thread.start()

    def disarm(self) -> None:
        """End a running skill and publish nothing more: the arm keeps its last target."""
        self.stop("deactivated")
        self._armed.clear()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def stop(self, reason: str) -> None:
        """End a running skill at its next tick; the target stands still at once."""
        with self._lock:
            self._stop = self._stop or reason

    def begin(self) -> None:
        """A skill begins: streams, counters and the reason to stop are as new, the target is the measured pose."""
        self._streams.restart()
        with self._lock:
            assert self._measured is not None
            self._interpolator.reset(self._measured)
            self._stop, self._running, self._commanded = "", True, time.time()
            self._interventions.clear()

    def end(self) -> None:
        """A skill is over: the target stands still where it is."""
        with self._lock:
            self._running = False
            if self._interpolator.target is not None:
                self._interpolator.reset(self._interpolator.target)

    def observe(self) -> Observation:
        """The next tick's observation. Raises `Stopped` once there is a reason to."""
        observation = self._streams.wait(lambda: self._stop)
        if isinstance(observation, str):
            raise Stopped(observation)
        return observation

    def command(self, target: Pose, gripper: float | None = None) -> None:
        """Be at `target` one tick from now; without `gripper` it keeps its command. Raises `Stopped`."""
        with self._lock:
            if self._stop:
                raise Stopped(self._stop)
            self._interpolator.command(target)
            self._commanded = time.time()
            self._gripper = self._gripper if gripper is None else gripper

    def ages(self) -> dict[str, float]:
        """What the watchdog looks at: seconds since each stream's last message, and since the last command."""
        now = time.time()
        return self._streams.ages(now) | {"the last command": max(0.0, now - self._commanded - self.spec.tick)}

    def _subscribe(self, topic: str) -> None:
        def on_message(received: float, data: bytes) -> None:
            try:
                self._keep(topic, data)
            except DiwaError as error:
                self._node.get_logger().warn(str(error), throttle_duration_sec=5.0)
                return
            self._streams.feed(topic, data, header_stamp(data), received)

        events = SubscriptionEventCallbacks(use_default_callbacks=False)
        message_class, callback = get_message(message_type(topic)), with_received(on_message)
        self._node.create_subscription(message_class, topic, callback, SENSOR, event_callbacks=events, raw=True)

    def _keep(self, topic: str, data: bytes) -> None:
        """What is needed between ticks too. Raises `DiwaError` on NaN: the message is left out."""
        if topic == messages.CURRENT_POSE:
            self._measured = decode_value(topic, data, topic)
        elif topic == messages.JOINT_STATES:
            self._width = gripper_width(decode_value(topic, data, topic), topic)

    def _publish(self) -> None:
        """The thread that publishes targets."""
        period, due, looked = 1.0 / self._config.rate, time.monotonic(), -float("inf")
        while self._armed.is_set():
            if time.monotonic() - looked > _RIVALS_EVERY:
                looked = time.monotonic()
                if rivals := other_publishers(self._node, messages.TARGET_POSE):
                    self.stop(f"{rivals} publishes {messages.TARGET_POSE} too")
            self._step()
            due = max(due + period, time.monotonic())
            time.sleep(max(0.0, due - time.monotonic()))

    def _step(self) -> None:
        verdict = judge(self.ages(), self._config.watchdog) if self._running else Verdict("ok", "")
        if verdict.level == "abort":
            self.stop(verdict.reason)
        with self._lock:
            hold = bool(self._stop) or verdict.level == "hold"
            assert self._measured is not None
            if not self._running and (self._mode.problem or self._interpolator.is_left(self._measured)):
                self._interpolator.reset(self._measured)  # guided by hand, or after a reflex: nothing pulls it back
            motion = self._interpolator.step(self._measured, hold)
            self._interventions.update(motion.interventions)
            if verdict.level != "ok":
                self._interventions[verdict.level] += 1
            gripper = self._gripper
        now = time.time()
        self._target(messages.encode_pose(motion.pose, now))
        said, when = self._gripper_sent
        if gripper != said or now - when >= GRIPPER_REPEAT:
            self._gripper_sent = gripper, now
            self._gripper_command(messages.encode_float(gripper))
