"""Probes in `diwa evaluate-world-model`: what can be read of the simulator's state, and where it is lost.

For diagnosis, and in simulation only: recordings without a scene state have no probes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diwa_cli.figures import Bar, bars
from diwa_data.dataset.dataset import Episode
from diwa_data.progress import progress
from diwa_learning.world_model import probes
from diwa_learning.world_model.latents import Segment, embed_clips, filtered_states, whole
from diwa_learning.world_model.model import WorldModel
from diwa_learning.world_model.networks import to_uint8
from diwa_learning.world_model.open_loop import Strip, draw_filmstrip
from diwa_learning.world_model.probes import Look, Probe, Quantity

IMAGINED = "imagined"
EVERY = 10
"""Frames between the starts of imagination on which the probes are judged."""
PICTURES, COLUMNS = 3, 10
"""Recordings that are drawn, and pictures of each."""
STEPS = (10, 40, 80)
"""Imagined steps after which features are read."""
PIECE = 300
"""Frames of a recording that are filtered from its start on, or from where the last piece ended."""
LEARNED, JUDGED = 80, 30
"""Most pieces that the probes learn from, and are judged on."""
SAMPLES = 16_000
"""Most frames that a probe learns from."""
NEAR, SHUT, OPEN = 0.020, 0.017, 0.080
"""Metres: a length is read well within NEAR; SHUT is the most by which something shut opens, OPEN reads as open."""
ANGLES = ("lever",)
"""Quantities in rad; all others but lamps are in metres."""


@dataclass(frozen=True)
class Probed:
    """Readings of the recordings that the probes are judged on."""

    quantities: list[Quantity]
    rows: list[dict[str, Any]]
    """One a quantity, place and set of recordings: `held_out`, `rollouts`, and `failed`, those of them that did."""
    frames: int
    """Frames that the probes could learn from."""
    rollouts: int
    failed: int
    reader: Probe
    """The probe of filtered features."""
    worst: list[Segment]
    """Recordings of which the filtered features are read worst: failed rollouts if there are any."""

    def summary(self) -> dict[str, Any]:
        """For result.json."""
        return {"frames": self.frames, "rollouts": self.rollouts, "failed_rollouts": self.failed, "rows": self.rows}


def probe(
    model: WorldModel,
    learned: Sequence[Episode],
    held_out: Sequence[Episode],
    rollouts: Sequence[Episode],
    context: int,
    horizon: int,
    seed: int,
) -> Probed:
    """Train probes on `learned`, and judge them on recordings that they have not seen; all have a scene state."""
    rng = torch.Generator().manual_seed(seed)
    steps = [step for step in STEPS if step <= horizon] or [horizon]
    training = probes.pieces(learned, PIECE, LEARNED)
    judged = {"held_out": probes.pieces(held_out, PIECE, JUDGED), "rollouts": list(map(whole, rollouts))}
    with progress("probes: filtering", len(training) + sum(map(len, judged.values())), "pieces") as bar:
        every = range(1, max(steps) + 1)
        seen = probes.look_at(model, training, context, every, context + max(steps), rng, bar.advance)
        looks = {
            name: probes.look_at(model, segments, context, steps, EVERY, rng, bar.advance)
            for name, segments in judged.items()
            if segments
        }
    filtered = seen["filtered"]
    places = {"embedding": seen["embedding"], "filtered": filtered}
    if imagined := [look for place, look in seen.items() if place.startswith(IMAGINED)]:
        places[IMAGINED] = Look.join(imagined)
    with progress("probes: learning", len(places) * probes.EPOCHS, "epochs") as bar:
        readers = {
            place: probes.fit_probe(look.some(SAMPLES, rng), seed, bar.advance) for place, look in places.items()
        }
    quantities = probes.quantities(probes.truth_names(model.spec), filtered.truth)
    if failed := [number for number, episode in enumerate(rollouts) if episode.outcome == "fail"]:
        parts = {
            place: look.where(torch.isin(look.segment, torch.tensor(failed)))
            for place, look in looks["rollouts"].items()
        }
        looks["failed"] = {place: look for place, look in parts.items() if len(look)}
    rows = []
    for name, places in looks.items():
        for place, look in places.items():
            rows += _rows(name, place, look, quantities, readers[place.partition("_")[0]])
    name = "rollouts" if rollouts else "held_out"
    chosen = failed or range(len(judged[name]))
    errors = _errors(looks[name]["filtered"], judged[name], readers["filtered"], quantities)
    worst = [judged[name][number] for number in sorted(chosen, key=lambda number: -errors[number])[:PICTURES]]
    return Probed(quantities, rows, len(filtered), len(rollouts), len(failed), readers["filtered"], worst)


def _errors(look: Look, segments: Sequence[Segment], reader: Probe, quantities: Sequence[Quantity]) -> list[float]:
    """Mean error of what each segment's skill is about, as a share of its spread."""
    difference = ((reader.read(look.features) - look.truth) / reader.truth_std).abs()
    columns = [_shown(segment.episode, quantities).columns[0] for segment in segments]
    parts = difference.split([len(segment) for segment in segments])
    return [float(part[:, column].mean()) for part, column in zip(parts, columns, strict=True)]


def _shown(episode: Episode, quantities: Sequence[Quantity]) -> Quantity:
    """The number that the skill of an episode changes, by its labels; without one the first that is not a place."""
    goal = episode.attributes.get("labels", {}).get("goal")
    name = goal.get("quantity") if isinstance(goal, dict) else ""
    scalars = [quantity for quantity in quantities if len(quantity.columns) == 1]
    return next((quantity for quantity in scalars if quantity.name == name), (scalars or list(quantities))[0])


