"""The actions `execute_skill` and `execute_sequence`: one goal at a time, in a thread of its own, and what latches
after a stop."""

from __future__ import annotations

import itertools
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Literal

from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.node import Node
from rclpy.task import Future
from std_srvs.srv import Trigger

from diwa_data.config import require_at_least
from diwa_data.errors import DiwaError
from diwa_data.interpolator import way
from diwa_data.pose import Pose
from diwa_data.robot import Observation
from diwa_data.robot_config import RobotConfig
from diwa_data.ros import clock
from diwa_deploy.bundle import StartRegion
from diwa_deploy.control import AS_TRAINED, THREADS, ControlResult, SkillRunner, Stopped, Tick
from diwa_deploy.ros.ros_robot import ArmConfig, RosRobot
from diwa_deploy.sequence import REST, START_ANGLE, START_DISTANCE, SUCCESS, Part, Place, SequenceConfig, SkillSequence
from diwa_interfaces.action import ExecuteSequence, ExecuteSkill
from diwa_learning.onnx_agent import Runtime

CANCELLED = "cancelled"
ENDS_WELL = (SUCCESS, "max_steps", CANCELLED)
"""Reasons after which the next goal is accepted at once; any other must be acknowledged with `~/rearm`."""
SLOW, SLOW_ROTATION = 0.05, 0.2
"""Metres and radians per second on the way to the start."""
_MOVING = "the arm is moving: cancel the skill, or deactivate the node"


@dataclass(frozen=True)
class PolicyNodeConfig:
    """Parameters of `policy`."""

    robot: RobotConfig = field(default_factory=RobotConfig)
    """The robot that the checkpoint must have been made for."""
    skill: str = ""
    """Skill to load."""
    skills: tuple[str, ...] = ()
    """Further skills to load; a sequence can be made of all that are loaded, `skill` included."""
    checkpoint: str = ""
    """Folder of its bundle; with `skills`, the folder that holds all of them.
    Empty = `$DIWA_HOME/skills/SKILL`, or else the one that comes with the package."""
    policy: Literal["finetuned", "base", "both"] = "finetuned"
    """Policies of the bundle to load; with `both`, a goal names one, such as `open_drawer/base`."""
    max_steps: int = 72
    """Control ticks after which a goal ends that names none."""
    success_ticks: int = AS_TRAINED
    """Ticks in a row for which the classifier must be sure of success; -1 = as it was trained,
    0 = the classifier ends nothing."""
    threads: int = THREADS
    """Threads of a decision; more are faster only on cores that nothing else uses, and much slower on busy ones."""
    ddim_steps: int = 0
    """Deterministic denoising steps (DDIM) for each chunk; 0 = all of the policy's steps, with noise (DDPM)."""
    runtime: Runtime = "auto"
    """Library that computes decisions: `torch`, or `onnx` (an extra, about twice as fast);
    `auto` = `onnx` where it is installed."""
    server: str = ""
    """Address of `diwa serve-policy` on another machine, such as http://gpu:8700: it has the bundles and decides, with
    the settings that it was given. Empty = this node decides."""
    start_distance: float = START_DISTANCE
    """Metres outside the region where demonstrations began up to which a skill may start."""
    start_angle: float = START_ANGLE
    """Radians outside that region up to which a skill may start."""
    between: SequenceConfig = field(default_factory=SequenceConfig)
    """Moves and tries between the skills of a sequence."""
    arm: ArmConfig = field(default_factory=ArmConfig)
    """Rate, limits and watchdog."""

    def __post_init__(self) -> None:
        require_at_least(self, 1, "threads")
        require_at_least(self, 0, "ddim_steps")
        require_at_least(self, AS_TRAINED, "success_ticks")


@dataclass(frozen=True)
class SequenceEnd:
    """How a sequence ended."""

    reason: str
    """`success`, or why its last part is not done."""
    parts: list[Part]

    @property
    def steps(self) -> int:
        """Control ticks of all tries."""
        return sum(one.steps for part in self.parts for one in part.tries)


