"""`diwa evaluate-world-model`: held-out clips, imagined open loop and compared with what was recorded."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from diwa_cli.evaluation import probes
from diwa_cli.evaluation.scene_check import SceneReader, agreement, differences, remark, shares, stated, unclear
from diwa_cli.figures import Curve, lines
from diwa_cli.run_folder import write_text
from diwa_cli.video import Row, failure_as_warning, film_frames, write_video
from diwa_data.config import Job, require_at_least, require_seed
from diwa_data.dataset.dataset import Dataset, Episode, load_dataset
from diwa_data.files import require_ours, write_json
from diwa_learning.core.checkpoint import read_header
from diwa_learning.core.device import compute_device
from diwa_learning.world_model.model import WorldModel, load_world_model
from diwa_learning.world_model.open_loop import CONTEXT, HORIZON, OpenLoop, open_loop, save_filmstrip
from diwa_learning.world_model.replay import Batch, ReplayBuffer, held_out_of, split_held_out
from diwa_sim.table import ROBOT, SimConfig

RESULT = "result.json"
NEW_HELD_OUT = 0.2
"""Share of the episodes of a recording that the model was not trained on, on which probes of it are judged."""
EVERY = 8
"""Every how many imagined pictures one is compared with the true scene."""
COORDINATE = re.compile(r"_(?:[xyz]|q[xyzw]|r[xyz])$")
"""Ends the name of a number of the scene state that is a coordinate of an object: their errors are not drawn."""
ERROR = re.compile(r"open_loop_(.+)_error")


@dataclass(frozen=True)
class EvaluateWorldModelConfig:
    """Settings of `diwa evaluate-world-model`: number and length of the clips."""

    clips: int = 16
    """Number of held-out clips, spread evenly over the episodes."""
    horizon: int = HORIZON
    """Actions imagined in each clip."""
    context: int = CONTEXT
    """Frames that are encoded before imagination begins."""
    seed: int = 0
    """Seed of the samples of z, and of the probes."""
    probes: bool = True
    """Train small networks that read furniture, lamps, objects and the hand from the model's states.
    They show what the model sees, for diagnosis only, and need recordings that hold the simulator's state."""

    def __post_init__(self) -> None:
        require_at_least(self, 1, "clips", "horizon", "context")
        require_seed(self.seed)


@dataclass(frozen=True)
class EvaluateWorldModelJob(Job):
    """Imagine clips open loop and compare them with the recording: PSNR, SSIM, KL, hand and scene at each step."""

    command_name: ClassVar[str] = "evaluate-world-model"
    section: ClassVar[str] = "evaluate_world_model"

    world_model: Path
    """Checkpoint folder of `diwa train-world-model`."""
    dataset: Path
    """HDF5 file: its held-out episodes, if the model was trained on it, otherwise all."""
    out: Path
    """Folder for result.json, curves, filmstrips and a film."""
    rollouts: tuple[Path, ...] = ()
    """Rollouts of policies (`diwa evaluate --tapes`) or other recordings with the simulator's state.
    The probes are judged on them too, and the failed ones that are read worst are drawn."""
    config: EvaluateWorldModelConfig = field(default_factory=EvaluateWorldModelConfig)
    """Clips and their lengths."""

    def run(self) -> None:
        """Evaluate, and print the means."""
        print(text(evaluate_world_model(self.world_model, self.dataset, self.out, self.config, self.rollouts)))


