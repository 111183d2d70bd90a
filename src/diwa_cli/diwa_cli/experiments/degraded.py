"""`diwa experiment degraded`: world models made worse on purpose; what breaks, and whether gate and score notice.

Each gets its own base policy, classifier, ensemble and fine-tuning, on the run's recordings and with its settings. So
does the run's own model where the static camera has moved since its play was recorded.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diwa_cli.evaluation.evaluate import EvaluateConfig, evaluate, summary
from diwa_cli.evaluation.world_model import EvaluateWorldModelConfig, evaluate_world_model
from diwa_cli.figures import Curve, lines
from diwa_cli.run_folder import BASE, FINETUNED, RunFolder, SweepFolder, write_text
from diwa_data.config import from_mapping
from diwa_data.dataset.align import DatasetConfig
from diwa_data.dataset.dataset import BuildDatasetJob, load_dataset, only_failures
from diwa_data.dataset.file import copy_episodes
from diwa_data.errors import DiwaError
from diwa_data.files import write_json
from diwa_learning.core.checkpoint import is_finished, load_checkpoint, read_header, save_checkpoint
from diwa_learning.ensemble.disagreement import EnsembleConfig
from diwa_learning.ensemble.train import EnsembleJob
from diwa_learning.finetune.checks import CheckConfig
from diwa_learning.finetune.gate import CheckJob, check
from diwa_learning.finetune.selection import before, scores
from diwa_learning.finetune.train import FinetuneConfig, FinetuneJob
from diwa_learning.policy.train import PolicyConfig, PolicyJob
from diwa_learning.reward.classifier import RewardConfig
from diwa_learning.reward.train import RewardJob
from diwa_learning.world_model.config import WorldModelConfig
from diwa_learning.world_model.replay import held_out_of, learned_from
from diwa_learning.world_model.train import WorldModelJob
from diwa_sim.operator.record import RecordJob, SimulatedRecordConfig
from diwa_sim.table import SimConfig

AS_TRAINED, GATE = "as trained", "gate.json"


@dataclass(frozen=True)
class DegradeConfig:
    """Ways in which world models are made worse."""

    early: tuple[float, ...] = (0.1, 0.25, 0.5)
    """Train a world model for each of these shares of the run's updates."""
    data: tuple[float, ...] = (0.125, 0.25)
    """Train a world model on each of these shares of the run's play."""
    noise: tuple[float, ...] = (1.0, 4.0)
    """Noise on the prior's matrices, in standard deviations of each: dreams get worse, filtering does not."""
    moved: tuple[float, ...] = (0.05,)
    """Metres by which the static camera moves sideways before demonstrations are recorded and policies run."""

    def __post_init__(self) -> None:
        largest = {"early": 1.0, "data": 1.0, "noise": 1e3, "moved": 1.0}
        for name, highest in largest.items():
            values = getattr(self, name)
            for value in values:
                if not 0 < value <= highest:
                    raise DiwaError(f"degrade.{name} has {value:g}; choose numbers above 0 and up to {highest:g}")


def degraded(
    run: RunFolder, out: Path, config: DegradeConfig, clips: int, evaluation: EvaluateConfig, sim: SimConfig
) -> dict[str, Any]:
    """A row for the run's own world model and one for each that is worse, also in gate.json; drawn over hand error.

    Raises `DiwaError` for a run whose dreams had no ensemble.
    """
    if not is_finished(run.ensemble):
        raise DiwaError(f"{run.path} has no ensemble, which this experiment needs: make one with finetune.result best")
    trained, held_out = split_play(run, out)
    rows = [measure(AS_TRAINED, run, held_out, out / "as_trained", clips, evaluation, sim)]
    makers = world_models(run.world_model, trained, attempts(run), config)
    cases = [(name, make, sim) for name, make in makers.items()]
    for metres in config.moved:
        elsewhere = replace(sim, static_moved=(metres, 0.0, 0.0, 0.0, 0.0, 0.0))
        cases.append((f"static camera moved by {100 * metres:g} cm", partial(link, run.world_model), elsewhere))
    for name, make, scene in cases:
        worse = RunFolder(SweepFolder(out / re.sub(r"\W+", "_", name)), run.run)
        if not is_finished(worse.world_model):
            make(worse.world_model)
        if scene == sim:
            link(run.demonstrations, worse.demonstrations)
        else:
            demonstrate(run, worse, scene)
        learn(run, worse)
        rows.append(measure(name, worse, held_out, worse.path, clips, evaluation, scene))
        write_json(out / GATE, gate_table(rows))  # what is known so far
    write_text(out / "success.svg", drawing(rows))
    return {"rows": rows, "gate": gate_table(rows)["counts"]}