def _rows(name: str, place: str, look: Look, quantities: Sequence[Quantity], one: Probe) -> list[dict[str, Any]]:
    rows, read = [], one.read(look.features)
    for quantity in quantities:
        mine, unit = list(quantity.columns), _unit(quantity)
        score = dataclasses.asdict(probes.score(read, look.truth, quantity, one))
        near = ((read - look.truth)[:, mine].norm(dim=1) <= NEAR).float().mean()
        has_all = not place.startswith("imagined")
        shut = _shut_read_open(look, read, mine[0]) if has_all and unit == "m" and len(mine) == 1 else None
        found = {**score, "within_20mm": float(near) if unit == "m" else None, "shut_read_open": shut}
        row = {"frames_of": name, "place": place, "quantity": quantity.name, "unit": unit, "frames": len(look)}
        rows.append(row | {key: None if value is None else round(value, 4) for key, value in found.items()})
    return rows


def _unit(quantity: Quantity) -> str:
    if quantity.half is not None:
        return ""
    return "rad" if quantity.name in ANGLES else "m"


def _shut_read_open(look: Look, read: Tensor, column: int) -> float | None:
    """Share of frames in which a length is read beyond OPEN, in segments in which it stayed within SHUT."""
    shut = ~torch.isin(look.segment, look.segment[look.truth[:, column] > SHUT])
    return float((read[shut, column] > OPEN).float().mean()) if shut.any() else None


def text(found: Mapping[str, Any]) -> str:
    """Tables of `Probed.summary`: R2 and error by place, and how well failed rollouts are read."""
    rows = {(row["frames_of"], row["quantity"], row["place"]): row for row in found["rows"]}
    names = list(dict.fromkeys(quantity for _, quantity, _ in rows))
    titles = {"held_out": "held out", "rollouts": f"{found['rollouts']} rollouts"}
    titles["failed"] = f"{found['failed_rollouts']} failed"
    lines = [
        f"probes (simulation only, for diagnosis; learned from {found['frames']} frames): R2, error or share right"
    ]
    for kind, title in titles.items():
        if places := list(dict.fromkeys(place for which, _, place in rows if which == kind)):
            lines.append(f"  {title:<14}" + "".join(f"{place.replace('_', ' '):>17}" for place in places))
            for name in names:
                cells = (_cell(rows[kind, name, place]) for place in places)
                lines.append(f"    {name:<12}" + "".join(f"{cell:>17}" for cell in cells))
    for key, said in (
        ("within_20mm", f"read within {1000 * NEAR:g} mm"),
        ("shut_read_open", f"in which it stayed within {1000 * SHUT:g} mm, read above {1000 * OPEN:g} mm"),
    ):
        shares = {
            name: [row[key] for place in ("filtered", "embedding") if (row := rows.get(("failed", name, place)))]
            for name in names
        }
        read = [
            f"{n} {100 * both[0]:.1f} % ({100 * both[1]:.1f})"
            for n, both in shares.items()
            if None not in (both or [None])
        ]
        if read:
            lines.append(f"  ticks of failed rollouts {said}, filtered (embedding): {', '.join(read)}")
    return "\n".join(lines)


def _cell(row: Mapping[str, Any]) -> str:
    right, error = row["right"], row["error"]
    said = f"{1000 * error:.1f} m{row['unit']}" if right is None else f"{100 * right:.1f} %"
    return f"{row['r2']:.2f} {said:>10}"


def figure(probed: Probed) -> str:
    """R2 of each quantity by place, on held-out recordings (SVG)."""
    groups: dict[str, dict[str, Bar]] = {}
    for row in probed.rows:
        if row["frames_of"] == "held_out":
            place = row["place"].replace("_", " ")
            groups.setdefault(row["quantity"], {})[place] = Bar(max(0.0, row["r2"]))
    return bars(groups, "R2 of a probe", text="{:.2f}".format, end=1)


@torch.no_grad()
def draw_reconstructions(path: Path, model: WorldModel, probed: Probed, seed: int) -> None:
    """Draw the recordings that are read worst: what the cameras showed above what the filtered features decode to.

    Over each picture its tick, and what the skill changes: the truth, and as the probe reads it.
    """
    rng = torch.Generator().manual_seed(seed)
    strips = []
    for segment in probed.worst:
        clips = embed_clips(model, [segment])
        features = filtered_states(model, clips, probes.noise(model, clips, rng)).features[0]
        ticks = np.unique(np.linspace(0, len(segment) - 1, COLUMNS).round().astype(int))
        decoded = {name: to_uint8(images).cpu().numpy() for name, images in model.decode(features[ticks]).items()}
        rows: dict[str, np.ndarray] = {}
        for name, images in decoded.items():
            rows |= {
                f"{name}\nrecorded": segment.episode.images[name][segment.start + ticks],
                f"{name}\nfiltered": images,
            }
        quantity = _shown(segment.episode, probed.quantities)
        column, unit = quantity.columns[0], _unit(quantity)
        read = probed.reader.read(features[ticks].cpu())[:, column]
        truth = torch.from_numpy(probes.truth_of(segment))[ticks, column]
        form, scale = (".0f", 1000) if unit else (".1f", 1)
        pairs = zip(ticks + segment.start, scale * truth, scale * read, strict=True)
        columns = [f"{tick}\n{one:{form}} | {other:{form}}" for tick, one, other in pairs]
        about = segment.episode.attributes
        whose = " ".join(str(about[key]) for key in ("policy", "skill", "outcome", "seed") if about.get(key))
        shown = f"{quantity.name}{f', m{unit}' if unit else ''}: true | read"
        strips.append(Strip(rows, columns, f"episode {segment.episode.name} {whose}: tick, {shown}"))
    draw_filmstrip(path, *strips)
