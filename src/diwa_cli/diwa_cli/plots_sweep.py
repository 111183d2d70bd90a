"""Figures of a sweep's report as SVG text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.ticker import MaxNLocator

from diwa_cli.plots import BASE, CYCLE, DREAM, FINETUNED, INK, Curve, new_figure, styled, svg


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
