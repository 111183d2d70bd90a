"""The tables of docs/speed.md, written from the figures: page and figures cannot differ."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]

TITLES = {
    "world_model_paper_frames_per_s": ("World-model training at the paper's sizes, 8 x 50 frames", "plain"),
    "world_model_vs_lumos_bf16": ("The same in bfloat16", "LUMOS"),
    "world_model_vs_lumos_float32": ("The same in float32", "LUMOS"),
    "rollout_paper_size": ("50 dreams of 18 chunks at the paper's sizes", "plain"),
    "ppo_iteration_paper_size": ("An iteration of PPO: 7,200 imagined actions and 10 epochs", "plain"),
    "ppo_update_vs_dppo": ("The 10 epochs alone, on 1,800 stored chunks", "DPPO"),
    "policy_sampling_vs_dppo": ("Sampling 50 chunks in 20 denoising steps", "DPPO"),
    "world_model_frames_per_s": ("World-model training, small: depth 16, h 256, 16 x 50 frames", ""),
    "imagined_actions_per_s": ("Fine-tuning, small: 256-wide policy, 512 features, updates included", ""),
    "simulation_x_realtime": ("Recording the simulated robot, both cameras at 30 Hz, one core, in real times", ""),
    "dataset_build_x_realtime": ("Building datasets on all cores, in real times", ""),
    "dataset_load_frames_per_s": ("Loading a dataset of one hour into memory", ""),
    "dataset_load_gib": ("Peak memory of loading it; the floor is that of its pixels", ""),
    **{
        f"control_tick{size}{runtime}_{kind}_ms": (f"{tick}{at}{by}", "")
        for size, at in (("", " at the paper's sizes"), ("_laptop", " at the laptop's sizes"))
        for runtime, by in (("", ""), ("_onnx", ", ONNX Runtime"))
        for kind, tick in (
            ("p50", "A control tick, median,"),
            ("p99", "A control tick, 99th percentile,"),
            ("chunk_p99", "One that samples a chunk, 99th percentile,"),
            ("busy_p99", "A control tick beside busy processes, 99th percentile,"),
        )
    },
}
"""The rows: what each measures, and the implementation beside ours. Rows without a title stand under their name."""
GROWTH = re.compile(r"growth_(minutes|batch_size|sequence_length|cameras)_(\d+)_(\w+)")
COUNTED = {
    "minutes": "minutes of play",
    "batch_size": "sequences of 24 frames in a batch",
    "sequence_length": "frames in each of 10 sequences",
    "cameras": "cameras",
}
MEASURED = {
    "load_s": "loading the dataset, s",
    "step_ms": "a training step, ms",
    "frames_per_s": "training, frames/s",
    "tick_ms": "a control tick at the paper's sizes, ms",
}


def write_tables(page: Path, rows: Sequence[Row]) -> None:
    """Replace the page's tables, each between `<!-- NAME -->` and `<!-- end -->`."""
    text = page.read_text()
    for name, new in (("figures", figures(rows)), ("growth", growth(rows))):
        before, begin, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition("<!-- end -->")
        if not end:
            raise SystemExit(f"{page} has no place for a table: it needs the lines <!-- {name} --> and <!-- end -->")
        text = before + begin + new + end + after
    page.write_text(text)


def figures(rows: Sequence[Row]) -> str:
    """Ours, the other implementation, the floor, the target and the commit before, one line a row."""
    known = {row["name"]: row for row in rows if not GROWTH.fullmatch(row["name"])}
    ordered = [known[name] for name in [*TITLES, *(name for name in known if name not in TITLES)] if name in known]
    commits = sorted({row["before_commit"] for row in ordered if row.get("before_ratio")})
    heads = ["", "ours", "the other", "times as fast", "arithmetic alone", "target", f"against {', '.join(commits)}"]
    return table(heads[: 7 if commits else 6], [line(row)[: 7 if commits else 6] for row in ordered])


def line(row: Row) -> list[str]:
    title, other = TITLES.get(row["name"], (f"`{row['name']}`", "plain"))
    unit = "" if row["unit"] == "x" else f" {row['unit']}"
    beside, ratio, target = "", "", number(row["target"])
    if row["ratio"]:
        beside, ratio = f"{other}: {number(row['reference'])}", f"**{row['ratio']:.2f}**{between(row.get('spread'))}"
        target += " times" if target else ""
    before = f"{row['before_ratio']:.2f}{between(row['before_spread'])}" if row.get("before_ratio") else ""
    return [title, f"{number(row['value'])}{unit}", beside, ratio, number(row["floor"]), target, before]


def growth(rows: Sequence[Row]) -> str:
    """For each thing that is counted its values, and below them what was measured at each."""
    found: dict[str, dict[str, dict[int, str]]] = {}
    for row in rows:
        if match := GROWTH.fullmatch(row["name"]):
            counted, value, measured = match.groups()
            found.setdefault(counted, {}).setdefault(measured, {})[int(value)] = number(row["value"])
    lines = []
    for counted, kinds in found.items():
        lines.append([f"**{COUNTED[counted]}**", *(f"**{value}**" for value in next(iter(kinds.values())))])
        lines += [[MEASURED[measured], *values.values()] for measured, values in kinds.items()]
    return table([""] * 4, lines)


def table(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [heads, ["---"] * len(heads), *lines]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in rows)


def number(value: float | None) -> str:
    """Three figures, thousands with a comma; nothing for none."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def between(spread: Sequence[float] | None) -> str:
    return f" ({spread[0]:.2f} to {spread[1]:.2f})" if spread else ""