def evaluate_world_model(
    world_model: Path, dataset: Path, out: Path, config: EvaluateWorldModelConfig, rollouts: Sequence[Path] = ()
) -> dict[str, Any]:
    """Imagine clips of `dataset` that were held out in training, all of it if the model was not trained on it.

    Leaves result.json, a curve (SVG) per measure, filmstrip.png and film.mp4 in `out`, and of probes probes.svg and
    reconstructions.png; returns what result.json holds.
    Raises `DiwaError` for anything missing, damaged or of another spec.
    """
    require_ours(out, "evaluation", RESULT)
    device = compute_device()
    world = load_world_model(world_model, device)
    model, settings = world.model, world.model.config
    trained_on = read_header(world_model).get("inputs", {}).get("datasets", [])
    data = load_dataset(dataset, world.spec)
    episodes = held_out_of(data, trained_on, settings.held_out, np.random.default_rng(settings.seed))
    taped = [episode for path in rollouts for episode in load_dataset(path, world.spec).episodes]
    probed = find_probes(model, data, episodes, taped, config) if config.probes else None
    length = config.context + config.horizon
    replay = ReplayBuffer(episodes, world.spec, length, shortest=config.context + 1, hybrid=settings.scene_state)
    clips = replay.spread(config.clips)
    result = open_loop(model, clips.to(device), config.seed, config.context)
    imagined = {name: images.cpu() for name, images in result.imagined.items()}
    longest = int(clips.valid.sum(1).argmax())
    scenes = None
    if world.spec.robot == ROBOT and all(episode.scene_state is not None for episode in episodes):
        known = ReplayBuffer(episodes, world.spec, length, shortest=config.context + 1, hybrid=True).spread(
            config.clips
        )
        scenes = known.state[..., world.spec.state_dim :].numpy()
    checked = check_pictures(imagined, clips, scenes, longest, config.context, model) if scenes is not None else None
    found = {
        "world_model": world.hash,
        "dataset": str(dataset),
        "episodes": len(episodes),
        "held_out_of_training": len(episodes) < len(data.episodes),
        "clips": len(clips.valid),
        **result.summary(),
        **({"pictures": checked.shares} if checked else {}),
        **({"probes": probed.summary()} if probed else {}),
    }
    write_json(out / RESULT, found)
    for name, (label, curves) in curves_of(result, model).items():
        shown = {key: Curve(list(range(1, len(curve) + 1)), curve.tolist()) for key, curve in curves.items()}
        write_text(out / f"{name}.svg", lines(shown, "imagined step", label))
    save_filmstrip(out / "filmstrip.png", clips, imagined, longest, context=config.context)
    with failure_as_warning(out / "film.mp4"):
        write_film(out / "film.mp4", clips, imagined, longest, config.context, model.spec.rate, checked)
    if probed:
        write_text(out / "probes.svg", probes.figure(probed))
        probes.draw_reconstructions(out / "reconstructions.png", model, probed, config.seed)
    return found


def find_probes(
    model: WorldModel,
    data: Dataset,
    held_out: Sequence[Episode],
    rollouts: Sequence[Episode],
    config: EvaluateWorldModelConfig,
) -> probes.Probed | None:
    """Probes that learn from the episodes of `data` that are not held out; of a new recording, from four fifths of it.

    None, said in a line, where the simulator's state is not known or there is nothing to learn from.
    """
    for episode in (*data.episodes, *rollouts):
        if episode.scene_state is None:
            print(f"no probes: episode {episode.name} has no scene_state; only the simulated robot records one")
            return None
    if len(data.episodes) < 2:
        print(f"no probes: {data.path} has one episode; probes learn from one and are judged on another")
        return None
    learned = [episode for episode in data.episodes if episode not in held_out]
    if not learned:
        learned, held_out = split_held_out([data], NEW_HELD_OUT, np.random.default_rng(config.seed))
    return probes.probe(model, learned, held_out, rollouts, config.context, config.horizon, config.seed)


@dataclass(frozen=True)
class CheckedPictures:
    """Imagined pictures of the simulated table against the true scene."""

    shares: dict[str, dict[str, float]]
    """Quantity -> shares of the pictures that show it `right`, `wrong` or `unclear`."""
    truth: list[str]
    """(T,) what is true in each frame of the film."""
    agreed: list[str]
    """(T,) that its imagined picture shows it so; or nothing."""
    remarks: list[str]
    """(T,) what is wrong or unclear in its imagined picture."""


