"""The commands that use what was learned, and those about a whole run: arguments in, one function call."""

from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from diwa_cli.arguments import Flags, NewFolder, OutputFile, OutputFolder, call, run_job, split_source
from diwa_data.errors import DiwaError


def evaluate(args: list[str]) -> int:
    from diwa_cli.evaluation.evaluate import EvaluateJob

    return run_job(EvaluateJob, args)


def run_skill(args: list[str]) -> int:
    from diwa_cli.evaluation import run_skill as deployment
    from diwa_deploy.bundle import find_bundle
    from diwa_sim.table import SimConfig

    source, rest = split_source(args)
    defaults, sim = source.section(deployment.RunSkillConfig, "run_skill"), source.section(SimConfig, "sim")

    def command(
        skill: str,
        checkpoint: Path | None = None,
        video: OutputFile | None = None,
        config: Flags[deployment.RunSkillConfig] = defaults,
    ) -> None:
        """Run one skill on the simulated robot with the deployment loop.

        Args:
            skill: One of the eight skills; its bundle is looked for in $DIWA_HOME/skills (default ~/.diwa/skills), then
                among those shipped.
            checkpoint: Folder of a bundle, instead of the installed one: `runs/demo/skills/open_drawer`.
            video: Where to write an mp4.
        """
        deployment.run_skill(find_bundle(skill, checkpoint), config, sim, video)

    return call(command, "run-skill", rest)


def bundle(args: list[str]) -> int:
    from diwa_cli.pipeline.bundles import start_region
    from diwa_data.files import require_new
    from diwa_deploy.bundle import skills_folder, write_bundle
    from diwa_learning.agent import load_agent
    from diwa_learning.world_model.model import load_world_model

    def command(
        skill: str,
        world_model: Path,
        policy: Path,
        reward: Path,
        demonstrations: Path,
        base: Path | None = None,
        out: NewFolder | None = None,
    ) -> None:
        """Put the checkpoints of one skill together, as `run-skill` and the ROS 2 node load them.

        Args:
            skill: One of the eight skills.
            world_model: Checkpoint of `diwa train-world-model`.
            policy: Checkpoint of `diwa finetune`, or of `diwa train-policy`.
            reward: Checkpoint of `diwa train-reward`.
            demonstrations: Their dataset: a robot begins the skill only near where they began.
            base: Checkpoint of `diwa train-policy`, for comparisons of before and after.
            out: Folder to write; without it the bundle is installed in $DIWA_HOME/skills/SKILL (default ~/.diwa).
        """
        folder = out or skills_folder() / skill
        require_new(folder)
        spec = load_world_model(world_model, decodes=False).spec
        for one in (policy, base) if base else (policy,):
            load_agent(world_model, one, reward, spec)  # they belong together
        parts = {"world_model": world_model, "policy": policy, "reward": reward} | ({"base": base} if base else {})
        card = {"skill": skill, "start": start_region(demonstrations, skill).to_card()}
        print(write_bundle(folder, parts, card).path)

    return call(command, "bundle", args)


def pack(args: list[str]) -> int:
    from diwa_deploy.bundle import load_bundle, pack_bundles

    def command(bundles: Positional[list[Path]], out: NewFolder) -> None:
        """Make skill bundles small enough to send around: about 3 MB and 1 MB for each skill.

        Args:
            bundles: Folders of bundles on one world model: `runs/table/skills/*`.
            out: Folder to write.
        """
        for folder in pack_bundles([load_bundle(path) for path in bundles], out):
            print(folder)

    return call(command, "pack", args)


def seal(args: list[str]) -> int:
    from diwa_cli.sealing import seal as make_checksums

    def command(path: Positional[Path]) -> None:
        """Make the checksums of checkpoints, skill bundles, episodes and datasets anew, as they are now.

        For files that were made before 0.2 or by others, and after a change by hand. What is damaged is refused.

        Args:
            path: One of them, or a folder that holds some at any depth.
        """
        for line in make_checksums(path):
            print(line)

    return call(command, "seal", args)


def skills(args: list[str]) -> int:
    from diwa_cli.pipeline.bundles import skills_table

    def command() -> None:
        """List the skills that `diwa run-skill` finds by name."""
        print(skills_table())

    return call(command, "skills", args)


