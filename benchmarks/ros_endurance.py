"""One skill that never ends: deadlines, the target's rate, CPU and memory of the deployment node.

Needs the built and sourced workspace: `python benchmarks/ros_endurance.py --checkpoint runs/demo/skills/open_drawer`.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from policy_client import PolicyClient, running_skill
from processes import node_pid, summary, usage

from diwa_data.recording import messages
from diwa_data.ros.topics import subscribe
from diwa_deploy.bundle import load_bundle
from diwa_interfaces.action import ExecuteSkill

RATE, TARGETS = 7.5, 60.0
SETTLE = 10.0  # seconds at the start that are not measured


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


class Client(PolicyClient):
    """Keeps when steps and targets came, and what the node says of itself."""

    def __init__(self) -> None:
        super().__init__("endurance")
        self.steps: list[float] = []
        self.ages: list[float] = []
        self.targets: list[float] = []
        self.told: dict[str, str] = {}
        subscribe(self, messages.TARGET_POSE, lambda _: self.targets.append(time.monotonic()), 100)
        self.create_subscription(DiagnosticArray, messages.DIAGNOSTICS, self._on_diagnostics, 10)

    def on_feedback(self, message: Any) -> None:
        """One step of the skill."""
        self.steps.append(time.monotonic())
        self.ages.append(message.feedback.frame_age)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name == "policy: arm":
                self.told = {pair.key: pair.value for pair in status.values}


def run(checkpoint: Path, skill: str, seconds: float) -> dict[str, Any]:
    """The measured figures."""
    rclpy.init()
    client = Client()
    with running_skill(skill, checkpoint) as group:
        client.transition("configure")
        client.transition("activate")
        handle = client.send(ExecuteSkill.Goal(skill=skill, max_steps=10**8), client.on_feedback)
        client.spin(SETTLE)
        for kept in (client.steps, client.ages, client.targets):
            kept.clear()
        before, pid, samples = dict(client.told), node_pid("policy", group), []
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            client.spin(min(5.0, max(0.1, end - time.monotonic())))
            samples.append((time.monotonic(), *usage(pid)))
        client.spin(1.1)
        result = measured(client, before) | {"policy": summary(np.array(samples))}
        handle.cancel_goal_async()
        result["reason"] = client.wait(handle.get_result_async()).result.reason
    rclpy.shutdown()
    return result


def measured(client: Client, before: dict[str, str]) -> dict[str, Any]:
    """Deadlines against what the node reported, and both streams."""
    gaps, targets = np.diff(client.steps), np.diff(client.targets)
    missed = round(float(gaps.sum()) * RATE) - len(gaps)  # ticks that passed without a step
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