def check_pictures(
    imagined: Mapping[str, torch.Tensor], clips: Batch, scenes: np.ndarray, film: int, context: int, model: WorldModel
) -> CheckedPictures:
    """Compare every `EVERY`-th imagined picture of the clips, and all of the clip `film`, with the scenes (B, T, N)."""
    spec, valid = model.spec, clips.valid.numpy()
    pictures, states = imagined[spec.cameras[0].name].numpy(), clips.state[..., : spec.state_dim].numpy()
    sampled, filmed = np.zeros_like(valid), np.zeros_like(valid)
    sampled[:, context::EVERY], filmed[film] = valid[:, context::EVERY], valid[film]
    with closing(SceneReader(SimConfig().like(spec))) as reader:
        found, shown = (reader.read(pictures[some], states[some], scenes[some]) for some in (sampled, filmed))
    names, truth = spec.scene_state, scenes[filmed]
    pairs = [*zip(differences(shown, truth, names), map(unclear, shown), strict=True)]
    return CheckedPictures(
        shares(found, scenes[sampled], names),
        [f"true: {stated(scene, names)}" for scene in truth],
        [agreement(*pair, "as recorded") for pair in pairs],
        [remark(*pair) for pair in pairs],
    )


def curves_of(result: OpenLoop, model: WorldModel) -> dict[str, tuple[str, dict[str, np.ndarray]]]:
    """Figure -> label of its axis and curves (T,) over the imagined steps, NaN where no clip is as long."""
    found = {
        "psnr": ("PSNR, dB", {"imagined": result.psnr, "a still picture": result.still_psnr}),
        "ssim": ("SSIM", {"imagined": result.ssim}),
        "kl": ("KL(posterior || prior), nats", {"filtered": result.kl}),
    }
    if "position" in result.errors:
        found["position_error"] = ("hand position error, mm", {"hand": 1000 * result.errors["position"]})
    if model.config.scene_state:
        names, deviation = model.spec.scene_state, model.state_std[model.spec.state_dim :].cpu().numpy()
        errors = {
            name: result.errors[name] / deviation[names.index(name)] for name in names if not COORDINATE.search(name)
        }
        found["scene_error"] = ("error / std of the training data", errors)
    return found


def write_film(
    path: Path,
    clips: Batch,
    imagined: Mapping[str, torch.Tensor],
    clip: int,
    context: int,
    rate: float,
    checked: CheckedPictures | None,
) -> None:
    """One clip as an mp4: recorded frames above imagined ones; `rate` in Hz."""
    frames = int(clips.valid[clip].sum())
    cut = [{camera: found[camera][clip, :frames].numpy() for camera in imagined} for found in (clips.images, imagined)]
    rows = [Row("recorded", cut[0]), Row("imagined: the same actions", cut[1])]
    if checked:
        rows = [replace(rows[0], truth=checked.truth), replace(rows[1], truth=checked.agreed, remarks=checked.remarks)]
    write_video(path, film_frames(rows, context, rate, ""), rate)


def text(found: dict[str, Any]) -> str:
    """The means in a few lines."""
    steps = len(found["open_loop_steps"]["psnr"])
    origin = "held out of training" if found["held_out_of_training"] else "all of the dataset: not trained on it"
    units = {"position": (1000, " mm"), "drawer": (1000, " mm"), "slider": (1000, " mm")}
    lines = [
        f"{found['clips']} clips from {found['episodes']} episodes ({origin}), {steps} imagined steps, means:",
        f"  PSNR            {found['open_loop_psnr']:.2f} dB (a still picture: {found['open_loop_still_psnr']:.2f})",
        f"  SSIM            {found['open_loop_ssim']:.3f}",
        f"  KL              {found['open_loop_kl']:.2f} nats, posterior against prior while filtering",
    ]
    errors = {match[1]: found[match[0]] for match in map(ERROR.fullmatch, found) if match}
    for name, error in errors.items():
        if not COORDINATE.search(name):
            scale, unit = units.get(name, (1, ""))
            lines.append(f"  {name + ' error':<15} {scale * error:.3g}{unit}")
    for name, share in found.get("pictures", {}).items():
        lines.append(
            f"  {name + ' shown':<15} " + ", ".join(f"{100 * part:.0f} % {how}" for how, part in share.items())
        )
    return "\n".join([*lines, *([probes.text(found["probes"])] if "probes" in found else [])])
