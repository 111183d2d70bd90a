"""The lifecycle node `policy`: loads a skill, and runs it on the arm when the action `execute_skill` asks for it."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.lifecycle import LifecycleNode, State, TransitionCallbackReturn
from rclpy.task import Future
from std_srvs.srv import Trigger

from diwa_data.errors import DiwaError
from diwa_data.robot import Observation
from diwa_data.robot_config import RobotConfig
from diwa_data.ros.diagnostics import Diagnostics
from diwa_data.ros.parameters import read_parameters
from diwa_data.ros.running import run_node
from diwa_deploy.control import ControlResult, Tick
from diwa_deploy.ros.ros_robot import ArmConfig, RosRobot
from diwa_deploy.runner import SkillRunner
from diwa_interfaces.action import ExecuteSkill

CANCELLED = "cancelled"
ENDS_WELL = ("success", "max_steps")
"""Reasons after which the next goal is accepted at once; any other must be acknowledged with `~/rearm`."""


@dataclass(frozen=True)
class PolicyNodeConfig:
    """Parameters of `policy`."""

    robot: RobotConfig = field(default_factory=RobotConfig)
    """The robot that the checkpoint must have been made for."""
    skill: str = ""
    """Skill to load."""
    checkpoint: str = ""
    """Folder of its bundle; empty = `$DIWA_HOME/skills/SKILL`."""
    max_steps: int = 72
    """Control ticks after which a goal that names none ends."""
    success_ticks: int = 3
    """Consecutive ticks that the classifier must be sure; 0 lets it end nothing."""
    start_distance: float = 0.05
    """Metres outside of where the demonstrations began up to which a skill may begin."""
    start_angle: float = 0.2
    """Radians, likewise."""
    arm: ArmConfig = field(default_factory=ArmConfig)
    """Rate, limits and watchdog."""


class PolicyNode(LifecycleNode):
    """configure: load and warm up; activate: hold the arm and accept goals; deactivate: stop and let go."""

    def __init__(self) -> None:
        super().__init__("policy", automatically_declare_parameters_from_overrides=True)
        self._config = read_parameters(self, PolicyNodeConfig)
        self._robot = RosRobot(self, self._config.robot.spec, self._config.arm)
        self._runner: SkillRunner | None = None
        self._latched = ""
        self._busy = False
        self._diagnostics = Diagnostics(self)
        ActionServer(
            self, ExecuteSkill, "execute_skill", self._execute,
            goal_callback=self._on_goal, cancel_callback=self._on_cancel,
        )  # fmt: skip
        self.create_service(Trigger, "~/rearm", self._rearm)
        self.create_timer(1.0, self._report)

    def close(self) -> None:
        """Hold, and let go."""
        self._robot.disarm()

    def on_configure(self, state: State) -> TransitionCallbackReturn:
        """Load the bundle, refuse one of another contract, and warm up."""
        return self._transition(self._load)

    def on_activate(self, state: State) -> TransitionCallbackReturn:
        """Hold the measured pose; refused beside another publisher or without streams."""
        self._latched = ""
        done = self._transition(self._robot.arm)
        return super().on_activate(state) if done == TransitionCallbackReturn.SUCCESS else done

    def on_deactivate(self, state: State) -> TransitionCallbackReturn:
        """End a running skill; the arm keeps its last target."""
        self._robot.disarm()
        return super().on_deactivate(state)

    def on_cleanup(self, state: State) -> TransitionCallbackReturn:
        """Forget the skill."""
        self._runner = None
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: State) -> TransitionCallbackReturn:
        """As `on_deactivate`."""
        self._robot.disarm()
        return TransitionCallbackReturn.SUCCESS

    def _load(self) -> None:
        checkpoint = Path(self._config.checkpoint).expanduser() if self._config.checkpoint else None
        self._runner = SkillRunner(self._config.skill, checkpoint, self._config.robot.spec, self._config.arm.limits)
        milliseconds = 1e3 * self._runner.warm_up()
        self.get_logger().info(f"{self._config.skill} is loaded: {milliseconds:.0f} ms a decision")

    def _transition(self, act: Callable[[], None]) -> TransitionCallbackReturn:
        try:
            act()
        except DiwaError as error:
            self.get_logger().error(str(error))
            return TransitionCallbackReturn.FAILURE
        return TransitionCallbackReturn.SUCCESS

    def _on_goal(self, goal: ExecuteSkill.Goal) -> GoalResponse:
        if problem := self._refusal(goal):
            self.get_logger().error(f"{goal.skill} is refused: {problem}")
            return GoalResponse.REJECT
        self._busy = True
        return GoalResponse.ACCEPT

    def _refusal(self, goal: ExecuteSkill.Goal) -> str:
        if self._runner is None or not self._robot.armed:
            return "the node is not active: ros2 lifecycle set /policy configure, then activate"
        if goal.skill != self._config.skill:
            return f"{self._config.skill} is loaded"
        if self._busy:
            return "a skill is running: cancel it first"
        if self._latched:
            return f"stopped by '{self._latched}': ros2 service call /policy/rearm std_srvs/srv/Trigger"
        if problem := self._robot.problem():
            return problem
        start, pose = self._runner.start, self._robot.measured
        if start is None or pose is None:
            return ""
        return start.problem(pose, self._config.start_distance, self._config.start_angle)

    async def _execute(self, goal: ServerGoalHandle) -> ExecuteSkill.Result:
        """Run the skill in a thread of its own while the executor goes on."""
        done = Future(executor=self.executor)
        threading.Thread(target=self._run, args=(goal, done), name="inference", daemon=True).start()
        result: ControlResult = await done
        self._busy = False
        self._latched = "" if result.reason in (*ENDS_WELL, CANCELLED) else result.reason
        if result.reason == CANCELLED:
            goal.canceled()
        elif self._latched:
            goal.abort()
        else:
            goal.succeed()
        limits = ", ".join(f"{name} {count}" for name, count in sorted(self._robot.interventions.items())) or "none"
        told = f"{result.reason} after {result.steps} steps, {self._robot.missed} missed; limits: {limits}"
        self.get_logger().info(f"{self._config.skill}: {told}")
        return ExecuteSkill.Result(success=result.reason == "success", reason=result.reason, steps=result.steps)

    def _run(self, goal: ServerGoalHandle, done: Future) -> None:
        """The inference thread."""
        assert self._runner is not None
        try:
            self._robot.begin()
            steps = goal.request.max_steps or self._config.max_steps
            tell = partial(self._tell, goal, itertools.count(1))
            result = self._runner.run(self._robot, steps, goal.request.seed, self._config.success_ticks, tell)
        except Exception as error:  # whatever it is, the arm holds and the goal ends
            self._robot.stop(str(error))
            result = ControlResult(f"failed: {error}", [])
        finally:
            self._robot.end()
        done.set_result(result)

    def _tell(self, goal: ServerGoalHandle, steps: Iterator[int], observation: Observation, tick: Tick) -> None:
        """Feedback of one tick."""
        feedback = ExecuteSkill.Feedback(step=next(steps), success_probability=tick.success_probability)
        feedback.frame_age = time.time() - observation.received
        goal.publish_feedback(feedback)

    def _on_cancel(self, goal: ServerGoalHandle) -> CancelResponse:
        self._robot.stop(CANCELLED)
        return CancelResponse.ACCEPT

    def _rearm(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        problem = self._robot.problem() if self._robot.armed else "the node is not active"
        response.success, response.message = not problem, problem or f"armed again after: {self._latched or 'nothing'}"
        if not problem:
            self._latched = ""
        return response

    def _report(self) -> None:
        ages = {name: f"{age:.3f}" for name, age in self._robot.ages().items()}
        limits = {f"limit {name}": count for name, count in self._robot.interventions.items()}
        limits["missed ticks"] = self._robot.missed
        self._diagnostics.add("arm", self._latched, armed=self._robot.armed, running=self._busy, **ages, **limits)
        self._diagnostics.publish()


def main() -> None:
    """The node `policy`."""
    run_node(PolicyNode)


if __name__ == "__main__":
    main()
