"""Mapping files: which features of a LeRobot dataset are cameras, hand pose, gripper, commands and success.

Plain YAML with `format: 1` and `kind: lerobot`. Ready ones lie in `mappings/` and are chosen by name; an export of ours
needs none, since it holds its whole contract.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from diwa_data.config import from_mapping
from diwa_data.errors import DiwaError, unknown
from diwa_data.files import expanded
from diwa_data.foreign.mapping import FORMAT, read_yaml, require_kind
from diwa_data.lerobot.folder import Feature
from diwa_data.robot_config import load_robot, robot_file
from diwa_data.skills import skill_name
from diwa_data.spec import ActionSpec, CameraSpec, Spec

KIND = "lerobot"
OWN = "diwa"
"""Name of the mapping that an export of ours brings along."""
SIZES = {
    "quaternion_xyzw": 4,
    "quaternion_wxyz": 4,
    "euler": 3,
    "axis_angle": 3,
    "rotation_6d": 6,
    "matrix": 9,
    "euler_difference": 3,
}
"""Form of a rotation -> how many numbers it has."""


@dataclass(frozen=True)
class Numbers:
    """Some numbers of a feature, and their unit."""

    feature: str
    """Name of the feature."""
    at: tuple[int | str, ...] = ()
    """Which of its numbers, by index or by name; all of them unless given."""
    scale: float = 1.0
    """Metres in a unit of them, or of a gripper's width; radians in one of Euler angles and axis-angle."""
    offset: float = 0.0
    """Number that is added after scaling, metres."""


@dataclass(frozen=True)
class RotationMapping(Numbers):
    """A rotation, or a change of rotation."""

    form: Literal[
        "quaternion_xyzw", "quaternion_wxyz", "euler", "axis_angle", "rotation_6d", "matrix", "euler_difference"
    ] = "quaternion_xyzw"
    """`rotation_6d`: the first two columns of the matrix; `matrix`: its nine numbers row by row; `euler_difference`, of
    delta actions alone: what is added to the Euler angles (CALVIN)."""
    order: str = "xyz"
    """Axes of Euler angles: small letters turn about the base's axes (extrinsic), capitals about the hand's."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"([xyz]{3}|[XYZ]{3})", self.order) or any(a * 2 in self.order for a in "xyzXYZ"):
            raise DiwaError(
                f"order is {self.order!r}, but must be three axes such as xyz (extrinsic) or XYZ (intrinsic)"
            )


@dataclass(frozen=True)
class GripperCommand:
    """Values that open and close the gripper: the nearest of these values counts."""

    feature: str
    """Name of the feature."""
    at: tuple[int | str, ...] = ()
    """Which of its numbers, by index or by name."""
    open: float = 1.0
    """Value that opens it."""
    closed: float = 0.0
    """Value that closes it."""
    stay: float | None = None
    """Value that leaves it as it is, if there is one."""

    def __post_init__(self) -> None:
        if self.open in (self.closed, self.stay) or self.closed == self.stay:
            raise DiwaError(f"open, closed and stay are {self.open}, {self.closed}, {self.stay}: they must differ")


@dataclass(frozen=True)
class CameraMapping:
    """One camera."""

    name: str
    """Name that it gets."""
    feature: str
    """Name of the feature, of dtype video or image."""
    crop: tuple[int, int, int, int] = (0, 0, 0, 0)
    """Top, left, height, width cut from its frames before they are resized, pixels; height 0 = all of them."""
    record_size: tuple[int, int] = (200, 200)
    """Height and width that the cut is resized to first, as our own recorder does, pixels."""
    size: tuple[int, int] = (64, 64)
    """Height and width in datasets and networks, pixels."""

    @property
    def spec(self) -> CameraSpec:
        """The camera's part of the contract."""
        return CameraSpec(self.name, self.record_size, self.crop if self.crop[2] else None, self.size)


@dataclass(frozen=True)
class StateMapping:
    """The hand's measured pose in the base frame, and the gripper's width."""

    position: Numbers
    """Three numbers."""
    rotation: RotationMapping
    """As many numbers as its form has."""
    gripper: Numbers | None = None
    """Width in metres; without it the dataset has no gripper."""


