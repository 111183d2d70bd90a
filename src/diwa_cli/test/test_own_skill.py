"""A skill that no simulated task is called, from the keys of an operator to a bundle that runs."""

from __future__ import annotations

import contextlib
import os
import pty
import struct
import termios
import time
from collections.abc import Callable, Iterator
from fcntl import ioctl
from functools import partial
from pathlib import Path

import pytest

from diwa_data.recording.sidecar import Sidecar
from diwa_data.teleop import keyboard
from diwa_deploy.bundle import load_bundle
from diwa_sim.operator import record as recording
from diwa_sim.operator.record import RealTime
from diwa_sim.table import SimulatedPanda

SIZES = ("--preset", "debug", "--config", Path(__file__).parent / "tiny.yaml")
DEMONSTRATION = "n w1.3 f1.2 y -1.3 m"
"""Keys: press n, hold w for 1.3 s, hold f, press y, wait for 1.3 s, press m."""


@pytest.fixture
def type_keys(monkeypatch) -> Iterator[Callable[[str], None]]:
    """`type_keys(KEYS)`: what is typed into the terminal of the next command, by the simulation's time."""
    master, terminal = pty.openpty()
    presses: list[tuple[int, bytes]] = []

    class Window:
        """Types while it is looked at, sixty times a second."""

        frames = 0

        def is_running(self) -> bool:
            return self.frames < 3600

        def sync(self) -> None:
            self.frames += 1
            while presses and presses[0][0] <= self.frames:
                os.write(master, presses.pop(0)[1])
                deadline = time.monotonic() + 10
                while not struct.unpack("i", ioctl(terminal, termios.FIONREAD, bytes(4)))[0]:
                    assert time.monotonic() < deadline, "a key never came through the terminal"

    window = Window()
    typed = partial(keyboard.Keyboard, terminal=terminal, clock=lambda: window.frames / 60)
    monkeypatch.setattr(keyboard, "Keyboard", typed)
    monkeypatch.setattr(SimulatedPanda, "window", lambda self: contextlib.nullcontext(window))
    monkeypatch.setattr(recording, "RealTime", lambda: RealTime(sleep=lambda seconds: None))

    def type_keys(keys: str) -> None:
        end = window.frames = 0
        for word in keys.split():
            key, frames = word[0].encode(), round(60 * float(word[1:] or 0))
            if key != b"-":
                presses.extend((end + frame, key) for frame in range(1, frames + 2, 2))
            end += frames + 2

    yield type_keys
    os.close(master)
    os.close(terminal)


def test_it_is_recorded_learned_and_run(diwa, type_keys, tmp_path, monkeypatch):
    monkeypatch.setenv("DIWA_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)

    def done(*words: object) -> str:
        ran = diwa(*words)
        assert ran.status == 0, ran.err
        return ran.out

    done("record", "--out", "bags/play", "--minutes", "0.25", "--device", "scripted", *SIZES)
    type_keys(f"{DEMONSTRATION} -0.2 {DEMONSTRATION}")
    said = done("record", "--out", "bags/pick_cup", "--device", "keyboard", "--skill", "pick_cup", "--episodes", 2)
    assert "2 episodes of pick_cup to record" in said
    labels = [Sidecar.read(Path(f"bags/pick_cup/00000{number}")).labels for number in (0, 1)]
    assert [(label["skill"], "goal" in label) for label in labels] == [("pick_cup", False)] * 2
    for name in ("play", "pick_cup"):
        done("build-dataset", f"bags/{name}", "--out", f"{name}.h5", *SIZES)
    done("train-world-model", "--datasets", "play.h5", "--out", "world_model", *SIZES)
    trained = ["--world-model", "world_model", "--demonstrations", "pick_cup.h5"]
    done("train-policy", *trained, "--out", "policy", *SIZES)
    done("train-reward", *trained, "--play", "play.h5", "--out", "reward", *SIZES)
    done("train-ensemble", "--world-model", "world_model", "--datasets", "play.h5", "--out", "ensemble", *SIZES)
    learned = ["--policy", "policy", "--reward", "reward"]
    done("finetune", *trained, *learned, "--ensemble", "ensemble", "--out", "finetuned", *SIZES)

    learned = ["--policy", "finetuned", "--reward", "reward"]
    said = diwa("bundle", *trained, *learned, "--skill", "pick_cap").err
    assert "finetuned is for the skill 'pick_cup', not 'pick_cap': give --skill pick_cup" in said
    bundle = load_bundle(Path(done("bundle", *trained, *learned, "--skill", "pick_cup").strip()))
    assert (bundle.path, bundle.skill) == (tmp_path / "home/skills/pick_cup", "pick_cup")
    assert "pick_cup  " in done("skills")
    said = done("run-skill", "--skill", "pick_cup", "--max-steps", 3, "--video", "film.mp4")
    assert "pick_cup: ended by" in said
    assert "simulator's oracle   none: the simulator has no task of this name" in said
    assert Path("film.mp4").is_file()
    check_what_needs_a_simulated_task(diwa, bundle)


def check_what_needs_a_simulated_task(diwa, bundle):
    """They answer in one line, with the tasks that there are."""
    checkpoints = ["--world-model", bundle.world_model, "--reward", bundle.reward]
    for words in (
        ["record", "--skill", "pick_cup", "--out", "scripted"],
        ["evaluate", "--skill", "pick_cup", *checkpoints, "--policies", "finetuned", bundle.policy, "--out", "rates"],
        ["replay", "pick_cup.h5"],
        ["demo", "--skill", "pick_cup", "--out", "demo", "--preset", "debug"],
        ["sweep", "--skills", "pick_cup", "--out", "sweep", "--preset", "debug"],
    ):
        ran = diwa(*words)
        (line,) = ran.err.splitlines()
        assert line.startswith("error: unknown simulated task 'pick_cup'; choose one of open_drawer, close_drawer")
        assert ran.status == 2
    assert not {"scripted", "demo", "sweep"} & {path.name for path in Path.cwd().iterdir()}
