"""Presets, files and flags override each other in this order; a printed command line gives the same config again."""

import io
import shlex
from collections.abc import MutableMapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import pytest

from diwa_cli.arguments import run_job, split_source, wait_for_enter
from diwa_cli.evaluation.run_skill import RunSkillConfig
from diwa_cli.pipeline.plan import DemoConfig, Sweep, SweepConfig
from diwa_data.config import SECTIONS, Job, Source, load_parameters, presets
from diwa_data.errors import DiwaError
from diwa_learning.world_model.config import WorldModelConfig


@dataclass(frozen=True)
class Inner:
    """Inner."""

    width: int = 8
    """Units."""
    gate: bool = True
    """On or off."""


@dataclass(frozen=True)
class Config:
    """Config."""

    rate: float = 1e-4
    """Per second."""
    size: tuple[int, ...] = (1, 2)
    """Sizes."""
    name: str | None = None
    """Name."""
    inner: Inner = field(default_factory=Inner)
    """Inner."""
    shares: MutableMapping[str, float] = field(default_factory=dict)
    """Shares."""


@pytest.fixture
def file(tmp_path):
    """Write a YAML file with these parameters in the section `run_skill`."""

    def write(text):
        path = tmp_path / "own.yaml"
        path.write_text(f"/**:\n  ros__parameters:\n    run_skill: {{{text}}}\n")
        return path

    return write


@dataclass(frozen=True)
class Work(Job):
    """A command."""

    command_name: ClassVar[str] = "test"
    section: ClassVar[str] = "run_skill"
    positional: ClassVar[tuple[str, ...]] = ("first",)
    done: ClassVar[list[Job]] = []

    first: Path
    """Any."""
    bags: tuple[Path, ...]
    """Any."""
    out: Path
    """Any."""
    left: str = ""
    """Any."""
    switch: bool = True
    """Any."""
    config: Config = field(default_factory=Config)
    """Any."""
    source: Source = field(default_factory=Source)
    """Any."""

    def run(self):
        self.done.append(self)


def parse(tmp_path, *words):
    """The job that a command with these words would run."""
    assert run_job(Work, "test", ["a", "--bags", "b", "--out", str(tmp_path / "my out"), *words]) == 0
    return Work.done[-1]


def test_source_is_taken_out_of_the_arguments(file):
    path = file("")
    source, rest = split_source(["--out", "x", "--preset=debug", "--config", str(path), "--rate", "2"])
    assert source == Source("debug", path)
    assert rest == ["--out", "x", "--rate", "2"]
    assert split_source([])[0].preset == "laptop"


def test_file_overrides_preset_and_flags_override_both(file, tmp_path):
    path = file("rate: 2.0, inner: {width: 3}")
    assert Source("paper", path).section(Config, "run_skill") == Config(rate=2.0, inner=Inner(width=3))
    job = parse(tmp_path, "--preset", "paper", "--config", str(path), "--inner.width", "5")
    assert (job.config, job.source) == (Config(rate=2.0, inner=Inner(width=5)), Source("paper", path))


def test_old_keys_of_a_sweep_go_on(tmp_path, capsys):
    path = tmp_path / "own.yaml"
    path.write_text("/**: {ros__parameters: {sweep: {workers: 3}}}")
    assert Source("paper", path).section(SweepConfig, "sweep").jobs == 3
    assert f"{path}: sweep: workers is deprecated: it is jobs now" in capsys.readouterr().err


def test_a_file_may_lean_on_what_the_preset_sets(tmp_path):
    """A hybrid world model decodes the robot state, which `laptop` does and the defaults do not."""
    path = tmp_path / "hybrid.yaml"
    path.write_text("/**: {ros__parameters: {world_model: {scene_state: true}}}")
    config = Source("laptop", path).section(WorldModelConfig, "world_model")
    assert (config.scene_state, config.robot_state_weight > 0) == (True, True)
    with pytest.raises(DiwaError, match="it needs robot_state_weight above 0"):
        Source("paper", path).section(WorldModelConfig, "world_model")


def test_unknown_presets_keys_and_files_list_what_there_is(file, tmp_path):
    with pytest.raises(
        DiwaError, match="unknown preset 'huge'; choose one of calvin, calvin_laptop, debug, laptop, paper"
    ):
        split_source(["--preset", "huge"])
    with pytest.raises(DiwaError, match=r"own.yaml: run_skill: unknown key 'rte'; known: rate, size, name, inner"):
        Source("paper", file("rte: 2.0")).section(Config, "run_skill")
    with pytest.raises(DiwaError, match="no configuration file"):
        Source("paper", tmp_path / "nowhere.yaml").section(Config, "run_skill")


@pytest.mark.parametrize(
    "config",
    [
        Config(),
        Config(rate=0.5, size=(3, 4, 5), name="two words", inner=Inner(9, False)),
        replace(Config(), inner=Inner(gate=False)),
        Config(shares={"c": 2.5, "a": 1.0}),
    ],
)
def test_a_printed_command_line_gives_the_config_again(config, file, tmp_path):
    source = Source("paper", file("name: other, shares: {a: 0.5}"))
    job = Work(Path("a"), (Path("b"), Path("c")), tmp_path / "my out", "", False, config, source)
    words = shlex.split(job.command(source))
    out = str(tmp_path / "my out")
    assert words[:10] == ["diwa", "test", "a", "--bags", "b", "c", "--out", out, "--no-switch", "--preset"]
    assert run_job(Work, "test", words[2:]) == 0
    assert vars(Work.done[-1]) == vars(job)


def test_settings_in_groups_are_listed_by_help_all_alone(capsys):
    for flag, shown in (("--help", False), ("--help-all", True)):
        with pytest.raises(SystemExit):
            run_job(Work, "test", [flag])
        out = capsys.readouterr().out
        assert ("--rate" in out, "--inner.width" in out) == (True, shown)
        assert ("--help-all lists more settings: --inner.*" in out) != shown
        assert "--source" not in out


@pytest.mark.parametrize("preset", presets())
def test_every_section_of_every_preset_is_valid(preset):
    source = Source(preset)
    demo = source.section(DemoConfig, "demo")
    settings = Sweep(demo.as_sweep(source), source).settings(demo.skill)
    assert settings.final.rollouts == demo.rollouts
    assert source.section(RunSkillConfig, "run_skill").max_steps > 0
    assert set(load_parameters(preset)) <= set(SECTIONS)


def test_only_what_differs_is_printed():
    job = Work(Path("x"), (), Path("y"))
    assert job.command(Source("paper")) == "diwa test x --bags --out y --preset paper"


def test_a_question_that_nobody_can_answer_is_an_error(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    wait_for_enter("ready? ")
    assert capsys.readouterr().out == "ready? "
    with pytest.raises(DiwaError, match="run it in a terminal"):
        wait_for_enter("ready? ")
