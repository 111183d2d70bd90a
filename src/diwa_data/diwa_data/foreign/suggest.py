"""`diwa inspect BAG --suggest-mapping`: a first mapping file from what a bag holds, its alternatives as comments."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from diwa_data.files import atomic_path, require_new
from diwa_data.foreign.mapping import FORMAT, KIND, EpisodesMapping, NumberMapping
from diwa_data.foreign.survey import Survey, Topic, survey
from diwa_data.foreign.values import BOOL, GRIPPER_COMMAND, IMAGES
from diwa_data.recording.bag_reader import find_bags, is_bag
from diwa_data.spec import RESERVED

_COMMAND = re.compile(r"target|command|cmd|desired|goal|reference|setpoint", re.IGNORECASE)
_ACT = re.compile(r"open|close|grasp", re.IGNORECASE)
_GRIPPER = re.compile(r"gripper|hand|finger|jaw", re.IGNORECASE)
_FINGER = re.compile(r"finger|gripper|jaw", re.IGNORECASE)
_EVENT = re.compile(r"event|episode|record|marker|annotation", re.IGNORECASE)
_MEASURED = re.compile(r"current|measured|state|tcp|ee_|_ee|end_effector|hand|flange", re.IGNORECASE)
_OTHER = re.compile(r"controller|headset|vr|camera|marker|object|goal|odom", re.IGNORECASE)
_GENERIC = re.compile(r"image.*|colou?r|rgb|camera|compressed|raw", re.IGNORECASE)
_BASES = (r"link0$", r"base_link$", r"base$", r"world$")
_HANDS = (
    r"tcp",
    r"(^|_)ee(_link)?$",
    r"end_effector",
    r"tool0$",
    r"hand$",
    r"gripper",
    r"flange$",
    r"link8$",
    r"link7$",
)
_LATE = 1.0  # seconds after which a first command is not a state that is told at the start
_TICK = 7.5  # ticks per second of the paper's data
_MOST = 4
_FRAMES = 300  # that are looked through
_SHARE_OPEN, _SHARE_CLOSED = 0.9, 0.8  # of the width's range, above and below which a gripper has been opened, closed


def suggest_mapping(path: Path) -> str:
    """The text of a mapping file for a bag, or for the first in a folder. Raises `DiwaError` if it is damaged.

    It loads as it is where the bag has all that is needed; otherwise its comments, and loading it, say what is missing.
    """
    found = survey(path if is_bag(path) else find_bags([path])[0])
    cameras, rate, record_rate = _cameras(found), _TICK, 30.0
    if cameras:
        rate, record_rate = _rates(cameras[0].rate)
    parts = [
        _head(found),
        f"format: {FORMAT}\nkind: {KIND}",
        "robot: my_robot  # its name, the same as in the robot file; or that file (my_robot.yaml), and then no\n"
        "                 # record_rate, rate, action, crop, record_size and size here",
        f"record_rate: {record_rate}  # frames per second of the first camera that are used\n"
        f"rate: {rate}  # ticks per second",
        _camera_lines(found, cameras),
        _pose_lines(found),
        _target_lines(found),
        _gripper_lines(found),
        _episode_lines(found),
        "# stamps: received  # where the clocks of the machines that published differ",
        "source: demonstration  # or play, without a skill\nskill: my_skill",
    ]
    missing = [line for part in parts for line in part.splitlines() if line.startswith("# MISSING")]
    return "\n\n".join([parts[0] + "".join(f"\n{line}" for line in missing), *parts[1:]]) + "\n"


def write_suggestion(
    path: Path, out: Path, suggest: Callable[[Path], str] = suggest_mapping, command: str = "build-dataset BAGS"
) -> str:
    """Write what `suggest` says of `path` to the file `out`, which must not exist; what to do next, by `command`."""
    text = suggest(path)
    require_new(out)
    with atomic_path(out) as temporary:
        temporary.write_text(text)
    return f"{out}: check every line, then diwa {command} --out D.h5 --mapping {out}\n"


def foreign_card(path: Path) -> str:
    """The card of a bag of others: its topics, and how to build datasets from it."""
    found = survey(path)
    rows = [f"  {'topic':40} {'type':38} {'count':>8} {'rate':>9}"]
    for topic in found.topics:
        rows.append(f"  {topic.name:40} {topic.kind:38} {topic.count:8} {topic.rate:6.2f} Hz")
        rows += [f"    {topic.problem}"] if topic.problem else []
    head = f"bag of another recorder {path}: {found.seconds:.1f} s"
    return "\n".join([head, *rows, f"a mapping for it: diwa inspect {path} --suggest-mapping --out lab.yaml"])


def _head(found: Survey) -> str:
    return (
        f"# From {found.path.name}, {found.seconds:.1f} s: check every line (its keys: docs/formats.md), then\n"
        "# diwa build-dataset BAGS --out D.h5 --mapping THIS_FILE"
    )


def _rates(measured: float) -> tuple[float, float]:
    """Ticks and frames per second for a camera that has `measured` of them."""
    if measured < 0.95 * _TICK:
        rate = max(1.0, float(round(measured)))
        return rate, rate
    return _TICK, _TICK * int(measured * 1.05 / _TICK)


def _cameras(found: Survey) -> list[Topic]:
    """Colour cameras, the most static-looking first; of one that is there raw and compressed, the raw images."""
    usable = [topic for topic in found.of(*IMAGES) if not topic.problem]
    names = {topic.name for topic in usable if topic.kind == IMAGES[0]}
    single = [each for each in usable if each.kind == IMAGES[0] or each.name.rpartition("/")[0] not in names]
    return sorted(single, key=lambda topic: topic.motion)


def _camera_lines(found: Survey, cameras: Sequence[Topic]) -> str:
    if not cameras:
        return "# MISSING cameras: no colour images (sensor_msgs/Image, CompressedImage)" + _left_out(found, cameras)
    lines, names = ["cameras:  # the first is the clock: it should see the whole scene and stand still"], set[str]()
    for number, topic in enumerate(cameras):
        name = _camera_name(topic.name, names)
        height, width = topic.size
        side = min(height, width)
        crop = [(height - side) // 2, (width - side) // 2, side, side]
        entry = [
            f"  - name: {name}",
            f"    topic: {topic.name}  # {height}x{width}, {topic.rate:.1f} Hz, changes by {topic.motion:.1f} of 255",
            f"    crop: {crop}  # top, left, height, width",
        ]
        lines += entry if number < _MOST else [f"# {line}" for line in entry]
    return "\n".join(lines) + _left_out(found, cameras)


def _left_out(found: Survey, cameras: Sequence[Topic]) -> str:
    others = [topic for topic in found.of(*IMAGES) if topic not in cameras]
    return "".join(f"\n# not used: {topic.name} ({topic.problem or 'compressed, there raw too'})" for topic in others)


def _camera_name(topic: str, taken: set[str]) -> str:
    words = [word for word in reversed(topic.split("/")) if word[:1].isalpha() and word not in RESERVED]
    name = next((word for word in words if not _GENERIC.fullmatch(word)), "camera")
    found, number = name[:60], 2
    while found in taken:
        found, number = f"{name[:56]}_{number}", number + 1
    taken.add(found)
    return found


def _pose_lines(found: Survey) -> str:
    topics = [topic for topic in found.topics if topic.is_pose and not _COMMAND.search(topic.name)]
    topics.sort(key=lambda topic: (bool(_OTHER.search(topic.name)), not _MEASURED.search(topic.name)))
    frames = _frames(found)
    entries = [f"  topic: {topic.name}  # {topic.kind}, {topic.rate:.1f} Hz" for topic in topics]
    entries += [f"  parent: {_quoted(frames[0])}\n  child: {_quoted(frames[1])}  # of /tf"] if frames else []
    if not entries:
        known = ", ".join(map(_quoted, found.transforms.frames[:40])) or "none"
        return f"# MISSING pose: no message with a pose, no moving frames of /tf (frames: {known})"
    return "\n".join(
        ["pose:  # measured, of the point between the fingertips, in the base of the arm", *_first(entries)]
    )


def _first(entries: Sequence[str]) -> list[str]:
    """The first entry, and the others as comments."""
    others = [f"#{line}" for entry in entries[1:_MOST] for line in entry.splitlines()]
    return [entries[0], *others]


def _frames(found: Survey) -> tuple[str, str] | None:
    """The frames of a base and of a hand that moves in it, by their usual names."""
    frames = found.transforms.frames[:_FRAMES]
    for child in _by_patterns(frames, _HANDS):
        for parent in [*_by_patterns(frames, _BASES), *found.transforms.roots[:_FRAMES]]:
            chain = found.transforms.chain(parent, child)
            if parent != child and chain and any(link.stamp < float("inf") for links in chain for link in links):
                return parent, child
    return None


def _quoted(name: str) -> str:
    """A name as YAML reads it back."""
    return name if re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII) else json.dumps(name)


def _by_patterns(names: Iterable[str], patterns: Sequence[str]) -> list[str]:
    names = list(names)
    return [name for pattern in patterns for name in names if re.search(pattern, name, re.IGNORECASE)]


def _target_lines(found: Survey) -> str:
    topics = [topic for topic in found.topics if topic.is_pose and _COMMAND.search(topic.name)]
    if not topics:
        return "# target: no commanded pose was found; the measured pose one tick later stands for it"
    entries = [f"  topic: {topic.name}  # {topic.kind}, {topic.rate:.1f} Hz" for topic in topics]
    lines = [
        "target:  # the commanded pose; without it, the measured pose one tick later stands for it",
        *_first(entries),
    ]
    return "\n".join(lines)


def _gripper_lines(found: Survey) -> str:
    widths = [*_finger_entries(found), *_number_entries(found, commands=False)]
    if not widths:
        joints = sorted({joint for topic in found.topics for joint in topic.joints})
        return (
            "# MISSING gripper_width, gripper_command: no joint with finger, gripper or jaw in its name, no number\n"
            f"# on a topic of a gripper (joints: {', '.join(map(_quoted, joints[:40])) or 'none'}). Without one:\n"
            "# action: {gripper: false}"
        )
    text, low, high = widths[0]
    others = "".join(f"\n#{line}" for other, _, _ in widths[1:_MOST] for line in other.splitlines())
    commands = _number_entries(found, commands=True)
    span = high - low
    if commands:
        said = "\n".join(
            ["gripper_command:  # from the threshold up it opens", *_first([text for text, _, _ in commands])]
        )
    else:
        least = max(low + _SHARE_CLOSED * span, 1e-4)
        said = (
            "gripper_command:  # none was found: opened and closed as the width shows one tick later\n"
            f"  open_above: {max(low + _SHARE_OPEN * span, least):.4f}\n  close_below: {least:.4f}"
        )
    return f"gripper_width:  # metres between the fingers; scale and offset make them so\n{text}{others}\n{said}"


def _finger_entries(found: Survey) -> list[tuple[str, float, float]]:
    """(lines, least, greatest) of the joints that look like fingers, topic by topic."""
    entries = []
    for topic in found.topics:
        joints = {name: values for name, values in topic.joints.items() if _FINGER.search(name)}
        if joints:
            sums = [sum(values) for values in zip(*joints.values(), strict=False)]
            mapping = NumberMapping(topic.name, tuple(joints))
            names = ", ".join(map(_quoted, mapping.joints))
            text = f"  topic: {mapping.topic}\n  joints: [{names}]  # together {min(sums):.4f} to {max(sums):.4f}"
            entries.append((text, min(sums), max(sums)))
    return entries


def _number_entries(found: Survey, commands: bool) -> list[tuple[str, float, float]]:
    """(lines, least, greatest) of the numbers on topics of a gripper, those that look like commands or the others."""
    entries = []
    for topic in found.topics:
        said = _COMMAND.search(topic.name) or _ACT.search(topic.name) or topic.kind in (BOOL, GRIPPER_COMMAND)
        if topic.numbers and _GRIPPER.search(topic.name) and bool(said) == commands:
            low, high = min(topic.numbers), max(topic.numbers)
            text = f"  topic: {topic.name}  # {topic.kind}, {low:.4g} to {high:.4g}"
            if commands:
                closes = "close" in topic.name.lower() and "open" not in topic.name.lower()
                threshold = 0.5 if topic.kind == BOOL else (low + high) / 2
                text += f"\n  threshold: {threshold:.4g}"
                text += f"\n  inverted: {str(closes).lower()}  # true where it closes from the threshold up"
                opens = (topic.numbers[0] >= threshold) != closes
                initial = f"initial: {'closed' if opens else 'open'}  # until the first message"
                begun = min((camera.first for camera in found.of(*IMAGES)), default=math.inf)
                text += f"\n  {'' if topic.first > begun + _LATE else '# '}{initial}"
            entries.append((text, low, high))
    return entries


def _episode_lines(found: Survey) -> str:
    lines, success = ["episodes:"], "annotate  # what is marked afterwards; or end: each episode succeeded; or events"
    usual, spoken = EpisodesMapping(), [topic for topic in found.topics if topic.words or topic.kind == BOOL]
    told = [topic for topic in spoken if {usual.start, usual.stop} <= topic.words]
    if told:
        lines += ["  by: events  # or bag: each bag is one; or gripper, gaps", f"  topic: {told[0].name}"]
        success = "events  # or annotate: what is marked afterwards" if usual.success in told[0].words else success
    else:
        lines += ["  by: bag  # each bag is one; or gripper, gaps, events"]
    for topic in spoken:
        if topic not in told and _EVENT.search(topic.name):
            words = ", ".join(sorted(topic.words)[:20]) or "true, false"
            lines += ["  # by: events", f"  # topic: {topic.name}  # {words}", "  # start: start\n  # stop: stop"]
    return "\n".join([*lines, "success:", f"  by: {success}"])
