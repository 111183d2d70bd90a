"""Whether a robot is as its file says, a line each. ROS-free: whoever listened to the graph hands in what was there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from diwa_data.errors import DiwaError
from diwa_data.foreign.arm_topics import stamp_of
from diwa_data.images import crop_for_recording, image_of, require_record_size
from diwa_data.motion import outside
from diwa_data.pose import Pose
from diwa_data.recording import messages
from diwa_data.recording.messages import decode_value, gripper_width, header_stamp, relative, require_frame
from diwa_data.recording.sidecar import TopicStatistics
from diwa_data.robot_config import FRANKA_NAMESPACE, CameraConfig, RobotConfig

SLOWEST = 0.8
"""Share of the declared rate below which a stream is too slow."""
CLOCKS = 0.5
"""Seconds between a header stamp and this machine's clock from which clocks are not the same."""
JOINTS_RATE = 10.0
"""Hz below which joint states are so old that a running skill warns of them."""
WIDEST = 0.3
"""Metres above which a gripper's width is in another unit."""
COMPRESSED_TYPE = "sensor_msgs/msg/CompressedImage"
MOVERS, LISTENERS = ("adapter", "teleop", "policy"), ("recorder", "operator", "gripper")
"""Names of our nodes that publish targets, one at a time, and of those that subscribe without moving anything."""
_MOST = 8  # topics that are listed as choices


@dataclass(frozen=True)
class Check:
    """Result of one check, shown as a line."""

    name: str
    good: bool
    text: str
    """The finding, and the cure if it is not good."""


@dataclass(frozen=True)
class End:
    """A publisher or a subscription."""

    node: str
    """Full name of its node."""
    type: str
    qos: str
    """Reliability and durability, offered or requested, such as BEST_EFFORT VOLATILE."""

    @property
    def name(self) -> str:
        """Name of its node without a namespace."""
        return self.node.rpartition("/")[2]


@dataclass
class Stream:
    """The messages that came on a topic."""

    statistics: TopicStatistics = field(default_factory=TopicStatistics)
    last: Any = None
    """The last message: an object, or serialised if it is one of ours."""
    received: float = 0.0
    """When it came, by the clock of `diwa_data.ros.clock`, seconds."""
    problem: str = ""
    """Reason why it could not be used."""

    def add(self, last: Any, now: float) -> None:
        """Count one message, received at `now`, seconds."""
        self.statistics.add(now)
        self.last, self.received = last, now

    @property
    def rate(self) -> float:
        """Messages per second."""
        return self.statistics.rate


