"""Phases with real files: what is finished is skipped, what fails stops only what needs it, here and on Ray."""

import os
import re
import sys
from functools import partial
from pathlib import Path

import pytest

from diwa_cli.pipeline.execute import run_here
from diwa_cli.pipeline.jobs import ALL_CORES, Phase, Training
from diwa_cli.pipeline.plan import Stage
from diwa_cli.pipeline.ray import resources, room_of, run_on_ray
from diwa_cli.run_folder import SweepFolder
from diwa_data.dataset.dataset import load_dataset
from diwa_data.errors import DiwaError


def on_ray(stages, folder):
    pytest.importorskip("ray")
    return run_on_ray(stages, folder, "local")


EXECUTORS = {
    "one after the other": partial(run_here, workers=1),
    "two at a time": partial(run_here, workers=2),
    "ray": on_ray,
}


@pytest.fixture(params=EXECUTORS.values(), ids=EXECUTORS)
def execute(request):
    return request.param


def copies(folder, name, source, *after):
    """A phase that copies a file."""
    out = folder / name
    return Phase(name, f"cp {source} {out}", out, partial(os.link, folder / source, out), after)


def test_what_needs_a_failed_phase_is_left_out_however_far_away(tmp_path, capsys):
    (tmp_path / "a").write_text("text")
    stages = [
        Stage("one", (copies(tmp_path, "b", "a"), copies(tmp_path, "broken", "nowhere"))),
        Stage("two", (copies(tmp_path, "c", "broken", "broken"), copies(tmp_path, "d", "b", "b"))),
        Stage("three", (copies(tmp_path, "e", "c", "c"), copies(tmp_path, "f", "d", "d"))),
    ]
    folder = SweepFolder(tmp_path)
    found = run_here(stages, folder, workers=1)
    assert (tmp_path / "f").read_text() == "text"
    assert list(found.failed) == ["broken"]
    assert found.failed["broken"].startswith("FileNotFoundError: ")
    assert found.left_out == {"c": "broken", "e": "broken"}
    assert "[e] left out: broken failed" in capsys.readouterr().out

    (tmp_path / "nowhere").write_text("mended")
    found = run_here(stages, folder, workers=1)
    assert (found.failed, found.left_out) == ({}, {})
    assert (tmp_path / "e").read_text() == "mended"
    out = capsys.readouterr().out
    assert {name for name in "bcdef" if f"[{name}] finished earlier" in out} == {"b", "d", "f"}
    run_here(stages, folder, workers=1)
    assert capsys.readouterr().out.count("finished earlier") == 6


def test_phases_side_by_side_say_how_many_are_done_and_when_the_rest_will_be(tmp_path, capsys):
    (tmp_path / "a").write_text("text")
    phases = (copies(tmp_path, "b", "a"), copies(tmp_path, "c", "a"), copies(tmp_path, "broken", "nowhere"))
    run_here([Stage("copy", phases)], SweepFolder(tmp_path), workers=2)
    assert re.search(r"^copy: 3/3 phases, [\d.]+/s, ETA 0:00$", capsys.readouterr().out, re.MULTILINE)


def test_a_failure_stops_nothing_else_and_is_tried_again(execute, tmp_path, capsys):
    (tmp_path / "a").write_text("text")
    phases = (copies(tmp_path, "b", "a"), copies(tmp_path, "broken", "nowhere"), copies(tmp_path, "c", "a"))
    stages = [Stage("one", phases), Stage("two", (copies(tmp_path, "d", "broken", "broken"),))]
    folder = SweepFolder(tmp_path)
    found = execute(stages, folder)
    assert (found.done, list(found.failed), found.left_out) == ({"b", "c"}, ["broken"], {"d": "broken"})
    (tmp_path / "nowhere").write_text("mended")
    found = execute(stages, folder)
    assert (found.done, found.failed, found.left_out) == ({"b", "broken", "c", "d"}, {}, {})
    assert (tmp_path / "d").read_text() == "mended"
    assert capsys.readouterr().out.count("finished earlier") == 2


