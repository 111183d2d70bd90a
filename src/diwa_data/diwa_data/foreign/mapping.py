"""Mapping files: which topics of another lab's bags our datasets are made of, and where episodes begin and end.

Plain YAML, documented in docs/formats.md; `diwa inspect BAG --suggest-mapping` writes a first one.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from diwa_data.config import from_mapping, require_keys
from diwa_data.errors import DiwaError
from diwa_data.files import expanded, read_bytes
from diwa_data.manifest import require_format
from diwa_data.robot_config import load_robot, robot_file
from diwa_data.skills import skill_name
from diwa_data.spec import ActionSpec, CameraSpec, Spec, require_network_size

FORMAT = 1
"""Format number of mapping files."""
KIND = "bags"
"""The `kind` of a mapping file of bags."""
_CURE = "write it as docs/formats.md says, or let 'diwa inspect BAG --suggest-mapping' write one"


def _require(right: bool, name: str, value: Any, wanted: str) -> None:
    if not right:
        raise DiwaError(f"{name} is {value!r}, but must be {wanted}")


@dataclass(frozen=True)
class CameraMapping:
    """A camera's topic, and the part of its images that is kept."""

    name: str
    """Name of the camera in datasets; the lab's choice."""
    topic: str
    """sensor_msgs/Image (rgb8, bgr8, rgba8 or bgra8) or CompressedImage (jpeg or png)."""
    crop: tuple[int, int, int, int] = (0, 0, 0, 0)
    """Top, left, height, width cut from the image before it is resized, pixels; height 0 = all of it."""
    record_size: tuple[int, int] = (200, 200)
    """Height and width that the cut is resized to first, as our own recorder does, pixels."""
    size: tuple[int, int] = (64, 64)
    """Height and width in datasets and networks, pixels."""

    @property
    def spec(self) -> CameraSpec:
        """The camera's part of the contract."""
        return CameraSpec(self.name, self.record_size, self.crop if self.crop[2] else None, self.size)


@dataclass(frozen=True)
class PoseMapping:
    """A pose of the hand in the arm's base frame: from the messages of a topic, or from /tf and /tf_static."""

    topic: str = ""
    """PoseStamped, Pose, PoseWithCovarianceStamped, TransformStamped, Odometry, or any message with one in `field`."""
    field: str = ""
    """Where in the message the pose is, such as `o_t_ee`; empty finds it. Sixteen numbers are a matrix by columns."""
    parent: str = ""
    """Frame that the pose is in, the base of the arm, where transforms give it."""
    child: str = ""
    """Frame of the point between the fingertips, where transforms give it."""
    latched: bool = False
    """The last message holds however old it is: of commands that are published when they change."""

    def __post_init__(self) -> None:
        frames = bool(self.parent) + bool(self.child)
        if bool(self.topic) == bool(frames) or frames == 1:
            raise DiwaError(
                f"give a topic, or parent and child, two frames of /tf; here are topic {self.topic!r}, parent "
                f"{self.parent!r}, child {self.child!r}"
            )
        if self.field and frames:
            raise DiwaError(f"field {self.field!r} belongs to a topic; transforms have none")


@dataclass(frozen=True)
class NumberMapping:
    """A number in the messages of a topic: `scale` times what is in them, plus `offset`."""

    topic: str
    """JointState with `joints`; Float32, Float64, Bool, whole numbers, GripperCommand, or any message with `field`."""
    joints: tuple[str, ...] = ()
    """Joints of a JointState whose positions are added."""
    field: str = ""
    """Where in the message the number is, such as `position` or `data.0`; empty finds it."""
    scale: float = 1.0
    """Factor, such as 0.001 of millimetres."""
    offset: float = 0.0
    """Number added after that."""
    latched: bool = False
    """The last number holds however old it is; commands always do."""

    def __post_init__(self) -> None:
        _require(math.isfinite(self.scale) and self.scale != 0, "scale", self.scale, "a number other than 0")
        _require(math.isfinite(self.offset), "offset", self.offset, "a finite number")
        if self.joints and self.field:
            raise DiwaError(f"give joints or a field, not both: {', '.join(self.joints)} and {self.field!r}")