@dataclass
class Graph:
    """Topics and services as they were seen for a while, under their full names."""

    namespace: str = ""
    """Before the names of a robot's file that do not begin with a slash, and before our own."""
    types: dict[str, list[str]] = field(default_factory=dict)
    """Topic -> its types, of all there are."""
    publishers: dict[str, list[End]] = field(default_factory=dict)
    subscribers: dict[str, list[End]] = field(default_factory=dict)
    services: dict[str, list[str]] = field(default_factory=dict)
    """Service -> its types."""
    streams: dict[str, Stream] = field(default_factory=dict)
    """The messages that came on the robot's topics."""
    told: dict[str, Stream] = field(default_factory=dict)
    """Their form on our topics, serialised."""
    unused: dict[str, str] = field(default_factory=dict)
    """Our topics of which nothing was told though messages came, and why."""
    unknown: dict[str, str] = field(default_factory=dict)
    """Topics whose type is not installed here, and the words that say so."""
    target: str = ""
    """Reason why our target cannot be told to the arm."""
    small_buffer: str = ""
    """Reason why large images may be lost on this machine."""

    def full(self, name: str) -> str:
        """The full name of a topic, action or service."""
        return name if name.startswith("/") else f"{self.namespace}/{name}"

    def silence(self, topic: str, types: Sequence[str] = (), shared: bool = False) -> str:
        """Reason why nothing of these `types` (any, if there are none) came on a topic; empty if it did.

        `shared`: several nodes may publish it.
        """
        ends, stream = self.publishers.get(topic, []), self.streams.get(topic, Stream())
        names = ", ".join(sorted({end.node for end in ends}))
        wrong = next((end.type for end in ends if types and end.type not in types), "")
        if topic in self.unknown:
            return self.unknown[topic]
        if not ends:
            return f"nobody publishes {topic}{self.similar(topic, types)}"
        if wrong:
            packed = {wrong, *types} == {messages.IMAGE_TYPE, COMPRESSED_TYPE}
            return f"{topic} is a {wrong}, not a {' or '.join(types)}{': set the key compressed' if packed else ''}"
        if "," in names and not shared:
            return f"{topic} is published by {names}: what comes is mixed; stop all but one"
        if stream.last is None:
            offers = "; ".join(f"{end.node} ({end.type}) offers {end.qos}" for end in ends)
            return stream.problem or f"nothing came on {topic}, though {offers}"
        return stream.problem or clocks(topic, stream.received - stamp_of(stream.last, stream.received))

    def heard(self, topic: str) -> str:
        """Rate, age and publisher of a topic that is not silent."""
        stream = self.streams.get(topic, Stream())
        stamp = stamp_of(stream.last, 0.0)
        age = f", {1e3 * (stream.received - stamp):.0f} ms old" if stamp else ""
        return f"{stream.rate:.1f} Hz{age}, {self.offer(topic)}"

    def offer(self, topic: str) -> str:
        """Who publishes a topic, with its quality of service."""
        return next((f"{end.qos} by {end.node}" for end in self.publishers.get(topic, [])), "")

    def similar(self, topic: str, types: Sequence[str]) -> str:
        """The end of a sentence: topics that may be meant, of the right type, or of a name like it."""
        fitting = sorted(name for name, kinds in self.types.items() if name != topic and {*kinds} & {*types})
        fitting = fitting or get_close_matches(topic, self.types, n=3)
        return f"; {' or '.join(types) or 'similar'}: {', '.join(fitting[:_MOST])}" if fitting else ""


def clocks(name: str, age: float) -> str:
    """Reason why stamps of this age, seconds, are of another clock; empty if they are not."""
    if abs(age) <= CLOCKS:
        return ""
    return f"{name}: its stamps are {age:+.2f} s off this machine's clock: run chrony on both"


def check_robot(robot: RobotConfig, graph: Graph) -> Iterator[Check]:
    """A line for each thing that the robot's file says."""
    for name, camera in robot.cameras.items():
        yield _camera(name, camera, robot, graph)
        if camera.info:
            info = graph.full(camera.info)
            problem = graph.silence(info, [messages.CAMERA_INFO_TYPE])
            yield _check(f"intrinsics of {name}", problem, f"{info}: {graph.heard(info)}")
    pose = _pose(robot, graph)
    yield pose
    if pose.good:
        seen = decode_value(messages.CURRENT_POSE, graph.told[messages.CURRENT_POSE].last, "pose")
        yield from _place(robot, seen)
    if robot.action.gripper or robot.topics.joints:
        yield _joints(robot, graph)
    yield _target(robot, graph)
    if robot.action.gripper:
        yield _command(robot, graph)


def check_buffer(robot: RobotConfig, graph: Graph, cameras: Sequence[Check]) -> Iterator[Check]:
    """A line where one of the `cameras` is not good, and raw images may be lost on their way from its driver."""
    raw = any(camera.driver and not camera.compressed for camera in robot.cameras.values())
    if raw and graph.small_buffer and not all(check.good for check in cameras):
        yield Check("receive buffer", False, graph.small_buffer)


def _check(name: str, problem: str, finding: str) -> Check:
    return Check(name, not problem, problem or finding)


