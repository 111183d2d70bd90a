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
from diwa_data.errors import DiwaError
from diwa_data.files import require_output, write_json
from diwa_data.limits import MotionLimits
from diwa_data.robot import Environment, Observation
from diwa_deploy.bundle import Bundle, find_bundle
from diwa_deploy.control import AS_TRAINED, ControlResult, Tick
from diwa_deploy.sequence import Part, Place, SequenceConfig, SkillSequence, find_bundles, load_runners
from diwa_learning.core.checkpoint import read_spec
from diwa_sim.chains import chain_start
from diwa_sim.environments import EnvironmentConfig, Simulated, achieved, open_environment, seeing
from diwa_sim.replay import replay, success_shares
from diwa_sim.table import SimConfig, SimulatedPanda


@dataclass(frozen=True)
class RunSkillConfig(EnvironmentConfig):
    """Settings of `diwa run-skill`: when it stops, and how fast the robot may move."""

    max_steps: int = 72
    """Control ticks after which the robot stops (7.5 a second; 30 in CALVIN)."""
    success_ticks: int = AS_TRAINED
    """Ticks in a row for which the classifier must be sure of success; -1 = as it was trained,
    0 = the classifier ends nothing."""
    seed: int = 0
    """Seed of the start state and of the agent's sampling."""
    limits: MotionLimits = field(default_factory=MotionLimits)
    """Safety limits."""
    between: SequenceConfig = field(default_factory=SequenceConfig)
    """Moves and tries between the skills of a sequence."""

    def __post_init__(self) -> None:
        require_at_least(self, 1, "max_steps")
        require_at_least(self, AS_TRAINED, "success_ticks")
        require_seed(self.seed)


@dataclass(frozen=True)
class RunSkillJob(Job):
    """Run one skill, or several one after the other, on the simulated robot with the deployment loop.

    In a sequence, the classifier ends each skill, and the arm then moves slowly to where the next one begins. A skill
    that runs out of time is tried once more; then the sequence ends.
    """

    command_name: ClassVar[str] = "run-skill"
    section: ClassVar[str] = "run_skill"

    skill: str = ""
    """Skill to run: its bundle is taken from $DIWA_HOME/skills (default ~/.diwa/skills), or else a shipped one."""
    sequence: tuple[str, ...] = ()
    """Skills to run one after the other instead: `open_drawer turn_on_led`.
    The scene is set up so that the first skill of each object is possible."""
    checkpoint: Path | None = None
    """Folder of a bundle, such as `runs/demo/skills/open_drawer`; without it, the installed one.
    For a sequence: the folder that holds the bundles, such as `runs/table/skills`."""
    video: Path | None = None
    """MP4 file to write."""
    config: RunSkillConfig = field(default_factory=RunSkillConfig)
    """When it stops, and how fast the robot may move."""
    sim: SimConfig = field(default_factory=SimConfig)
    """The simulated table."""

    def run(self) -> None:
        """Run it once and print how it went. Raises `DiwaError` if the film may not be written, or is not a .mp4."""
        if bool(self.skill) == bool(self.sequence):
            raise DiwaError("name what to run: one --skill, or the skills of a --sequence")
        config, skills = self.config, self.sequence or (self.skill,)
        if self.sequence:
            bundles = find_bundles(skills, self.checkpoint)
        else:
            bundles = {self.skill: find_bundle(self.skill, self.checkpoint)}
        if self.video:
            require_film(self.video)
        first = bundles[skills[0]]
        robot = open_environment(seeing(config.chosen(self.sim), read_spec(first.world_model)), config.limits)
        try:
            runners = load_runners(bundles, robot.spec, config.limits)
            for line in dict.fromkeys(runner.about_limits for runner in runners.values() if runner.about_limits):
                print(line)
            film = Film(robot) if self.video else None
            if self.sequence:
                self._run_sequence(robot, SkillSequence(skills, runners, config.between), film)
            else:
                robot.reset(first.skill, config.seed)
                runner = runners[self.skill]
                result = runner.run(robot, config.max_steps, config.seed, config.success_ticks, film)
                print(description(first, result, robot))
            if self.video and film and film.write(self.video):
                print(f"  film                 {self.video}")
        finally:
            robot.close()

    def _run_sequence(self, robot: Simulated, sequence: SkillSequence, film: Film | None) -> None:
        """Run it from a start at which it is possible, where there is one, and print a line for each skill."""
        config = self.config
        start = chain_start(sequence.skills, config.seed, self.sim.start) if config.environment == "table" else None
        if start and isinstance(robot, SimulatedPanda):
            robot.place(start)
        else:
            robot.reset(sequence.skills[0], config.seed)
        if problem := sequence.problem(robot.observe().pose):
            raise DiwaError(f"{sequence.skills[0]}: {problem}")
        if sequence.about_starts:
            print(sequence.about_starts)

        def keep(place: Place, observation: Observation, tick: Tick) -> None:
            if film:
                film(observation, tick)

        done, scene = 0, robot.scene_state()
        for part in sequence.run(robot, config.max_steps, config.seed, config.success_ticks, keep):
            before, scene, done = scene, robot.scene_state(), done + part.done
            judged = achieved(part.skill, config.chosen(self.sim), before, scene, robot.spec.scene_state)
            print(sequence_line(part, judged, robot.spec.rate), flush=True)
        ended = "" if part.done else f"; it ended at {part.skill}: {part.reason}"
        print(f"{done} of {len(sequence.skills)} skills done, by their classifiers{ended}")


def sequence_line(part: Part, judged: bool | None, rate: float) -> str:
    """One skill of a sequence: why it ended, its steps, how long the hand was moved before it, the oracle's verdict."""
    steps = " and ".join(str(one.steps) for one in part.tries)
    words = [f"{part.reason} after {steps} steps" if part.tries else part.reason]
    if part.moving:
        words.append(f"moved for {part.moving / rate:.1f} s before")
    words.append(f"simulator's oracle: {'none' if judged is None else 'done' if judged else 'not done'}")
    return f"{part.index + 1}  {part.skill:<20} {', '.join(words)}"


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
    """Replay the actions of a dataset's demonstrations open loop in the simulator, each from its own start.

    If they succeed, scale, frame, sign and timing of the actions are right. The exit status is 1 if a skill succeeds
    too rarely.
    """

    command_name: ClassVar[str] = "replay"
    positional: ClassVar[tuple[str, ...]] = ("dataset",)
    check_out: ClassVar[Callable[[Path], None]] = staticmethod(require_output)

    dataset: Path
    """HDF5 file with demonstrations of the simulated robot."""
    out: Path | None = None
    """JSON file for the results."""
    minimum: float = 0.95
    """Share of demonstrations that must succeed for each skill.
    Below it, scale, frame, sign or timing of the actions may be wrong."""

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