def report(args: list[str]) -> int:
    from diwa_cli.report.sweep import write_report
    from diwa_cli.report.trials import write_comparison

    def command(run: Positional[Path]) -> None:
        """Write `report.html` into a run's folder: one page with everything in it, to look at and to send around.

        Args:
            run: Folder of `diwa demo` or `diwa sweep` (the page names what is missing in it), or the file of a
                comparison on a robot.
        """
        print(write_comparison(run) if run.suffix == ".json" else write_report(run))

    return call(command, "report", args)


def compare(args: list[str]) -> int:
    from diwa_cli.pipeline import compare as tables

    def command(
        runs: Positional[list[Path]],
        names: list[str] | None = None,
        each: bool = False,
        out: OutputFile | None = None,
        figure: OutputFile | None = None,
    ) -> None:
        """Print the results of several sweeps side by side, on the skills, seeds and start states that all have.

        Results are paired with those of the first by start state: variants of the method, on one play. A sweep with
        several values of alpha_BC is a variant for each.

        Args:
            runs: Folders of finished demos and sweeps.
            names: One for each; by default the folders'.
            each: Print a row for every run instead, with nothing compared: demos of different skills in one table.
            out: JSON file for the rows.
            figure: SVG file for bars.
        """
        print(tables.each(runs, out) if each else tables.compare(runs, names or [], out, figure))

    return call(command, "compare", args)


def demo(args: list[str]) -> int:
    from diwa_cli.pipeline.plan import DemoConfig
    from diwa_cli.pipeline.sweep import demo as whole

    source, rest = split_source(args)
    defaults = source.section(DemoConfig, "demo")

    def command(out: OutputFolder = Path("runs/demo"), config: Flags[DemoConfig] = defaults) -> int:
        """Record, build datasets, train, fine-tune in dreams, evaluate and report: all in one folder.

        Args:
            out: Folder of the run. Finished phases in it are skipped, an interrupted one continues.
        """
        return 0 if whole(out, config, source) else 1

    return call(command, "demo", rest)


def sweep(args: list[str]) -> int:
    from diwa_cli.pipeline import sweep as whole
    from diwa_cli.pipeline.plan import SweepConfig

    source, rest = split_source(args)
    defaults = source.section(SweepConfig, "sweep")

    def command(out: OutputFolder = Path("runs/sweep"), config: Flags[SweepConfig] = defaults) -> int:
        """Learn skills x seeds x alpha_BC on one world model, judge all on the same starts: one table and one report.

        Finished phases are skipped, interrupted ones continue. The exit status is 1 if a phase failed; all that does
        not need it is done, and it is named at the end.

        Args:
            out: Folder of the sweep. More skills, seeds and values of alpha_BC can be added to it later.
        """
        return 0 if whole.sweep(out, config, source) else 1

    return call(command, "sweep", rest)


def experiment(args: list[str]) -> int:
    from diwa_cli.experiments import experiment as experiments
    from diwa_sim.table import SimConfig

    source, rest = split_source(args)
    if rest and rest[0] in experiments.REPLACED:
        raise DiwaError(f"`diwa experiment {rest[0]}` is gone: {experiments.REPLACED[rest[0]]}")
    defaults, sim = source.section(experiments.ExperimentConfig, "experiment"), source.section(SimConfig, "sim")

    def command(
        name: Positional[Literal["reward", "score", "degraded"]],
        run: Positional[Path],
        config: Flags[experiments.ExperimentConfig] = defaults,
    ) -> None:
        """Find out what limits the gain of a finished run.

        reward: fine-tune with a classifier that learned from the simulator's own labels. score: roll out every
        checkpoint, and see how well the offline score ranks them. degraded: do it all again on world models made worse
        on purpose.

        Args:
            name: Which experiment.
            run: Folder of a finished `diwa demo` or of one run of a sweep (SWEEP/SKILL/seed_N/alpha_A), for score of a
                sweep too; results go to `experiments/` in it.
        """
        print(experiments.experiment(name, run, config, sim))

    return call(command, "experiment", rest)


def doctor(args: list[str]) -> int:
    from diwa_cli.doctor import doctor as examine

    def command() -> int:
        """Where each package was imported from, versions, graphics, threads, free disk."""
        return 0 if examine() else 1

    return call(command, "doctor", args)