def _camera(name: str, config: CameraConfig, robot: RobotConfig, graph: Graph) -> Check:
    topic, camera = graph.full(config.driver or relative(messages.image_topic(name))), config.spec(name)
    packed = bool(config.driver) and config.compressed
    problem, found = graph.silence(topic, [COMPRESSED_TYPE if packed else messages.IMAGE_TYPE]), ""
    stream, wanted = graph.streams.get(topic, Stream()), robot.spec.record_rate
    if not problem and stream.rate < SLOWEST * wanted:
        problem = f"{topic}: {stream.rate:.1f} Hz, not {wanted:g}: set its driver's rate"
    few = bool(config.driver) and not packed and stream.rate < SLOWEST * wanted
    if few and graph.small_buffer and graph.publishers.get(topic):
        problem += f"; images may be lost: {graph.small_buffer}"
    if not problem:
        try:
            image = image_of(stream.last)
            require_record_size(crop_for_recording(image, camera) if config.driver else image, camera)
            found = f"{image.shape[1]}x{image.shape[0]} {getattr(stream.last, 'encoding', 'compressed')}"
        except DiwaError as error:
            problem = f"{topic}: {error}"
    return _check(f"camera {name}", problem, f"{topic}: {found}, {graph.heard(topic)}")


def _pose(robot: RobotConfig, graph: Graph) -> Check:
    ours, config, wanted = messages.CURRENT_POSE, robot.topics.pose, robot.spec.record_rate
    told = graph.told.get(ours, Stream())
    if config.child:
        topic, name = "/tf", f"{robot.base_frame} -> {config.child} on /tf"
        said = graph.streams.get("/tf", Stream()).problem
        problem = graph.unused.get(ours, "") or said or ("" if told.last else f"nothing moves {name}")
    else:
        topic = name = graph.full(config.topic or relative(ours))
        problem = graph.silence(topic, [] if config.topic else [messages.TYPES[ours]])
    if not problem and told.rate < SLOWEST * wanted:
        problem = f"{name}: {told.rate:.1f} poses a second, not {wanted:g}: set its publisher's rate"
    age = 0.0
    if not problem:
        try:
            require_frame(told.last, robot.base_frame, name)
            decode_value(ours, told.last, name)
            age = told.received - header_stamp(told.last)
            problem = clocks(name, age)
        except DiwaError as error:
            problem = str(error)
    return _check("pose", problem, f"{name}: {told.rate:.1f} Hz, {1e3 * age:.0f} ms old, {graph.offer(topic)}")


def _place(robot: RobotConfig, pose: Pose) -> Iterator[Check]:
    """Is the hand where it may be moved from, and where it should start?"""
    problem = outside(pose, robot.limits)
    place = f"the hand is at ({', '.join(f'{x:.3f}' for x in pose.position)}) m"
    yield _check("workspace", f"{problem}: move it by hand, or set robot.limits" if problem else "", place)
    if robot.start_pose.distance:
        yield _check("start pose", robot.start_pose.problem(pose), "the hand is there")


def _joints(robot: RobotConfig, graph: Graph) -> Check:
    topics, told = robot.topics, graph.told.get(robot.joint_states, Stream())
    of_arm = topics.joints or ("" if topics.width.topic else relative(messages.JOINT_STATES))
    of_arm, of_width = (name and graph.full(name) for name in (of_arm, topics.width.topic))
    kinds, shared = [messages.TYPES[messages.JOINT_STATES]], topics.adapts_joints
    problem = graph.silence(of_arm, kinds, shared) if of_arm else ""
    if not problem and of_width:
        problem = graph.silence(of_width)
    sources, width = " and ".join(filter(None, [of_arm, of_width])), ""
    if not problem and told.last is None:
        problem = graph.unused.get(robot.joint_states, "") or f"{sources} say nothing of use"
    if not problem and told.rate < JOINTS_RATE:
        problem = f"{sources}: {told.rate:.1f} Hz, not {JOINTS_RATE:g} or more: set the publisher's rate"
    if not problem and robot.action.gripper:
        try:
            metres = gripper_width(decode_value(messages.JOINT_STATES, told.last, sources), sources)
            width = f"{1e3 * metres:.1f} mm, "
            if metres > WIDEST:
                problem = (
                    f"{sources}: the gripper is {metres:g} m wide: set topics.width.scale, so that it is in metres"
                )
        except DiwaError as error:
            problem = str(error)
    name = "gripper width" if robot.action.gripper else "joints"
    return _check(name, problem, f"{sources}: {width}{told.rate:.1f} Hz, {graph.offer(of_width or of_arm)}")


