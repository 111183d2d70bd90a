"""A skill that is loaded and ready: what `diwa run-skill` and the node share, whatever the robot."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from diwa_data.motion import MotionLimits, SafetyFilter
from diwa_data.pose import Pose
from diwa_data.robot import Observation, Robot
from diwa_data.spec import Spec
from diwa_deploy.bundle import CARD, find_bundle
from diwa_deploy.control import ControlResult, SuccessRule, Tick, control_loop
from diwa_deploy.start_region import StartRegion
from diwa_learning.agent import load_agent

_WARM_UP_TICKS = 8  # two chunks: every path of a decision


class SkillRunner:
    """World model, policy, classifier and safety limits of one skill on one robot."""

    def __init__(
        self, skill: str, checkpoint: Path | None, spec: Spec, limits: MotionLimits, policy: str = "finetuned"
    ):
        """`checkpoint`: folder of the bundle; None takes the installed one. `policy`: finetuned or base.

        Raises `DiwaError` if there is none, or it was made for another contract.
        """
        bundle = find_bundle(skill, checkpoint)
        self.start = StartRegion.from_card(bundle.card, str(bundle.path / CARD))
        """Where its demonstrations began; None if the bundle does not say."""
        self._agent = load_agent(bundle.world_model, bundle.policy_named(policy), bundle.reward, spec)
        self._limits, self._spec = limits, spec

    def warm_up(self) -> float:
        """Decide on black images a few times; returns the seconds of the last decision."""
        images = {camera.name: np.zeros((*camera.record_size, 3), np.uint8) for camera in self._spec.cameras}
        pose = Pose.from_quaternion(np.array([0.4, 0.0, 0.3]), np.array([1.0, 0.0, 0.0, 0.0]))  # gripper down
        observation = Observation(images, pose, pose, 0.08, 0.0, 0.0)
        started = time.perf_counter()
        for _ in range(_WARM_UP_TICKS):
            started = time.perf_counter()
            self._agent.act(observation, self._spec.action.null)
        return time.perf_counter() - started

    def run(
        self,
        robot: Robot,
        max_steps: int,
        seed: int,
        success_ticks: int,
        on_tick: Callable[[Observation, Tick], None] | None = None,
    ) -> ControlResult:
        """Run the skill once; `success_ticks` as in `SuccessRule`, 0 lets the classifier end nothing."""
        rule = SuccessRule(self._agent.success_threshold, success_ticks) if success_ticks else None
        safety = SafetyFilter(self._limits, self._spec)
        return control_loop(robot, self._agent, safety, max_steps, seed, success=rule, on_tick=on_tick)