@dataclass(frozen=True)
class ActionMapping:
    """The commands: row t of the dataset holds the one that followed frame t."""

    kind: Literal["absolute", "delta", "measured"]
    """`absolute`: target poses; `delta`: motions of the hand; `measured`: none were recorded that are poses, so the
    target is the pose that was measured one frame later."""
    position: Numbers | None = None
    """Three numbers; without them the target's position does not change."""
    rotation: RotationMapping | None = None
    """As many numbers as its form has; without them the target's rotation does not change."""
    gripper: GripperCommand | None = None
    """Without it the robot has no gripper."""
    frame: Literal["base", "tool"] = "base"
    """Axes of deltas: those of the base, or of the hand."""
    relative_to: Literal["target", "measured"] = "target"
    """Deltas move the last target, or start from the measured pose at every frame."""
    max_pos: float = 0.04
    """Metres per tick and axis of our action at full scale."""
    max_rot: float = 0.1
    """Radians per tick and axis of our action at full scale."""

    def __post_init__(self) -> None:
        given = [name for name in ("position", "rotation") if getattr(self, name)]
        if self.kind == "measured" and given:
            raise DiwaError(f"action.kind is measured, so action.{given[0]} has no use: leave it out")
        if self.kind != "measured" and not self.position:
            raise DiwaError(f"action.kind is {self.kind}, so action.position is needed")
        if self.kind != "delta" and self.rotation and self.rotation.form == "euler_difference":
            raise DiwaError("action.rotation.form euler_difference needs action.kind delta")


@dataclass(frozen=True)
class SuccessMapping:
    """Where the skill is done."""

    feature: str = ""
    """Feature that is true, or above `threshold`, where it is; one named `next.` tells of the frame after its row."""
    threshold: float = 0.5
    """Values above it mean success."""
    whole_episode: bool = False
    """The feature says of the whole episode whether it succeeded, at its end."""
    seconds: float = 0.0
    """Seconds before the end from which on the skill is done, in an episode that succeeded: without a feature, in all.
    Without either, nothing is marked."""


@dataclass(frozen=True)
class LeRobotMapping:
    """How the features of a dataset become images, states and actions of ours."""

    format: int
    kind: str
    state: StateMapping
    action: ActionMapping
    cameras: tuple[CameraMapping, ...] = ()
    """The first one is the clock. All of the dataset's, in its order, unless given."""
    robot: str = ""
    """Which robot and table, the lab's own name; or a robot file (.yaml), whose contract the dataset then has. The
    dataset's own robot type unless given."""
    record_rate: float = 30.0
    """Frames per second of the robot's own cameras, in the contract: a multiple of `rate`."""
    rate: float = 7.5
    """Control ticks per second, Hz: at most the dataset's frames per second."""
    source: Literal["demonstration", "play"] = "demonstration"
    """Kind of the episodes."""
    skill: str = ""
    """Skill of all demonstrations."""
    skills: dict[str, str] = field(default_factory=dict)
    """Task text -> skill, or play if that is empty; episodes of other tasks are left out. Without `skill` and `skills`
    the words of the task are the skill's name."""
    success: SuccessMapping = field(default_factory=SuccessMapping)

    def __post_init__(self) -> None:
        for name in filter(None, (self.skill, *self.skills.values())):
            skill_name(name)
        if self.skill and self.skills:
            raise DiwaError("skill and skills are both given: leave one out")
        if self.source == "play" and (self.skill or self.skills):
            raise DiwaError("source is play, which shows no skill: leave out skill and skills, or source")
        if bool(self.state.gripper) != bool(self.action.gripper):
            raise DiwaError("a gripper needs both state.gripper and action.gripper")
        if self.state.rotation.form == "euler_difference":
            raise DiwaError("state.rotation.form euler_difference is not a rotation: choose euler")

    def with_cameras(self, features: Mapping[str, Feature]) -> LeRobotMapping:
        """The same with all cameras of a dataset where it names none; each has the last word of its feature's name."""
        if self.cameras:
            return self
        named = {re.sub(r"\W", "_", name.split(".")[-1]): name for name, each in features.items() if each.is_image}
        return dataclasses.replace(self, cameras=tuple(CameraMapping(*pair) for pair in named.items()))

    def skill_of(self, task: str) -> str | None:
        """The skill of an episode with this task text; empty if it is play, None if it is left out.

        Raises `DiwaError` if the words of the task cannot name a skill.
        """
        if self.skills:
            return self.skills.get(task)
        if self.source == "play" or self.skill:
            return "" if self.source == "play" else self.skill
        try:
            return skill_name(re.sub(r"[^a-z0-9]+", "_", task.lower()).strip("_"))
        except DiwaError as error:
            cure = "set skill, or list task texts and their skills under skills"
            raise DiwaError(f"the task {task!r} gives no name of a skill ({error}): {cure}") from error

    def numbers(self) -> Iterator[tuple[str, Numbers | GripperCommand, int]]:
        """Everything that names numbers of a feature: its key, itself and how many numbers it needs."""
        state, action = self.state, self.action
        given: list[tuple[str, Numbers | GripperCommand | None, int]] = [
            ("state.position", state.position, 3),
            ("state.rotation", state.rotation, SIZES[state.rotation.form]),
            ("state.gripper", state.gripper, 1),
            ("action.position", action.position, 3),
            ("action.rotation", action.rotation, SIZES[action.rotation.form] if action.rotation else 0),
            ("action.gripper", action.gripper, 1),
            ("success", Numbers(self.success.feature) if self.success.feature else None, 1),
        ]
        return ((key, numbers, count) for key, numbers, count in given if numbers)


