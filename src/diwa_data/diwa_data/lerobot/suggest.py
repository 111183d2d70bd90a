"""`diwa inspect FOLDER --suggest-mapping` of a LeRobot dataset: a first mapping file, by the names of its numbers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from diwa_data.foreign.mapping import FORMAT
from diwa_data.lerobot.folder import Feature, read_lerobot
from diwa_data.lerobot.mapping import KIND
from diwa_data.spec import MAX_CAMERAS

_POSITION = ("x", "y", "z")
_ROTATIONS = {
    ("qx", "qy", "qz", "qw"): "form: quaternion_xyzw",
    ("roll", "pitch", "yaw"): "form: euler, order: xyz",
    ("rx", "ry", "rz", "rw"): "form: quaternion_xyzw",
    ("rx", "ry", "rz"): "form: axis_angle",
    ("wx", "wy", "wz"): "form: axis_angle",
}
"""Names of a rotation's numbers -> what they most often are."""
_MARKS = ("next.success", "success", "next.reward")
_UNKNOWN = "{feature: ?}"
_TICK = 7.5  # ticks per second of the paper's data


def suggest_lerobot_mapping(path: Path) -> str:
    """The text of a mapping file for a dataset: what names tell, else `?`. Raises as `read_lerobot`."""
    folder = read_lerobot(path)
    states = [feature for name, feature in folder.features.items() if name.startswith("observation")]
    actions = [feature for name, feature in folder.features.items() if name.startswith("action")]
    commanded = _found(actions, _POSITION)
    kind = "measured" if commanded is None else "delta" if re.search(r"delta|\bd[xyz]\b", commanded) else "absolute"
    marked = [name for name in _MARKS if name in folder.features]
    lines = [
        f"# A first mapping of {path.name}, by the names of its numbers: read it line by line (docs/formats.md).",
        f"format: {FORMAT}",
        f"kind: {KIND}",
        "robot: my_robot  # its name, the same as in the robot file; or that file (my_robot.yaml)",
        f"rate: {min(_TICK, folder.fps)}  # ticks per second, at most the {folder.fps:g} frames that there are",
        "cameras:  # the first is the clock; at most four",
        *_cameras(folder.features.values()),
        "state:  # measured, of the point between the fingertips, in the base of the arm; metres",
        f"  position: {_found(states, _POSITION) or _UNKNOWN}",
        f"  rotation: {_rotation(states) or _UNKNOWN}",
        f"  gripper: {_gripper(states) or _UNKNOWN}  # the width: scale and offset make metres of it",
        "action:",
        f"  kind: {kind}  # absolute targets, delta motions, or measured: the pose one frame later",
    ]
    if commanded:
        lines += [f"  position: {commanded}  # scale: metres a unit", f"  rotation: {_rotation(actions) or _UNKNOWN}"]
        lines += ["  frame: base  # or tool", "  relative_to: target  # or measured"] if kind == "delta" else []
    lines += [
        f"  gripper: {_gripper(actions) or _UNKNOWN}",
        "  # open: 1.0, closed: 0.0 and stay: the values that do so; without a gripper leave both out",
        "skill: my_skill  # or skills: {task text: name}, or source: play",
        f"success: {{feature: {marked[0]}}}"
        if marked
        else "success: {seconds: 0.5}  # before the end; nothing marks it",
    ]
    return "\n".join(lines) + "\n"


def _cameras(features: Iterable[Feature]) -> Iterator[str]:
    for number, feature in enumerate(feature for feature in features if feature.is_image):
        name = re.sub(r"\W", "_", feature.name.split(".")[-1])
        height, width = feature.image_size
        side = min(height, width)
        crop = f", crop: [{(height - side) // 2}, {(width - side) // 2}, {side}, {side}]" if height != width else ""
        yield f"  {'#' * (number >= MAX_CAMERAS)}- {{name: {name}, feature: {feature.name}{crop}}}"


def _found(features: Iterable[Feature], wanted: tuple[str, ...]) -> str | None:
    """Where numbers of these names are, apart from what stands before them: `ee.x`, `delta_x` and `dx` are x."""
    for feature in features:
        last = [re.split(r"[^a-z]+", name.lower())[-1] for name in feature.names]
        for names in (wanted, tuple(f"d{name}" for name in wanted)):
            if all(last.count(name) == 1 for name in names):
                at = ", ".join(_plain(feature.names[last.index(name)]) for name in names)
                return f"{{feature: {feature.name}, at: [{at}]}}"
    return None


def _rotation(features: list[Feature]) -> str | None:
    for names, form in _ROTATIONS.items():
        if found := _found(features, names):
            return f"{found[:-1]}, {form}}}"
    return None


def _gripper(features: list[Feature]) -> str | None:
    for feature in features:
        for name in feature.names:
            if "grip" in name.lower():
                return f"{{feature: {feature.name}, at: [{_plain(name)}]}}"
        if "grip" in feature.name and feature.shape == (1,):
            return f"{{feature: {feature.name}}}"
    return None


def _plain(name: str) -> str:
    """A name as YAML reads it back."""
    return name if re.fullmatch(r"[A-Za-z_][\w.]*", name) else json.dumps(name)
