"""`diwa inspect`: a text card of a bag, a folder of bags, a dataset or a checkpoint, and the thumbnails of a bag."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from diwa_data.dataset.align import DatasetConfig, ticks_of
from diwa_data.dataset.dataset import Dataset, load_dataset
from diwa_data.errors import DiwaError
from diwa_data.files import atomic_path, folder_size, json_text, read_object
from diwa_data.foreign.bag import is_foreign
from diwa_data.foreign.suggest import foreign_card
from diwa_data.images import fitted
from diwa_data.manifest import CHECKPOINT_FILES, require_sealed
from diwa_data.pose import action_sequence
from diwa_data.recording import messages
from diwa_data.recording.bag_reader import Bag, find_bags, is_bag, needed_topics
from diwa_data.recording.bag_writer import tell_unfinished
from diwa_data.recording.marks import OUTCOMES
from diwa_data.recording.messages import decode_value
from diwa_data.recording.sidecar import Sidecar, TopicStatistics
from diwa_data.spec import Spec
from diwa_data.ticks import Tick

_MARGIN = 18  # pixels above the frames of a contact sheet, for their times
IDLE = 0.02
"""An action is idle if it moves less than this share of full scale on every axis and keeps the gripper."""


def inspect_path(path: Path) -> str:
    """The card of whatever lies at `path`. Raises `DiwaError` if that is nothing we know."""
    path = Path(path)
    if not path.exists():
        raise DiwaError(f"{path} does not exist: name a bag, dataset, checkpoint or bundle")
    if path.is_file():
        return _dataset_card(load_dataset(path, images=False))
    if is_bag(path):
        return foreign_card(path) if is_foreign(path) else _bag_card(path)
    if (path / "spec.json").is_file():
        return _checkpoint_card(path)
    return _folder_card(path)


def idle_share(actions: np.ndarray) -> float:
    """Share of the actions (T, A) in which nothing happens (see `IDLE`)."""
    if len(actions) == 0:
        return 0.0
    switched = (np.diff(actions[:, 6:], axis=0, prepend=actions[:1, 6:]) != 0).any(axis=1)
    return float(((np.abs(actions[:, :6]) < IDLE).all(axis=1) & ~switched).mean())


def _bag_card(path: Path) -> str:
    with Bag(path) as bag:
        sidecar = bag.sidecar
        lines = [f"bag {path}: {folder_size(path) / 1e6:.1f} MB, recorded by diwa {sidecar.version}"]
        lines += list(filter(None, [_unsealed([sidecar])]))
        lines += [*_labels(sidecar.labels), "streams:", *_streams(sidecar.topics, bag.spec)]
        first = min((values.first for values in sidecar.topics.values()), default=0.0)
        events = ", ".join(f"{name} at {received - first:.2f} s" for name, received in sidecar.events) or "none"
        lines += [f"events: {events}", *_annotations(sidecar, first), f"outcome: {sidecar.outcome}"]
        missing = [topic for topic in needed_topics(bag.spec) if not bag.topics.get(topic)]
        if missing:
            lines += [f"no dataset can be built from it: no message on {', '.join(missing)}"]
        else:
            lines += _motion(list(ticks_of(bag, DatasetConfig())), bag)
        lines += spec_lines(bag.spec)
    return "\n".join(lines)


def _unsealed(sidecars: Sequence[Sidecar]) -> str:
    """A line about the episodes whose damage would not be seen."""
    count = sum(sidecar.files is None for sidecar in sidecars)
    return (
        f"without checksums: {count} of {len(sidecars)} (recorded before 0.2); 'diwa seal' adds them" if count else ""
    )


def _annotations(sidecar: Sidecar, first: float) -> list[str]:
    said = {name: "taken back" if at is None else f"at {at - first:.2f} s" for name, at in sidecar.corrections.items()}
    return [f"annotated: {', '.join(f'{name} {what}' for name, what in said.items())}"] if said else []


def _streams(statistics: dict[str, TopicStatistics], spec: Spec) -> list[str]:
    images = {messages.image_topic(camera.name) for camera in spec.cameras}
    rows = [f"  {'topic':28} {'count':>8} {'rate':>9} {'largest gap':>12} {'dropped':>8}"]
    for topic, values in sorted(statistics.items()):
        dropped = str(values.missing(spec.record_rate)) if topic in images else ""
        gap = f"{values.largest_gap * 1e3:.0f} ms"
        rows.append(f"  {topic:28} {values.count:8} {values.rate:6.2f} Hz {gap:>12} {dropped:>8}".rstrip())
    return rows


def _motion(ticks: Sequence[Tick], bag: Bag) -> list[str]:
    """Ticks, flagged ones, clipping and idle share, as a dataset of this bag would have them."""
    spec, total, clipped, idle = bag.spec, 0, 0, 0.0
    segments = sorted({tick.segment for tick in ticks})
    for segment in segments:
        rows = [tick.samples for tick in ticks if tick.segment == segment]
        values = {
            topic: [decode_value(topic, row[topic].value, f"{bag.path}: {topic}") for row in rows if topic in row]
            for topic in (messages.TARGET_POSE, messages.GRIPPER_COMMAND)
        }
        grippers = np.array(values[messages.GRIPPER_COMMAND] or [spec.action.gripper_open] * len(rows))
        sequence = action_sequence(values[messages.TARGET_POSE], grippers, spec.action)
        total += len(sequence.actions)
        clipped += int(sequence.clipped.sum())
        idle += idle_share(sequence.actions) * len(sequence.actions)
    flagged = sum(tick.flagged for tick in ticks)
    return [
        f"ticks at {spec.rate:g} Hz: {len(ticks)} in {len(segments)} segment(s), {flagged} flagged",
        f"actions: {total}, clipped {_share(clipped, total)}, idle {_share(idle, total)}",
    ]


def _folder_card(path: Path) -> str:
    bags = find_bags([path])
    sidecars = [Sidecar.read(bag) for bag in bags]
    cameras = {
        topic: [sidecar.topics.get(topic, TopicStatistics()) for sidecar in sidecars]
        for topic in (messages.image_topic(camera.name) for camera in sidecars[0].spec.cameras)
    }
    seconds = sum(values.last - values.first for values in next(iter(cameras.values())))
    lines = [
        f"{len(bags)} bags in {path}: {seconds / 60:.1f} minutes, {sum(map(folder_size, bags)) / 1e6:.1f} MB",
        *_counts([sidecar.labels for sidecar in sidecars]),
        f"success marks: {sum(s.mark('success') is not None for s in sidecars)} of {len(bags)}",
        _outcomes([sidecar.outcome for sidecar in sidecars]),
    ]
    for topic, frames in cameras.items():
        rates = [values.rate for values in frames]
        gaps = [values.largest_gap for values in frames]
        worst = int(np.argmax(gaps))
        gap = f"largest gap {gaps[worst] * 1e3:.0f} ms in {bags[worst].name}"
        lines += [f"{topic}: {min(rates):.2f} to {max(rates):.2f} Hz, {gap}"]
    lines += list(filter(None, [tell_unfinished(path), _unsealed(sidecars)]))
    return "\n".join(lines + spec_lines(sidecars[0].spec))


def _dataset_card(dataset: Dataset) -> str:
    episodes = dataset.episodes
    actions = [episode.action[:-1] for episode in episodes]
    ticks, moves = sum(map(len, episodes)), sum(map(len, actions))
    flagged = sum(len(episode.attributes["flagged"]) for episode in episodes)
    clipped = sum(episode.attributes["clipped"] for episode in episodes)
    idle = sum(idle_share(a) * len(a) for a in actions)
    hours = ticks / dataset.spec.rate / 3600
    lengths = [len(episode) / dataset.spec.rate for episode in episodes]
    scale = np.abs(np.concatenate(actions)).mean(axis=0)
    return "\n".join(
        [
            f"dataset {dataset.path}: {len(episodes)} episodes, {ticks} ticks at {dataset.spec.rate:g} Hz "
            f"({hours:.2f} h), {dataset.path.stat().st_size / 1e6:.1f} MB",
            *_counts([episode.attributes for episode in episodes]),
            f"episode length: {min(lengths):.1f} to {max(lengths):.1f} s, median {np.median(lengths):.1f} s",
            f"success marks: {sum(e.attributes['success_tick'] >= 0 for e in episodes)} of {len(episodes)}",
            _outcomes([episode.outcome for episode in episodes]),
            f"ticks flagged {_share(flagged, ticks)}",
            *_derived([episode.attributes["derived"] for episode in episodes]),
            f"actions clipped {_share(clipped, moves)}, idle {_share(idle, moves)}",
            f"mean |action|: position {_row(scale[:3])}, rotation {_row(scale[3:6])} of full scale",
            *spec_lines(dataset.spec),
        ]
    )


def _derived(found: Sequence[str]) -> list[str]:
    """A line for each kind of command that was not recorded."""
    counts = Counter(name for each in found for name in each.split(", ") if name)
    said = "was not recorded: what was measured one tick later stands for it"
    return [f"{name} of {count} of {len(found)} {said}" for name, count in counts.items()]


def _checkpoint_card(path: Path) -> str:
    cure = "make the checkpoint again, or copy it from elsewhere"
    weights, size = path / CHECKPOINT_FILES[0], "no weights yet"
    if weights.is_file():
        size = f"{weights.stat().st_size / 1e6:.1f} MB"
        require_sealed(path, CHECKPOINT_FILES, cure)
    contents = {name: read_object(path / f"{name}.json", cure) for name in ("config", "metrics")}
    lines = [f"checkpoint {path}: {size}"]
    for name, content in contents.items():
        lines += [f"{name}:"] + [f"  {key}: {_brief(value)}" for key, value in content.items()]
    spec = Spec.from_plain(read_object(path / "spec.json", cure), f"{path}/spec.json")
    return "\n".join(lines + spec_lines(spec))


def _labels(labels: dict[str, Any]) -> list[str]:
    return ["labels: " + (", ".join(f"{key} {_brief(value)}" for key, value in labels.items()) or "none")]


def _counts(labels: Sequence[dict[str, Any]]) -> list[str]:
    counts = Counter((str(label.get("source", "")), str(label.get("skill", ""))) for label in labels)
    return [f"  {number:5} {source or 'unlabelled'} {skill}".rstrip() for (source, skill), number in counts.items()]


def _outcomes(outcomes: Sequence[str]) -> str:
    return "outcomes: " + ", ".join(f"{name} {outcomes.count(name)}" for name in OUTCOMES)


def spec_lines(spec: Spec) -> list[str]:
    """The contract's cameras, rates and action scale in a line, the motion limits in another."""
    cameras = ", ".join(
        f"{c.name} {c.record_size[0]}x{c.record_size[1]} -> {c.size[0]}x{c.size[1]}" for c in spec.cameras
    )
    action = spec.action
    gripper = "" if action.gripper else ", no gripper"
    return [
        f"spec: {spec.robot}; {cameras}; {spec.record_rate:g} -> {spec.rate:g} Hz; "
        f"action {action.max_pos:g} m, {action.max_rot:g} rad, {action.frame} frame, {action.rotation}{gripper}",
        f"recorded within: {spec.limits.description if spec.limits else 'limits that are not known'}",
    ]


