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

from diwa_data.errors import DiwaError
from diwa_data.limits import MotionLimits
from diwa_data.pose import Pose
from diwa_data.recording import messages
from diwa_data.recording.messages import decode_value, gripper_width, header_stamp, require_frame
from diwa_data.robot import Observation
from diwa_data.robot_config import RobotConfig
from diwa_data.ros import clock
from diwa_data.ros.arm_mode import ModeConfig, ModeWatch
from diwa_data.ros.distributions import SubscriptionEventCallbacks, with_received
from diwa_data.ros.topics import LATCHED, SENSOR, message_type, on_graph, other_publishers, publisher
from diwa_data.teleop.clutch import GRIPPER_REPEAT
from diwa_deploy.control import OPEN_WIDTH, Stopped
from diwa_deploy.live import LiveStreams
from diwa_deploy.safety import Verdict, WatchdogConfig, judge, judge_joints
from diwa_deploy.target import ArmedTarget

_RIVALS_EVERY = 0.5  # seconds between looks for other publishers of the target
_JOINTS_EVERY = 0.05  # seconds between looks at the joints' margins
_TIME_TO_REST = 5.0  # seconds in which a braking target rests, also at limits of a tenth of the defaults


@dataclass(frozen=True)
class ArmConfig:
    """How targets reach the arm."""

    rate: float = 60.0
    """Targets per second."""
    limits: MotionLimits = field(default_factory=MotionLimits)
    """Safety limits of every published target."""
    watchdog: WatchdogConfig = field(default_factory=WatchdogConfig)
    """Ages at which the node warns, brakes and aborts."""
    max_age: float = 0.2
    """Greatest age of a stream relative to the first camera's frame of its tick, in seconds."""
    mode: ModeConfig = field(default_factory=ModeConfig)
    """Topic on which the arm reports its mode."""


