"""A skill bundle: a folder with world model, policy and reward classifier, and a card that says where they are from.

Bundles beside each other may share one world model, which then lies beside them too. Seven of the eight skills on the
simulated table that are shipped (`diwa_deploy/skills`) do; `open_drawer` has a world model of its own, which keeps what
draws its dreams. The card also holds where the demonstrations began: a policy knows nothing of other starts.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diwa_data.config import from_mapping
from diwa_data.errors import DiwaError, unknown
from diwa_data.files import atomic_path, home, read_object, require_new, write_json
from diwa_data.manifest import CHECKPOINT_FILES, MANIFEST, require_format, require_sealed, write_manifest
from diwa_data.pose import Pose
from diwa_data.skills import skill_name
from diwa_learning.core.checkpoint import DECODERS, keeps_decoders, load_checkpoint, read_header, write_compact

PARTS = ("world_model", "policy", "reward")
BASE = "base"
"""Optional part: the policy before fine-tuning, to compare with."""
WEIGHTS, CARD = CHECKPOINT_FILES[0], "card.json"
FORMAT = 1
"""Version of the bundle format; bundles without a number were written before 0.2."""
REWRITE = "write the bundle again, or copy it from elsewhere"
_CURE = "move it there, or call /policy/go_to_start"
SHIPPED = Path(__file__).parent / "skills"
"""Bundles that come with this package."""


@dataclass(frozen=True)
class StartRegion:
    """A box of hand positions, and how far the hand was turned from the middle of all first rotations."""

    low: tuple[float, float, float]
    """Lower corner, metres, base frame."""
    high: tuple[float, float, float]
    """Upper corner."""
    rotation: tuple[float, float, float, float]
    """Mean rotation, quaternion x y z w."""
    angle: float
    """Largest angle to it, rad."""

    def __post_init__(self) -> None:
        numbers = np.array([*self.low, *self.high, *self.rotation, self.angle])
        ordered = np.isfinite(numbers).all() and all(a <= b for a, b in zip(self.low, self.high, strict=True))
        if not ordered or abs(np.linalg.norm(self.rotation) - 1) > 1e-3 or not 0 <= self.angle <= np.pi + 1e-3:
            raise DiwaError(f"{self} is not a box with a unit quaternion and an angle of 0 to pi")

    @classmethod
    def of(cls, poses: Sequence[Pose]) -> StartRegion:
        """The region of these first poses."""
        positions = np.array([pose.position for pose in poses])
        quaternions = np.array([pose.quaternion for pose in poses])
        _, vectors = np.linalg.eigh(quaternions.T @ quaternions)  # the mean of rotations, q and -q alike
        mean = Pose.from_quaternion(np.zeros(3), vectors[:, -1])
        angle = max((pose.rotation * mean.rotation.inv()).magnitude() for pose in poses)
        low, high = positions.min(axis=0).tolist(), positions.max(axis=0).tolist()
        return cls(tuple(low), tuple(high), tuple(mean.quaternion.tolist()), float(angle))

    @classmethod
    def from_card(cls, card: dict[str, Any], where: str) -> StartRegion | None:
        """The region in a bundle's card, if there is one. Raises `DiwaError` naming `where` if it is damaged."""
        return from_mapping(cls, card["start"], f"{where}: start") if "start" in card else None

    def to_card(self) -> dict[str, Any]:
        """The value of `start` in a card, for `from_card`."""
        return asdict(self)

    @property
    def middle(self) -> Pose:
        """The middle of the box, with the mean rotation."""
        return Pose.from_quaternion((np.array(self.low) + self.high) / 2, np.array(self.rotation))

    def problem(self, pose: Pose, distance: float, angle: float) -> str:
        """Why no skill may begin at `pose`: farther than `distance` m or `angle` rad outside; empty if it may."""
        outside = np.linalg.norm(pose.position - np.clip(pose.position, self.low, self.high))
        if outside > distance:
            box = " to ".join("(" + ", ".join(f"{x:.2f}" for x in corner) + ")" for corner in (self.low, self.high))
            return f"the hand is {100 * outside:.0f} cm outside of where its demonstrations began, {box}: {_CURE}"
        turned = (pose.rotation * self.middle.rotation.inv()).magnitude() - self.angle
        if turned > angle:
            degrees = np.degrees(turned)
            return f"the hand is turned {degrees:.0f} degrees more than when its demonstrations began: {_CURE}"
        return ""


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


def dreaming_skills() -> list[str]:
    """Shipped skills whose world model can draw what it imagines, but for those that the user's own stand before."""
    found = {skill: path for skill, path in installed_skills().items() if path.parent == SHIPPED}
    return [skill for skill, path in found.items() if keeps_decoders(_world_model(path))]


def find_bundle(skill: str, checkpoint: Path | None = None) -> Bundle:
    """The bundle in `checkpoint`, or else the one installed as `skill`; `DiwaError` where there is none.

    An installed one goes by its folder's name; the one in `checkpoint` must be of this skill.
    """
    skill_name(skill)
    if checkpoint is None:
        installed = installed_skills()
        if skill not in installed:
            otherwise = f", or copy its bundle to {skills_folder()} or name its folder with --checkpoint"
            raise unknown("skill", skill, installed, otherwise)
        return load_bundle(installed[skill])
    bundle = load_bundle(checkpoint)
    if bundle.skill != skill:
        raise DiwaError(f"{bundle.path} holds the skill {bundle.skill!r}, not {skill!r}: run it with that name")
    return bundle


