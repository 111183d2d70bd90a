"""Figures as SVG text, in one style: groups of horizontal bars, curves, and points against the truth."""

from __future__ import annotations

import functools
import io
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ParamSpec

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from diwa_cli.statistics import Interval, SuccessRate

INK, GRID = "#24313c", "#e3e7ea"
BASE, FINETUNED, DREAM = "#8595a3", "#0b7a75", "#d9822b"
"""Colours of the policy after imitation, after dreaming, and of anything imagined."""
CYCLE = (FINETUNED, DREAM, BASE, "#6a4c93", "#b23a48")
POLICIES = (BASE, FINETUNED, *CYCLE[1:])
"""Colours where the first of several policies is the one before fine-tuning."""
ABOVE: Any = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.2}
"""Place of a legend over the axes."""
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
    bounds: Sequence[Interval] = ()
    """An interval of each y, drawn as error bars; or none."""
    marked: bool = False
    """Whether each point gets a dot. A line that breaks has a point of NaN there."""


@dataclass(frozen=True)
class Bar:
    """One bar, and what is drawn over it where it is known."""

    value: float
    interval: Interval | None = None
    dots: Sequence[float] = ()
    """Parts of the mean that the bar shows: a dot each."""
    mark: float | None = None
    """A value to compare with, drawn as a line across the bar."""


@styled
def bars(
    groups: Mapping[str, Mapping[str, Bar]],
    xlabel: str,
    colors: Sequence[str] = CYCLE,
    text: Callable[[float], str] = "{:.0f} %".format,
    end: float | None = 100,
    mark: str = "",
) -> str:
    """Groups of horizontal bars: group -> series -> bar, the value of each behind it.

    `colors` are those of the series in turn, `end` is that of the axis, by default of per cent, None for what the
    values need; `mark` says what the marks are.
    """
    names = dict.fromkeys(name for group in groups.values() for name in group)
    color = dict(zip(names, itertools.cycle(colors), strict=False))
    figure, axes = new_figure(6.6, 0.95 + sum(0.24 + 0.2 * len(group) for group in groups.values()))
    for row, group in enumerate(groups.values()):
        height = min(0.8 / len(group), 0.6)
        for number, (name, bar) in enumerate(group.items()):
            y = row + height * (number + 0.5 - len(group) / 2)
            axes.barh(y, bar.value, 0.94 * height, color=color[name], label=name)
            if bar.interval:
                axes.hlines(y, bar.interval.low, bar.interval.high, color=INK, linewidth=1.5)
            if bar.mark is not None:
                axes.vlines(bar.mark, y - 0.45 * height, y + 0.45 * height, color=INK, linewidth=1.6, label=mark)
            axes.scatter(bar.dots, [y] * len(bar.dots), s=11, color="white", edgecolors=INK, linewidths=0.8, zorder=3)
            axes.annotate(text(bar.value), (bar.value if end is None else end, y), (6, 0), va="center", fontsize=9,
                          textcoords="offset points", fontweight="bold", color=color[name],
                          annotation_clip=False)  # fmt: skip
    axes.margins(x=0.1)
    axes.set(xlabel=xlabel, ylim=(len(groups) - 0.45, -0.55), **{"xlim": (0, end)} if end else {})
    axes.set_yticks(range(len(groups)), list(groups))
    axes.grid(axis="y", visible=False)
    if any(len(group) > 1 for group in groups.values()):
        add_legend(figure, ncols=4 if sum(map(len, names)) < 30 else 2)  # long names leave the figure
    return svg(figure)


def success_bars(rates: Mapping[str, SuccessRate]) -> str:
    """Success rate of each policy with its 95 % interval; the first is the one to compare with."""
    shown = {name: {name: Bar(100 * rate.rate, percent(rate.interval))} for name, rate in rates.items()}
    return bars(shown, "success, % (line: 95 % interval)", POLICIES)


def phase_bars(seconds: Mapping[str, float]) -> str:
    """How long each phase of a run took."""
    shown = {name: {"": Bar(value / 60)} for name, value in seconds.items()}
    return bars(shown, "minutes", text=lambda minutes: clock(60 * minutes), end=None)


def percent(interval: Interval) -> Interval:
    """An interval of fractions in per cent."""
    return Interval(100 * interval.low, 100 * interval.high)


@styled
def lines(
    curves: Mapping[str, Curve],
    xlabel: str,
    ylabel: str,
    log: bool = False,
    scores: Curve | None = None,
    chosen: float | None = None,
    colors: Sequence[str] = CYCLE,
    wide: bool = False,
) -> str:
    """Several curves over one axis, from 0 to 100 if they are per cent; offline scores on an axis of their own.

    `log` asks for a logarithmic axis where the values span a decade, `chosen` for a line at this x; `wide` is for a
    figure that stands alone.
    """
    figure, axes = new_figure(*(6.6, 3.0) if wide else (4.4, 2.6))
    for (name, curve), color in zip(curves.items(), itertools.cycle(colors), strict=False):
        if curve.bounds:
            ends = np.array([[end.low, end.high] for end in curve.bounds]).T
            axes.errorbar(curve.x, curve.y, np.abs(ends - curve.y), color=color, marker="o", capsize=3, label=name)
        else:
            marker = "o" if curve.marked or len(curve.x) == 1 else ""
            axes.plot(curve.x, curve.y, color=color, linewidth=1.5, marker=marker, markersize=4.5, label=name)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    if "%" in ylabel:
        axes.set_ylim(-2, 102)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    values = np.concatenate([curve.y for curve in curves.values()])
    if log and np.nanmin(values) > 0 and np.nanmax(values) > 10 * np.nanmin(values):
        axes.set_yscale("log")
    if chosen is not None:
        axes.axvline(chosen, color=INK, linewidth=0.8, linestyle=":")
    if scores:
        add_scores(axes, scores)
    if len(curves) > 1 or scores:
        add_legend(figure, ncols=2)
    return svg(figure)


def add_scores(axes: Axes, scores: Curve) -> None:
    """Offline scores on an axis of their own: a share less a deviation is no per cent, and may fall below 0."""
    right = axes.twinx()
    right.plot(scores.x, scores.y, "D", color=INK, markersize=4, label="offline score")
    right.set(ylabel="offline score", ylim=(min(0, *scores.y) - 0.05, max(1, *scores.y) + 0.05))
    right.spines["right"].set_visible(True)
    right.grid(visible=False)


def add_legend(figure: Figure, ncols: int) -> None:
    """Above the first axes, what is drawn on any: each name once, none that is empty."""
    found = [pair for axes in figure.axes for pair in zip(*axes.get_legend_handles_labels(), strict=True)]
    named = {label: handle for handle, label in reversed(found)}
    figure.axes[0].legend(list(named.values())[::-1], list(named)[::-1], ncols=ncols, **ABOVE)


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