class RosRobot:
    """Publishes targets between `arm` and `disarm` only. `observe` and `command` are for the inference thread.

    After a fault (`ArmedTarget`, the arm's mode) the target brakes, then nothing is published until it is armed again.
    """

    def __init__(self, node: Node, robot: RobotConfig, config: ArmConfig):
        self.spec = spec = robot.spec
        self._node, self._robot, self._config = node, robot, config
        self._streams = LiveStreams(spec, config.max_age)
        self._lock = threading.Lock()
        self._arm = ArmedTarget(config.limits.within(spec), config.rate, robot.plausible)
        self._margin, self._margin_seen = Verdict("ok", ""), -float("inf")
        self._gripper, self._width = spec.action.gripper_open, 0.0
        self._gripper_sent: tuple[float, float] = (0.0, -float("inf"))  # what, and when
        self._running, self._commanded = False, 0.0
        self._stop = self._told = ""
        self._interventions: Counter[str] = Counter()
        self._target, self._topic = publisher(node, messages.TARGET_POSE, 1), on_graph(node, messages.TARGET_POSE)
        has_gripper = spec.action.gripper
        self._gripper_command = publisher(node, messages.GRIPPER_COMMAND, LATCHED) if has_gripper else None
        for topic in dict.fromkeys((*self._streams.topics, messages.JOINT_STATES)):
            self._subscribe(topic)
        self._mode = ModeWatch(node, config.mode, self.stop)
        self._thread: threading.Thread | None = None
        self._armed = threading.Event()

    @property
    def armed(self) -> bool:
        """Targets are published, but for a `fault`."""
        return self._armed.is_set()

    @property
    def fault(self) -> str:
        """Why it has disarmed by itself; empty if it has not."""
        with self._lock:
            return self._arm.fault

    @property
    def interventions(self) -> Counter[str]:
        """Limits, warnings and holds, since the skill began: how many published targets each changed."""
        with self._lock:
            return Counter(self._interventions)

    @property
    def measured(self) -> Pose | None:
        """The hand, as long as it is believed (`diwa_data.motion`)."""
        return self._arm.measured.pose

    @property
    def missed(self) -> int:
        """Ticks of this skill that were left out: their frame did not come, or inference was late."""
        return self._streams.missed

    def configure(self, config: ArmConfig) -> None:
        """Take other limits and watchdogs, while it is not armed."""
        with self._lock:
            self._config = config
            self._arm.limit(config.limits.within(self.spec))

    def problem(self) -> str:
        """Why the arm cannot be armed or a skill cannot begin: rivals, or streams that are silent; empty if it can."""
        if self._running:
            return "the last skill is still ending: try again"
        if rivals := other_publishers(self._node, self._topic):
            return f"{rivals} publishes {self._topic} too: stop it"
        ages = self._streams.ages(clock.now())
        silent = [topic for topic, age in ages.items() if age > self._config.watchdog.abort]
        if silent:
            return f"nothing on {', '.join(silent)}: is its publisher running?"
        if self._margin.level == "hold":
            return f"{self._margin.reason}: move the arm by hand"
        with self._lock:
            return self._mode.problem or self._arm.problem()

    def arm(self) -> None:
        """Rest at the measured pose, and from now on publish it. Raises `DiwaError` where there is a `problem`."""
        if problem := self.problem():
            raise DiwaError(problem)
        with self._lock:
            if not self._arm.armed:
                self._arm.arm()
                self._gripper = 1.0 if self._width > OPEN_WIDTH else -1.0
            self._stop = ""
        if not self._armed.is_set():
            self._armed.set()
            self._thread = threading.Thread(target=self._publish, name="targets", daemon=True)
            self._thread.start()

    def disarm(self) -> None:
        """End a running skill, brake, and publish nothing more: the arm keeps its last target."""
        self.stop("deactivated")
        end = time.monotonic() + _TIME_TO_REST
        while self._armed.is_set() and not self._arm.at_rest and time.monotonic() < end:
            time.sleep(0.01)
        self._armed.clear()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        with self._lock:
            self._arm.disarm()

    def stop(self, reason: str) -> None:
        """End a running skill at its next tick; the target brakes at once."""
        with self._lock:
            self._stop = self._stop or reason

    def begin(self) -> None:
        """A skill begins: streams, counters and the reason to stop are as new, the target rests where it is."""
        self._streams.restart()
        with self._lock:
            self._arm.hold()
            self._stop, self._running, self._commanded = self._arm.fault, True, clock.now()
            self._interventions.clear()

    def end(self) -> None:
        """A skill is over: the target brakes and rests."""
        with self._lock:
            self._running = False
            self._arm.hold()

    def observe(self) -> Observation:
        """The next tick's observation. Raises `Stopped` once there is a reason to."""
        observation = self._streams.wait(lambda: self._stop)
        if isinstance(observation, str):
            raise Stopped(observation)
        return observation

    def command(self, goal: Pose, gripper: float | None = None) -> None:
        """Be at `goal` one tick from now; without `gripper` it keeps its command. Raises `Stopped`."""
        with self._lock:
            if self._stop:
                raise Stopped(self._stop)
            self._arm.command(goal, self.spec.tick)
            self._commanded = clock.now()
            self._gripper = self._gripper if gripper is None else gripper

    def ages(self) -> dict[str, float]:
        """Seconds since each stream's last message, and since the last command was due: for the watchdog."""
        now = clock.now()
        return self._streams.ages(now) | {"the last command": max(0.0, now - self._commanded - self.spec.tick)}

    def _subscribe(self, topic: str) -> None:
        def on_message(received: float, data: bytes) -> None:
            try:
                self._keep(topic, data, received)
            except DiwaError as error:
                self._node.get_logger().warn(str(error), throttle_duration_sec=5.0)
                return
            if topic in self._streams.topics:
                self._streams.feed(topic, data, header_stamp(data), received)

        events = SubscriptionEventCallbacks(use_default_callbacks=False)
        message_class, callback = get_message(message_type(topic)), with_received(on_message)
        name = self._robot.name_on_graph(topic)
        self._node.create_subscription(message_class, name, callback, SENSOR, event_callbacks=events, raw=True)

    def _keep(self, topic: str, data: bytes, received: float) -> None:
        """Keep the values that are needed between ticks too. Raises `DiwaError` on impossible ones, which are left out.

        A pose that cannot be, or not now, is a fault of an armed arm.
        """
        if topic == messages.CURRENT_POSE:
            try:
                require_frame(data, self._robot.base_frame, topic)
                pose = decode_value(topic, data, topic)
            except DiwaError as error:
                self._fail(str(error))
                raise
            with self._lock:
                self._arm.update(pose, received)
            self._tell()
        elif topic == messages.JOINT_STATES:
            joints = decode_value(topic, data, topic)
            if self.spec.action.gripper:
                self._width = gripper_width(joints, topic)
            if received - self._margin_seen > _JOINTS_EVERY:
                self._margin_seen = received
                self._margin = judge_joints(joints.name, joints.position, self._robot.joints)

    def _fail(self, reason: str) -> None:
        with self._lock:
            if self._arm.armed:
                self._arm.fail(reason)
        self._tell()

    def _tell(self) -> None:
        """Say a fault that is new, and end the skill for it."""
        with self._lock:
            before, self._told = self._told, self._arm.fault
            fault = self._told
        if fault and not before:
            self.stop(fault)
            self._node.get_logger().error(f"the target brakes, then nothing is published until ~/rearm: {fault}")

    def _publish(self) -> None:
        """The thread that publishes targets while it is armed."""
        period, due, looked = 1.0 / self._config.rate, time.monotonic(), -float("inf")
        try:
            while self._armed.is_set():
                if time.monotonic() - looked > _RIVALS_EVERY:
                    looked = time.monotonic()
                    if rivals := other_publishers(self._node, self._topic):
                        self.stop(f"{rivals} publishes {self._topic} too")
                self._step()
                due = max(due + period, time.monotonic())
                time.sleep(max(0.0, due - time.monotonic()))
        except Exception as error:  # whatever it is: nothing is published any more, and that is said
            self._armed.clear()
            self.stop(f"no target is published any more: {error}")
            self._node.get_logger().error(f"no target is published until the node is activated again: {error}")

    def _step(self) -> None:
        ages, watchdog = self.ages(), self._config.watchdog
        verdict = judge(ages, watchdog) if self._running else Verdict("ok", "")
        if self._running and self._margin.level != "ok":
            verdict = self._worse(verdict)
        if verdict.level == "abort":
            self.stop(verdict.reason)
        if self._mode.problem:
            self._fail(self._mode.problem)
        if (age := ages[messages.CURRENT_POSE]) > watchdog.abort:  # what comes back may be elsewhere
            self._fail(f"{messages.CURRENT_POSE} is {age:.2f} s old")
        with self._lock:
            if self._stop or verdict.level in ("hold", "abort"):
                self._arm.hold()
            motion = self._arm.step()
            if verdict.level != "ok":
                self._interventions[verdict.level] += 1
            if motion is not None:
                self._interventions.update(motion.interventions)
            gripper = self._gripper
        self._tell()
        if motion is None:
            return
        now = clock.now()
        self._target(messages.encode_pose(motion.pose, time.time(), self._robot.base_frame))
        self._streams.feed_target(motion.pose, now)
        said, when = self._gripper_sent
        if self._gripper_command and (gripper != said or now - when >= GRIPPER_REPEAT):
            self._gripper_sent = gripper, now
            self._gripper_command(messages.encode_float(gripper))

    def _worse(self, verdict: Verdict) -> Verdict:
        """The watchdog's verdict, or that on the joints where it is worse."""
        self._node.get_logger().warn(self._margin.reason, throttle_duration_sec=1.0)
        if self._margin.level == "hold":
            return Verdict("abort", self._margin.reason)
        return Verdict("warn", self._margin.reason) if verdict.level == "ok" else verdict