def load_bundle(path: Path) -> Bundle:
    """The bundle in the folder `path`; `DiwaError` names what is missing, damaged or changed since it was written."""
    needed = {part: path / part / WEIGHTS for part in PARTS} | {"world_model": _world_model(path) / WEIGHTS}
    missing = [f"{part}/{WEIGHTS}" for part, file in needed.items() if not file.is_file()]
    missing += [] if (path / CARD).is_file() else [CARD]
    if missing:
        raise DiwaError(
            f"{path} is not a skill bundle: {', '.join(missing)} missing; `diwa demo` leaves one in DIR/skills"
        )
    card = _read_card(path)
    require_sealed(path, _sealed_files(path), REWRITE)
    return Bundle(path, card)


def write_bundle(path: Path, parts: dict[str, Path], card: dict[str, Any]) -> Bundle:
    """Put the checkpoint folders `parts` (world_model, policy, reward; maybe base) and `card` into `path`, whole.

    Files are hard links to the checkpoints where the file system allows it, so a bundle takes no extra space and
    can still be copied elsewhere. A bundle that is there is replaced. Raises `DiwaError` where something else is.
    """
    skill_name(card["skill"])
    with atomic_path(path, replaces=is_plain_bundle) as folder:
        for part in (*PARTS, *([BASE] if BASE in parts else [])):
            (folder / part).mkdir(parents=True)
            for name in CHECKPOINT_FILES:
                _link_or_copy(parts[part] / name, folder / part / name)
            if (parts[part] / MANIFEST).is_file():
                _link_or_copy(parts[part] / MANIFEST, folder / part / MANIFEST)
            else:
                write_manifest(folder / part, CHECKPOINT_FILES)
        write_card(folder, card)
    return load_bundle(path)


def is_bundle(folder: Path) -> bool:
    """Whether the names in `folder` are those of a bundle."""
    return (folder / CARD).is_file() and all((folder / part / WEIGHTS).is_file() for part in ("policy", "reward"))


def is_plain_bundle(folder: Path) -> bool:
    """Whether `folder` holds a bundle and nothing else: such a one may be replaced by another."""
    parts = (f"{part}/{name}" for part in (*PARTS, BASE) for name in (*CHECKPOINT_FILES, MANIFEST))
    allowed = {CARD, MANIFEST, *parts}
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    return CARD in found and found <= allowed


def write_card(folder: Path, card: dict[str, Any]) -> None:
    """Write the card of the bundle in `folder`, whose parts are there, and its manifest."""
    write_json(folder / CARD, {"format": FORMAT, **card})
    seal_bundle(folder)


def seal_bundle(folder: Path) -> None:
    """Write the manifest of a bundle again: of its card, and of its parts by their own manifests.

    Raises `DiwaError` if its card is damaged.
    """
    _read_card(folder)
    write_manifest(folder, _sealed_files(folder))


def _read_card(folder: Path) -> dict[str, Any]:
    card = read_object(folder / CARD, REWRITE)
    if "format" in card:
        require_format(card["format"], FORMAT, str(folder / CARD))
    if not isinstance(card.get("skill"), str):
        raise DiwaError(f"{folder / CARD} is damaged (it names no skill): {REWRITE}")
    skill_name(card["skill"])
    return card


def _sealed_files(bundle: Path) -> list[str]:
    return [CARD, *(f"{part}/{MANIFEST}" for part in (*PARTS, BASE) if (bundle / part).is_dir())]


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


def pack_bundles(bundles: Sequence[Bundle], out: Path, decoders: bool = False) -> list[Path]:
    """Write each bundle to `out/SKILL` and their world model to `out/world_model`; returns the folders of the skills.

    What they do stays the same but for rounding, by 1/254 of the largest weight in a row of a matrix. Base policies
    are left out, and unless `decoders` are wanted, what draws the world model's dreams. Raises `DiwaError` when two are
    of one skill or of different world models, or `out` exists.
    """
    require_new(out)
    skills = [bundle.skill for bundle in bundles]
    for skill in skills:
        if skills.count(skill) > 1:
            raise DiwaError(f"{skills.count(skill)} of the bundles are of {skill}: choose one")
    if not bundles:
        raise DiwaError("no bundle to pack: name their folders")
    world_model = load_checkpoint(bundles[0].world_model, "world_model")
    if decoders and not any(name.startswith(DECODERS) for name in world_model.weights):
        raise DiwaError(
            f"{bundles[0].world_model} keeps no decoders itself: leave --decoders out, or name other bundles"
        )
    with atomic_path(out) as folder:
        rounded = write_compact(world_model, folder / "world_model", decoders=decoders)
        for bundle in bundles:
            packed = folder / bundle.skill
            for part in (bundle.policy, bundle.reward):
                checkpoint = load_checkpoint(part, read_header(part)["phase"], None, world_model.hash)
                write_compact(checkpoint, packed / part.name, rounded)
            write_card(packed, bundle.card)
    return [out / skill for skill in skills]
