"""The loop that all four phases share: progress, curves, and a state on disk from which a killed run continues.

    with TrainingRun(out, "policy", config, spec) as run:      # seeds torch and run.rng
        if run.finished: return
        run.track(model=model, optimizer=optimizer)           # continues where an earlier run stopped
        for step in run.steps(config.updates, "updates"):
            ...
            run.log(step, {"loss": loss})
        run.finish(model.state_dict(), {"loss": final})

Everything random comes from torch's global generator or `run.rng`; both are saved, so that an interrupted run
reaches the same weights to the bit. Of several processes (`parallel`) the first alone writes and prints; all of them
read the state.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Protocol

import numpy as np
import torch
from torch import Tensor

from diwa_data.config import require_seed
from diwa_data.errors import DiwaError
from diwa_data.files import FolderLock, remove, require_ours
from diwa_data.progress import Bar, progress
from diwa_data.spec import Spec, require_same
from diwa_learning.core import checkpoint
from diwa_learning.core.checkpoint import Phase
from diwa_learning.core.device import peak_memory, reuse_freed_memory
from diwa_learning.core.distributed import ALONE, Processes
from diwa_learning.core.tensor_file import load_state, save_state

Curves = dict[str, list[tuple[int, float]]]
"""Name -> (step, value) pairs."""
_SAME_SIGNAL = 1.0  # seconds


class Stateful(Protocol):
    """A module, optimiser, schedule or average: anything with torch's state_dict protocol."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any], /) -> Any: ...


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
        self.world_model_hash, self.processes = world_model_hash, processes
        self.inputs = json.loads(json.dumps(dict(inputs or {}), default=str))
        self.step = 0
        """Steps done."""
        self.seconds = 0.0
        """Time spent in the loop, interrupted runs included."""
        self.history: Curves = {}
        """What was logged; goes to metrics.json."""
        require_seed(config.seed)
        reuse_freed_memory()
        self.rng = np.random.default_rng(config.seed)
        torch.manual_seed(config.seed)
        self._tracked: dict[str, Stateful | torch.Generator] = {}
        self._watched: dict[str, Tensor] = {}
        self._note, self._interrupted = "", 0.0  # when it was, of the monotonic clock; 0 = it was not
        self._writer: Any = None
        self._unit, self._per_step = "", 1.0
        self._mark: tuple[int, float] | None = None  # step and time of the last entry, while `steps` runs
        self._lock = FolderLock(self.out) if processes.main and not self.out.is_file() else None
        if processes.main:
            try:
                self._claim_folder()
            except BaseException:
                self._let_go()
                raise
        processes.any(False)  # wait for the first
        self.finished = checkpoint.is_finished(self.out)
        """True when an earlier run left the checkpoint: there is nothing to do."""
        if self.finished and processes.main:
            print(f"{phase}: {self.out} is finished, nothing to do (choose another folder or delete it to train anew)")

    def __enter__(self) -> TrainingRun:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        if self._writer:
            self._writer.close()
        self._let_go()

    def _let_go(self) -> None:
        if self._lock:
            self._lock.release()

    def track(self, **parts: Stateful | torch.Generator) -> None:
        """Name the objects whose state the run saves; restores them if an earlier run was interrupted."""
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
        with self._deferred_interrupt(), self._progress(total) as bar:
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
        self._require_watched_finite()
        for name, value in values.items():
            self.require_finite(name, value)
        self.add(step, values)
        if self._mark:
            (marked, since), now = self._mark, time.monotonic()
            self._mark = self.step, now
            if self.step > marked:
                rate = (self.step - marked) * self._per_step / (now - since)
                self.add(step, {f"{self._unit}_per_s": rate, "peak_memory_gib": peak_memory()})
        name, value = next(iter(values.items()))
        self._note = f"{name} {float(torch.as_tensor(value).detach()):.4g}"

    def add(self, step: int, values: Mapping[str, float | Tensor]) -> None:
        """Append to the curves: metrics.json and TensorBoard."""
        if not self.processes.main:
            return
        for name, value in values.items():
            number = float(torch.as_tensor(value).detach())
            self.history.setdefault(name, []).append((step, number))
            self.writer.add_scalar(name, number, step)

    def watch(self, **values: Tensor) -> None:
        """Losses and norms of this step, not waited for: checked as `require_finite` does before anything is logged or
        saved. A NaN in them, or in the weights they come from, is in all later ones."""
        self._watched = values

    def require_finite(self, name: str, value: float | Tensor) -> None:
        """Raise `DiwaError` naming the step when a loss is NaN or infinite."""
        number = float(torch.as_tensor(value).detach())
        if not math.isfinite(number):
            raise DiwaError(
                f"{self.phase}: {name} is {number} at step {self.step}; nothing was saved since the last "
                "save. Lower the learning rate or look for wrong values in the dataset"
            )

    def _require_watched_finite(self) -> None:
        for name, value in self._watched.items():
            self.require_finite(name, value)

    def _stop(self) -> NoReturn:
        if not self.processes.main:
            raise SystemExit(130)
        print(f"{self.phase}: stopped after step {self.step}; the same command continues it")
        raise KeyboardInterrupt

    @contextmanager
    def _progress(self, total: int) -> Iterator[Bar | None]:
        if not self.processes.main:
            yield None
            return
        with progress(self.phase, total * self._per_step, self._unit, self.step * self._per_step) as bar:
            yield bar

    @property
    def writer(self) -> Any:
        """TensorBoard writer on `out/tensorboard`."""
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter  # slow to import

            self._writer = SummaryWriter(str(self.out / "tensorboard"), purge_step=self.step or None)
        return self._writer

    def save(self) -> None:
        """Write the state from which a later run continues, whole or not at all."""
        self._require_watched_finite()
        if not self.processes.main:
            return
        state = {
            "parts": {name: _state(part) for name, part in self._tracked.items()},
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
        self._require_watched_finite()
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
        require_same(checkpoint.read_spec(self.out), self.spec, "the data for this run")
        mine = {"world_model": self.world_model_hash, "inputs": self.inputs, "config": dataclasses.asdict(self.config)}
        changes = list(differences("", {key: header.get(key) for key in mine}, json.loads(json.dumps(mine))))
        if changes:
            lines = "; ".join(f"{name} was {old!r}, is {new!r}" for name, old, new in changes)
            raise DiwaError(f"{self.out} was begun differently: {lines}. Restore that, or choose another folder")

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


def _state(part: Stateful | torch.Generator) -> dict[str, Any]:
    return {"state": part.get_state()} if isinstance(part, torch.Generator) else part.state_dict()


def require_run_folder(out: Path) -> None:
    """Raise `DiwaError` if the folder `out` holds something else than a training run: asked before its data is read."""
    require_ours(out, "training run", checkpoint.CONFIG, checkpoint.SPEC)


def differences(path: str, old: Any, new: Any) -> Iterator[tuple[str, Any, Any]]:
    """(dotted name, old, new) of every leaf in which two JSON values differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys([*old, *new]):
            yield from differences(f"{path}.{key}".lstrip("."), old.get(key), new.get(key))
    elif old != new:
        yield path, old, new
