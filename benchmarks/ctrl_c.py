"""Seconds from Ctrl-C to the end of each node, in each of its states, as `ros2 launch` and `ros2 run` start them.

Needs the built and sourced workspace, and a machine that does nothing else: `python benchmarks/ctrl_c.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diwa_data.spec import Spec
from diwa_data.testing.ros import Program, own_domain
from diwa_data.testing.synthetic import record_synthetic

LIMIT = 2.0
"""Seconds that it may take."""
ENDED = re.compile(r"\[(\w+?)(?:_node)?-\d+\]: process (?:has finished cleanly|has died)")
P = ("--ros-args", "-p")
SIM = ("robot:=sim",)
SKILL = ("launch", "diwa_deploy", "run_skill.launch.py", *SIM)
RECORD = ("launch", "diwa_data", "teleop_record.launch.py", *SIM, "device:=scripted", "bag_dir:={tmp}/bags")
TRAIN = ("launch", "diwa_learning", "train.launch.py", "dataset:={tmp}/play.h5", "out:={tmp}/out", "stage:=world_model")


@dataclass(frozen=True)
class Case:
    """A state of a graph: the words after `ros2` that start it, the line that it says then, and how long after it."""

    state: str
    words: tuple[str, ...]
    says: str = ""
    seconds: float = 0.0


FOREVER = ("skill:=turn_on_led", "success_ticks:=0", "max_steps:=1000")
CASES = (
    Case("skill: 1 s after its start", (*SKILL, "skill:=turn_on_led"), "", 1.0),
    Case("skill: 3 s after its start", (*SKILL, "skill:=turn_on_led"), "", 3.0),
    Case("skill: waits to be configured", (*SKILL, "skill:=turn_on_led", "auto:=false"), "", 15.0),
    Case("skill: loads the second of seven", (*SKILL, "sequence:={skills}"), "is loaded", 0.0),
    Case("skill: runs", (*SKILL, *FOREVER), "is loaded", 4.0),
    Case("skill: runs and is recorded", (*SKILL, *FOREVER, "record:=true", "bag_dir:={tmp}"), "recording 000000", 4.0),
    Case("skill: moves between two", (*SKILL, "sequence:=turn_on_led open_drawer"), "2 of 2: move to", 1.0),
    Case("teleoperation: before an episode", RECORD, "goes into", 0.5),
    Case("teleoperation: in an episode", RECORD, "recording 000000", 6.0),
    Case("training: of a world model", TRAIN, "", 30.0),
    Case("camera: without a driver", ("run", "diwa_data", "camera_node", *P, "robot.static.driver:=/none"), "", 4.0),
    Case("adapter: waits for an arm", ("run", "diwa_data", "adapter_node", *P, "robot.topics.joints:=/j"), "", 4.0),
    Case("run_skill: waits for policy", ("run", "diwa_deploy", "run_skill_node", *P, "skill:=open_drawer"), "", 4.0),
    Case("preflight: listens", ("run", "diwa_deploy", "preflight", *P, "seconds:=30.0"), "", 4.0),
)
SEVEN = "open_drawer close_drawer move_slider_left move_slider_right turn_on_lightbulb turn_off_lightbulb turn_on_led"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/results/ros_ctrl_c.json"))
    parser.add_argument("--only", default="", help="states whose names hold this text")
    arguments = parser.parse_args()
    rows = []
    for case in CASES:
        if arguments.only in case.state:
            rows.append(measure(case))
            print(json.dumps(rows[-1]), flush=True)
    slow = [row["state"] for row in rows if row["seconds"] > LIMIT]
    about = {"cores": os.cpu_count(), "load": os.getloadavg()[0], "limit": LIMIT, "slower": len(slow), "rows": rows}
    arguments.out.write_text(json.dumps(about, indent=1) + "\n")
    print(f"{len(rows)} states, {len(slow)} slower than {LIMIT:g} s{': ' if slow else ''}{', '.join(slow)}")


def measure(case: Case) -> dict[str, Any]:
    """One state: seconds until the command ended, and those of each node that it had started."""
    with tempfile.TemporaryDirectory() as tmp, own_domain() as domain:
        words = [word.format(tmp=tmp, skills=SEVEN) for word in case.words]
        if any("play.h5" in word for word in words):
            record_play(Path(tmp))
        program = Program(domain, "ros2", *words)
        try:
            program.wait_for(case.says, 120.0) if case.says else None
            time.sleep(case.seconds)
            if not program.running:
                raise SystemExit(f"{case.state}: ended by itself: {program.said[-5:]}")
            program.forget()
            begun = time.monotonic()
            nodes, status = ends(program, begun)
        finally:
            program.kill()
    row = {"state": case.state, "seconds": round(max(nodes.values()), 2), "status": status}
    return row | {"nodes": {name: round(seconds, 2) for name, seconds in nodes.items()}, "command": " ".join(words)}


def ends(program: Program, begun: float) -> tuple[dict[str, float], int]:
    """Send Ctrl-C: seconds after which each process had ended, the command itself as `ros2`; its exit status."""
    program.send_signal()
    nodes: dict[str, float] = {}
    read = 0
    while program.running and time.monotonic() - begun < 30.0:
        for line in program.said[read:]:
            read += 1
            if found := ENDED.search(line):
                nodes.setdefault(found.group(1), time.monotonic() - begun)
        time.sleep(0.005)
    nodes["ros2"] = time.monotonic() - begun
    return nodes, program.wait()


def record_play(folder: Path) -> None:
    """A little dataset of play."""
    from diwa_data.dataset.dataset import DatasetConfig, build_dataset

    record_synthetic(folder / "play", Spec(), 20.0, {"source": "play", "skill": "", "seed": 1})
    build_dataset([folder / "play"], folder / "play.h5", DatasetConfig())


if __name__ == "__main__":
    main()
