"""A skill bundle: a folder with world model, policy and reward classifier, and a card that says where they are from.

Bundles beside each other may share one world model, which then lies beside them too. Eight skills on the simulated
table are shipped that way (`diwa_deploy/skills`).
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diwa_data.errors import DiwaError
from diwa_data.files import atomic_path, home
from diwa_data.skills import require_skill

PARTS = ("world_model", "policy", "reward")
BASE = "base"
"""Optional part: the policy before fine-tuning, to compare with."""
CHECKPOINT_FILES = ("weights.safetensors", "config.json", "spec.json", "metrics.json")
WEIGHTS, CARD = CHECKPOINT_FILES[0], "card.json"
SHIPPED = Path(__file__).parent / "skills"
"""Bundles that come with this package."""


@dataclass(frozen=True)
class Bundle:
    """A complete bundle on disk."""

    path: Path
    card: dict[str, Any]
    """`skill` (its name) and whatever else the writer knew: success rates, seeds, version."""

    @property
    def skill(self) -> str:
        return self.card["skill"]

    @property
    def world_model(self) -> Path:
        """Its own, or the one that it shares with the bundles beside it."""
        return _world_model(self.path)

    @property
    def policy(self) -> Path:
        return self.path / "policy"

    @property
    def reward(self) -> Path:
        return self.path / "reward"

    def policy_named(self, name: str) -> Path:
        """`finetuned`, or `base`: the one before fine-tuning. Raises `DiwaError` if there is none."""
        if name == "finetuned":
            return self.policy
        if name != BASE or not (self.path / BASE).is_dir():
            raise DiwaError(f"{self.path} holds no policy {name!r}: write the bundle with its base policy too")
        return self.path / BASE


def skills_folder() -> Path:
    """Where installed bundles live: `$DIWA_HOME/skills`, by default `~/.diwa/skills`."""
    return home() / "skills"


def installed_skills() -> dict[str, Path]:
    """Skill -> folder of its bundle, for all that can be run by name: the user's own go before those shipped."""
    folders = [path.parent for place in (SHIPPED, skills_folder()) for path in sorted(place.glob(f"*/{CARD}"))]
    return {folder.name: folder for folder in folders}


def find_bundle(skill: str, checkpoint: Path | None = None) -> Bundle:
    """The bundle in `checkpoint`, or else the one installed for `skill`; `DiwaError` where there is none."""
    require_skill(skill)
    installed = installed_skills()
    if checkpoint is None and skill not in installed:
        raise DiwaError(
            f"no bundle for skill {skill!r} in {skills_folder()} (installed: {', '.join(installed) or 'none'}): "
            f"copy one there, or name its folder with --checkpoint"
        )
    bundle = load_bundle(checkpoint or installed[skill])
    if bundle.skill != skill:
        raise DiwaError(f"{bundle.path} holds the skill {bundle.skill!r}, not {skill!r}: run it with that name")
    return bundle


def load_bundle(path: Path) -> Bundle:
    """The bundle in the folder `path`; `DiwaError` names what is missing."""
    needed = {part: path / part / WEIGHTS for part in PARTS} | {"world_model": _world_model(path) / WEIGHTS}
    missing = [f"{part}/{WEIGHTS}" for part, file in needed.items() if not file.is_file()]
    missing += [] if (path / CARD).is_file() else [CARD]
    if missing:
        raise DiwaError(
            f"{path} is no skill bundle: {', '.join(missing)} missing; `diwa demo` leaves one in DIR/skills"
        )
    try:
        card = json.loads((path / CARD).read_text())
        require_skill(card["skill"])
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise DiwaError(f"{path / CARD} is damaged ({error!r}): write the bundle again") from error
    return Bundle(path, card)


def write_bundle(path: Path, parts: dict[str, Path], card: dict[str, Any]) -> Bundle:
    """Put the checkpoint folders `parts` (world_model, policy, reward; maybe base) and `card` into `path`, whole.

    Files are hard links to the checkpoints where the file system allows it, so a bundle takes no extra space and
    can still be copied elsewhere. A bundle that is there is replaced. Raises `DiwaError` where something else is.
    """
    require_skill(card["skill"])
    with atomic_path(path, replaces=is_plain_bundle) as folder:
        for part in (*PARTS, *([BASE] if BASE in parts else [])):
            (folder / part).mkdir(parents=True)
            for name in CHECKPOINT_FILES:
                _link_or_copy(parts[part] / name, folder / part / name)
        write_card(folder, card)
    return load_bundle(path)


def is_plain_bundle(folder: Path) -> bool:
    """Whether `folder` holds a bundle and nothing else: such a one may be replaced by another."""
    allowed = {CARD, *(f"{part}/{name}" for part in (*PARTS, BASE) for name in CHECKPOINT_FILES)}
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    return CARD in found and found <= allowed


def write_card(folder: Path, card: dict[str, Any]) -> None:
    """Write the card of the bundle in `folder`."""
    (folder / CARD).write_text(json.dumps(card, indent=2) + "\n")


def _world_model(bundle: Path) -> Path:
    own = bundle / "world_model"
    return own if own.is_dir() else bundle.parent / "world_model"


def _link_or_copy(source: Path, target: Path) -> None:
    if not source.is_file():
        raise DiwaError(f"no {source}: is that checkpoint finished?")
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