def _target(robot: RobotConfig, graph: Graph) -> Check:
    topic = graph.full(robot.topics.target.topic or relative(messages.TARGET_POSE))
    kind = messages.TYPES[messages.TARGET_POSE]
    movers = sorted({end.node for end in graph.publishers.get(topic, [])})
    rivals = [node for node in movers if node.rpartition("/")[2] not in MOVERS] or (movers[1:] and movers)
    hearers = [end for end in graph.subscribers.get(topic, []) if end.name not in LISTENERS]
    names, problem = ", ".join(sorted({end.node for end in hearers})), graph.target
    wrong = next((end for end in hearers if end.type != kind), None)
    deaf = next((end for end in hearers if "TRANSIENT_LOCAL" in end.qos), None)
    if rivals:
        problem = f"{topic} is published by {', '.join(rivals)}: an arm may ignore both; only one of ours may move it"
    elif not hearers:
        similar = graph.similar(topic, [kind])
        problem = f"nobody subscribes to {topic}: start the arm's controller, or set topics.target.topic{similar}"
    elif wrong:
        problem = f"{wrong.node} takes a {wrong.type} on {topic}, not a {kind}: choose another controller or topic"
    elif deaf:
        problem = f"{deaf.node} requests {deaf.qos} of {topic}, but targets are RELIABLE VOLATILE: it would hear none"
    return _check("target", problem, f"{topic}: followed by {names}, nobody else publishes it")


def _command(robot: RobotConfig, graph: Graph) -> Check:
    config = robot.topics.command
    if config.is_action:
        return _action(robot, graph)
    topic = graph.full(config.topic or relative(messages.GRIPPER_COMMAND))
    hearers = [end for end in graph.subscribers.get(topic, []) if end.name not in LISTENERS]
    wrong = next((end for end in hearers if end.type != config.type), None)
    problem = "" if hearers else f"nobody subscribes to {topic}: start the gripper's driver"
    if not hearers:
        problem += graph.similar(topic, [config.type])
    if wrong:
        problem = f"{wrong.node} takes a {wrong.type} on {topic}, not a {config.type}: set topics.command.type"
    return _check("gripper command", problem, f"{topic}: followed by {', '.join(sorted({e.node for e in hearers}))}")


def _action(robot: RobotConfig, graph: Graph) -> Check:
    """The servers of the gripper's actions."""
    config, send = robot.topics.command, "/_action/send_goal"
    space = graph.full(config.topic or FRANKA_NAMESPACE)
    needed = [f"{space}/grasp", f"{space}/move"] if config.is_franka else [space]
    missing = [action for action in needed if action + send not in graph.services]
    there = sorted(name.removesuffix(send) for name in graph.services if name.endswith(send))
    problem = ""
    if missing:
        choices = f"; actions there are: {', '.join(there[:_MOST])}" if there else ""
        problem = f"no server of the action {' and '.join(missing)}: start the gripper's driver{choices}"
    elif not config.is_franka:
        found = graph.services[space + send][0].removesuffix("_SendGoal")
        problem = "" if found == config.type else f"{space} is a {found}, not a {config.type}: set topics.command.type"
    return _check("gripper command", problem, f"{' and '.join(needed)}: served")