@dataclass(frozen=True)
class CommandMapping(NumberMapping):
    """The command to the gripper: a number that says open or close; without a topic, read from the width."""

    topic: str = ""
    """As for any number; empty derives the command from the width, as it is one tick later."""
    threshold: float = 0.0
    """Numbers from it up open the gripper, those below close it; not used without a topic."""
    inverted: bool = False
    """Numbers from the threshold up close the gripper instead."""
    initial: Literal["", "open", "closed"] = ""
    """Command before the first message, where nothing is published until the gripper is first moved."""
    open_above: float = 0.0
    """Without a topic: width in metres above which a closed gripper counts as opened."""
    close_below: float = 0.0
    """Without a topic: width in metres below which an open gripper counts as closed; at most `open_above`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.topic and not 0 < self.close_below <= self.open_above < math.inf:
            raise DiwaError(
                "give a topic, or the widths in metres at which commands show, 0 < close_below <= open_above; here are "
                f"close_below {self.close_below:g}, open_above {self.open_above:g}"
            )


@dataclass(frozen=True)
class EpisodesMapping:
    """Where the episodes of a bag begin and end."""

    by: Literal["bag", "events", "gripper", "gaps"] = "bag"
    """`bag`: each bag is one; `events`: words on a topic; `gripper`: each ends when the gripper opens after it was
    closed; `gaps`: a pause of the first camera lies between two."""
    topic: str = ""
    """Topic of events: String, Bool (true, false) or a whole number."""
    field: str = ""
    """Where in its messages the word is, such as `buttons.2`; empty finds it."""
    start: str = "start"
    """Word that begins an episode."""
    stop: str = "stop"
    """Word that ends it; a further start does too."""
    success: str = "success"
    """Word that marks success, in the episode or between it and the next."""
    fail: str = "fail"
    """Word that marks failure."""
    discard: str = "discard"
    """Word that throws the episode away, in it or between it and the next."""
    margin: float = 0.5
    """Seconds that an episode goes on after the gripper has opened, by gripper."""
    gap: float = 1.0
    """Seconds without a frame between two episodes, by gaps."""

    def __post_init__(self) -> None:
        if (self.by == "events") != bool(self.topic):
            raise DiwaError(
                f"topic {self.topic!r} with by: {self.by}; a topic belongs to by: events, and to nothing else"
            )
        words = [self.start, self.success, self.fail, self.discard]
        if len({*words}) < len(words) or self.stop in words[1:] or "" in words:
            raise DiwaError(f"start, stop, success, fail and discard need words of their own: {[*words, self.stop]}")
        _require(0 <= self.margin < math.inf, "margin", self.margin, "a number of seconds from 0 up")
        _require(0 < self.gap < math.inf, "gap", self.gap, "a positive number of seconds")


@dataclass(frozen=True)
class SuccessMapping:
    """Which episodes succeeded, and since when. What `diwa annotate` marked beside a bag wins over it."""

    by: Literal["annotate", "events", "end"] = "annotate"
    """`annotate`: what is marked afterwards alone; `events`: a word of the topic; `end`: every episode succeeded."""
    seconds: float = 0.5
    """Seconds before the last tick from which on the skill is done, by end, and where a word comes after the stop."""

    def __post_init__(self) -> None:
        _require(0 <= self.seconds < math.inf, "seconds", self.seconds, "a number from 0 up")


@dataclass(frozen=True)
class BagMapping:
    """A mapping file of bags, read."""

    cameras: tuple[CameraMapping, ...]
    """One to four; the frames of the first are the clock."""
    pose: PoseMapping
    """The measured pose of the hand."""
    format: int = FORMAT
    """Format number of the file."""
    kind: str = KIND
    """bags: the mapping is of those."""
    robot: str = ""
    """Which robot and table, the lab's own name; or a robot file (.yaml), whose contract the dataset then has."""
    record_rate: float = 30.0
    """Frames per second that the first camera has at least; a multiple of `rate`."""
    rate: float = 7.5
    """Control and dataset ticks per second, Hz."""
    inference_delay: float = 0.0
    """Nominal time from a frame's arrival to the command that answers it, seconds."""
    action: ActionSpec = field(default_factory=ActionSpec)
    """Scale and conventions of actions."""
    stamps: Literal["header", "received"] = "header"
    """When a message was taken: by its header, or when it was received, where clocks of machines differ."""
    base_frame: str = ""
    """Frame that poses are in, by their headers; empty: any, the same for pose and target."""
    target: PoseMapping | None = None
    """The commanded pose; without it, the measured pose one tick later stands for the command."""
    gripper_width: NumberMapping | None = None
    """Metres between the fingers."""
    gripper_command: CommandMapping | None = None
    """The command to the gripper."""
    episodes: EpisodesMapping = field(default_factory=EpisodesMapping)
    """Where they begin and end."""
    success: SuccessMapping = field(default_factory=SuccessMapping)
    """Which of them succeeded."""
    source: Literal["play", "demonstration"] = "demonstration"
    """Whether the operator explored, or showed a skill."""
    skill: str = ""
    """Name of the skill that demonstrations show."""
    labels: dict[str, str | int | float | bool] = field(default_factory=dict)
    """Further labels of the episodes, such as an operator's name."""

    def __post_init__(self) -> None:
        if not self.robot:
            raise DiwaError("robot is missing: name the robot and table, as your robot file does, or name that file")
        if (self.source == "play") == bool(self.skill):
            said = f"is {self.skill!r}" if self.skill else "is missing"
            raise DiwaError(f"skill {said}: demonstrations show one (source: demonstration), play shows none")
        if self.skill:
            skill_name(self.skill)
        if self.success.by == "events" and self.episodes.by != "events":
            raise DiwaError(f"success is by events, so episodes must be too: they are by {self.episodes.by}")
        for key, other in (("gripper_width", "gripper_command"), ("gripper_command", "gripper_width")):
            if (getattr(self, key) is None) == self.action.gripper:
                said = "is missing" if self.action.gripper else "is given, but action.gripper is false"
                raise DiwaError(
                    f"{key} {said}: a gripper needs {key} and {other}; an arm without one has neither, and action: "
                    "{gripper: false}"
                )
        reserved = {"source", "skill"} & {*self.labels}
        if reserved:
            raise DiwaError(f"labels.{min(reserved)} is the key {min(reserved)} of the mapping: give it there")

    @property
    def spec(self) -> Spec:
        """The contract of datasets that are made with it."""
        cameras = tuple(camera.spec for camera in self.cameras)
        return Spec(
            robot=self.robot,
            cameras=cameras,
            action=self.action,
            state=self.action.state,
            record_rate=self.record_rate,
            rate=self.rate,
            inference_delay=self.inference_delay,
        )

    @property
    def topics(self) -> dict[str, str]:
        """Key in the file -> the topic that it names."""
        named = {f"cameras[{number}]": camera.topic for number, camera in enumerate(self.cameras)}
        for key in ("pose", "target", "gripper_width", "gripper_command", "episodes"):
            named[key] = getattr(getattr(self, key), "topic", "")
        return {key: topic for key, topic in named.items() if topic}


