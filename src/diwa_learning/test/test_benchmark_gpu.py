"""The benchmark of a GPU runs to its end in small where there is none."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
import gpu


def test_it_leaves_its_table(tmp_path, monkeypatch):
    """All rows, measured in this process."""
    monkeypatch.setattr(gpu, "measure", lambda make, sizes, at_a_time=1, eager=False: (make(sizes)() or 0.5, 0.1))
    gpu.main(["--small", "--rounds", "1", "--at-a-time", "3", "--out", str(tmp_path / "gpu.json")])
    rows = {row["name"]: row for row in json.loads((tmp_path / "gpu.json").read_text())["rows"]}
    assert rows["world_model"]["value"] == 2
    assert rows["3_at_a_time_5M_actions_each"]["ratio"] == 3


def test_processes_run_at_a_time():
    seconds, memory = gpu.measure(gpu.finetuning_iteration, gpu.Sizes.of(small=True, rounds=1), at_a_time=2)
    assert 0 < seconds < 60
    assert memory > 0.1