def link(there: Path, here: Path) -> None:
    """Let `here` be what is `there`."""
    if not here.exists():
        here.parent.mkdir(parents=True, exist_ok=True)
        here.symlink_to(os.path.relpath(there.resolve(), here.parent.resolve()))


def demonstrate(run: RunFolder, worse: RunFolder, sim: SimConfig) -> None:
    """Record the run's demonstrations again in another scene: the same starts and the same operator."""
    made, spec = run.sweep.config, load_dataset(run.demonstrations, images=False).spec
    where = f"{run.sweep.description}: "
    record = from_mapping(SimulatedRecordConfig, made["demonstrations"], f"{where}demonstrations")
    dataset = from_mapping(DatasetConfig, made["dataset"], f"{where}dataset")
    RecordJob(worse.demonstration_bags, replace(record, skill=run.run.skill), sim.like(spec)).run()
    BuildDatasetJob((worse.demonstration_bags,), worse.demonstrations, dataset).run()


def split_play(run: RunFolder, out: Path) -> tuple[Path, Path]:
    """Two datasets of the run's play: what its world model was trained on, and what no world model saw."""
    trained, held_out = out / "trained.h5", out / "held_out.h5"
    if not held_out.is_file():
        settings = load_checkpoint(run.world_model, "world_model").config_as(WorldModelConfig)
        datasets, data = read_header(run.world_model)["inputs"]["datasets"], load_dataset(run.play)
        held = held_out_of(data, datasets, settings.held_out, np.random.default_rng(settings.seed))
        names = {episode.name for episode in held}
        copy_episodes(run.play, [episode.name for episode in data.episodes if episode.name not in names], trained)
        copy_episodes(run.play, sorted(names), held_out)
    return trained, held_out


def attempts(run: RunFolder) -> tuple[Path, ...]:
    """The demonstrations of the sweep whose failed attempts its world model learned from."""
    trained_on, found = read_header(run.world_model)["inputs"]["datasets"], []
    for path in dict.fromkeys(one.demonstrations for one in run.sweep.runs()):
        shown = load_dataset(path, images=False)
        if any(each.outcome == "fail" for each in shown.episodes) and learned_from(only_failures(shown), trained_on):
            found.append(path)
    return tuple(found)


def world_models(
    world_model: Path, play: Path, failed: tuple[Path, ...], config: DegradeConfig
) -> dict[str, Callable[[Path], None]]:
    """Name -> what makes that world model in a folder, of a good one and what it was trained on."""
    settings = load_checkpoint(world_model, "world_model").config_as(WorldModelConfig)
    found: dict[str, Callable[[Path], None]] = {}
    for share in config.early:
        fewer = replace(settings, updates=max(1, round(share * settings.updates)))
        found[f"{100 * share:g} % of the updates"] = partial(train, play, attempts=failed, config=fewer)
    for share in config.data:
        found[f"{100 * share:g} % of the play"] = partial(train, play, attempts=failed, config=settings, share=share)
    for deviations in config.noise:
        found[f"prior with noise of {deviations:g}"] = partial(add_noise, world_model, deviations)
    return found


def train(play: Path, out: Path, attempts: tuple[Path, ...], config: WorldModelConfig, share: float = 1.0) -> None:
    """Train a world model on the first episodes of play, a `share` of them, and on failed attempts."""
    if share < 1:
        part = play.with_name(f"play_{share:g}.h5")
        if not part.is_file():
            names = [episode.name for episode in load_dataset(play).episodes]
            copy_episodes(play, names[: max(2, round(share * len(names)))], part)
        play = part
    WorldModelJob((play,), out, config, attempts).run()


def add_noise(world_model: Path, deviations: float, out: Path) -> None:
    """Leave a copy whose prior's matrices have Gaussian noise of so many of their standard deviations."""
    checkpoint, generator = load_checkpoint(world_model, "world_model"), torch.Generator().manual_seed(0)
    weights = dict(checkpoint.weights)
    for name, weight in checkpoint.weights.items():
        if name.startswith("rssm.prior_head.") and weight.dim() == 2:
            weights[name] = weight + deviations * weight.std() * torch.randn(weight.shape, generator=generator)
    inputs = read_header(world_model)["inputs"]
    config = checkpoint.config_as(WorldModelConfig)
    save_checkpoint(out, "world_model", weights, config, checkpoint.spec, {"noise": deviations}, inputs=inputs)


