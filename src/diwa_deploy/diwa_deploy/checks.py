"""What a machine and a bundle must be before a skill runs, a line each, with the cure for what is not there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from diwa_data.errors import DiwaError
from diwa_data.files import free_mb
from diwa_data.motion import MotionLimits
from diwa_data.spec import Spec
from diwa_deploy.runner import SkillRunner

NEEDED_MB = 1000.0
"""Free disk, megabytes."""


@dataclass(frozen=True)
class Check:
    """One line."""

    name: str
    good: bool
    text: str
    """What was found, and the cure if it is not good."""


def check_machine() -> Iterator[Check]:
    """GPU and disk; skills of the paper's size run on two cores."""
    gpu = torch.cuda.is_available()
    yield Check("GPU", True, torch.cuda.get_device_name() if gpu else "none: decisions are made on the CPU")
    free, home = free_mb(Path.home()), Path.home()
    good = free > NEEDED_MB
    yield Check("disk", good, f"{free / 1000:.1f} GB free at {home}" + ("" if good else ": free some"))


def check_bundle(skill: str, checkpoint: Path | None, spec: Spec, limits: MotionLimits) -> Check:
    """The bundle loads for this robot, and decides within half a tick."""
    try:
        seconds = SkillRunner(skill, checkpoint, spec, limits).warm_up()
    except DiwaError as error:
        return Check(skill, False, str(error))
    found = f"{1e3 * seconds:.0f} ms a decision"
    if seconds > spec.tick / 2:
        return Check(skill, False, f"{found}, a tick is {1e3 * spec.tick:.0f} ms: end what else runs here")
    return Check(skill, True, found)
