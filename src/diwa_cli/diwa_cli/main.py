"""The `diwa` command: finds the subcommand, and turns errors, Ctrl-C and SIGTERM into one line each.

It ends in silence when the reader of its output does, as in `diwa --help | head -3`. A subcommand's module is imported
when it runs, so that `diwa --help` does not wait for torch.
"""

from __future__ import annotations

import importlib
import os
import re
import select
import signal
import sys
import textwrap

from diwa_data import __version__
from diwa_data.errors import DiwaError, unknown

GROUPS = {
    "try": {
        "demo": ("pipeline.sweep:DemoJob", "record, train, dream and evaluate one skill, small"),
        "dream": ("evaluation.dream:DreamJob", "film what a world model imagines"),
        "skills": ("commands", "list the installed skills and how often they succeed"),
        "run-skill": ("evaluation.run_skill:RunSkillJob", "run a skill in the simulator, as on the robot"),
        "doctor": ("commands", "check the installation, graphics, threads, disk, robot"),
    },
    "record": {
        "record": ("diwa_sim.operator.record:RecordJob", "teleoperate the simulated robot into bags"),
        "calibrate": ("commands", "find the robot's forward direction for a VIVE"),
        "annotate": ("commands", "mark recorded attempts as success or failure"),
        "mark-play": ("diwa_sim.mark_play:MarkPlayJob", "mark when a skill is done in simulated play"),
        "recover": ("commands", "salvage truncated or unfinished bags"),
        "build-dataset": ("pipeline.ray:BuildOnRayJob", "bags -> HDF5 dataset at the control rate"),
        "import-calvin": ("diwa_data.calvin.convert:ImportCalvinJob", "CALVIN's data -> HDF5 dataset"),
        "import-lerobot": ("diwa_data.lerobot.convert:ImportLeRobotJob", "LeRobot's format -> HDF5 dataset"),
        "export-lerobot": ("commands", "dataset -> LeRobot's format v3.0"),
        "inspect": ("commands", "summarise a bag, dataset, checkpoint or bundle"),
        "view": ("commands", "open an episode in the Rerun viewer"),
        "replay": ("evaluation.run_skill:ReplayJob", "replay a dataset's actions open loop in the simulator"),
    },
    "learn": {
        "train-world-model": ("diwa_learning.world_model.train:WorldModelJob", "datasets -> world model"),
        "train-ensemble": (
            "diwa_learning.ensemble.train:EnsembleJob",
            "play -> ensemble that knows where dreams guess",
        ),
        "train-policy": ("diwa_learning.policy.train:PolicyJob", "demonstrations -> diffusion policy"),
        "train-reward": ("diwa_learning.reward.train:RewardJob", "demonstrations -> success classifier"),
        "finetune": ("diwa_learning.finetune.train:FinetuneJob", "policy -> better policy, by PPO in dreams"),
        "dppo": ("evaluation.dppo:DPPOJob", "the same by PPO in the simulator: the baseline"),
        "sweep": ("pipeline.sweep:SweepJob", "train many skills, seeds and alpha_BCs; one report"),
    },
    "judge": {
        "evaluate": ("evaluation.evaluate:EvaluateJob", "compare policies from the same starts, simulated"),
        "evaluate-sequences": (
            "evaluation.sequences:EvaluateSequencesJob",
            "run skills one after the other, as CALVIN does",
        ),
        "check-world-model": ("diwa_learning.finetune.gate:CheckJob", "can its dreams carry fine-tuning?"),
        "evaluate-world-model": (
            "evaluation.world_model:EvaluateWorldModelJob",
            "compare imagined with recorded clips",
        ),
        "report": ("commands", "one HTML page about a demo or sweep"),
        "compare": ("commands", "sweeps side by side on what they have in common"),
        "experiment": ("experiments.experiment:ExperimentJob", "find out what limits the gain of a run"),
    },
    "share": {
        "bundle": ("commands", "checkpoints -> a skill that can be run"),
        "serve-policy": ("serving", "compute decisions for an arm on another machine"),
        "seal": ("commands", "new checksums after a change on purpose"),
        "push": ("commands", "bundle, checkpoint or dataset -> Hugging Face Hub"),
        "pull": ("commands", "the same from the Hub, checked by its checksums"),
    },
}
"""Group -> command -> where it is, and what it does: a job's class, or a module of `diwa_cli` with a function."""
START = """\
Fine-tune diffusion policies inside a learned world model.

Start with:
  diwa run-skill --skill turn_on_led    a shipped skill on the simulated Panda
  diwa demo                             recording to skill, in about 30 minutes

""".splitlines()
"""First lines of `diwa --help`."""
COMMANDS = {name: command for group in GROUPS.values() for name, command in group.items()}
RENAMED = {
    "pack": ("bundle", "--compact"),
    "summary": ("compare", "--each"),
    "train-guard": ("train-ensemble",),
}
"""Deprecated command -> the words that do the same."""
RENAMED_FLAGS = {
    "finetune": {"--guard": "--ensemble"},
    "dppo": {
        "--workers": "--evaluate.workers",
        "--environment": "--evaluate.environment",
        "--calvin": "--evaluate.calvin",
    },
    "sweep": {"--workers": "--jobs"},
}
"""Command -> deprecated flags of it, and their new names."""
REPLACED = {
    "dppo-steps": "`diwa dppo --no-practise --until RATE --reward CLASSIFIER ...`, with --out for its --run, does it",
    "sweep --stacked": "many runs are many processes, --jobs at a time; leave it out",
    "experiment world-model": "`diwa evaluate-world-model --world-model RUN/world_model --dataset RUN/play.h5` does it",
    "experiment alpha-bc": "`diwa sweep --alphas 0 0.5 2 --world-model-of RUN` compares dreams with the truth for each",
}
"""Command of earlier versions -> what does it now."""