@pytest.mark.parametrize("executor", ["two at a time", "ray"])
def test_a_phase_whose_process_dies_has_failed(executor, tmp_path):
    (tmp_path / "a").write_text("text")
    dying = Phase("dying", "die", tmp_path / "x", partial(os._exit, 3))
    stages = [Stage("one", (dying, copies(tmp_path, "b", "a"))), Stage("two", (copies(tmp_path, "c", "x", "dying"),))]
    found = EXECUTORS[executor](stages, SweepFolder(tmp_path))
    assert list(found.failed) == ["dying"]
    assert found.failed["dying"]
    assert found.left_out == {"c": "dying"}
    assert (tmp_path / "b").is_file()


def test_our_errors_are_told_in_their_own_words(tmp_path):
    nowhere = tmp_path / "nowhere.h5"
    phase = Phase("a", "load", nowhere, partial(load_dataset, nowhere))
    found = run_here([Stage("one", (phase,))], SweepFolder(tmp_path), workers=2)
    assert found.failed["a"] == f"no dataset {nowhere}: build it with 'diwa build-dataset'"


def test_what_a_phase_in_another_process_prints_is_kept(tmp_path):
    phases = tuple(Phase(name, f"say {name}", Path(name), partial(print, f"{name} speaks")) for name in "ab")
    folder = SweepFolder(tmp_path)
    EXECUTORS["two at a time"]([Stage("one", phases)], folder)
    assert folder.output("b").read_text() == "say b\nb speaks\n"


def test_phases_ask_for_no_more_than_a_machine_has():
    nodes = [
        {"Alive": True, "Resources": {"CPU": 8.0}},
        {"Alive": True, "Resources": {"CPU": 4.0, "GPU": 1.0}},
        {"Alive": False, "Resources": {"CPU": 64.0}},
    ]
    room = room_of(nodes)
    assert room == {"CPU": 8.0, "GPU": 1.0}
    world_model = Phase("x", "x", Path("x"), print, cores=ALL_CORES, learns=True)
    evaluation = Phase("x", "x", Path("x"), print, cores=2)
    assert resources(world_model, room) == {"num_cpus": 8.0, "num_gpus": 1}
    assert resources(evaluation, room) == {"num_cpus": 2}
    assert resources(world_model, {"CPU": 2.0, "GPU": 0}) == {"num_cpus": 2.0}


def test_without_ray_there_is_one_line_that_cures_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    stage = Stage("one", (Phase("a", "a", tmp_path / "a", print),))
    with pytest.raises(DiwaError, match=r"--ray needs Ray: .*pip install -e '\.\[scale\]'"):
        run_on_ray([stage], SweepFolder(tmp_path), "local")


def learn(jobs, world_model):
    """A training of several files at once; one that is called "bad" cannot be."""
    for out in jobs:
        if out.name == "bad" and not (out.parent / "mended").exists():
            raise DiwaError(f"{out} cannot be trained")
    for out in jobs:
        out.write_text(f"{len(jobs)} together on {world_model}")


def trains(folder, name):
    out = folder / name
    return Phase(name, f"train {out}", out, Training(learn, out, Path("wm")))


def test_stacked_trainings_are_one_call_and_one_at_fault_stops_none(tmp_path, capsys):
    folder = SweepFolder(tmp_path)
    (tmp_path / "x").write_text("text")
    stage = Stage("train", (trains(tmp_path, "a"), trains(tmp_path, "b"), copies(tmp_path, "c", "x")))
    found = run_here([stage], folder, workers=1, stacked=True)
    assert (found.done, found.failed) == ({"a", "b", "c"}, {})
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text() == "2 together on wm"

    more = Stage("train", (*stage.phases, trains(tmp_path, "bad"), trains(tmp_path, "d")))
    found = run_here([more], folder, workers=1, stacked=True)
    assert (found.done, list(found.failed)) == ({"a", "b", "c", "d"}, ["bad"])
    assert (tmp_path / "d").read_text() == "1 together on wm"
    assert "2 stacked trainings failed" in capsys.readouterr().err
    (tmp_path / "mended").touch()
    assert not run_here([more], folder, workers=1, stacked=True).failed
