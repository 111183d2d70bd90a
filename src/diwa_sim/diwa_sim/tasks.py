"""Tasks at the simulated table: when one is done, where it begins, and how an operator does it.

Goals have CALVIN's meaning, over the scene state at the reset and now. They serve evaluation and DPPO, never DiWA's
training. Other packages register tasks of their own as entry points in the group `diwa.tasks`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from importlib import resources
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import numpy as np

from diwa_data.config import load_object
from diwa_data.errors import DiwaError, damage_as_error, unknown
from diwa_data.skills import Goal, skill_name
from diwa_sim.scene import SCENE_STATE, SceneObject, with_objects
from diwa_sim.starts import DRAWER_OPEN, LEVER_ON, SLIDER_LEFT, Start, StartConfig, any_start, lying
from diwa_sim.steps import Scene, up
from diwa_sim.techniques import Carry, Push, Stroke, Technique

GROUP = "diwa.tasks"
"""Group of the entry points that name a `Task`."""
Numbers = Mapping[str, Any]
"""Name -> number of the scene state, or array of it at many times."""


@dataclass(frozen=True, eq=False)
class Task:
    """Something to do at the table."""

    name: str
    goal: Goal | Callable[[Numbers, Numbers], Any]
    """By how much the scene now exceeds what makes the task done, 0 or more if it does: of the scene state at the reset
    and now."""
    start: Callable[[np.random.Generator, Any], Any]
    """Draws a start from the simulator's settings, at the table a `StartConfig`; `any_start` is that of play."""
    technique: Technique
    """How the scripted operator does it."""
    text: str = ""
    """It in a line."""
    objects: tuple[SceneObject, ...] = ()
    """Objects that it adds to the table."""

    def __post_init__(self) -> None:
        skill_name(self.name)
        if not isinstance(self.technique, Technique) or not callable(self.start):
            raise DiwaError(f"task {self.name!r}: technique must be a Technique, and start a function that draws one")
        if not isinstance(self.goal, Goal) and not callable(self.goal):
            raise DiwaError(
                f"task {self.name!r}: goal must be a Goal, or a function of the numbers at the start and now"
            )

    def margin(self, names: Sequence[str], start: np.ndarray, now: np.ndarray) -> np.ndarray:
        """By how much the scene states `now` (..., N) exceed the goal, having begun at `start` (N,); >= 0 is done.

        `names` are those of the N numbers. Raises `DiwaError` if the goal asks for another number, or fails.
        """
        if isinstance(self.goal, Goal):
            i = names.index(self.goal.quantity)
            return self.goal.margin(now[..., i], start[i])
        with damage_as_error(f"the goal of the task {self.name!r} fails", f"the scene state has {', '.join(names)}"):
            return self.goal(
                dict(zip(names, start, strict=True)), dict(zip(names, np.moveaxis(now, -1, 0), strict=True))
            )


class Tasks(Mapping[str, Task]):
    """Name -> task: ours, and those that installed packages register, which are looked for when first asked for one."""

    def __init__(self, ours: Sequence[Task]):
        self._ours = {task.name: task for task in ours}

    @cached_property
    def _found(self) -> tuple[dict[str, Task], dict[str, str]]:
        found, broken = dict(self._ours), dict[str, str]()
        for point in entry_points(group=GROUP):
            try:
                if point.name in broken or point.name in found:
                    raise DiwaError(f"{_where(point)} has the name of another one: rename it, or uninstall its package")
                found[point.name] = _load(point)
            except DiwaError as error:
                broken[point.name] = str(error)
        theirs = broken.keys() - self._ours.keys()
        return {name: task for name, task in found.items() if name not in theirs}, broken

    @property
    def broken(self) -> dict[str, str]:
        """Name -> why a registered task cannot be used, in a line."""
        return self._found[1]

    @cached_property
    def objects(self) -> dict[str, SceneObject]:
        """Name -> object that a task brings. Raises `DiwaError` if two tasks mean different things by one name."""
        found: dict[str, SceneObject] = {}
        for task in self.values():
            for each in task.objects:
                if found.setdefault(each.name, each) != each:
                    raise DiwaError(
                        f"the task {task.name!r} brings another object {each.name!r} than a task before it: rename it"
                    )
        return found

    def __getitem__(self, name: str) -> Task:
        return self._found[0][name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found[0])

    def __len__(self) -> int:
        return len(self._found[0])


def _where(point: EntryPoint) -> str:
    package = f" of {point.dist.name} {point.dist.version}" if point.dist else ""
    return f"the task {point.name!r}{package}"


def _load(point: EntryPoint) -> Task:
    task = load_object(point.value, _where(point))
    if not isinstance(task, Task) or task.name != point.name:
        found = f"the task {task.name!r}" if isinstance(task, Task) else f"a {type(task).__name__}"
        raise DiwaError(f"{_where(point)} names {found}: {point.value} must be the Task of that name")
    return task


def pushed(start: Numbers, now: Numbers) -> Any:
    """The cube is 10 cm farther away, and still on the table."""
    return np.minimum(now["cube_x"] - start["cube_x"] - 0.10, 0.02 - abs(now["cube_z"] - start["cube_z"]))


