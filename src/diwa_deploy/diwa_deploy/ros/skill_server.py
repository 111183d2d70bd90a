"""The action `execute_skill`: one skill at a time, in a thread of its own, and what latches after a stop."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

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
from diwa_interfaces.action import ExecuteSkill
from diwa_learning.onnx_agent import Runtime

CANCELLED = "cancelled"
ENDS_WELL = ("success", "max_steps", CANCELLED)
"""Reasons after which the next goal is accepted at once; any other must be acknowledged with `~/rearm`."""
SLOW, SLOW_ROTATION = 0.05, 0.2
"""Metres and radians per second on the way to the start."""
_MOVING = "the arm is moving: cancel the skill, or deactivate the node"
REST = 2
"""Ticks at the start in which the target comes to rest there."""


@dataclass(frozen=True)
class PolicyNodeConfig:
    """Parameters of `policy`."""

    robot: RobotConfig = field(default_factory=RobotConfig)
    """The robot that the checkpoint must have been made for."""
    skill: str = ""
    """Skill to load."""
    checkpoint: str = ""
    """Folder of its bundle; empty = `$DIWA_HOME/skills/SKILL`, or else the one that comes with the package."""
    policy: Literal["finetuned", "base", "both"] = "finetuned"
    """Which of the bundle's policies; with both a goal names one, as in `open_drawer/base`."""
    max_steps: int = 72
    """Control ticks after which a goal that names none ends."""
    success_ticks: int = AS_TRAINED
    """Ticks running that the classifier must be sure of success; -1 = as it was trained, 0 lets it end nothing."""
    threads: int = THREADS
    """Threads of a decision; more are faster only on cores that nothing else uses, and much slower on busy ones."""
    ddim_steps: int = 0
    """Deterministic steps (DDIM) that a chunk is sampled in; 0 takes all of the policy's, with noise (DDPM)."""
    runtime: Runtime = "auto"
    """Library that computes decisions: `torch`, `onnx` (an extra, about twice as fast), or `onnx` where installed."""
    start_distance: float = 0.05
    """Metres outside of where the demonstrations began up to which a skill may begin."""
    start_angle: float = 0.2
    """Radians, likewise."""
    arm: ArmConfig = field(default_factory=ArmConfig)
    """Rate, limits and watchdog."""

    def __post_init__(self) -> None:
        require_at_least(self, 1, "threads")
        require_at_least(self, 0, "ddim_steps")
        require_at_least(self, AS_TRAINED, "success_ticks")


class SkillServer:
    """Accepts goals while there are `runners` and the robot is armed."""

    def __init__(self, node: Node, robot: RosRobot, config: PolicyNodeConfig):
        self._node, self._robot, self._log = node, robot, node.get_logger()
        self._name = node.get_fully_qualified_name()
        self.config = config
        """Parameters, as they were when the skill was loaded."""
        self.runners: dict[str, SkillRunner] = {}
        """The loaded skill by the names that goals may use."""
        self.latched = ""
        """Why no goal is accepted until it is acknowledged."""
        self.busy = False
        """A skill is running."""
        ActionServer(
            node, ExecuteSkill, "execute_skill", self._execute,
            goal_callback=self._on_goal, cancel_callback=self._on_cancel,
        )  # fmt: skip
        node.create_service(Trigger, "~/rearm", self._rearm)
        node.create_service(Trigger, "~/go_to_start", self._go_to_start)

    def _on_goal(self, goal: ExecuteSkill.Goal) -> GoalResponse:
        if problem := self._refusal(goal):
            self._log.error(f"{goal.skill} is refused: {problem}")
            return GoalResponse.REJECT
        self.busy = True
        self._robot.begin()  # here, so that no stop from now on is forgotten
        return GoalResponse.ACCEPT

    def _refusal(self, goal: ExecuteSkill.Goal) -> str:
        if problem := self._problem():
            return problem
        if goal.skill not in self.runners:
            return f"{' and '.join(self.runners)} are loaded"
        start, pose = self._start, self._robot.measured
        if start is None or pose is None:
            return ""
        return start.problem(pose, self.config.start_distance, self.config.start_angle)

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

    async def _execute(self, goal: ServerGoalHandle) -> ExecuteSkill.Result:
        """Run the skill in a thread of its own while the executor goes on."""
        done = Future(executor=self._node.executor)
        threading.Thread(target=self._run, args=(goal, done), name="inference", daemon=True).start()
        result: ControlResult = await done
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
        self._log.info(f"{self.config.skill}: {told}")
        return ExecuteSkill.Result(success=result.reason == "success", reason=result.reason, steps=result.steps)

    def _run(self, goal: ServerGoalHandle, done: Future) -> None:
        """The inference thread."""
        runner = self.runners[goal.request.skill]
        try:
            steps = goal.request.max_steps or self.config.max_steps
            tell = partial(self._tell, goal, itertools.count(1))
            result = runner.run(self._robot, steps, goal.request.seed, self.config.success_ticks, tell)
        except Exception as error:  # whatever it is, the arm holds and the goal ends
            self._robot.stop(str(error))
            result = ControlResult(f"failed: {error}", [])
        finally:
            self._robot.end()
        done.set_result(result)

    def _tell(self, goal: ServerGoalHandle, steps: Iterator[int], observation: Observation, tick: Tick) -> None:
        """Feedback of one tick."""
        feedback = ExecuteSkill.Feedback(step=next(steps), success_probability=tick.success_probability)
        feedback.frame_age = clock.now() - observation.received
        goal.publish_feedback(feedback)

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
