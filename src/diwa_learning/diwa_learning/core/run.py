"""The loop that all trainings share: progress, curves, and a state on disk from which a killed run continues.

    with TrainingRun(out, "policy", config, spec) as run:      # seeds torch and run.rng
        if run.finished: return
        run.track(model=model, optimizer=optimizer)           # continues where an earlier run stopped
        for step in run.steps(config.updates, "updates"):
            ...
            run.log(step, {"loss": loss})
        run.finish(model.state_dict(), {"loss": final})

Everything random comes from torch's global generator, from `run.rng` or from a tracked generator; all are saved, so
that an interrupted run reaches the same weights to the bit. Of several processes (`device.py`) the first alone
writes and prints; all of them read the state.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from diwa_data.config import require_seed
from diwa_data.errors import DiwaError, damage_as_error
from diwa_data.files import FolderLock, as_json, atomic_path, parse_json, remove, require_ours, require_same_settings
from diwa_data.progress import progress
from diwa_data.spec import Spec, require_same
from diwa_learning.core import checkpoint
from diwa_learning.core.checkpoint import Phase, encode_tensors
from diwa_learning.core.device import ALONE, Processes, peak_memory, reuse_freed_memory

Curves = dict[str, list[tuple[int, float]]]
"""Name -> (step, value) pairs."""
FREE = ("config.gate",)
"""Settings that may change between an interrupted run and its continuation: they decide whether it begins."""
_SAME_SIGNAL = 1.0  # seconds


class TrainingRun:
    """One phase writing to the folder `out`; see the module's text.

    Args:
        config: the phase's dataclass; needs `seed` (int) and `save_every` (steps).
        inputs: plain values that name what is trained on (file names, sizes); like the config, they may not
            change between an interrupted run and its continuation.

    Raises `DiwaError` when `out` holds another phase, or a run with another configuration, spec or inputs, and when
    another process is training in it.
    """

    def __init__(
        self,
        out: Path,
        phase: Phase,
        config: Any,
        spec: Spec,
        world_model_hash: str | None = None,
        inputs: Mapping[str, Any] | None = None,
        processes: Processes = ALONE,
    ):
        self.out, self.phase, self.config, self.spec = Path(out), phase, config, spec
        self.world_model_hash, self.inputs, self.processes = world_model_hash, as_json(dict(inputs or {})), processes
        self.step = 0
        """Steps done."""
        self.seconds = 0.0
        """Time spent in the loop, interrupted runs included."""
        self.history: Curves = {}
        """Logged values; they go to metrics.json."""
        require_seed(config.seed)
        reuse_freed_memory()
        self.rng = np.random.default_rng(config.seed)
        torch.manual_seed(config.seed)
        self._tracked: dict[str, Any] = {}
        self._watched: Mapping[str, float | Tensor] = {}
        self._note, self._unit, self._per_step = "", "", 1.0
        self._interrupted = 0.0  # when it was, of the monotonic clock; 0 = it was not
        self._mark: tuple[int, float] | None = None  # step and time of the last entry, while `steps` runs
        with ExitStack() as opened:
            if processes.main:
                opened.enter_context(nullcontext() if self.out.is_file() else FolderLock(self.out))
                self._claim_folder()
            self._opened = opened.pop_all()
        processes.any(False)  # wait for the first
        self.finished = checkpoint.is_finished(self.out)
        """True when an earlier run left the checkpoint: there is nothing to do."""
        if self.finished and processes.main:
            print(f"{phase}: {self.out} is finished, nothing to do (choose another folder or delete it to train again)")

    def __enter__(self) -> TrainingRun:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def track(self, **parts: Any) -> None:
        """Name the objects whose state the run saves; restores them if an earlier run was interrupted.

        They are modules, optimisers and others with torch's state_dict protocol, and generators.
        """
        self._tracked = parts
        if not self._state_file.is_file():
            return
        saved = load_state(self._state_file)
        for name, part in parts.items():
            if isinstance(part, torch.Generator):
                part.set_state(saved["parts"][name]["state"])
            else:
                part.load_state_dict(saved["parts"][name])
        self.step, self.seconds = saved["step"], saved["seconds"]
        self.history = {name: [(int(s), v) for s, v in curve] for name, curve in saved["history"].items()}
        self.rng.bit_generator.state = saved["numpy"]
        torch.set_rng_state(saved["torch"])
        if torch.cuda.is_available() and saved["cuda"]:
            torch.cuda.set_rng_state(saved["cuda"][0])
        if self.processes.main:
            print(f"{self.phase}: continuing {self.out} at step {self.step}")

    def steps(self, total: int, unit: str = "updates", per_step: float = 1) -> Iterator[int]:
        """Yield the steps still to do; progress counts `per_step` units each.

        Ctrl-C and SIGTERM let the current step end, save, and raise KeyboardInterrupt; a second one stops at once.
        Within a second they count as one: a launched process hears of Ctrl-C from the terminal and from its launcher.
        """
        self._unit, self._per_step, self._mark = unit, per_step, (self.step, time.monotonic())
        main = self.processes.main
        shown = progress(self.phase, total * per_step, unit, self.step * per_step) if main else nullcontext()
        with self._deferred_interrupt(), shown as bar:
            while self.step < total:
                started = time.monotonic()
                yield self.step
                self.step += 1
                self.seconds += time.monotonic() - started
                if bar:
                    latest = {name: curve[-1][1] for name, curve in self.history.items()}
                    bar.update(self.step * per_step, self._note, latest)
                interrupted = self.processes.any(self._interrupted > 0)
                if interrupted or (self.step % self.config.save_every == 0 and self.step < total):
                    self.save()
                if interrupted:
                    self._stop()

    def log(self, step: int, values: Mapping[str, float | Tensor]) -> None:
        """Append to the curves, with throughput and peak memory; shows the first value behind the progress.

        Raises `DiwaError` naming the step when a value is NaN or infinite.
        """
        values = {name: _number(value) for name, value in values.items()}
        self._require_finite({**self._watched, **values})
        self.add(step, values)
        if self._mark:
            (marked, since), now = self._mark, time.monotonic()
            self._mark = self.step, now
            if self.step > marked:
                rate = (self.step - marked) * self._per_step / (now - since)
                self.add(step, {f"{self._unit}_per_s": rate, "peak_memory_gib": peak_memory()})
        name, value = next(iter(values.items()))
        self._note = f"{name} {value:.4g}"

    def add(self, step: int, values: Mapping[str, float | Tensor]) -> None:
        """Append to the curves: metrics.json and TensorBoard."""
        if self.processes.main:
            for name, value in values.items():
                self.history.setdefault(name, []).append((step, _number(value)))
                self._writer.add_scalar(name, _number(value), step)

    def watch(self, **values: Tensor) -> None:
        """Name losses and norms of this step, not waited for: before anything is logged or saved, they must be finite.

        A NaN in them, or in the weights they come from, is in all later ones.
        """
        self._watched = values

    def _require_finite(self, values: Mapping[str, float | Tensor]) -> None:
        for name, value in values.items():
            if not math.isfinite(number := _number(value)):
                raise DiwaError(
                    f"{self.phase}: {name} is {number} at step {self.step}; nothing was saved since the last "
                    "save. Lower the learning rate or look for wrong values in the dataset"
                )

    def _stop(self) -> NoReturn:
        if not self.processes.main:
            raise SystemExit(130)
        print(f"{self.phase}: stopped after step {self.step}; the same command continues it")
        raise KeyboardInterrupt

    @cached_property
    def _writer(self) -> Any:
        """TensorBoard writer on `out/tensorboard`."""
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        writer = SummaryWriter(str(self.out / "tensorboard"), purge_step=self.step or None)
        self._opened.callback(writer.close)
        return writer

    def save(self) -> None:
        """Write the state from which a later run continues, whole or not at all."""
        self._require_finite(self._watched)
        if not self.processes.main:
            return
        parts = {
            name: {"state": part.get_state()} if isinstance(part, torch.Generator) else part.state_dict()
            for name, part in self._tracked.items()
        }
        state = {
            "parts": parts,
            "step": self.step,
            "seconds": self.seconds,
            "history": self.history,
            "numpy": self.rng.bit_generator.state,
            "torch": torch.get_rng_state(),
            "cuda": [torch.cuda.get_rng_state()] if torch.cuda.is_available() else [],
        }
        save_state(self._state_file, state)

    def finish(self, weights: Mapping[str, Tensor], metrics: Mapping[str, Any]) -> None:
        """Leave the checkpoint in `out` and drop the resumable state."""
        self._require_finite(self._watched)
        metrics = {**metrics, "steps": self.step, "seconds": round(self.seconds, 3), "history": self.history}
        checkpoint.save_checkpoint(
            self.out, self.phase, weights, self.config, self.spec, metrics, self.world_model_hash, self.inputs
        )
        remove(self._state_file.parent)
        self.finished = True

    @property
    def _state_file(self) -> Path:
        return self.out / "resume" / "state.safetensors"

    def _claim_folder(self) -> None:
        """Write the header of a new run, or check that the one in `out` is the same run."""
        if not (self.out / checkpoint.CONFIG).exists():
            require_run_folder(self.out)
            header = checkpoint.make_header(self.phase, self.config, self.world_model_hash, self.inputs)
            checkpoint.write_header(self.out, header, self.spec)
            return
        header = checkpoint.read_header(self.out)
        if header["phase"] != self.phase:
            raise DiwaError(f"{self.out} holds a {header['phase']} run, not {self.phase}: choose another folder")
        require_same(checkpoint.read_spec(self.out), self.spec, "the data for this run", limits=True)
        mine = {"world_model": self.world_model_hash, "inputs": self.inputs, "config": dataclasses.asdict(self.config)}
        usual = {"config": dataclasses.asdict(type(self.config)())}
        require_same_settings(self.out, {key: header.get(key) for key in mine}, mine, FREE, usual=usual)

    @contextmanager
    def _deferred_interrupt(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def remember(signum: int, frame: Any) -> None:
            now = time.monotonic()
            if self._interrupted and now > self._interrupted + _SAME_SIGNAL and self.processes.size == 1:
                raise KeyboardInterrupt
            if not self._interrupted:
                self._interrupted = now
                if self.processes.main:  # print is not re-entrant
                    os.write(2, b"\nstopping after this step; press Ctrl-C again to drop it\n")

        before = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _number(value: float | Tensor) -> float:
    return float(value.detach()) if isinstance(value, Tensor) else float(value)


def require_run_folder(out: Path) -> None:
    """Raise `DiwaError` if the folder `out` holds something else than a training run: asked before its data is read."""
    require_ours(out, "training run", checkpoint.CONFIG, checkpoint.SPEC)


def save_state(path: Path, state: Any) -> None:
    """Write nested dicts, lists, numbers, texts and tensors as one safetensors file; the structure is JSON in it."""
    tensors: dict[str, Tensor] = {}

    def encode(value: Any) -> Any:
        if isinstance(value, Tensor):
            tensors[name := str(len(tensors))] = value
            return {"tensor": name}
        if isinstance(value, Mapping):
            return {"items": [[key, encode(item)] for key, item in value.items()]}
        return [encode(item) for item in value] if isinstance(value, list | tuple) else value

    tree = json.dumps(encode(state))
    with atomic_path(path) as temporary:
        temporary.write_bytes(encode_tensors(tensors, {"tree": tree, "sha256": _digest(tree, tensors)}))


def load_state(path: Path) -> Any:
    """Read what `save_state` wrote; tuples come back as lists. Raises `DiwaError` when the file is damaged.

    A run that 0.1 began has no checksum in its state, and goes on.
    """
    cure = f"delete {path.parent} to start again"
    with damage_as_error(f"{path} is damaged", cure):
        with safe_open(path, framework="pt") as file:
            found = dict(file.metadata())
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        tree, digest = found.pop("tree"), found.pop("sha256", None)
        if found or digest not in (None, _digest(tree, tensors)):
            raise ValueError("its checksum differs")
        return _decoded(parse_json(tree, str(path), cure), tensors)


def _decoded(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    def decode(node: Any) -> Any:
        if isinstance(node, dict):
            return tensors[node["tensor"]] if "tensor" in node else {key: decode(item) for key, item in node["items"]}
        return [decode(item) for item in node] if isinstance(node, list) else node

    return decode(tree)


def _digest(tree: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(tree.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