def in_drawer(start: Numbers, now: Numbers) -> Any:
    """The cube's centre is inside the drawer, and no higher above its floor than when it lies there."""
    depth = now["cube_x"] - (0.57 - now["drawer"])  # behind the front's outer face
    walls = [depth - 0.03, 0.26 - depth, 0.135 - abs(now["cube_y"] - 0.19)]
    return np.minimum.reduce([*walls, 0.06 - now["cube_z"]])


def stacked(start: Numbers, now: Numbers) -> Any:
    """The cube stands on the block."""
    aside = np.hypot(now["cube_x"] - now["block_x"], now["cube_y"] - now["block_y"])
    return np.minimum(0.03 - aside, 0.008 - abs(now["cube_z"] - now["block_z"] - 0.045))


def _free_to_push(rng: np.random.Generator, config: StartConfig) -> Start:
    """Where the hand, wide as it is, passes between lever and open drawer."""
    return replace(any_start(rng, config), cube=lying(rng, (0.30, 0.39), (-0.13, -0.08), 0.3))


def _free_to_grasp(rng: np.random.Generator, config: StartConfig) -> Start:
    """Where the hand comes down clear of lever and open drawer."""
    return replace(any_start(rng, config), cube=lying(rng, (0.30, 0.35), (-0.13, -0.045), 0.3))


def _beside_the_drawer(rng: np.random.Generator, config: StartConfig) -> Start:
    return replace(any_start(rng, config, drawer=True), cube=lying(rng, (0.30, 0.35), (-0.13, -0.05), 0.3))


def _beside_the_block(rng: np.random.Generator, config: StartConfig) -> Start:
    cube, block = lying(rng, (0.30, 0.36), (-0.14, -0.09), 0.3), lying(rng, (0.30, 0.345), (0.01, 0.05), 0.3)
    return replace(any_start(rng, config, drawer=False), cube=cube, objects={"block": block})


def _middle_of_the_drawer(scene: Scene) -> np.ndarray:
    return scene.site("drawer_handle") + np.array([0.22, 0.0, -0.015])


def _on_the_block(scene: Scene) -> np.ndarray:
    return scene.body("block").position + up(0.048)


BLOCK = SceneObject("block", resources.files("diwa_sim").joinpath("assets/block.xml").read_text())
"""A flat blue block."""

_OURS = (
    Task(
        "open_drawer",
        Goal("drawer", 0.0, 0.12),
        partial(any_start, drawer=False),
        Stroke("drawer", "drawer_handle", (0.07, 0, -0.018), (-0.25, 0, 0), (0, DRAWER_OPEN)),
        "pull the drawer open",
    ),
    Task(
        "close_drawer",
        Goal("drawer", DRAWER_OPEN, -0.12),
        partial(any_start, drawer=True),
        Stroke("drawer", "drawer_handle", (-0.055, 0, -0.012), (0.26, 0, 0), (DRAWER_OPEN, 0)),
        "push the drawer shut",
    ),
    Task(
        "move_slider_left",
        Goal("slider", 0.0, 0.15),
        partial(any_start, slider=False),
        Stroke("slider", "slider_knob", (-0.008, -0.065, 0.006), (0, 0.34, 0), (0, SLIDER_LEFT)),
        "push the sliding door to the left",
    ),
    Task(
        "move_slider_right",
        Goal("slider", SLIDER_LEFT, -0.15),
        partial(any_start, slider=True),
        Stroke("slider", "slider_knob", (-0.008, 0.065, 0.006), (0, -0.34, 0), (SLIDER_LEFT, 0)),
        "push the sliding door to the right",
    ),
    Task(
        "turn_on_lightbulb",
        Goal("bulb", 0.0, 0.5),
        partial(any_start, bulb=False),
        Stroke("lever", "lever_tip", (-0.055, 0, 0), (0.2, 0, 0), (-LEVER_ON, LEVER_ON)),
        "push the lever away from the robot",
    ),
    Task(
        "turn_off_lightbulb",
        Goal("bulb", 1.0, -0.5),
        partial(any_start, bulb=True),
        Stroke("lever", "lever_tip", (0.055, 0, 0), (-0.2, 0, 0), (LEVER_ON, -LEVER_ON)),
        "pull the lever towards the robot",
    ),
    Task(
        "turn_on_led",
        Goal("led", 0.0, 0.5),
        partial(any_start, led=False),
        Stroke("led", "button_top", (0, 0, 0.02), (0, 0, -0.05), (0, 1)),
        "press the button while the LED is off",
    ),
    Task(
        "turn_off_led",
        Goal("led", 1.0, -0.5),
        partial(any_start, led=True),
        Stroke("led", "button_top", (0, 0, 0.02), (0, 0, -0.05), (1, 0)),
        "press the button while the LED is on",
    ),
    Task("push_cube", pushed, _free_to_push, Push("cube", (0.16, 0, 0)), "push the red cube 10 cm away"),
    Task(
        "lift_cube",
        Goal("cube_z", 0.025, 0.05),
        _free_to_grasp,
        Carry("cube", surplus=0.015),
        "grasp the red cube and lift it by 5 cm",
    ),
    Task(
        "put_cube_in_drawer",
        in_drawer,
        _beside_the_drawer,
        Carry("cube", _middle_of_the_drawer, height=0.09, pace=1.4),
        "put the red cube into the open drawer",
    ),
    Task(
        "stack_cubes",
        stacked,
        _beside_the_block,
        Carry("cube", _on_the_block, height=0.06, pace=1.25),
        "put the red cube on the blue block (with --sim.objects block)",
        (BLOCK,),
    ),
)
TASKS = Tasks(_OURS)
"""The simulated tasks by name."""
PAPER_TASKS = tuple(task.name for task in _OURS[:8])
"""Those of the paper, which everything else leaves as they are: play is made of them unless it is told of others."""


