"""The documentation against the code: settings, files, sections and commands that it names."""

import ast
import dataclasses
import re
import textwrap
from pathlib import Path

import pytest

from diwa_cli.evaluation.evaluate import EvaluateConfig
from diwa_cli.main import COMMANDS
from diwa_cli.pipeline.plan import DemoConfig
from diwa_data.config import load_section, presets
from diwa_data.dataset.align import DatasetConfig
from diwa_data.robot_config import load_robot
from diwa_learning.ensemble.disagreement import EnsembleConfig
from diwa_learning.finetune.dppo import DPPOConfig
from diwa_learning.finetune.train import FinetuneConfig
from diwa_learning.policy.train import PolicyConfig
from diwa_learning.reward.classifier import RewardConfig
from diwa_learning.world_model.config import WorldModelConfig
from diwa_sim.operator.record import SimulatedRecordConfig

SOURCE = Path(__file__).parents[2]
DOCS = SOURCE.parent / "docs"
SECTIONS = {
    "dataset": DatasetConfig,
    "world_model": WorldModelConfig,
    "ensemble": EnsembleConfig,
    "policy": PolicyConfig,
    "reward": RewardConfig,
    "finetune": FinetuneConfig,
    "dppo": DPPOConfig,
}
IN_PART = {"record": SimulatedRecordConfig, "demo": DemoConfig, "evaluate": EvaluateConfig}
"""Sections of which the page shows some settings only."""
COLUMNS = {"calvin_laptop": "laptop"}
"""Preset without a column of its own -> the one that it follows in all but motion limits."""


def table_rows(page: Path, first: str) -> list[dict[str, str]]:
    """Rows of the tables of a page whose first column is headed `first`: heading -> cell, without backticks."""
    found, names = [], None
    for line in page.read_text().splitlines():
        cells = [cell.strip().replace("`", "") for cell in line.strip("|").split("|")] if line.startswith("|") else []
        if not cells or cells[0] == first:
            names = cells
        elif names and set(cells[0]) != {"-"}:
            found.append(dict(zip(names, cells, strict=True)))
    return found


def settings(config, prefix: str) -> dict:
    """Dotted name -> value of every field, nested ones too."""
    found = {}
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), f"{prefix}.{field.name}"
        found |= settings(value, name) if dataclasses.is_dataclass(value) else {name: value}
    return found


def numbers(value) -> list[float]:
    values = value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else [value]
    return [float(each) for each in values]


def says(cell: str, value) -> bool:
    """Whether a cell shows a value."""
    if value is None or isinstance(value, bool | str):
        return cell.lower() == str(value).lower()
    return [float(word) for word in cell.replace(",", "").split()] == numbers(value)


@pytest.mark.parametrize("section", SECTIONS | IN_PART)
def test_method_page_holds_every_setting_with_its_value_in_each_preset(section):
    rows = [row for row in table_rows(DOCS / "method.md", "setting") if row["setting"].split(".")[0] == section]
    kind = (SECTIONS | IN_PART)[section]
    default = settings(kind(), section)
    assert rows
    assert section in IN_PART or sorted(row["setting"] for row in rows) == sorted(default)
    for preset in presets():
        values = settings(load_section(kind, section, preset), section)
        for row in rows:
            name, column = row["setting"], COLUMNS.get(preset, preset)
            if column != preset and ".limits." in name:
                continue
            assert says(row["default"], default[name]), f"{name} is {default[name]}, not {row['default']}"
            same = values[name] == default[name] and not row[column]
            assert same or says(row[column], values[name]), f"{name} in {preset} is {values[name]}, not {row[column]}"


def test_method_page_holds_the_numbers_that_are_no_settings():
    rows = table_rows(DOCS / "method.md", "number")
    assert len(rows) >= 10
    for row in rows:
        name, source = row["number"].split(":")[0], (SOURCE / "diwa_learning/diwa_learning" / row["file"]).read_text()
        (value,) = re.findall(rf"^{name}(?:: \w+)? = (.+)$", source, re.MULTILINE)
        assert says(row["value"], ast.literal_eval(value)), f"{name} is {value}, not {row['value']}"


