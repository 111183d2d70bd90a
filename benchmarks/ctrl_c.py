"""Seconds from Ctrl-C to the end of each node, in each of its states, as `ros2 launch` and `ros2 run` start them.

Needs the built and sourced workspace: `python benchmarks/ctrl_c.py`. On a busy machine processes wait for a core. The
kernel knows how long the main thread of each did; what remains without that is what counts.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diwa_data.spec import Spec
from diwa_data.testing.ros import Program, own_domain
from diwa_data.testing.synthetic import record_synthetic

LIMIT = 2.0
"""Seconds that it may take."""
GIVES_UP = 30.0
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
    slow = [row["state"] for row in rows if row["without_waiting"] > LIMIT]
    about = {"cores": os.cpu_count(), "load": os.getloadavg()[0], "limit": LIMIT, "slower": len(slow), "rows": rows}
    arguments.out.write_text(json.dumps(about, indent=1) + "\n")
    print(f"{len(rows)} states, {len(slow)} slower than {LIMIT:g} s{': ' if slow else ''}{', '.join(slow)}")


def measure(case: Case) -> dict[str, Any]:
    """One state: seconds until everything had ended, and those of each process."""
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
            processes, begun = Processes(program.pid), time.monotonic()
            program.send_signal()
            while program.running and time.monotonic() - begun < GIVES_UP:
                processes.look(time.monotonic() - begun)
                time.sleep(0.01)
            processes.look(time.monotonic() - begun)
            status = program.wait() if not program.running else -9
        finally:
            program.kill()
    return {
        "state": case.state,
        **processes.slowest(),
        "status": status,
        "nodes": processes.rows(),
        "command": " ".join(words),
    }


class Processes:
    """The processes of a session, until each is gone: when that was, and how long its main thread waited for a core."""

    def __init__(self, session: int):
        self._session, self._pids = session, dict[int, str]()
        self._begun: dict[int, float] = {}
        self._waited: dict[int, float] = {}
        self._ended: dict[int, float] = {}
        for path in Path("/proc").glob("[0-9]*"):
            pid = int(path.name)
            if self._session_of(pid) == session:
                self._pids[pid] = self._name(pid)
                self._begun[pid] = self._waited[pid] = self._waiting(pid)

    def look(self, now: float) -> None:
        """Call it again and again, `now` seconds after the signal."""
        for pid in self._pids.keys() - self._ended.keys():
            if self._session_of(pid) == self._session:
                self._waited[pid] = self._waiting(pid)
                self._ended.pop(pid, None)
            else:
                self._ended[pid] = now

    def rows(self) -> dict[str, tuple[float, float]]:
        """Name -> seconds until it had ended, and those of them in which it did not wait for a core."""
        found = {}
        for pid, name in self._pids.items():
            ended = self._ended.get(pid, GIVES_UP)
            waited = self._waited[pid] - self._begun[pid]
            found[name] = (round(ended, 2), round(max(0.0, ended - waited), 2))
        return found

    def slowest(self) -> dict[str, float]:
        """The longest of both."""
        whole, alone = (max(each) for each in zip(*self.rows().values(), strict=True))
        return {"seconds": whole, "without_waiting": alone}

    @staticmethod
    def _session_of(pid: int) -> int:
        with suppress(OSError, IndexError, ValueError):
            state, _, _, session, *_ = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            return 0 if state in "ZX" else int(session)
        return 0

    @staticmethod
    def _waiting(pid: int) -> float:
        with suppress(OSError, IndexError, ValueError):
            return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[1]) / 1e9
        return 0.0

    @staticmethod
    def _name(pid: int) -> str:
        words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        named = [word.removeprefix("__node:=") for word in words if word.startswith("__node:=")]
        return named[0] if named else Path(next((word for word in words[1:] if "/" in word), words[0])).name


def record_play(folder: Path) -> None:
    """A little dataset of play."""
    from diwa_data.dataset.dataset import DatasetConfig, build_dataset

    record_synthetic(folder / "play", Spec(), 20.0, {"source": "play", "skill": "", "seed": 1})
    build_dataset([folder / "play"], folder / "play.h5", DatasetConfig())


if __name__ == "__main__":
    main()
