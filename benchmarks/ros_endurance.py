"""One skill that never ends: deadlines, the target's rate, CPU and memory of the deployment node.

Needs the built and sourced workspace: `python benchmarks/ros_endurance.py --checkpoint runs/demo/skills/open_drawer`.
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
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from processes import node_pid, summary, usage
from rclpy.action import ActionClient
from rclpy.node import Node
from rclpy.task import Future

from diwa_data import messages
from diwa_data.ros.topics import hear
from diwa_deploy.bundle import load_bundle
from diwa_interfaces.action import ExecuteSkill

RATE, TARGETS = 7.5, 60.0
SETTLE = 10.0  # seconds at the start that are not measured
LATE = 1.5  # ticks between two steps from which one was missed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--out", type=Path, default=Path("docs/results/ros_endurance.json"))
    arguments = parser.parse_args()
    skill = load_bundle(arguments.checkpoint).skill
    result = {"minutes": arguments.minutes, **run(arguments.checkpoint.resolve(), skill, 60 * arguments.minutes)}
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


class Client(Node):
    """Sends the goal, and keeps when steps and targets came."""

    def __init__(self) -> None:
        super().__init__("endurance")
        self.steps: list[float] = []
        self.ages: list[float] = []
        self.targets: list[float] = []
        self.told: dict[str, str] = {}
        self._change = self.create_client(ChangeState, "/policy/change_state")
        self._action = ActionClient(self, ExecuteSkill, "execute_skill")
        hear(self, messages.TARGET_POSE, lambda _: self.targets.append(time.monotonic()), 100)
        self.create_subscription(DiagnosticArray, messages.DIAGNOSTICS, self._on_diagnostics, 10)

    def bring_up(self) -> None:
        """Configure and activate."""
        self._change.wait_for_service(30.0)
        for number in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
            request = ChangeState.Request(transition=Transition(id=number))
            while not self.wait(self._change.call_async(request)).success:
                self.spin(0.5)

    def send(self, skill: str) -> Any:
        """A goal without an end; its handle."""
        goal = ExecuteSkill.Goal(skill=skill, max_steps=10**8)
        return self.wait(self._action.send_goal_async(goal, feedback_callback=self._on_feedback))

    def wait(self, future: Future) -> Any:
        while not future.done():
            rclpy.spin_once(self, timeout_sec=0.1)
        return future.result()

    def spin(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            rclpy.spin_once(self, timeout_sec=0.05)

    def _on_feedback(self, message: Any) -> None:
        self.steps.append(time.monotonic())
        self.ages.append(message.feedback.frame_age)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name == "policy: arm":
                self.told = {pair.key: pair.value for pair in status.values}


def run(checkpoint: Path, skill: str, seconds: float) -> dict[str, Any]:
    """What was measured."""
    words = [f"skill:={skill}", f"checkpoint:={checkpoint}", "robot:=sim", "auto:=false", "success_ticks:=0"]
    rclpy.init()
    client = Client()
    command = ["ros2", "launch", "diwa_deploy", "run_skill.launch.py", *words]
    with subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL) as launch:
        try:
            client.bring_up()
            handle = client.send(skill)
            client.spin(SETTLE)
            for kept in (client.steps, client.ages, client.targets):
                kept.clear()
            before, pid, samples = dict(client.told), node_pid("policy", launch.pid), []
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                client.spin(min(5.0, max(0.1, end - time.monotonic())))
                samples.append((time.monotonic(), *usage(pid)))
            client.spin(1.1)
            result = measured(client, before) | {"policy": summary(np.array(samples))}
            handle.cancel_goal_async()
            return result | {"reason": client.wait(handle.get_result_async()).result.reason}
        finally:
            os.killpg(launch.pid, signal.SIGINT)
            client.destroy_node()
            rclpy.try_shutdown()


def measured(client: Client, before: dict[str, str]) -> dict[str, Any]:
    """Deadlines against what the node reported, and both streams."""
    gaps, targets = np.diff(client.steps), np.diff(client.targets)
    missed = int(np.round(gaps[gaps > LATE / RATE] * RATE - 1).sum())
    return {
        "steps": len(client.steps),
        "steps_per_second": round(1 / float(gaps.mean()), 4),
        "ticks_missed": missed,
        "ticks_missed_that_the_node_reported": int(client.told["missed ticks"]) - int(before["missed ticks"]),
        "limits": {name: value for name, value in client.told.items() if name.startswith("limit ")},
        "frame_to_command_ms": {p: round(1e3 * float(np.percentile(client.ages, p)), 1) for p in (50, 99, 100)},
        "targets_per_second": round(1 / float(targets.mean()), 3),
        "largest_gap_between_targets_ms": round(1e3 * float(targets.max()), 1),
    }


if __name__ == "__main__":
    main()