def _brief(value: Any) -> str:
    """A value on one line; long ones end in an ellipsis."""
    text = json_text(value)
    return text if len(text) <= 100 else text[:97] + "..."


def _row(values: np.ndarray) -> str:
    return " ".join(f"{value:.2f}" for value in values)


def _share(part: float, whole: int) -> str:
    return f"{100 * part / max(whole, 1):.1f} %"


def contact_sheet(path: Path, columns: int = 12) -> np.ndarray:
    """An rgb picture (H, W, 3) uint8 of a bag: a row a camera, `columns` frames evenly spaced, seconds on top.

    Times count from the start event, as in `diwa annotate`. Frames after a success mark have a green bar above them.
    """
    with Bag(path) as bag:
        spec, sidecar = bag.spec, bag.sidecar
        topics = [messages.image_topic(camera.name) for camera in spec.cameras]
        bag.require_topics(topics)
        first, last = (sidecar.topics[topics[0]].first, sidecar.topics[topics[0]].last)
        times = np.linspace(first, last, columns)
        found: dict[str, list[np.ndarray]] = {topic: [] for topic in topics}
        for topic, sample in bag.messages(topics):
            if len(found[topic]) < columns and sample.received >= times[len(found[topic])] - 1e-6:
                found[topic].append(decode_value(topic, sample.value, f"{path}: {topic}"))
    start, success = sidecar.mark("start"), sidecar.mark("success")
    width = spec.cameras[0].record_size[1]
    rows = []
    for images in found.values():
        images += images[-1:] * (columns - len(images))  # a camera that ended early keeps its last picture
        rows.append(np.concatenate([fitted(image, width=width) for image in images], axis=1))
    head = np.full((_MARGIN, columns * width, 3), 255, np.uint8)
    for column, time in enumerate(times):
        if success is not None and time >= success:
            head[:3, column * width : (column + 1) * width] = (0, 160, 60)
        text = f"{time - (first if start is None else start):.1f} s"
        cv2.putText(head, text, (column * width + 4, _MARGIN - 4), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1)
    return np.concatenate([head, *rows])


def save_contact_sheet(path: Path, out: Path) -> None:
    """Write the contact sheet of the bag `path` as the PNG `out`.

    Raises `DiwaError` if `path` is not a bag, or `out` has another ending.
    """
    if not is_bag(path):
        first = find_bags([path])[0] if path.is_dir() else "BAGS/000000"
        raise DiwaError(f"{path} is not a bag: thumbnails show one episode, such as {first}")
    if out.suffix.lower() != ".png":
        raise DiwaError(f"{out} is not a .png file: thumbnails are written as PNG")
    encoded, data = cv2.imencode(".png", contact_sheet(path)[..., ::-1])
    assert encoded
    with atomic_path(out) as temporary:
        temporary.write_bytes(data.tobytes())
