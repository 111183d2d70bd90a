"""Success marks added, moved or taken back after recording: `diwa annotate`. No message is rewritten."""

from __future__ import annotations

from pathlib import Path

from diwa_data.errors import DiwaError
from diwa_data.recording import messages
from diwa_data.recording.bag_reader import Bag


def annotate(path: Path, success: float | None, never: bool = False) -> str:
    """Mark the success of an episode `success` seconds after its start, or say that it `never` came.

    With neither nothing changes. Returns a line that says how the episode is marked now. Raises `DiwaError` for a time
    outside of the episode, and for an episode that is unfinished or damaged.
    """
    if success is not None and never:
        raise DiwaError("give a time of success or --never, not both")
    with Bag(path) as bag:
        clock = messages.image_topic(bag.spec.cameras[0].name)
        bag.require_topics([clock])
        sidecar, frames = bag.sidecar, bag.sidecar.topics[clock]
    start, end = sidecar.mark("start"), frames.last
    start = frames.first if start is None else start
    if success is not None and not 0 <= success <= end - start:
        raise DiwaError(f"success at {success:g} s is outside of {path}, which lasts {end - start:.2f} s")
    if success is not None or never:
        sidecar.annotations["success"] = None if success is None else start + success
        if sidecar.files is None:
            sidecar.seal(path)
        sidecar.write(path)
    mark = sidecar.mark("success")
    said = "by annotation" if "success" in sidecar.annotations else "by the operator"
    shown = "no success" if mark is None else f"success at {mark - start:.2f} s"
    return f"{path}: {end - start:.2f} s, {shown} ({said})"