def learn(run: RunFolder, worse: RunFolder) -> None:
    """Everything that stands on a world model, on that of `worse`, as the run did it."""
    model, demonstrations, play = worse.world_model, worse.demonstrations, run.play
    policy = load_checkpoint(run.policy, "policy").config_as(PolicyConfig)
    reward = load_checkpoint(run.reward, "reward").config_as(RewardConfig)
    ensemble = load_checkpoint(run.ensemble, "ensemble").config_as(EnsembleConfig)
    tuning = replace(load_checkpoint(run.finetuned, "finetune").config_as(FinetuneConfig), gate="off")
    PolicyJob(demonstrations, model, worse.policy, policy).run()
    RewardJob(demonstrations, model, worse.reward, play, reward).run()
    EnsembleJob((play,), model, worse.ensemble, ensemble).run()
    files = (worse.policy, worse.reward, model, demonstrations, worse.finetuned, play, worse.ensemble)
    FinetuneJob(*files, tuning).run()


def measure(
    name: str, run: RunFolder, held_out: Path, out: Path, clips: int, evaluation: EvaluateConfig, sim: SimConfig
) -> dict[str, Any]:
    """A row: errors of the world model on held-out play, success, and what dreams said of it."""
    found = evaluate_world_model(
        run.world_model, held_out, out / "open_loop", EvaluateWorldModelConfig(clips, probes=False)
    )
    job = CheckJob(
        run.world_model, held_out, None, run.ensemble, run.reward, run.policy, run.demonstrations, CheckConfig()
    )
    checkpoint = load_checkpoint(run.finetuned, "finetune")
    setting = replace(evaluation, skill=checkpoint.skill)
    policies = {BASE: run.policy, FINETUNED: run.finetuned}
    judged = summary(evaluate(policies, run.world_model, run.reward, out / "judged", setting, sim), setting)
    return {
        "world_model": name,
        "psnr": found["open_loop_psnr"],
        "hand_error_mm": round(1000 * found.get("open_loop_position_error", float("nan")), 2),
        **{policy: judged["policies"][policy] for policy in policies},
        "difference": judged["differences"][f"{FINETUNED} - {BASE}"],
        **dreams(checkpoint.metrics["history"], checkpoint.config_as(FinetuneConfig).base_iterations),
        "gate": check(job).as_json(),
    }


def gate_table(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Rows with what fine-tuning gained and what the gate said before, and how often it was right.

    A world model is bad if fine-tuning gains less than a third on it of what it gains on the one that is as trained.
    """
    good = rows[0]["difference"]["points"]
    table = []
    for row in rows:
        gain, gate = row["difference"]["points"], row["gate"]
        table.append(
            {
                "world_model": row["world_model"],
                "base": row[BASE]["rate"],
                "finetuned": row[FINETUNED]["rate"],
                "rollouts": row[FINETUNED]["rollouts"],
                "gain": round(gain, 2),
                "bad": gain < good / 3,
                "refused": gate["verdict"] == "refused",
                "failed": [
                    name for name, figure in gate["figures"].items() if figure["decisive"] and not figure["passed"]
                ],
                "figures": {name: figure["value"] for name, figure in gate["figures"].items()},
            }
        )
    bad, others = ([row["refused"] for row in table if row["bad"] is is_bad] for is_bad in (True, False))
    counts = {"bad": len(bad), "caught": sum(bad), "others": len(others), "passed": len(others) - sum(others)}
    return {"units": "rates: fractions; gain: percentage points", "counts": counts, "rows": table}


def dreams(curves: dict[str, Any], base: int) -> dict[str, dict[str, float]]:
    """Success in dreams, the ensemble's deviation and the score, of the base's dreams and of the last ones."""
    values = {name: [value for _, value in curves[name]] for name in ("dream_success", "deviation")}
    values["score"] = scores(curves, base)
    return {
        name: {"base": float(np.mean(curve[:base])), "end": before(curve, len(curve))} for name, curve in values.items()
    }


def drawing(rows: Sequence[dict[str, Any]]) -> str:
    """Success in the simulator and in dreams, and the score, over the hand's error in imagination."""
    ranked = sorted(rows, key=lambda row: row["hand_error_mm"])
    error = [row["hand_error_mm"] for row in ranked]
    curves = {
        "after imitation": [100 * row[BASE]["rate"] for row in ranked],
        "after dreaming": [100 * row[FINETUNED]["rate"] for row in ranked],
        "in its last dreams": [100 * row["dream_success"]["end"] for row in ranked],
    }
    found = {name: Curve(error, y) for name, y in curves.items()}
    score = Curve(error, [row["score"]["end"] for row in ranked])
    return lines(found, "hand error in imagination, mm", "success, %", scores=score)