SIMULATOR = ("mujoco", "gymnasium", "gymnasium_robotics")
"""Packages that the simulator needs; a robot's machine may do without."""


def main() -> int:
    """Run the command in `sys.argv`; the exit status is 2 for an error and 130 for Ctrl-C and SIGTERM.

    It is 141, as a shell has it for other programs, if nobody reads the output any more.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what `kill`, Slurm, Docker and systemd send
    try:
        try:
            return answer(sys.argv[1:])
        finally:
            if sys.stdout:
                sys.stdout.flush()  # here an error can be caught, when the interpreter ends it cannot
    except OSError as error:
        status = discard_output()
        if isinstance(error, BrokenPipeError):
            return status
        print(f"error: the output cannot be written: {error.strerror}", file=sys.stderr)
        return 2
    except SystemExit as end:  # of a help text; rich makes one of a broken pipe, too
        if isinstance(end.__context__, BrokenPipeError):
            return discard_output()
        raise


def answer(arguments: list[str]) -> int:
    """Run a command line; its exit status. An error is one line on stderr."""
    if not arguments or arguments[0] in ("-h", "--help", "--help-all", "help"):
        print(usage(everything=arguments[:1] == ["--help-all"]))
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
        print(f"error: the simulator needs {error.name}: pip install {error.name}", file=sys.stderr)
        return 2
    except OSError as error:  # no permission, disk full
        if isinstance(error, BrokenPipeError) and is_unread():
            raise
        text = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
        print(f"error: {text}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command continues", file=sys.stderr)
        return 130


def is_unread() -> bool:
    """Whether stdout or stderr is a pipe that nobody reads any more: a broken one may also be another program's."""
    poll = select.poll()
    for descriptor in (1, 2):
        poll.register(descriptor, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def discard_output() -> int:
    """Let what is still to be written to stdout, and to a broken stderr, go nowhere; the status that SIGPIPE gives."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2) if is_unread() else (1,):
        os.dup2(nowhere, descriptor)
    return 128 + signal.SIGPIPE


def run(name: str, arguments: list[str]) -> int:
    """Run the subcommand `name`; its exit status."""
    for gone in (name, *(f"{name} {word.partition('=')[0]}" for word in arguments)):
        if gone in REPLACED:
            raise DiwaError(f"`diwa {gone}` is gone: {REPLACED[gone]}")
    if name in RENAMED:
        deprecated(f"diwa {name}", f"diwa {' '.join(RENAMED[name])}")
        name, arguments = RENAMED[name][0], [*RENAMED[name][1:], *arguments]
    if name not in COMMANDS:
        raise unknown("command", name, COMMANDS)
    for old, new in RENAMED_FLAGS.get(name, {}).items():
        if any(re.match(rf"{old}(?=$|[=.])", word) for word in arguments):
            deprecated(old, new)
            arguments = [re.sub(rf"^{old}(?=$|[=.])", new, word) for word in arguments]
    module, _, job = COMMANDS[name][0].partition(":")
    found = importlib.import_module(module if module.startswith("diwa_") else f"diwa_cli.{module}")
    if job:
        return importlib.import_module("diwa_cli.arguments").run_job(getattr(found, job), name, arguments)
    return getattr(found, name.replace("-", "_"))(arguments)


def deprecated(old: str, new: str) -> None:
    """Say so on stderr."""
    print(f"{old} is deprecated: it is {new} now", file=sys.stderr)


def usage(everything: bool = False) -> str:
    """The text of `diwa --help`, one screen of 24 lines and 80 columns; `everything` says what each command does."""
    lines = ["usage: diwa COMMAND ...      (its flags: diwa COMMAND --help)", *START]
    for group, commands in GROUPS.items():
        if everything:
            lines += ["", f"{group}:", *(f"  {name:<21} {text}" for name, (_, text) in commands.items())]
        else:
            lines += textwrap.wrap(
                f"{group + ':':<8} {'  '.join(commands)}", 78, subsequent_indent=" " * 9, break_on_hyphens=False
            )
    return "\n".join(lines if everything else [*lines, "", "What each command does: diwa --help-all"])


if __name__ == "__main__":
    sys.exit(main())
