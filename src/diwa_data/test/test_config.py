"""Configuration: presets, overrides and refusals."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from diwa_data.config import config_file, from_mapping, load_parameters, load_section, presets
from diwa_data.dataset.align import DatasetConfig
from diwa_data.errors import DiwaError


@dataclass(frozen=True)
class Inner:
    """Nested."""

    rate: float = 1.0
    sizes: tuple[int, ...] = (1, 2)


@dataclass(frozen=True)
class Outer:
    """Config."""

    steps: int = 3
    inner: Inner = field(default_factory=Inner)


def write(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text)
    return path


def test_presets_are_there_and_their_data_sections_load() -> None:
    assert presets() == ["calvin", "calvin_laptop", "debug", "laptop", "paper", "robot"]
    for preset in presets():
        load_section(DatasetConfig, "dataset", preset)
    assert load_section(Outer, "record") == Outer()


def test_yaml_overrides_defaults(tmp_path: Path) -> None:
    path = write(tmp_path, "/**:\n  ros__parameters:\n    policy: {steps: 5, inner: {rate: 2, sizes: [4]}}\n")
    assert load_section(Outer, "policy", path) == Outer(5, Inner(2.0, (4,)))
    assert load_section(Outer, "reward", path) == Outer()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"step": 5}, "unknown key 'step'; known: steps, inner"),
        ({"inner": {"rat": 5}}, "unknown key 'rat'; known: rate, sizes"),
        ({"steps": "many"}, "steps"),
        ({"inner": {"rate": "1e-4"}}, "1.0e-4"),
        ([1], "expected keys and values"),
    ],
)
def test_wrong_values_are_refused(values: dict, message: str) -> None:
    with pytest.raises(DiwaError, match=message):
        from_mapping(Outer, values, "here")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("/**:\n  ros__parameters:\n    polcy: {}\n", "unknown section polcy; known: record"),
        ("steps: 3\n", "not YAML of the form"),
        ("/**: [", "not YAML of the form"),
        ("3", "not YAML of the form"),
        ("\0", "not YAML of the form"),
        ("[" * 5000, "not YAML of the form"),
        ("/**:\n  ros__parameters: [1, 2]\n", "not YAML of the form"),
        ("/**:\n  ros__parameters:\n    1: {}\n", "unknown section 1; known: record"),
        ("/**:\n  ros__parameters:\n    record: 5\n", "record: expected keys and values, got 5"),
        ("/**:\n  ros__parameters:\n    record:\n", "record: expected keys and values, got None"),
    ],
)
def test_wrong_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DiwaError, match=message):
        load_parameters(write(tmp_path, text))


def test_unknown_preset_and_missing_file() -> None:
    with pytest.raises(DiwaError, match="unknown preset 'huge'; choose one of calvin, calvin_laptop, debug"):
        load_parameters("huge")
    with pytest.raises(DiwaError, match=r"no configuration file nowhere\.yaml"):
        load_parameters("nowhere.yaml")


@pytest.mark.parametrize("arm", ["panda", "fr3"])
def test_the_arms_controllers_are_rcl_parameters_of_one_arm(arm: str) -> None:
    controllers = yaml.safe_load(config_file(f"crisp_{arm}.yaml").read_text())
    assert set(controllers) == {"/**/cartesian_controller", "/**/pose_broadcaster"}, "in any namespace"
    for controller in controllers.values():
        parameters = controller["ros__parameters"]
        assert parameters["joints"] == [f"{arm}_joint{number}" for number in range(1, 8)]
        assert parameters["end_effector_frame"] == f"{arm}_hand_tcp"
    assert controllers["/**/cartesian_controller"]["ros__parameters"]["filter"] == {"target_pose": 0.1}


def test_the_preset_calvin_trains_as_paper_does() -> None:
    paper, calvin = load_parameters("paper"), load_parameters("calvin")
    limits = calvin["evaluate"]["limits"]
    assert paper["world_model"]["beta"] == 0.3 / 4  # of images in [-0.5, 0.5], not in [-1, 1]
    assert calvin.pop("evaluate") == calvin.pop("run_skill") == {"environment": "calvin", "limits": limits}
    assert calvin.pop("dppo") == {"limits": limits}
    assert calvin == paper


SIZES = {
    "record": {"minutes", "episode_seconds"},
    "world_model": {
        *("depth", "rssm", "updates", "batch_size", "sequence_length", "learning_rate", "final_learning_rate"),
        *("decode_fraction", "log_every", "check_every", "save_every"),
    },
    "policy": {"net", "epochs", "learning_rate", "final_learning_rate"},
    "reward": {"width", "epochs", "batch_size", "learning_rate", "save_every"},
    "finetune": {"alpha_bc", "ppo", "iterations", "critic_warmup", "dream", "checkpoint_every", "save_every"},
    "dppo": {"envs", "ppo", "iterations", "critic_warmup", "checkpoint_every"},
}
"""Keys in which `laptop` may differ from `robot`: sizes, and the lengths, steps and arithmetic of training."""


def test_the_preset_laptop_is_robot_made_small() -> None:
    robot, laptop = load_parameters("robot"), load_parameters("laptop")
    assert "preset" not in laptop
    for section in {*robot, *laptop}:
        small, large = laptop.get(section, {}), robot.get(section, {})
        differing = {key for key in {*small, *large} if small.get(key) != large.get(key)}
        assert differing <= SIZES[section], f"{section}: {differing - SIZES[section]} is not a size"
    dreams = [preset["finetune"]["dream"] for preset in (robot, laptop)]
    assert [dream.pop("precision") for dream in dreams] == ["auto", "float32"]
    assert dreams[0] == dreams[1]
    assert robot["world_model"].keys().isdisjoint(SIZES["world_model"]), "robot has the paper's sizes"


def test_only_a_shipped_preset_stands_on_another(tmp_path: Path) -> None:
    path = write(tmp_path, "/**:\n  ros__parameters:\n    preset: robot\n")
    with pytest.raises(DiwaError, match="unknown section preset"):
        load_parameters(path)


def test_a_deprecated_section_is_read_under_its_name_of_today(tmp_path: Path, capsys) -> None:
    path = write(tmp_path, "/**:\n  ros__parameters:\n    guard: {width: 9}\n")
    assert [load_parameters(path) for _ in range(2)] == [{"ensemble": {"width": 9}}] * 2
    assert capsys.readouterr().err == f"{path}: guard is deprecated: it is ensemble now\n"
