"""Figures of a sweep's report as SVG text."""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ParamSpec

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from diwa_cli.statistics import SuccessRate

INK, GRID = "#24313c", "#e3e7ea"
BASE, FINETUNED, DREAM = "#8595a3", "#0b7a75", "#d9822b"
"""Colours of the policy after imitation, after dreaming, and of anything imagined."""
CYCLE = (FINETUNED, DREAM, BASE, "#6a4c93", "#b23a48")
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#aab4bc",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "grid.color": GRID,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "svg.hashsalt": "diwa",
    "text.parse_math": False,  # labels are anyone's
}


P = ParamSpec("P")


def styled(draw: Callable[P, str]) -> Callable[P, str]:
    """Decorator: drawn in this style; characters in names that XML does not have are written as Python's escapes."""

    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> str:
        with mpl.rc_context(STYLE):
            return draw(*map(_legible, args), **{name: _legible(value) for name, value in kwargs.items()})

    return drawn


def _legible(value: Any) -> Any:
    if isinstance(value, str):
        return _NO_XML.sub(lambda found: ascii(found[0])[1:-1], value)
    if isinstance(value, Mapping):
        return {_legible(name): _legible(item) for name, item in value.items()}
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return list(map(_legible, value))
    return value


@dataclass(frozen=True)
class Curve:
    """Points of a line: x (N,), y (N,)."""

    x: Sequence[float]
    y: Sequence[float]


@styled
def success_bars(rates: Mapping[str, SuccessRate]) -> str:
    """Success rate of each policy with its 95 % interval."""
    figure, axes = new_figure(width=4.6, height=0.62 * len(rates) + 0.75)
    for row, rate in enumerate(rates.values()):
        interval = rate.interval
        color = FINETUNED if row else BASE
        axes.barh(row, 100 * rate.rate, height=0.62, color=color)
        axes.hlines(row, 100 * interval.low, 100 * interval.high, color=INK, linewidth=1.6)
        axes.vlines([100 * interval.low, 100 * interval.high], row - 0.11, row + 0.11, color=INK, linewidth=1.6)
        axes.annotate(f"{100 * rate.rate:.0f} %", (100, row), (8, 0), textcoords="offset points", va="center",
                      fontsize=13, fontweight="bold", color=color, annotation_clip=False)  # fmt: skip
    axes.set(xlim=(0, 100), xlabel="success, % (line: 95 % interval)")
    axes.set_yticks(range(len(rates)), list(rates))
    axes.set_ylim(len(rates) - 0.45, -0.55)
    axes.grid(axis="y", visible=False)
    return svg(figure)


@styled
def learning_curve(dream: Curve, truth: Mapping[int, SuccessRate], scores: Mapping[int, float], chosen: int) -> str:
    """Success in dreams at every iteration, and success in the simulator of the checkpoints evaluated on the way.

    With the offline scores of checkpoints, if there are any, and a line at the one that was `chosen` by them.
    """
    figure, axes = new_figure(width=6.6, height=3.0)
    if len(dream.x):
        axes.plot(dream.x, 100 * np.array(dream.y), color=DREAM, linewidth=1.6, label="in dreams (classifier)")
    if truth:
        steps = list(truth)
        rates = np.array([100 * rate.rate for rate in truth.values()])
        bounds = np.array([[100 * rate.interval.low, 100 * rate.interval.high] for rate in truth.values()]).T
        axes.errorbar(steps, rates, np.abs(bounds - rates), color=FINETUNED, marker="o", capsize=3, linewidth=1.6,
                      label="in the simulator (oracle), 95 % interval")  # fmt: skip
    axes.set(xlabel="fine-tuning iteration", ylabel="success, %", ylim=(0, 102))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if scores:
        score_axis(axes, list(scores), list(scores.values()))
        axes.axvline(chosen, color=INK, linewidth=0.8, linestyle=":")
    axes.legend(handles=handles(figure), loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2)
    return svg(figure)


def score_axis(axes: Axes, x: Sequence[float], scores: Sequence[float]) -> None:
    """Offline scores over x on an axis of their own: a share less a deviation is no per cent, and may fall below 0."""
    right = axes.twinx()
    right.plot(x, scores, "D", color=INK, markersize=4, label="offline score")
    right.set(ylabel="offline score", ylim=(min(0, *scores) - 0.05, max(1, *scores) + 0.05))
    right.spines["right"].set_visible(True)
    right.grid(visible=False)


def handles(figure: Figure) -> list[Any]:
    """What a legend of all axes of a figure names."""
    return [handle for axes in figure.axes for handle in axes.get_legend_handles_labels()[0]]


