"""The lifecycle node `policy`: loads skills, and runs them on the arm when one of its actions asks for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleNode, State, TransitionCallbackReturn

from diwa_data.errors import DiwaError
from diwa_data.files import expanded
from diwa_data.limits import WIDER
from diwa_data.ros.node import Diagnostics, every, follow_parameters, interruptible, run_node
from diwa_deploy.bundle import find_bundle
from diwa_deploy.control import SkillRunner
from diwa_deploy.ros.ros_robot import RosRobot
from diwa_deploy.ros.skill_server import PolicyNodeConfig, SkillServer
from diwa_deploy.sequence import find_bundles, load_runners

PATIENCE = 1.0
"""Seconds in which a running skill must have ended when the node is told to."""
ANSWERING = 0.3
"""Seconds in which the result of that skill gets on its way."""
LOADED = ("server", "skill", "skills", "checkpoint", "policy", "threads", "ddim_steps", "runtime")
"""Parameters that make a skill be loaded again, which keeps the executor from the streams for a moment."""
FIXED = ("robot.", "arm.rate", "arm.max_age", "arm.mode.")
"""Parameters that are read once; the others may change while the node is not active."""


class PolicyNode(LifecycleNode):
    """configure: load and warm up; activate: hold the arm and accept goals; deactivate: stop and let go."""

    def __init__(self) -> None:
        super().__init__("policy", automatically_declare_parameters_from_overrides=True)
        refuse_invalid_transitions(self)
        self._read = follow_parameters(self, PolicyNodeConfig, self._locked, FIXED, "arm.limits")
        self._config = self._read()
        self._robot = RosRobot(self, self._config.robot, self._config.arm)
        self._server = SkillServer(self, self._robot, self._config)
        self._diagnostics = Diagnostics(self)
        every(self, 1.0, self._report)

    def close(self) -> None:
        """Hold, let go, and tell whoever sent a goal that it has ended."""
        self._robot.disarm()
        if self._server.busy:
            self._spin(PATIENCE, lambda: self._server.busy)
            self._spin(ANSWERING, lambda: True)

    def on_configure(self, state: State) -> TransitionCallbackReturn:
        """Read the parameters, load the bundle, refuse one of another contract, and warm up."""
        return self._transition(self._load)

    def on_activate(self, state: State) -> TransitionCallbackReturn:
        """Hold the measured pose; refused beside another publisher or without streams.

        What was changed since the skill was loaded is loaded first.
        """
        self._server.latched = ""
        done = self._transition(self._arm)
        return super().on_activate(state) if done == TransitionCallbackReturn.SUCCESS else done

    def on_deactivate(self, state: State) -> TransitionCallbackReturn:
        """End a running skill; the arm keeps its last target."""
        self._robot.disarm()
        return super().on_deactivate(state)

    def on_cleanup(self, state: State) -> TransitionCallbackReturn:
        """Forget the skill."""
        self._server.runners = {}
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: State) -> TransitionCallbackReturn:
        """End a running skill."""
        self._robot.disarm()
        return TransitionCallbackReturn.SUCCESS

    def _spin(self, seconds: float, condition: Callable[[], bool]) -> None:
        """While the condition holds, for so long at most."""
        end = time.monotonic() + seconds
        while condition() and time.monotonic() < end:
            self.executor.spin_once(timeout_sec=0.05)

    def _locked(self) -> str:
        """Why no parameter may change."""
        name = self.get_fully_qualified_name()
        return f"the node is active: ros2 lifecycle set {name} deactivate, then set it" if self._robot.armed else ""

    def _arm(self) -> None:
        config = self._read()
        if any(getattr(config, name) != getattr(self._config, name) for name in LOADED):
            self._load()
        elif config != self._config:
            self._take(config)
        self._robot.arm()

    def _load(self) -> None:
        config = self._read()
        with interruptible():  # nothing moves yet
            runners = self._runners(config)
        self._server.runners = runners
        self._take(config)

    def _runners(self, config: PolicyNodeConfig) -> dict[str, SkillRunner]:
        """The skills by the names that goals may use, loaded and warm."""
        if config.server:
            return self._served(config)
        checkpoint = expanded(config.checkpoint) if config.checkpoint else None
        if config.skills:
            bundles = find_bundles([*filter(None, [config.skill]), *config.skills], checkpoint)
        else:
            bundles = {config.skill: find_bundle(config.skill, checkpoint)}
        by_policy: dict[str, dict[str, SkillRunner]] = {}
        for policy in ("finetuned", "base") if config.policy == "both" else (config.policy,):
            by_policy[policy] = load_runners(
                bundles,
                config.robot.spec,
                config.arm.limits,
                policy,
                config.threads,
                config.ddim_steps,
                config.runtime,
            )
            self._warm_up(by_policy[policy])
        named = {f"{skill}/{policy}": one for policy, found in by_policy.items() for skill, one in found.items()}
        return next(iter(by_policy.values())) | named

    def _served(self, config: PolicyNodeConfig) -> dict[str, SkillRunner]:
        """The skills of a server."""
        if config.policy == "both":
            raise DiwaError("policy is both, but a server has one: compare policies that are loaded here")
        names = dict.fromkeys([*filter(None, [config.skill]), *config.skills])
        spec, limits = config.robot.spec, config.arm.limits
        runners = {name: SkillRunner(name, None, spec, limits, server=config.server) for name in names}
        self._warm_up(runners)
        return runners

    def _warm_up(self, runners: dict[str, SkillRunner]) -> None:
        for skill, runner in runners.items():
            milliseconds = 1e3 * runner.warm_up()
            self.get_logger().info(f"{skill} is loaded: {milliseconds:.0f} ms a decision by {runner.runtime}")

    def _take(self, config: PolicyNodeConfig) -> None:
        """Let the loaded skill run by `config`."""
        for runner in self._server.runners.values():
            runner.limits = config.arm.limits
        for line in {runner.about_limits for runner in self._server.runners.values()} - {""}:
            if line.startswith(WIDER):  # rclpy takes one severity a line
                self.get_logger().warning(line)
            else:
                self.get_logger().info(line)
        self._robot.configure(config.arm)
        self._config = self._server.config = config

    def _transition(self, act: Callable[[], None]) -> TransitionCallbackReturn:
        try:
            act()
        except DiwaError as error:
            self.get_logger().error(str(error))
            return TransitionCallbackReturn.FAILURE
        return TransitionCallbackReturn.SUCCESS

    def _report(self) -> None:
        ages = {name: f"{age:.3f}" for name, age in self._robot.ages().items()}
        limits = {f"limit {name}": count for name, count in self._robot.interventions.items()}
        limits["missed ticks"] = self._robot.missed
        self._diagnostics.add(
            "arm", self._server.latched, armed=self._robot.armed, running=self._server.busy, **ages, **limits
        )
        self._diagnostics.publish()


def refuse_invalid_transitions(node: LifecycleNode) -> None:
    """Answer a transition that the node's state does not have (`configure` while active) with a refusal.

    rclpy lets the error end the node, in the middle of a skill.
    """
    service = node._service_change_state
    change = service.callback

    def refuse(request: Any, response: Any) -> Any:
        try:
            return change(request, response)
        except rclpy_implementation.RCLError as error:
            node.get_logger().error(f"transition {request.transition.id} is refused: {error}")
            response.success = False
            return response

    service.callback = refuse


def main() -> None:
    """The node `policy`."""
    run_node(PolicyNode)


if __name__ == "__main__":
    main()
