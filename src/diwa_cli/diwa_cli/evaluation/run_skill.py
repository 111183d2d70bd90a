"""`diwa run-skill`, the deployment loop on a simulated robot, and `diwa replay`, a dataset's actions open loop."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from diwa_cli.evaluation.rollouts import latency
from diwa_cli.video import Film, require_film
from diwa_data.config import Job, require_at_least, require_seed
from diwa_data.files import require_output, write_json
from diwa_data.limits import MotionLimits
from diwa_data.robot import Environment
from diwa_deploy.bundle import Bundle, find_bundle
from diwa_deploy.control import AS_TRAINED, ControlResult, SkillRunner
from diwa_learning.core.checkpoint import read_spec
from diwa_sim.environments import EnvironmentConfig, open_environment, seeing
from diwa_sim.replay import replay, success_shares
from diwa_sim.table import SimConfig


@dataclass(frozen=True)
class RunSkillConfig(EnvironmentConfig):
    """Settings of `diwa run-skill`: when it stops, and how fast the robot may be."""

    max_steps: int = 72
    """Control ticks after which the robot stops (7.5 a second; 30 in CALVIN)."""
    success_ticks: int = AS_TRAINED
    """Ticks running that the classifier must be sure of success; -1 = as it was trained, 0 lets it end nothing."""
    seed: int = 0
    """Seed of the start state and of the agent's sampling."""
    limits: MotionLimits = field(default_factory=MotionLimits)
    """Safety limits."""

    def __post_init__(self) -> None:
        require_at_least(self, 1, "max_steps")
        require_at_least(self, AS_TRAINED, "success_ticks")
        require_seed(self.seed)


@dataclass(frozen=True)
class RunSkillJob(Job):
    """Run one skill on the simulated robot with the deployment loop."""

    command_name: ClassVar[str] = "run-skill"
    section: ClassVar[str] = "run_skill"

    skill: str
    """Skill to run; its bundle is sought in $DIWA_HOME/skills (default ~/.diwa/skills), then among those shipped."""
    checkpoint: Path | None = None
    """Folder of a bundle, instead of the installed one: `runs/demo/skills/open_drawer`."""
    video: Path | None = None
    """Where to write an mp4."""
    config: RunSkillConfig = field(default_factory=RunSkillConfig)
    """When it stops, and how fast the robot may be."""
    sim: SimConfig = field(default_factory=SimConfig)
    """Our simulated table."""

    def run(self) -> None:
        """Run it once and print how it went. Raises `DiwaError` if the film may not be written, or is no .mp4 file."""
        bundle, config, video = find_bundle(self.skill, self.checkpoint), self.config, self.video
        if video:
            require_film(video)
        robot = open_environment(seeing(config.chosen(self.sim), read_spec(bundle.world_model)), config.limits)
        try:
            runner = SkillRunner(bundle.skill, bundle.path, robot.spec, config.limits)
            if runner.about_limits:
                print(runner.about_limits)
            robot.reset(bundle.skill, config.seed)
            film = Film(robot) if video else None
            result = runner.run(robot, config.max_steps, config.seed, config.success_ticks, film)
            print(description(bundle, result, robot))
            if video and film and film.write(video):
                print(f"  film                 {video}")
        finally:
            robot.close()


def description(bundle: Bundle, result: ControlResult, robot: Environment) -> str:
    """A few lines: how it ended, the simulator's verdict, the classifier, the limits, the time to decide."""
    limits = ", ".join(f"{name} {count}" for name, count in sorted(result.interventions.items())) or "none"
    return "\n".join(
        [
            f"{bundle.skill}: ended by {result.reason} after {result.steps} steps "
            f"({result.steps / robot.spec.rate:.1f} s of robot time)",
            f"  simulator's oracle   {verdict(robot)}",
            f"  classifier           {result.ticks[-1].success_probability:.2f} at the end",
            f"  safety interventions {limits}",
            "  decision time        median {:.1f} ms, p99 {:.1f} ms".format(*latency(result)),
        ]
    )


def verdict(robot: Environment) -> str:
    """The simulator's, where the skill is one of its tasks."""
    if not robot.judged:
        return "none: the simulator has no task of this name"
    return "done" if robot.succeeded() else "not done"


@dataclass(frozen=True)
class ReplayJob(Job):
    """Run the actions of a dataset's demonstrations open loop in the simulator, each from its own start.

    This proves scale, frame, sign and timing. The exit status is 1 if a skill succeeds too rarely.
    """

    command_name: ClassVar[str] = "replay"
    positional: ClassVar[tuple[str, ...]] = ("dataset",)
    check_out: ClassVar[Callable[[Path], None]] = staticmethod(require_output)

    dataset: Path
    """HDF5 file with demonstrations of the simulated robot."""
    out: Path | None = None
    """JSON file for the results."""
    minimum: float = 0.95
    """Share of successes that every skill must reach; below it, scale, frame, sign or timing of actions is in doubt."""

    def run(self) -> bool:
        """Replay, print a line per skill, write the results; whether every skill reaches the minimum."""
        results, minimum = replay(self.dataset), self.minimum
        shares = success_shares(results)
        for skill, share in shares.items():
            mine = [result.succeeded for result in results if result.skill == skill]
            verdict = "" if share >= minimum else f"  below {100 * minimum:.0f} %"
            print(f"{skill:<20} {sum(mine)} of {len(mine)} ({100 * share:.0f} %){verdict}")
        if self.out:
            episodes = [dataclasses.asdict(result) for result in results]
            write_json(self.out, {"minimum": minimum, "shares": shares, "episodes": episodes})
        return all(share >= minimum for share in shares.values())