_SECTIONS = {
    "pose": PoseMapping,
    "target": PoseMapping,
    "gripper_width": NumberMapping,
    "gripper_command": CommandMapping,
    "episodes": EpisodesMapping,
    "success": SuccessMapping,
    "action": ActionSpec,
}


def load_mapping(path: Path) -> BagMapping:
    """Read a mapping file of bags. Raises `DiwaError` naming the key that is missing, misspelt or wrong."""
    where, values = str(path), read_yaml(path)
    require_kind(values, KIND, where)
    require_keys(BagMapping, values, where)
    nested: dict[str, Any] = {}
    for key, section in _SECTIONS.items():
        if key in values:
            nested[key] = _section(section, values[key], f"{where}: {key}")
    cameras = values.get("cameras")
    if not isinstance(cameras, list) or not cameras:
        raise DiwaError(f"{where}: cameras is {cameras!r:.60}: list one to four, each with name and topic")
    nested["cameras"] = tuple(_section(CameraMapping, each, f"{where}: cameras[{n}]") for n, each in enumerate(cameras))
    if "pose" not in nested:
        raise DiwaError(f"{where}: pose is missing: give its topic, or parent and child, two frames of /tf")
    contract = _robot_contract(values, nested, path) if str(values.get("robot", "")).endswith((".yaml", ".yml")) else {}
    mapping = from_mapping(BagMapping, values | nested | contract, where)
    try:
        for camera in mapping.spec.cameras:
            require_network_size(camera)
    except DiwaError as error:
        raise DiwaError(f"{where}: {error}") from error
    return mapping


