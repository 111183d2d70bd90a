"""Skill bundles made small, to ship: what deployment needs, a byte a weight, one world model for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from diwa_data.errors import DiwaError
from diwa_data.files import atomic_path, require_new
from diwa_deploy.bundle import Bundle, write_card
from diwa_learning.checkpoint import load_checkpoint, read_header
from diwa_learning.compact import write_compact


def pack_bundles(bundles: Sequence[Bundle], out: Path) -> list[Path]:
    """Write each bundle to `out/SKILL` and their world model to `out/world_model`; returns the folders of the skills.

    What they do stays the same but for rounding, by 1/254 of the largest weight in a row of a matrix. Base policies
    are left out. Raises `DiwaError` when two are of one skill or of different world models, or `out` exists.
    """
    require_new(out)
    skills = [bundle.skill for bundle in bundles]
    for skill in skills:
        if skills.count(skill) > 1:
            raise DiwaError(f"{skills.count(skill)} of the bundles are of {skill}: choose one")
    if not bundles:
        raise DiwaError("no bundle to pack: name their folders")
    world_model = load_checkpoint(bundles[0].world_model, "world_model")
    with atomic_path(out) as folder:
        rounded = write_compact(world_model, folder / "world_model")
        for bundle in bundles:
            packed = folder / bundle.skill
            for part in (bundle.policy, bundle.reward):
                checkpoint = load_checkpoint(part, read_header(part)["phase"], None, world_model.hash)
                write_compact(checkpoint, packed / part.name, rounded)
            write_card(packed, bundle.card)
    return [out / skill for skill in skills]