@styled
def against_truth(panels: Mapping[str, Sequence[float]], truth: Sequence[float], groups: Sequence[str]) -> str:
    """Success in the simulator over each of several measures (label -> value of each point); a colour a group."""
    figure = Figure(figsize=(3.6 * len(panels), 3.4), layout="constrained")
    found = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    colors = dict(zip(dict.fromkeys(groups), mpl.color_sequences["tab10"], strict=False))
    for axes, (label, values) in zip(found, panels.items(), strict=True):
        for group, color in colors.items():
            points = [(x, y) for x, y, mine in zip(values, truth, groups, strict=True) if mine == group]
            axes.scatter(*zip(*points, strict=True), s=14, color=color, label=group, alpha=0.8, linewidths=0)
        axes.set(xlabel=label, ylim=(0, 102))
    found[0].set_ylabel("success in the simulator, %")
    figure.legend(*found[0].get_legend_handles_labels(), loc="outside upper left", ncols=4, fontsize=8)
    return svg(figure)


@styled
def dream_against_truth(dreams: Mapping[str, float], truth: Mapping[str, SuccessRate], xlabel: str) -> str:
    """Success in dreams beside success in the simulator with its 95 % interval, for each of several policies."""
    figure, axes = new_figure(width=5.4, height=3.0)
    places, names = np.arange(len(truth)), list(truth)
    rates = np.array([100 * rate.rate for rate in truth.values()])
    bounds = np.array([[100 * rate.interval.low, 100 * rate.interval.high] for rate in truth.values()]).T
    axes.bar(places + 0.18, rates, 0.34, yerr=np.abs(bounds - rates), color=FINETUNED, ecolor=INK, capsize=3,
             label="in the simulator, 95 % interval")  # fmt: skip
    dreamt = [100 * dreams.get(name, np.nan) for name in names]
    axes.bar(places - 0.18, dreamt, 0.34, color=DREAM, label="in dreams")
    axes.set(ylim=(0, 102), xlabel=xlabel, ylabel="success, %")
    axes.set_xticks(places, names)
    axes.grid(axis="x", visible=False)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2)
    return svg(figure)


@styled
def lines(curves: Mapping[str, Curve], xlabel: str, ylabel: str, log: bool = False, scores: Curve | None = None) -> str:
    """Several curves over one axis, offline scores on another.

    `log` asks for a logarithmic axis where the values span a decade.
    """
    figure, axes = new_figure(width=4.4, height=2.6)
    for (name, curve), color in zip(curves.items(), CYCLE * len(curves), strict=False):
        axes.plot(curve.x, curve.y, color=color, linewidth=1.5, label=name, marker="o" if len(curve.x) == 1 else "")
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    values = np.concatenate([curve.y for curve in curves.values()])
    if log and values.min() > 0 and values.max() > 10 * values.min():
        axes.set_yscale("log")
    if scores:
        score_axis(axes, scores.x, scores.y)
    if len(curves) > 1:
        axes.legend(handles=handles(figure))
    return svg(figure)


@styled
def phase_bars(seconds: Mapping[str, float]) -> str:
    """How long each phase of a run took."""
    figure, axes = new_figure(width=6.6, height=0.3 * len(seconds) + 0.7)
    rows = range(len(seconds))
    axes.barh(rows, [value / 60 for value in seconds.values()], height=0.6, color=FINETUNED)
    for row, value in enumerate(seconds.values()):
        axes.annotate(clock(value), (value / 60, row), (4, 0), textcoords="offset points", va="center", fontsize=8.5)
    axes.set_yticks(rows, list(seconds))
    axes.set(xlabel="minutes", ylim=(len(seconds) - 0.4, -0.6))
    axes.margins(x=0.1)
    axes.grid(axis="y", visible=False)
    return svg(figure)


def clock(seconds: float) -> str:
    """12.3 s, or minutes and seconds as 3:07."""
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds // 60)}:{int(seconds % 60):02d}"


