"""Phases with real files: what is finished is skipped, what fails stops only what needs it, inline and on Ray."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import cv2
import pytest
import torch

from diwa_cli.pipeline.execute import ALL_CORES, Phase, run_inline
from diwa_cli.pipeline.plan import Sweep, SweepConfig
from diwa_cli.pipeline.ray import BuildOnRayJob, resources, room_of, run_on_ray
from diwa_cli.pipeline.sweep import execute
from diwa_cli.run_folder import SweepFolder
from diwa_data.config import Job, Source
from diwa_data.dataset.align import DatasetConfig
from diwa_data.dataset.dataset import load_dataset
from diwa_data.errors import DiwaError
from diwa_data.spec import CameraSpec, Spec
from diwa_data.testing.synthetic import record_synthetic

SOURCE = Source("debug")


@dataclass(frozen=True)
class Copy(Job):
    """Copies a file."""

    command_name: ClassVar[str] = "copy"

    source: Path
    out: Path

    def run(self):
        os.link(self.source, self.out)


@dataclass(frozen=True)
class Die(Job):
    """Its process is killed, `times` over, then it is done."""

    command_name: ClassVar[str] = "die"

    out: Path
    times: int

    def run(self):
        tries = self.out.with_suffix(".tries")
        with tries.open("a") as file:
            file.write("x")
        if len(tries.read_text()) <= self.times:
            os.kill(os.getpid(), signal.SIGKILL)
        self.out.write_text("done")


@dataclass(frozen=True)
class CountThreads(Job):
    """Says how many threads the libraries use, and when it began and ended."""

    command_name: ClassVar[str] = "count"

    out: Path

    def run(self):
        print(f"{self.out.name} speaks")
        began = time.time()
        time.sleep(0.5)
        threads = f"{torch.get_num_threads()} {cv2.getNumThreads()} {os.environ['OMP_NUM_THREADS']}"
        self.out.write_text(f"{threads} {began} {time.time()}")


@pytest.fixture(scope="module")
def local_ray():
    """Ray on two cores, two phases at a time."""
    ray = pytest.importorskip("ray")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)
    yield lambda phases, folder: run_on_ray(phases, folder, SOURCE, "", jobs=2)
    ray.shutdown()


@pytest.fixture(params=["inline", "ray"])
def run_phases(request):
    if request.param == "ray":
        return request.getfixturevalue("local_ray")
    return lambda phases, folder: run_inline(phases, folder, SOURCE)


def copies(folder, name, source, *after):
    return Phase(name, Copy(folder / source, folder / name), after)


def test_what_needs_a_failed_phase_is_left_out_however_far_away(tmp_path, capsys):
    (tmp_path / "a").write_text("text")
    phases = [
        copies(tmp_path, "b", "a"), copies(tmp_path, "broken", "nowhere"), copies(tmp_path, "c", "broken", "broken"),
        copies(tmp_path, "d", "b", "b"), copies(tmp_path, "e", "c", "c"), copies(tmp_path, "f", "d", "d"),
    ]  # fmt: skip
    folder = SweepFolder(tmp_path)
    found = run_inline(phases, folder, SOURCE)
    assert (tmp_path / "f").read_text() == "text"
    assert list(found.failed) == ["broken"]
    assert found.failed["broken"].startswith("FileNotFoundError: ")
    assert found.left_out == {"c": "broken", "e": "broken"}
    out = capsys.readouterr().out
    assert "[e] left out: broken failed" in out
    assert f"[b] diwa copy --source {tmp_path / 'a'} --out {tmp_path / 'b'}" in out

    (tmp_path / "nowhere").write_text("mended")
    found = run_inline(phases, folder, SOURCE)
    assert (found.failed, found.left_out) == ({}, {})
    assert (tmp_path / "e").read_text() == "mended"
    out = capsys.readouterr().out
    assert {name for name in "bcdef" if f"[{name}] finished earlier" in out} == {"b", "d", "f"}


def test_a_failure_stops_nothing_else_and_is_tried_again(run_phases, tmp_path, capsys):
    (tmp_path / "a").write_text("text")
    phases = [copies(tmp_path, "b", "a"), copies(tmp_path, "broken", "nowhere"), copies(tmp_path, "c", "a")]
    phases.append(copies(tmp_path, "d", "broken", "broken"))
    folder = SweepFolder(tmp_path)
    found = run_phases(phases, folder)
    assert (found.done, list(found.failed), found.left_out) == ({"b", "c"}, ["broken"], {"d": "broken"})
    (tmp_path / "nowhere").write_text("mended")
    found = run_phases(phases, folder)
    assert (found.done, found.failed, found.left_out) == ({"b", "broken", "c", "d"}, {}, {})
    assert (tmp_path / "d").read_text() == "mended"
    assert capsys.readouterr().out.count("finished earlier") == 2


def test_a_phase_whose_process_dies_is_tried_again_and_fails_alone(local_ray, tmp_path):
    (tmp_path / "a").write_text("text")
    once, always = Phase("once", Die(tmp_path / "y", 1)), Phase("always", Die(tmp_path / "x", 9))
    phases = [always, once, copies(tmp_path, "b", "a"), copies(tmp_path, "c", "x", "always")]
    found = local_ray(phases, SweepFolder(tmp_path))
    assert list(found.failed) == ["always"]
    assert found.failed["always"].startswith("Ray: ")
    assert found.left_out == {"c": "always"}
    assert found.done == {"once", "b"}
    assert (tmp_path / "x.tries").read_text() == "xx"


def test_on_ray_no_more_threads_run_than_there_are_cores(local_ray, tmp_path):
    phases = [Phase(name, CountThreads(tmp_path / name)) for name in "abc"]
    phases.append(Phase("all", CountThreads(tmp_path / "all"), cores=ALL_CORES))
    folder = SweepFolder(tmp_path)
    assert local_ray(phases, folder).done == {"a", "b", "c", "all"}
    assert folder.output("b").read_text() == f"diwa count --out {tmp_path / 'b'}\nb speaks\n"
    told = {
        path: [float(number) for number in (tmp_path / path).read_text().split()] for path in ("a", "b", "c", "all")
    }
    assert [told[name][:3] for name in ("a", "b", "c", "all")] == [[1, 1, 1], [1, 1, 1], [1, 1, 1], [2, 2, 2]]
    for _, _, _, began, _ in told.values():
        assert sum(cores for cores, _, _, first, last in told.values() if first <= began < last) <= 2


def test_a_dataset_built_on_ray_is_the_same(local_ray, tmp_path):
    spec = Spec(cameras=(CameraSpec("static", (40, 48)),))
    bags = [record_synthetic(tmp_path / "bags", spec, 2.0, {"source": "play", "skill": ""}) for _ in range(2)]
    for out, ray in (("here.h5", ""), ("ray.h5", "local")):
        BuildOnRayJob(tuple(bags), tmp_path / out, DatasetConfig(workers=1), ray=ray).run()
    here, there = (load_dataset(tmp_path / name).episodes for name in ("here.h5", "ray.h5"))
    assert [episode.name for episode in here] == [episode.name for episode in there] == ["000000", "000001"]
    assert all((one.action == two.action).all() for one, two in zip(here, there, strict=True))


WAITING = """
import sys, time
from dataclasses import dataclass
from pathlib import Path