def read_yaml(path: Path) -> dict[str, Any]:
    """The keys and values of a mapping file. Raises `DiwaError` if there are none."""
    try:
        values = yaml.safe_load(read_bytes(Path(path), _CURE))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise DiwaError(f"{path} is not YAML ({' '.join(str(error).split())[:200]}): {_CURE}") from error
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise DiwaError(f"{path} holds {type(values).__name__}, not keys and values: {_CURE}")
    return values


def require_kind(values: dict[str, Any], kind: str, where: str) -> None:
    """Raise `DiwaError` unless a mapping file says that it is of this kind, in a format that is known."""
    if values.get("kind") != kind:
        raise DiwaError(f"{where}: kind is {values.get('kind')!r}, this command takes a mapping of kind: {kind}")
    require_format(values.get("format"), FORMAT, where)


def _section(section: Any, values: Any, where: str) -> Any:
    if isinstance(values, dict) and section is EpisodesMapping:  # true and on are words of events
        values = {key: str(value).lower() if isinstance(value, bool) else value for key, value in values.items()}
    return from_mapping(section, values, where)


def _robot_contract(values: dict[str, Any], nested: dict[str, Any], path: Path) -> dict[str, Any]:
    """The contract in a robot file, in place of keys of the mapping, which may not be given beside it."""
    robot = expanded(values["robot"])
    spec = load_robot(robot_file(str(robot if robot.is_absolute() else path.parent / robot))).spec
    taken = {"robot": spec.robot, "action": spec.action, "inference_delay": spec.inference_delay}
    taken |= {"record_rate": spec.record_rate, "rate": spec.rate}
    twice = [key for key in taken if key != "robot" and key in values]
    for number, camera in enumerate(values["cameras"]):
        twice += [f"cameras[{number}].{key}" for key in ("crop", "record_size", "size") if key in camera]
    if twice:
        raise DiwaError(f"{path}: {', '.join(twice)} is already in the robot file {values['robot']}: leave it out here")
    ours, theirs = [camera.name for camera in nested["cameras"]], [camera.name for camera in spec.cameras]
    if ours != theirs:
        raise DiwaError(
            f"{path}: cameras are {', '.join(ours)}, but {values['robot']} has {', '.join(theirs)}, in this order"
        )
    cameras = tuple(
        replace(camera, crop=known.crop or (0, 0, 0, 0), record_size=known.record_size, size=known.size)
        for camera, known in zip(nested["cameras"], spec.cameras, strict=True)
    )
    return taken | {"cameras": cameras}


def plain(mapping: BagMapping) -> dict[str, Any]:
    """A mapping as its dataset keeps it, and as two are compared."""
    return asdict(mapping)