def rooms() -> dict[str, list[str]]:
    """The import rule as `test_project.py` keeps it."""
    tree = ast.parse((Path(__file__).parent / "test_project.py").read_text())
    return next(
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "ROOMS"
    )


def test_architecture_page_has_the_import_rule():
    page = (DOCS / "architecture.md").read_text()
    for package, levels in rooms().items():
        rule = " <- ".join(level.replace(" ", ", ") or "ground" for level in levels)
        assert re.search(rf"^{package} +{rule}$", page, re.MULTILINE), f"{package}: {rule}"


WALKS = re.findall(
    r"^## (From .+?)\n(.*?)(?=^## |\Z)", (DOCS / "architecture.md").read_text(), re.MULTILINE | re.DOTALL
)


@pytest.mark.parametrize(("name", "text"), WALKS, ids=lambda value: value.split("\n")[0][:30])
def test_a_walk_is_short_names_what_there_is_and_never_comes_back_to_a_room(name, text):
    stations = [line for line in text.splitlines() if re.match(r"\d+\. ", line)]
    assert 3 < len(stations) < 12
    visited = []
    for station in stations:
        package, *inside = re.match(r"\d+\. `([\w/]+)\.py`", station)[1].split("/")
        path = SOURCE / package / package / "/".join(inside)
        defined = {
            node.name
            for node in ast.walk(ast.parse(path.with_suffix(".py").read_text()))
            if isinstance(node, ast.FunctionDef | ast.ClassDef)
        }
        named = re.findall(r"`(\w+)\(\)`", station)
        assert named
        assert [function for function in named if function not in defined] == [], path
        listed = any(inside[0] in level.split() for level in rooms()[package])
        room = (package, inside[0] if listed else "")
        if room not in visited[-1:]:
            assert room not in visited, f"{name} comes back to {room}: {station}"
            visited.append(room)


def test_there_are_four_walks():
    assert [name for name, _ in WALKS] == [
        "From image to action",
        "From controller to robot",
        "From bag to policy loss",
        "From reward to PPO loss",
    ]


def test_readme_is_read_in_minutes_and_names_the_command_that_ci_runs():
    text = (SOURCE.parent / "README.md").read_text()
    assert len(text.split()) <= 700
    assert re.search(r"^make test$", (SOURCE.parent / ".ci/run").read_text(), re.MULTILINE)
    assert "`make test`" in text


RECIPES = sorted((DOCS / "hardware").glob("*.md"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_each_step_of_a_recipe_says_what_to_expect_and_when_to_stop(path, tmp_path):
    text = path.read_text()
    assert re.search(r"[Nn](ever|one of this was ever) run on hardware", text)
    steps = re.split(r"^(\d+)\. \*\*", text, flags=re.MULTILINE)[1:]
    numbers, bodies = [int(number) for number in steps[::2]], steps[1::2]
    assert numbers == [number for number in range(1, 19) if (number in range(6, 11)) != (path.stem == "README")]
    assert [number for number, body in zip(numbers, bodies, strict=True) if "Expect:" not in body] == []
    assert [number for number, body in zip(numbers, bodies, strict=True) if "*Stop*" not in body] == []
    for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL):
        file = tmp_path / "robot.yaml"
        file.write_text(textwrap.dedent(block))
        assert load_robot(file).name in ("panda_ours", "fr3_ours")


def test_commands_that_are_named_exist():
    pages = [path.read_text() for path in (SOURCE.parent / "README.md", *DOCS.glob("*.md"), *RECIPES)]
    named = {name for page in pages for name in re.findall(r"(?:^|[`/(]|\| )diwa ([a-z][a-z-]+)", page, re.MULTILINE)}
    assert len(named) > 10
    assert named - set(COMMANDS) == set()
