"""Presets, files and flags override each other in this order; a printed command line gives the same config again."""

import io
import shlex
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from diwa_cli.arguments import Flags, call, split_source, wait_for_enter
from diwa_cli.evaluation.run_skill import RunSkillConfig
from diwa_cli.pipeline.plan import DemoConfig, Sweep
from diwa_data.config import SECTIONS, Source, command_line, load_parameters, presets
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


@pytest.fixture
def file(tmp_path):
    """Write a YAML file with these parameters in the section `run_skill`."""

    def write(text):
        path = tmp_path / "own.yaml"
        path.write_text(f"/**:\n  ros__parameters:\n    run_skill: {{{text}}}\n")
        return path

    return write


def parse(config, *words):
    """The config that a command with these words would get."""
    got = []

    def command(bags: list[Path], out: Path, config: Flags[Config] = config) -> None:
        """A command."""
        got.append(config)

    assert call(command, "test", ["--bags", "a", "--out", "b", *words]) == 0
    return got[0]


def test_source_is_taken_out_of_the_arguments(file):
    path = file("")
    source, rest = split_source(["--out", "x", "--preset=debug", "--config", str(path), "--rate", "2"])
    assert source == Source("debug", path)
    assert rest == ["--out", "x", "--rate", "2"]
    assert split_source([])[0].preset == "laptop"


def test_file_overrides_preset_and_flags_override_both(file):
    source = Source("paper", file("rate: 2.0, inner: {width: 3}"))
    config = source.section(Config, "run_skill")
    assert config == Config(rate=2.0, inner=Inner(width=3))
    assert parse(config, "--inner.width", "5") == Config(rate=2.0, inner=Inner(width=5))


def test_a_file_may_lean_on_what_the_preset_sets(tmp_path):
    """A hybrid world model decodes the robot state, which `laptop` does and the defaults do not."""
    path = tmp_path / "hybrid.yaml"
    path.write_text("/**: {ros__parameters: {world_model: {scene_state: true}}}")
    config = Source("laptop", path).section(WorldModelConfig, "world_model")
    assert (config.scene_state, config.robot_state_weight > 0) == (True, True)
    with pytest.raises(DiwaError, match="it needs robot_state_weight above 0"):
        Source("paper", path).section(WorldModelConfig, "world_model")


def test_unknown_presets_keys_and_files_list_what_there_is(file, tmp_path):
    with pytest.raises(DiwaError, match="unknown preset 'huge'; choose one of calvin, debug, laptop, paper"):
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
    ],
)
def test_a_printed_command_line_gives_the_config_again(config, file):
    source = Source("paper", file("name: other"))
    line = command_line("test", source, config, "run_skill", bags=[Path("a"), Path("b")], out=Path("my out"))
    words = shlex.split(line)
    assert words[:8] == ["diwa", "test", "--bags", "a", "b", "--out", "my out", "--preset"]
    again, rest = split_source(words[2:])
    assert again == source
    assert parse(again.section(Config, "run_skill"), *rest) == config


@pytest.mark.parametrize("preset", presets())
def test_every_section_of_every_preset_is_valid(preset):
    source = Source(preset)
    demo = source.section(DemoConfig, "demo")
    settings = Sweep(demo.as_sweep(source), source).settings(demo.skill)
    assert settings.final.rollouts == demo.rollouts
    assert source.section(RunSkillConfig, "run_skill").max_steps > 0
    assert set(load_parameters(preset)) <= set(SECTIONS)


def test_only_what_differs_is_printed():
    assert command_line("test", Source("paper"), Config(), "run_skill", _=Path("x")) == "diwa test x --preset paper"


def test_a_question_that_nobody_can_answer_is_an_error(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    wait_for_enter("ready? ")
    assert capsys.readouterr().out == "ready? "
    with pytest.raises(DiwaError, match="run it in a terminal"):
        wait_for_enter("ready? ")