def task(name: str, tasks: Mapping[str, Task] | None = None) -> Task:
    """The task `name` of `tasks`, or of all. Raises `DiwaError` that lists them, or says why a registered one cannot be
    used."""
    tasks = TASKS if tasks is None else tasks
    if name in tasks:
        return tasks[name]
    if tasks is TASKS and name in TASKS.broken:
        raise DiwaError(TASKS.broken[name])
    raise unknown("simulated task", name, tasks)


def tasks_table() -> str:
    """A line for each task, and one for each that cannot be used."""
    width = max(map(len, TASKS))
    return "\n".join([*(f"{each.name:<{width}}  {each.text}" for each in TASKS.values()), *TASKS.broken.values()])


def require_task(name: str) -> str:
    """`name`, if the simulator has a task of that name. Raises as `task` does."""
    return task(name).name


def scene_objects(names: Sequence[str]) -> tuple[SceneObject, ...]:
    """The objects `names` that tasks bring. Raises `DiwaError` for an unknown one."""
    known = TASKS.objects
    for name in names:
        if name not in known:
            raise unknown("object of the scene", name, known)
    if len(set(names)) != len(names):
        raise DiwaError(f"sim.objects names one twice: {', '.join(names)}")
    return tuple(known[name] for name in names)


def require_objects(name: str, present: Sequence[str]) -> None:
    """Raise `DiwaError` if the task `name` needs an object that is not `present` in the scene."""
    needed = [each.name for each in task(name).objects]
    if missing := [each for each in needed if each not in present]:
        raise DiwaError(
            f"the task {name!r} needs the object {missing[0]!r}, which this scene lacks: set sim.objects "
            f"(--sim.objects {' '.join([*present, *missing])}, under ROS 2 robot.scene_state) for it and for play"
        )


def goal_labels(skill: str) -> dict[str, Any]:
    """Labels that say when `skill` is done, for the success classifier; none for play and for skills of others."""
    goal = TASKS[skill].goal if skill in TASKS else None
    return goal.label(skill) if isinstance(goal, Goal) else {}


def succeeded(skill: str, start: np.ndarray, now: np.ndarray, names: Sequence[str] = SCENE_STATE) -> bool:
    """Whether `skill` is done, given the scene states (N,) at the reset and now."""
    return bool(task(skill).margin(names, start, now) >= 0)


def is_done(skill: str, start: np.ndarray, now: np.ndarray, names: Sequence[str] = SCENE_STATE) -> np.ndarray:
    """Whether the scene states `now` (..., N) are ones that `skill` leads to: true of a light that was on already.

    Where the goal is a change from no particular value, from the one at `start` (N,).
    """
    goal = task(skill).goal
    if isinstance(goal, Goal):
        return goal.margin(now[..., names.index(goal.quantity)]) >= 0
    return task(skill).margin(names, start, now) >= 0


def sample_start(skill: str, seed: int, config: StartConfig, objects: Sequence[str] = ()) -> Start:
    """A start for `skill`, or for play when it is empty, with places of all `objects`; same arguments, same start."""
    if seed < 0:
        raise DiwaError(f"seed {seed} must not be negative")
    rng = np.random.default_rng((seed, *_stream(require_task(skill) if skill else "")))
    start = _drawn(TASKS[skill], rng, config) if skill else any_start(rng, config)
    return replace(start, objects=with_objects(start, objects, seed)) if objects else start


def _drawn(task: Task, rng: np.random.Generator, config: StartConfig) -> Start:
    """A start of a task. Raises `DiwaError` if its function fails, or what it draws is not a start."""
    with damage_as_error(f"the start of the task {task.name!r} fails", "repair the function that draws it"):
        start = task.start(rng, config)
        if not isinstance(start, Start):
            raise TypeError(f"it is a {type(start).__name__} and no Start")
        places = np.array([start.cube, *start.objects.values()], float)
        if places.shape[1:] != (3,) or not np.isfinite([start.drawer, start.slider, start.lever, *places.flat]).all():
            raise ValueError("cube and objects have x, y and yaw, and all numbers are finite")
        return start


def _stream(skill: str) -> tuple[int, ...]:
    """A number that tells the random numbers of a skill's starts from those of others."""
    if not skill:
        return (0,)
    return (1 + PAPER_TASKS.index(skill),) if skill in PAPER_TASKS else tuple(skill.encode())
