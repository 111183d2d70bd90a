"""Success of a skill through the ROS 2 graph against the same starts in the simulator without ROS, paired.

Needs the built and sourced workspace: `python benchmarks/ros_rollouts.py --checkpoint runs/demo/skills/open_drawer`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from policy_client import PolicyClient, running_skill

from diwa_cli.statistics import SuccessRate, paired_difference
from diwa_data.limits import MotionLimits
from diwa_data.recording import messages
from diwa_data.ros.topics import LATCHED, publisher, subscribe
from diwa_deploy.bundle import load_bundle
from diwa_deploy.control import SkillRunner
from diwa_interfaces.action import ExecuteSkill
from diwa_sim.table import SimulatedPanda
from diwa_sim.tasks import succeeded

MAX_STEPS = 72


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--rollouts", type=int, default=50)
    parser.add_argument("--out", type=Path, default=Path("docs/results/ros_rollouts.json"))
    arguments = parser.parse_args()
    skill = load_bundle(arguments.checkpoint).skill
    rows = through_ros(arguments.checkpoint.resolve(), skill, arguments.rollouts)
    plain = without_ros(arguments.checkpoint, skill, [row["seed"] for row in rows])
    for row, success in zip(rows, plain, strict=True):
        row["without_ros"] = success
    wins = [[row[way] for row in rows] for way in ("without_ros", "through_ros")]
    difference = paired_difference(*wins)
    result = {
        "skill": skill,
        "rollouts": len(rows),
        **{way: _rate(won) for way, won in zip(("without_ros", "through_ros"), wins, strict=True)},
        "difference": [difference.difference, difference.interval.low, difference.interval.high],
        "rows": rows,
    }
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({name: value for name, value in result.items() if name != "rows"}, indent=1))


def _rate(won: list[bool]) -> list[float]:
    """Rate, and its 95 % interval."""
    rate = SuccessRate(sum(won), len(won))
    return [rate.rate, rate.interval.low, rate.interval.high]


class Client(PolicyClient):
    """Drives `policy` and `sim_robot` through rollouts and judges them by the scene that is published."""

    def __init__(self, skill: str) -> None:
        super().__init__("rollouts")
        self._skill, self._labels = skill, {}
        self._start: np.ndarray | None = None
        self._done = False
        self._event = publisher(self, messages.EPISODE_EVENT)
        subscribe(self, messages.EPISODE_LABELS, self._on_labels, LATCHED)
        subscribe(self, messages.SCENE_STATE, self._on_scene)

    def rollout(self, number: int) -> dict[str, Any]:
        """Put the scene at its next start and run the skill from it."""
        if number:
            self._event(messages.encode_string("discard"))
        self.spin(1.5)
        self._start, self._done = self._scene, False
        self.transition("activate")
        handle = self.send(ExecuteSkill.Goal(skill=self._skill, max_steps=MAX_STEPS, seed=self._labels["seed"]))
        answer, cancelled = handle.get_result_async(), False
        while not answer.done():
            self.spin(0.05)
            if self._done and not cancelled:
                handle.cancel_goal_async()
                cancelled = True
        self.spin(0.3)
        result = answer.result().result
        self.transition("deactivate")
        row = {"seed": self._labels["seed"], "through_ros": self._done, "reason": result.reason, "steps": result.steps}
        print(number, row, flush=True)
        return row

    def _on_labels(self, labels: str) -> None:
        self._labels = json.loads(labels)

    def _on_scene(self, scene: Any) -> None:
        self._scene = np.asarray(scene)
        if self._start is not None:
            self._done = self._done or succeeded(self._skill, self._start, self._scene)


def through_ros(checkpoint: Path, skill: str, rollouts: int) -> list[dict[str, Any]]:
    """Every rollout from the next start of one simulated robot."""
    rclpy.init()
    client = Client(skill)
    with running_skill(skill, checkpoint):
        client.transition("configure")
        rows = [client.rollout(number) for number in range(rollouts)]
    rclpy.shutdown()
    return rows


def without_ros(checkpoint: Path, skill: str, seeds: list[int]) -> list[bool]:
    """The same starts and agent seeds in lockstep with the simulator."""
    robot = SimulatedPanda()
    runner = SkillRunner(skill, checkpoint, robot.spec, MotionLimits())
    wins = []
    for seed in seeds:
        robot.reset(skill, seed)
        runner.run(robot, MAX_STEPS, seed, 0)
        wins.append(robot.succeeded())
    return wins


if __name__ == "__main__":
    main()