def shipped() -> list[str]:
    """Names of the mappings that come with the package."""
    folder = resources.files("diwa_data").joinpath("lerobot/mappings")
    return sorted(Path(entry.name).stem for entry in folder.iterdir())


def load_mapping(name: str) -> LeRobotMapping:
    """A shipped mapping, or that of a YAML file. Raises `DiwaError` naming the key that is wrong."""
    path = expanded(name)
    if path.suffix not in (".yaml", ".yml"):
        if name not in shipped():
            raise unknown("mapping", name, [OWN, *shipped()], ", or name a .yaml file")
        path = Path(str(resources.files("diwa_data").joinpath(f"lerobot/mappings/{name}.yaml")))
    values = read_yaml(path)
    require_kind(values, KIND, name)
    if str(robot := values.get("robot", "")).endswith((".yaml", ".yml")):
        values["robot"] = str(path.parent / expanded(robot))
    return from_mapping(LeRobotMapping, values, f"{name}: mapping")


def own_mapping(spec: Spec, tasks: list[str]) -> LeRobotMapping:
    """The mapping of an export of ours with this contract and these task texts."""
    action, state, deltas = spec.action, "observation.state", "action"
    form: Any = "euler" if action.rotation == "extrinsic_xyz" else "euler_difference"
    return LeRobotMapping(
        FORMAT,
        KIND,
        StateMapping(
            Numbers(state, (0, 1, 2)),
            RotationMapping(state, (3, 4, 5, 6, 7, 8), form="rotation_6d"),
            Numbers(state, (9,)) if action.gripper else None,
        ),
        ActionMapping(
            "delta",
            Numbers(deltas, (0, 1, 2), action.max_pos),
            RotationMapping(deltas, (3, 4, 5), action.max_rot, form=form),
            GripperCommand(deltas, (6,), action.gripper_open, -action.gripper_open) if action.gripper else None,
        ),
        tuple(CameraMapping(camera.name, f"observation.images.{camera.name}") for camera in spec.cameras),
        skills={task: "" if task == "play" else task.replace(" ", "_") for task in tasks},
        success=SuccessMapping("next.success"),
    )


def contract(mapping: LeRobotMapping, robot: str) -> Spec:
    """The contract of a dataset imported by a mapping; `robot` is the type of robot in the dataset.

    Raises `DiwaError` if the mapping's robot file says otherwise.
    """
    action = ActionSpec(mapping.action.max_pos, mapping.action.max_rot, gripper=mapping.action.gripper is not None)
    spec = Spec(
        mapping.robot or robot or KIND,
        tuple(camera.spec for camera in mapping.cameras),
        action,
        ("position", "rotation_6d", *(("gripper_width",) if mapping.state.gripper else ())),
        mapping.record_rate,
        mapping.rate,
    )
    if not mapping.robot.endswith((".yaml", ".yml")):
        return spec
    theirs = load_robot(robot_file(mapping.robot)).spec
    names = [[camera.name for camera in each.cameras] for each in (spec, theirs)]
    if names[0] != names[1] or action.gripper != theirs.action.gripper:
        raise DiwaError(
            f"{mapping.robot} has the cameras {', '.join(names[1])} and {_gripper(theirs)}, the mapping "
            f"{', '.join(names[0])} and {_gripper(spec)}: they must agree, in this order"
        )
    for key, ours, usual, given in _overlap(mapping, theirs):
        if ours not in (usual, given):
            raise DiwaError(f"{key} is {ours} in the mapping and {given} in {mapping.robot}: leave it out")
    return dataclasses.replace(theirs, limits=None)  # nobody knows those in force while it was recorded


def _gripper(spec: Spec) -> str:
    return "a gripper" if spec.action.gripper else "no gripper"


def _overlap(mapping: LeRobotMapping, spec: Spec) -> Iterator[tuple[str, Any, Any, Any]]:
    """Keys that a robot file has too: name, the mapping's value, what it is unless given, the robot file's."""
    for key in ("rate", "record_rate"):
        yield key, getattr(mapping, key), getattr(LeRobotMapping, key), getattr(spec, key)
    for key in ("max_pos", "max_rot"):
        yield f"action.{key}", getattr(mapping.action, key), getattr(ActionMapping, key), getattr(spec.action, key)
    for ours, theirs in zip(mapping.cameras, spec.cameras, strict=True):
        for key in ("crop", "record_size", "size"):
            given = getattr(theirs, key) or CameraMapping.crop
            yield f"cameras.{ours.name}.{key}", getattr(ours, key), getattr(CameraMapping, key), given
