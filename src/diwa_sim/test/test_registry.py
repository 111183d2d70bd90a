"""Tasks of other packages: found by their entry points, refused one by one where they are wrong."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diwa_data.errors import DiwaError
from diwa_data.skills import Goal
from diwa_sim import tasks
from diwa_sim.scene import SCENE_STATE, SceneObject
from diwa_sim.starts import StartConfig, any_start
from diwa_sim.tasks import PAPER_TASKS, TASKS, Task, Tasks, sample_start, task
from diwa_sim.techniques import Push

MODULE = """
from diwa_sim.tasks import Push, Task, any_start
def made(name):
    return Task(name, lambda start, now: now["cube_x"] - start["cube_x"] - 0.05, any_start, Push("cube", (0.1, 0, 0)))
NUDGE, NO_TASK = made("nudge"), 3
DRAWER = made("open_drawer")
"""
SUMS = [
    4.67669209125685,
    3.767677879421659,
    4.556448750845322,
    4.758134829896025,
    3.624564728040635,
    4.700792041033148,
    4.7146040345881755,
    3.3850248702937558,
    4.455370556883473,
]
"""Sums over the numbers of a start of play and of each of the paper's tasks."""
BALL = '<mujoco><worldbody><body name="it" pos="0.3 0 0.02"><freejoint/><geom size="0.02"/></body></worldbody></mujoco>'


def installed(folder: Path, package: str, module: str, points: str) -> None:
    """A package with one module and these entry points, as pip installs it."""
    (folder / f"{package}.py").write_text(module)
    about = folder / f"{package}-0.3.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 0.3\n")
    (about / "entry_points.txt").write_text(f"[diwa.tasks]\n{points}\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that packages are installed into."""
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_an_installed_task_stands_beside_ours(site: Path) -> None:
    installed(site, "lab_one", MODULE, "nudge = lab_one:NUDGE")
    found = Tasks(tasks._OURS[:1])
    assert list(found) == ["open_drawer", "nudge"]
    assert found["nudge"].name == "nudge"
    assert found.broken == {}


@pytest.mark.parametrize(
    ("points", "said"),
    [
        ("nudge = lab_two:NOTHING", "the task 'nudge' of lab_two 0.3: module 'lab_two' has no attribute 'NOTHING'"),
        ("nudge = lab_gone:NUDGE", "lab_two 0.3: there is no module lab_gone: install the package that brings it"),
        ("nudge = lab_two:NO_TASK", "names a int: lab_two:NO_TASK must be the Task of that name"),
        ("shove = lab_two:NUDGE", "the task 'shove' of lab_two 0.3 names the task 'nudge'"),
    ],
)
def test_a_broken_one_is_told_in_a_line_when_it_is_asked_for_and_takes_no_other_down(
    site: Path, monkeypatch: pytest.MonkeyPatch, points: str, said: str
) -> None:
    installed(site, "lab_two", MODULE, points)
    monkeypatch.setattr(tasks, "TASKS", found := Tasks(tasks._OURS))
    assert set(PAPER_TASKS) <= set(found)
    name = points.split()[0]
    assert name not in found
    with pytest.raises(DiwaError, match=said) as error:
        task(name)
    assert "\n" not in str(error.value)
    assert task("open_drawer") is tasks._OURS[0]


def test_two_tasks_of_one_name_are_refused_and_ours_stays(site: Path) -> None:
    installed(site, "lab_three", MODULE, "nudge = lab_three:NUDGE\nopen_drawer = lab_three:DRAWER")
    installed(site, "lab_four", MODULE, "nudge = lab_four:NUDGE")
    found = Tasks(tasks._OURS[:1])
    assert list(found) == ["open_drawer"]
    assert found["open_drawer"] is tasks._OURS[0]
    assert set(found.broken) == {"nudge", "open_drawer"}
    assert "has the name of another one" in found.broken["nudge"]


def test_an_unknown_task_lists_what_there_is_and_the_nearest() -> None:
    with pytest.raises(DiwaError, match=r"choose one of open_drawer, .*lift_cube.*Did you mean 'push_cube'"):
        task("push_cub")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "Lift"}, "'Lift' cannot name a skill"),
        ({"technique": lambda scene: None}, "technique must be a Technique"),
        ({"start": 3}, "start a function"),
        ({"goal": 0.1}, "goal must be a Goal"),
    ],
)
def test_a_task_of_wrong_parts_is_refused_where_it_is_made(changes: dict, said: str) -> None:
    parts = {"name": "it", "goal": Goal("led", 0, 0.5), "start": any_start, "technique": Push("cube", (0.1, 0, 0))}
    with pytest.raises(DiwaError, match=said):
        Task(**{**parts, **changes})


def test_a_goal_of_a_number_that_the_scene_lacks_is_told() -> None:
    lost = Task("it", lambda start, now: now["mug_z"] - start["mug_z"], any_start, Push("cube", (0.1, 0, 0)))
    with pytest.raises(DiwaError, match=r"the goal of the task 'it' fails \('mug_z'\): the scene state has drawer, "):
        lost.margin(SCENE_STATE, np.zeros(13), np.zeros(13))


def test_two_meanings_of_one_object_are_refused() -> None:
    made = [
        Task(name, Goal("led", 0, 0.5), any_start, Push("ball", (0.1, 0, 0)), "", (SceneObject("ball", mjcf),))
        for name, mjcf in (("one", BALL), ("two", BALL), ("three", BALL.replace("0.02", "0.03")))
    ]
    assert list(Tasks(made[:2]).objects) == ["ball"]
    with pytest.raises(DiwaError, match="the task 'three' brings another object 'ball'"):
        _ = Tasks(made).objects


def test_starts_of_the_papers_tasks_are_what_they_have_been() -> None:
    """Shipped skills and published figures are of these: computed before there were other tasks."""
    starts = {skill: sample_start(skill, 5, StartConfig()) for skill in ("", *PAPER_TASKS)}
    found = {
        skill: [s.drawer, s.slider, s.lever, s.led, *s.cube, *s.hand.position, *s.hand.quaternion]
        for skill, s in starts.items()
    }
    np.testing.assert_allclose([sum(np.abs(values)) for values in found.values()], SUMS, atol=1e-12)


def test_a_new_tasks_starts_come_from_its_name() -> None:
    seeds = [sample_start(name, 5, StartConfig()).hand.position for name in TASKS]
    assert len({tuple(position) for position in seeds}) == len(TASKS)
    again = sample_start("lift_cube", 5, StartConfig()).hand.position
    np.testing.assert_array_equal(again, seeds[list(TASKS).index("lift_cube")])


@pytest.mark.parametrize(
    ("start", "said"),
    [
        (lambda rng, config: (0, 1), "it is a tuple and no Start"),
        (lambda rng, config: replace(any_start(rng, config), drawer=np.nan), "all numbers are finite"),
        (lambda rng, config: replace(any_start(rng, config), cube=np.zeros(2)), "cube and objects have x, y and yaw"),
        (lambda rng, config: rng.dice(), "no attribute 'dice'"),
    ],
)
def test_a_start_that_is_none_is_told(monkeypatch: pytest.MonkeyPatch, start: Any, said: str) -> None:
    wrong = Task("it", Goal("led", 0, 0.5), start, Push("cube", (0.1, 0, 0)))
    monkeypatch.setattr(tasks, "TASKS", Tasks([wrong]))
    with pytest.raises(DiwaError, match=f"the start of the task 'it' fails .*{said}"):
        sample_start("it", 0, StartConfig())