from diwa_cli.pipeline.execute import Phase
from diwa_cli.pipeline.ray import run_on_ray
from diwa_cli.run_folder import SweepFolder
from diwa_data.config import Job, Source

@dataclass(frozen=True)
class Wait(Job):
    out: Path
    command_name = "wait"

    def run(self):
        try:
            self.out.with_name("begun").touch()
            while True:
                time.sleep(0.1)
        except KeyboardInterrupt:
            self.out.with_name("saved").touch()
            raise

if __name__ == "__main__":
    folder = SweepFolder(Path(sys.argv[1]))
    run_on_ray([Phase("wait", Wait(folder.path / "out"))], folder, Source("debug"), "", jobs=2)
"""


def test_ctrl_c_lets_phases_on_ray_save(tmp_path):
    pytest.importorskip("ray")
    (tmp_path / "script.py").write_text(WAITING)
    run = subprocess.Popen([sys.executable, tmp_path / "script.py", tmp_path], start_new_session=True)
    while not (tmp_path / "begun").exists():
        assert run.poll() is None
        time.sleep(0.1)
    os.killpg(run.pid, signal.SIGINT)
    assert run.wait(timeout=60) in (-signal.SIGINT, 1)
    assert (tmp_path / "saved").exists()
    assert not SweepFolder(tmp_path).log("wait").is_done


def test_our_errors_are_told_in_their_own_words(tmp_path, monkeypatch):
    monkeypatch.setattr(Copy, "run", lambda self: load_dataset(self.source))
    found = run_inline([copies(tmp_path, "a", "nowhere.h5")], SweepFolder(tmp_path), SOURCE)
    assert found.failed["a"] == f"no dataset {tmp_path / 'nowhere.h5'}: build it with 'diwa build-dataset'"


def test_phases_ask_for_no_more_than_a_machine_has():
    nodes = [
        {"Alive": True, "Resources": {"CPU": 8.0}},
        {"Alive": True, "Resources": {"CPU": 4.0, "GPU": 1.0}},
        {"Alive": False, "Resources": {"CPU": 64.0}},
    ]
    cluster = room_of(nodes)
    assert cluster == {"CPU": 8.0, "GPU": 1.0}
    job = Copy(Path("a"), Path("b"))
    learning = type("Learning", (Copy,), {"section": "policy"})(Path("a"), Path("b"))
    assert resources(Phase("x", learning, cores=ALL_CORES), cluster, 1) == {"num_cpus": 8.0, "num_gpus": 1}
    assert resources(Phase("x", job, cores=2), cluster, 1) == {"num_cpus": 2}
    assert resources(Phase("x", learning), {"CPU": 2.0, "GPU": 1.0}, 1 / 4) == {"num_cpus": 1, "num_gpus": 0.25}


def test_without_ray_phases_run_inline_and_a_cluster_is_one_error(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (tmp_path / "a").write_text("text")
    phases, folder = [copies(tmp_path, "b", "a")], SweepFolder(tmp_path)
    assert execute(phases, folder, Sweep(SweepConfig(jobs=2), SOURCE)).done == {"b"}
    first, *_ = capsys.readouterr().out.splitlines()
    assert first.startswith("phases run one after the other: --jobs 2 needs Ray: ")
    (tmp_path / "b").unlink()
    with pytest.raises(DiwaError, match=r"--ray needs Ray: .*pip install -e '\.\[scale\]'"):
        execute(phases, folder, Sweep(SweepConfig(ray="auto"), SOURCE))
