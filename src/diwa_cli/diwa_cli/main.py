"""The `diwa` command: finds the subcommand, and turns errors, Ctrl-C and SIGTERM into one line each.

A subcommand's module is imported when it runs, so that `diwa --help` does not wait for torch.
"""

from __future__ import annotations

import importlib
import signal
import sys

from diwa_data import __version__
from diwa_data.errors import DiwaError, how_to_install, unknown

COMMANDS = {
    "record": ("commands.data", "the simulated robot, teleoperated, into rosbag2 episodes"),
    "calibrate": ("commands.data", "the direction of the robot in a VIVE's tracking room"),
    "inspect": ("commands.data", "a card of a bag, dataset or checkpoint"),
    "view": ("commands.data", "a recorded episode, or one of a dataset, in the Rerun viewer"),
    "annotate": ("commands.data", "set or take back the success mark of a recorded episode"),
    "recover": ("commands.data", "salvage a truncated or unfinished bag"),
    "build-dataset": ("commands.data", "bags -> 7.5 Hz HDF5 dataset"),
    "export-lerobot": ("commands.data", "a dataset in LeRobot's format v3.0, for its policies to train on"),
    "import-calvin": ("commands.data", "CALVIN's play or annotated demonstrations -> 30 Hz HDF5 dataset"),
    "replay": ("commands.data", "a dataset's actions, open loop in the simulator; fails below a success share"),
    "train-world-model": ("commands.learning", "datasets -> world model"),
    "evaluate-world-model": ("commands.learning", "what a world model imagines against held-out recordings"),
    "train-guard": ("commands.learning", "datasets, world model -> ensemble that says where dreams are guesses"),
    "train-policy": ("commands.learning", "demonstrations -> diffusion policy"),
    "train-reward": ("commands.learning", "demonstrations -> success classifier"),
    "finetune": ("commands.learning", "policy -> better policy, by PPO in the world model's dreams"),
    "dppo": ("commands.learning", "policy -> better policy, by PPO in the simulator: the baseline"),
    "evaluate": ("commands.run", "paired, seeded rollouts of two policies in the simulator"),
    "bundle": ("commands.run", "world model, policy and classifier -> a skill that can be run"),
    "pack": ("commands.run", "bundles, made small: one world model, a byte a weight, nothing that only training needs"),
    "seal": ("commands.run", "checksums for what was made without them, or was changed on purpose"),
    "skills": ("commands.run", "what `run-skill` can run by name, and how often it succeeds"),
    "run-skill": ("commands.run", "one skill with the deployment loop, on the simulated robot"),
    "report": ("commands.run", "one self-contained HTML page about a run"),
    "demo": ("commands.run", "all of the above, small: from recording to a fine-tuned skill and its report"),
    "sweep": ("commands.run", "skills x seeds x alpha_BC, from nothing to one report; on this machine or on Ray"),
    "compare": ("commands.run", "sweeps that differ in one thing, on what they have in common; or all runs"),
    "experiment": ("commands.run", "what limits a run's gain: world model, reward or the choice of a checkpoint"),
    "doctor": ("commands.run", "what is installed from where, graphics, threads, disk"),
}
"""Name -> module of `diwa_cli` with the function of that name, and what it does."""

RENAMED = {"summary": ("compare", "--each")}
"""Deprecated command -> the words that do the same."""
RENAMED_FLAGS = {
    "dppo": {"--workers": "--evaluate.workers", "--environment": "--evaluate.environment"},
    "sweep": {"--workers": "--jobs"},
}
"""Command -> deprecated flags of it, and their new names."""
REPLACED = {"dppo-steps": "`diwa dppo --no-practise --until RATE --reward CLASSIFIER ...`, with --out for its --run"}
"""Command of earlier versions -> what does it."""

SIMULATOR = ("mujoco", "gymnasium", "gymnasium_robotics")
"""Packages of the optional dependencies `sim`."""


def main() -> int:
    """Run the command in `sys.argv`; the exit status is 2 for an error and 130 for Ctrl-C and SIGTERM."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what `kill`, Slurm, Docker and systemd send
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if arguments[0] == "--version":
        print(f"diwa {__version__}")
        return 0
    try:
        return run(arguments[0], arguments[1:])
    except DiwaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if error.name not in SIMULATOR:
            raise
        print(f"error: the simulator needs {error.name}: {how_to_install('sim')}", file=sys.stderr)
        return 2
    except OSError as error:  # no permission, disk full
        text = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
        print(f"error: {text}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command continues", file=sys.stderr)
        return 130


def run(name: str, arguments: list[str]) -> int:
    """Run the subcommand `name`; its exit status."""
    if name in REPLACED:
        raise DiwaError(f"`diwa {name}` is gone: {REPLACED[name]} does it")
    if name in RENAMED:
        print(f"`diwa {name}` is deprecated: it is `diwa {' '.join(RENAMED[name])}` now", file=sys.stderr)
        name, *more = RENAMED[name]
        arguments = [*more, *arguments]
    for old, new in RENAMED_FLAGS.get(name, {}).items():
        if old in arguments:
            print(f"{old} is deprecated: it is {new} now", file=sys.stderr)
            arguments = [new if word == old else word for word in arguments]
    if name not in COMMANDS:
        raise unknown("command", name, COMMANDS)
    module = importlib.import_module(f"diwa_cli.{COMMANDS[name][0]}")
    return getattr(module, name.replace("-", "_"))(arguments)


def usage() -> str:
    """What `diwa --help` prints."""
    lines = [f"  {name:<20} {text}" for name, (_, text) in COMMANDS.items()]
    head = ["usage: diwa COMMAND ...", "", "Diffusion policies, fine-tuned inside a learned world model.", ""]
    return "\n".join([*head, *lines, "", "`diwa COMMAND --help` lists the flags of a command."])


if __name__ == "__main__":
    sys.exit(main())
