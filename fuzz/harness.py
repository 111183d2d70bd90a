"""Damage files and see what their readers do: seeded, in a process with bounded memory, each case in bounded time.

A case is good if it ends in a `DiwaError` (`clear_error`) or if what was read is what had been written (`unchanged`).
It is bad if something else was read (`accepted_changed`), if another exception or the end of the process came of it
(`traceback`), or if it took too long (`hang`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import multiprocessing
import os
import random
import resource
import tempfile
import traceback
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from diwa_data.errors import DiwaError

OUTCOMES = ("clear_error", "unchanged", "accepted_changed", "traceback", "hang")
BAD = OUTCOMES[2:]
MEMORY_MB = 1500
"""Megabytes that reading a damaged file may take more than reading the whole one did."""
CASE_SECONDS = 20.0
_START_SECONDS = 240.0  # to import, to make the file and to read it once


def flip_bit(content: bytes, rng: random.Random) -> bytes:
    """One bit of `content` flipped."""
    damaged = bytearray(content)
    damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
    return bytes(damaged)


@dataclass(frozen=True)
class Target:
    """A kind of file, and how it is made, damaged and read."""

    name: str
    make: Callable[[Path], Path]
    """Writes what is to be read into an empty folder; returns the one file that is damaged."""
    load: Callable[[Path], Any]
    """Reads everything that depends on the (damaged) file of `make`. Returns the content that must not change: plain
    values, arrays, tensors, dataclasses. May return a constant where any valid content is right."""
    damage: Callable[[bytes, random.Random], bytes] = flip_bit
    """(content, rng) -> damaged content."""
    cases: int = 200


@dataclass(frozen=True)
class Case:
    """How one case ended."""

    number: int
    outcome: str
    detail: str = ""


def run(target: Target, targets: Callable[[], Mapping[str, Target]], seed: int) -> list[Case]:
    """All cases of `target`. `targets` is a function of a module: the process that reads looks `target` up there."""
    done: list[Case] = []
    context = multiprocessing.get_context("spawn")
    while len(done) < target.cases:
        with tempfile.TemporaryDirectory() as folder:
            ours, theirs = context.Pipe(duplex=False)
            arguments = (targets, target.name, Path(folder), len(done), seed, theirs)
            process = context.Process(target=_work, args=arguments, daemon=True)
            process.start()
            theirs.close()
            _collect(ours, target, done)
            process.kill()
            process.join()
    return done


def _collect(cases: Connection, target: Target, done: list[Case]) -> None:
    """Take in cases until all are done, the process ends or one takes too long."""
    if not cases.poll(_START_SECONDS):
        raise RuntimeError(f"{target.name}: making and reading the file took more than {_START_SECONDS:.0f} s")
    try:
        started = cases.recv()
    except EOFError:
        started = "its process ended"
    if started:
        raise RuntimeError(f"{target.name}: the undamaged file cannot be read: {started}")
    while len(done) < target.cases:
        if not cases.poll(CASE_SECONDS):
            done.append(Case(len(done), "hang"))
            return
        try:
            done.append(cases.recv())
        except EOFError:
            done.append(Case(len(done), "traceback", "the process ended"))
            return


def _work(
    targets: Callable[[], Mapping[str, Target]], name: str, folder: Path, first: int, seed: int, cases: Connection
) -> None:
    """Make the file, read it once, then damage and read it in a loop."""
    for descriptor in (1, 2):  # what readers say; how a case ended goes through the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
    warnings.simplefilter("ignore")
    try:
        target = targets()[name]
        path = target.make(folder)
        whole, expected = path.read_bytes(), fingerprint(target.load(path))
    except BaseException:
        cases.send(traceback.format_exc())
        return
    limit = _address_space() + MEMORY_MB * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    cases.send("")
    for number in range(first, target.cases):
        rng = random.Random(f"{seed} {name} {number}")
        cases.send(_try(target, path, whole, expected, rng, number))


def _try(target: Target, path: Path, whole: bytes, expected: str, rng: random.Random, number: int) -> Case:
    try:
        path.write_bytes(target.damage(whole, rng))
        found = fingerprint(target.load(path))
    except DiwaError as error:
        return Case(number, "clear_error", str(error))
    except BaseException:
        return Case(number, "traceback", traceback.format_exc())
    return Case(number, "unchanged" if found == expected else "accepted_changed")


def _address_space() -> int:
    """Bytes of address space that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def fingerprint(content: Any) -> str:
    """A digest that is the same for equal contents; NaN equals NaN."""
    digest = hashlib.sha256()
    _feed(digest, content)
    return digest.hexdigest()


def _feed(digest: Any, value: Any) -> None:
    if hasattr(value, "detach"):  # a torch tensor
        value = value.detach().cpu().contiguous().numpy()
    if isinstance(value, np.ndarray) and value.dtype != object:
        digest.update(f"array {value.dtype} {value.shape} ".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    elif isinstance(value, np.ndarray | list | tuple):
        digest.update(f"list {len(value)} ".encode())
        for each in value:
            _feed(digest, each)
    elif isinstance(value, Mapping):
        digest.update(f"mapping {len(value)} ".encode())
        for key in sorted(value, key=repr):
            _feed(digest, key)
            _feed(digest, value[key])
    elif dataclasses.is_dataclass(value):
        _feed(digest, {field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
    else:
        digest.update(f"{type(value).__name__} {value!r} ".encode())