def new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """Empty axes of this size in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def svg(figure: Figure) -> str:
    """The drawing as text, the same for the same figure."""
    metadata: dict[str, Any] = {"Date": None, "Creator": None}
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata=metadata)
    return text.getvalue()


@dataclass(frozen=True)
class Bar:
    """Success of a policy over seeds, percent."""

    mean: float
    low: float
    high: float
    seeds: Sequence[float]
    """Of each seed, or of whatever else the mean is over: drawn as dots."""


@dataclass(frozen=True)
class DreamtBar:
    """Success in dreams beside that in the simulator, percent."""

    dream: float
    truth: Bar


@dataclass(frozen=True)
class VariantBar:
    """Success of one variant on one skill, percent."""

    base: float
    finetuned: float


@dataclass(frozen=True)
class SeedCurve:
    """The fine-tuning of one seed, percent."""

    dream: Curve
    """Success in dreams at each iteration."""
    truth: Curve
    """Success in the simulator before the first iteration, and of the result at the iteration that it is of."""


@styled
def skill_bars(skills: Mapping[str, tuple[Bar, Bar]]) -> str:
    """Two bars a skill, after imitation and after dreaming, with the interval over seeds and a dot a seed."""
    figure, axes = new_figure(width=6.6, height=0.62 * len(skills) + 0.95)
    for row, pair in enumerate(skills.values()):
        for offset, bar, color, label in zip(
            (-0.19, 0.19), pair, (BASE, FINETUNED), ("after imitation", "after dreaming"), strict=True
        ):
            axes.barh(row + offset, bar.mean, height=0.36, color=color, label=None if row else label)
            axes.hlines(row + offset, bar.low, bar.high, color=INK, linewidth=1.4)
            heights = [row + offset] * len(bar.seeds)
            axes.scatter(bar.seeds, heights, s=11, color="white", edgecolors=INK, linewidths=0.8, zorder=3)
            axes.annotate(f"{bar.mean:.0f} %", (100, row + offset), (6, 0), textcoords="offset points", va="center",
                          fontsize=9, fontweight="bold", color=color, annotation_clip=False)  # fmt: skip
    axes.set(xlim=(0, 100), xlabel="success, % (line: 95 % interval; dots: seeds)", ylim=(len(skills) - 0.45, -0.55))
    axes.set_yticks(range(len(skills)), list(skills))
    axes.grid(axis="y", visible=False)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2)
    return svg(figure)


@styled
def variant_bars(skills: Mapping[str, Mapping[str, VariantBar]]) -> str:
    """A bar a skill and variant, after dreaming, with a line where it was after imitation."""
    names = list(next(iter(skills.values())))
    height = 0.8 / len(names)
    figure, axes = new_figure(width=6.6, height=0.24 * len(names) * len(skills) + 0.95)
    for number, (name, color) in enumerate(zip(names, CYCLE * len(names), strict=False)):
        rows = [row + height * (number + 0.5) - 0.4 for row in range(len(skills))]
        found = [variants[name] for variants in skills.values()]
        axes.barh(rows, [bar.finetuned for bar in found], height=0.9 * height, color=color, label=name)
        bounds = [row - 0.45 * height for row in rows], [row + 0.45 * height for row in rows]
        axes.vlines([bar.base for bar in found], *bounds, color=INK, linewidth=1.6,
                    label="after imitation" if number == len(names) - 1 else "")  # fmt: skip
        for row, bar in zip(rows, found, strict=True):
            axes.annotate(f"{bar.finetuned:.0f} %", (100, row), (6, 0), textcoords="offset points", va="center",
                          fontsize=8, fontweight="bold", color=color, annotation_clip=False)  # fmt: skip
    axes.set(xlim=(0, 100), xlabel="success after dreaming, %", ylim=(len(skills) - 0.45, -0.55))
    axes.set_yticks(range(len(skills)), [name.replace("_", " ") for name in skills])
    axes.grid(axis="y", visible=False)
    columns = min(4, len(names) + 1) if sum(map(len, names)) < 30 else 2  # long names leave the figure
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, borderaxespad=0.2)
    return svg(figure)


@styled
def dreamt_bars(values: Mapping[str, DreamtBar]) -> str:
    """Two bars a value of alpha_BC, in dreams and in the simulator, with the interval of the mean and a dot a skill."""
    figure, axes = new_figure(width=5.4, height=3.0)
    for place, bar in enumerate(values.values()):
        truth = bar.truth
        axes.bar(place - 0.18, bar.dream, 0.34, color=DREAM, label="" if place else "in dreams")
        axes.bar(place + 0.18, truth.mean, 0.34, color=FINETUNED, label="" if place else "in the simulator")
        axes.vlines(place + 0.18, truth.low, truth.high, color=INK, linewidth=1.4)
        axes.scatter([place + 0.18] * len(truth.seeds), truth.seeds, s=11, color="white", edgecolors=INK,
                     linewidths=0.8, zorder=3)  # fmt: skip
    axes.set(ylim=(0, 102), xlabel="alpha_BC (line: 95 % interval of the mean; dots: skills)", ylabel="success, %")
    axes.set_xticks(range(len(values)), list(values))
    axes.grid(axis="x", visible=False)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2)
    return svg(figure)


@styled
def seed_curves(seeds: Mapping[int, SeedCurve]) -> str:
    """Success in dreams over iterations, a line a seed, and success in the simulator of base and result."""
    figure, axes = new_figure(width=4.4, height=2.6)
    for number, curve in enumerate(seeds.values()):
        axes.plot(curve.dream.x, curve.dream.y, color=DREAM, linewidth=1.2, alpha=0.8,
                  label=None if number else "in dreams")  # fmt: skip
        axes.plot(curve.truth.x, curve.truth.y, color=FINETUNED, linewidth=0.9, linestyle=":", marker="o",
                  markersize=4.5, label=None if number else "in the simulator")  # fmt: skip
    axes.set(ylim=(-2, 102), xlabel="fine-tuning iteration", ylabel="success, %")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2)
    return svg(figure)
