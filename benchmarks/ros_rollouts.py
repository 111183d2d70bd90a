"""Success of a skill through the ROS 2 graph against the same starts in the simulator without ROS, paired.

Needs the built and sourced workspace: `python benchmarks/ros_rollouts.py --checkpoint runs/demo/skills/open_drawer`.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.action import ActionClient
from rclpy.node import Node
from rclpy.task import Future

from diwa_cli.statistics import SuccessRate, paired_difference
from diwa_data import messages
from diwa_data.motion import MotionLimits
from diwa_data.ros.topics import LATCHED, hear, publisher
from diwa_deploy.bundle import load_bundle
from diwa_deploy.runner import SkillRunner
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


class Client(Node):
    """Drives `policy` and `sim_robot` through rollouts and judges them by the scene that is published."""

    def __init__(self, skill: str) -> None:
        super().__init__("rollouts")
        self._skill, self._labels, self._start, self.done = skill, {}, None, False
        self._event = publisher(self, messages.EPISODE_EVENT)
        self._change = self.create_client(ChangeState, "/policy/change_state")
        self._action = ActionClient(self, ExecuteSkill, "execute_skill")
        hear(self, messages.EPISODE_LABELS, self._on_labels, LATCHED)
        hear(self, messages.SCENE_STATE, self._on_scene)

    def transition(self, name: str) -> None:
        number = getattr(Transition, f"TRANSITION_{name.upper()}")
        request = ChangeState.Request(transition=Transition(id=number))
        self._change.wait_for_service(30.0)
        while not self.wait(self._change.call_async(request)).success:
            self.spin(0.5)

    def rollout(self, number: int) -> dict[str, Any]:
        """Put the scene at its next start and run the skill from it."""
        if number:
            self._event(messages.encode_string("discard"))
        self.spin(1.5)
        self._start, self.done = self._scene, False
        self.transition("activate")
        goal = ExecuteSkill.Goal(skill=self._skill, max_steps=MAX_STEPS, seed=self._labels["seed"])
        handle = self.wait(self._action.send_goal_async(goal))
        answer, cancelled = handle.get_result_async(), False
        while not answer.done():
            rclpy.spin_once(self, timeout_sec=0.1)
            if self.done and not cancelled:
                handle.cancel_goal_async()
                cancelled = True
        self.spin(0.3)
        result = answer.result().result
        self.transition("deactivate")
        row = {"seed": self._labels["seed"], "through_ros": self.done, "reason": result.reason, "steps": result.steps}
        print(number, row, flush=True)
        return row

    def wait(self, future: Future) -> Any:
        while not future.done():
            rclpy.spin_once(self, timeout_sec=0.1)
        return future.result()

    def spin(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            rclpy.spin_once(self, timeout_sec=0.05)

    def _on_labels(self, labels: str) -> None:
        self._labels = json.loads(labels)

    def _on_scene(self, scene: Any) -> None:
        self._scene = np.asarray(scene)
        if self._start is not None:
            self.done = self.done or succeeded(self._skill, self._start, self._scene)


def through_ros(checkpoint: Path, skill: str, rollouts: int) -> list[dict[str, Any]]:
    """Every rollout from the next start of one simulated robot."""
    words = [f"skill:={skill}", f"checkpoint:={checkpoint}", "robot:=sim", "auto:=false", "success_ticks:=0"]
    command = ["ros2", "launch", "diwa_deploy", "run_skill.launch.py", *words]
    rclpy.init()
    client = Client(skill)
    with subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL) as launch:
        try:
            client.transition("configure")
            return [client.rollout(number) for number in range(rollouts)]
        finally:
            os.killpg(launch.pid, signal.SIGINT)
            client.destroy_node()
            rclpy.try_shutdown()


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