class SkillServer:
    """Accepts goals while there are `runners` and the robot is armed."""

    def __init__(self, node: Node, robot: RosRobot, config: PolicyNodeConfig):
        self._node, self._robot, self._log = node, robot, node.get_logger()
        self._name = node.get_fully_qualified_name()
        self.config = config
        """Parameters, as they were when the skill was loaded."""
        self.runners: dict[str, SkillRunner] = {}
        """The loaded skills by the names that goals may use."""
        self.latched = ""
        """Why no goal is accepted until it is acknowledged."""
        self.busy = False
        """A skill or a sequence is running."""
        for action, name, accept in (
            (ExecuteSkill, "execute_skill", self._on_goal),
            (ExecuteSequence, "execute_sequence", self._on_sequence),
        ):
            ActionServer(node, action, name, self._execute, goal_callback=accept, cancel_callback=self._on_cancel)
        node.create_service(Trigger, "~/rearm", self._rearm)
        node.create_service(Trigger, "~/go_to_start", self._go_to_start)

    def _on_goal(self, goal: ExecuteSkill.Goal) -> GoalResponse:
        return self._answer(goal.skill, self._refusal(goal))

    def _on_sequence(self, goal: ExecuteSequence.Goal) -> GoalResponse:
        return self._answer("the sequence", self._problem() or self._sequence_refusal(goal))

    def _answer(self, what: str, problem: str) -> GoalResponse:
        if problem:
            self._log.error(f"{what} is refused: {problem}")
            return GoalResponse.REJECT
        self.busy = True
        self._robot.begin()  # here, so that no stop from now on is forgotten
        return GoalResponse.ACCEPT

    def _refusal(self, goal: ExecuteSkill.Goal) -> str:
        if problem := self._problem():
            return problem
        if goal.skill not in self.runners:
            return f"{' and '.join(self.runners)} are loaded"
        start, pose = self.runners[goal.skill].start, self._robot.measured
        if start is None or pose is None:
            return ""
        return start.problem(pose, self.config.start_distance, self.config.start_angle)

    def _sequence_refusal(self, goal: ExecuteSequence.Goal) -> str:
        try:
            sequence, pose = SkillSequence(goal.skills, self.runners, self.config.between), self._robot.measured
        except DiwaError as error:
            return str(error)
        if sequence.about_starts:
            self._log.warning(sequence.about_starts)
        return sequence.problem(pose, self.config.start_distance, self.config.start_angle) if pose else ""

    @property
    def _start(self) -> StartRegion | None:
        return next((runner.start for runner in self.runners.values()), None)

    def _problem(self) -> str:
        """Why nothing may move the arm now."""
        if not self.runners or not self._robot.armed:
            return f"the node is not active: ros2 lifecycle set {self._name} configure, then activate"
        if self.busy:
            return _MOVING
        if reason := self.latched or self._robot.fault:
            return f"stopped by '{reason}': ros2 service call {self._name}/rearm std_srvs/srv/Trigger"
        return self._robot.problem()

    async def _execute(self, goal: ServerGoalHandle) -> ExecuteSkill.Result | ExecuteSequence.Result:
        """Run the skill or the sequence in a thread of its own while the executor goes on."""
        done = Future(executor=self._node.executor)
        threading.Thread(target=self._run, args=(goal, done), name="inference", daemon=True).start()
        result: ControlResult | SequenceEnd = await done
        self.busy = False
        self.latched = "" if result.reason in ENDS_WELL else result.reason
        if result.reason == CANCELLED:
            goal.canceled()
        elif self.latched:
            goal.abort()
        else:
            goal.succeed()
        limits = ", ".join(f"{name} {count}" for name, count in sorted(self._robot.interventions.items())) or "none"
        told = f"{result.reason} after {result.steps} steps, {self._robot.missed} missed; limits: {limits}"
        if isinstance(result, ControlResult):
            self._log.info(f"{goal.request.skill}: {told}")
            return ExecuteSkill.Result(success=result.reason == SUCCESS, reason=result.reason, steps=result.steps)
        self._log.info(f"sequence of {len(goal.request.skills)}: {told}")
        done_well, reason = sum(part.done for part in result.parts), result.reason
        if reason != SUCCESS and done_well < len(result.parts):
            reason = f"{result.parts[-1].skill}, {len(result.parts)} of {len(goal.request.skills)}: {reason}"
        return ExecuteSequence.Result(
            success=result.reason == SUCCESS, reason=reason, done=done_well, steps=result.steps
        )

    def _run(self, goal: ServerGoalHandle, done: Future) -> None:
        """The inference thread."""
        one = isinstance(goal.request, ExecuteSkill.Goal)
        result: ControlResult | SequenceEnd
        try:
            result = self._run_skill(goal) if one else self._run_sequence(goal)
        except Exception as error:  # whatever it is, the arm holds and the goal ends
            self._robot.stop(str(error))
            result = (ControlResult if one else SequenceEnd)(f"failed: {error}", [])
        finally:
            self._robot.end()
        done.set_result(result)

    def _run_skill(self, goal: ServerGoalHandle) -> ControlResult:
        request, steps = goal.request, itertools.count(1)

        def tell(observation: Observation, tick: Tick) -> None:
            goal.publish_feedback(self._feedback(ExecuteSkill.Feedback(step=next(steps)), observation, tick))

        runner, most = self.runners[request.skill], request.max_steps or self.config.max_steps
        return runner.run(self._robot, most, request.seed, self.config.success_ticks, tell)

    def _run_sequence(self, goal: ServerGoalHandle) -> SequenceEnd:
        request, parts = goal.request, list[Part]()
        at: list[Place] = []  # of every tick since it changed

        def tell(place: Place, observation: Observation, tick: Tick) -> None:
            at[:] = [*at, place] if place in at else [place]
            told = ExecuteSequence.Feedback(step=len(at), **vars(place))
            goal.publish_feedback(self._feedback(told, observation, tick))

        sequence = SkillSequence(request.skills, self.runners, self.config.between)
        most = request.max_steps or self.config.max_steps
        for part in sequence.run(self._robot, most, request.seed, self.config.success_ticks, tell):
            parts.append(part)
            self._log.info(f"{part.index + 1} of {len(sequence.skills)}, {part.skill}: {part.reason}")
        return SequenceEnd(parts[-1].reason, parts)

    @staticmethod
    def _feedback(told: Any, observation: Observation, tick: Tick) -> Any:
        """`told` with what feedback says of any tick."""
        told.success_probability = tick.success_probability
        told.frame_age = clock.now() - observation.received
        return told

    def _on_cancel(self, goal: ServerGoalHandle) -> CancelResponse:
        self._robot.stop(CANCELLED)
        return CancelResponse.ACCEPT

    def _rearm(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        stopped_by = self.latched or self._robot.fault or "nothing"
        try:
            if not self._robot.armed:
                raise DiwaError("the node is not active")
            if self.busy:
                raise DiwaError(_MOVING)
            self._robot.arm()
        except DiwaError as error:
            response.success, response.message = False, str(error)
            return response
        self.latched = ""
        response.success, response.message = True, f"armed again after: {stopped_by}"
        return response

    def _go_to_start(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """Move slowly, on the straight way, to the middle of where the demonstrations began."""
        start, pose = self._start, self._robot.measured
        problem = self._problem() or ("" if start else "the bundle does not say where its demonstrations began")
        response.success, response.message = not problem, problem or "moving"
        if not problem and start and pose:
            self.busy = True
            self._robot.begin()
            threading.Thread(target=self._move, args=(pose, start.middle), name="move", daemon=True).start()
        return response

    def _move(self, start: Pose, goal: Pose) -> None:
        try:
            for pose in (*way(start, goal, SLOW, SLOW_ROTATION, self._robot.spec.tick), *[goal] * REST):
                self._robot.command(pose)
                time.sleep(self._robot.spec.tick)
            self._log.info("the arm is at the start")
        except Stopped as error:
            self.latched = str(error)
            self._log.error(f"stopped on the way to the start: {error}")
        finally:
            self._robot.end()
            self.busy = False
