"""One configuration: frozen dataclasses hold every default, YAML in ROS parameter form overrides them.

A preset (`debug`, `laptop`, `robot`, `paper`, `calvin`, `calvin_laptop`) or a file has one section per command, named
in `SECTIONS`; unknown keys are errors that list the known ones. A preset with the key `preset` stands on another one.
"""

from __future__ import annotations

import dataclasses
import re
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import UnionType
from typing import Any, ClassVar, TypeVar, Union, get_args, get_origin, get_type_hints

import dacite
import yaml

from diwa_data.errors import DiwaError, unknown
from diwa_data.files import require_output_folder

T = TypeVar("T")

SECTIONS = (
    "record", "dataset", "import_calvin", "import_lerobot", "world_model", "ensemble", "policy", "reward", "finetune",
    "dppo", "evaluate", "evaluate_sequences", "check_world_model", "evaluate_world_model", "dream", "run_skill", "demo",
    "sweep", "experiment", "sim",
)  # fmt: skip

RENAMED = {"guard": "ensemble"}
"""Deprecated section, or stage of training -> its name."""

RENAMED_KEYS = {"sweep": {"workers": "jobs"}}
"""Section -> deprecated key in it -> its name."""

REFERENCE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
"""An object by its module and its name there, such as `my_package.flow:FlowPolicy`."""

DEFAULT_PRESET = "laptop"
"""Preset of a run that names none."""


@dataclass(frozen=True)
class Source:
    """The defaults of a run."""

    preset: str = DEFAULT_PRESET
    """Shipped preset."""
    config: Path | None = None
    """YAML file whose keys override the preset's."""

    def section(self, cls: type[T], name: str) -> T:
        """The section `name` as a `cls`: dataclass defaults, then the preset, then the file."""
        if self.config is None:
            return load_section(cls, name, self.preset)
        both = merged(load_parameters(self.preset).get(name, {}), load_parameters(self.config).get(name, {}))
        return from_mapping(cls, both, f"{self.config}: {name}")  # what is wrong is not the shipped preset's fault

    def flags(self) -> list[str]:
        """The flags that give this source again."""
        config = [] if self.config is None else ["--config", str(self.config)]
        return ["--preset", self.preset, *config]


class Job:
    """One piece of work: a frozen dataclass of its inputs, its `config` and where it goes, `out`.

    The command line, the training node, demos, sweeps and experiments are made of jobs. A field with its default value
    is left out of the command. Settings beside `config` are dataclasses too, of the section that has their name.
    """

    command_name: ClassVar[str]
    """The command that does it, after `diwa`."""
    section: ClassVar[str]
    """Section of the presets that holds its `config`."""
    positional: ClassVar[tuple[str, ...]] = ()
    """Fields that stand on the command line without a flag."""
    check_out: ClassVar[Callable[[Path], None]] = staticmethod(require_output_folder)
    """Refuses an `out` that nothing may be written to."""
    config: Any
    out: Any

    def run(self) -> Any:
        """Do it, or go on with it where it was interrupted; a finished one is left as it is. False: it came out bad."""
        raise NotImplementedError

    @classmethod
    def settings(cls, source: Source) -> dict[str, Any]:
        """Its fields that are settings, as `source` has them."""
        hints: dict[str, Any] = get_type_hints(cls)
        return {
            name: source if kind is Source else source.section(kind, cls.section if name == "config" else name)
            for name, kind in hints.items()
            if isinstance(kind, type) and dataclasses.is_dataclass(kind)
        }

    def command(self, source: Source) -> str:
        """The shell command that does it, with flags for what differs from `source`."""
        usual = self.settings(source)
        words, flags = ["diwa", self.command_name], source.flags() if usual else []
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            name, value = field.name, getattr(self, field.name)
            if isinstance(value, Source) or value == field.default:
                continue
            if name in usual:
                flags += _differing_flags(value, usual[name], "" if name == "config" else f"{name}.")
            elif isinstance(value, bool):
                words.append(f"--{_dashed(name)}" if value else f"--no-{_dashed(name)}")
            else:
                words += [] if name in self.positional else [f"--{_dashed(name)}"]
                words += _words(value)
        return shlex.join([*words, *flags])


def presets() -> list[str]:
    """Names of the shipped presets; `robot_*.yaml` and `crisp_*.yaml` beside them are for nodes and controllers."""
    files = sorted(Path(entry.name) for entry in resources.files("diwa_data").joinpath("config").iterdir())
    return [file.stem for file in files if file.suffix == ".yaml" and not file.name.startswith(("robot_", "crisp_"))]


def config_file(name: str) -> Path:
    """A shipped file of `config/`."""
    return Path(str(resources.files("diwa_data").joinpath(f"config/{name}")))


def load_section(cls: type[T], section: str, source: str | Path | None = None) -> T:
    """The `section` of a preset (by name) or YAML file as a `cls`; its defaults where `source` is silent or None."""
    if source is None:
        return cls()
    return from_mapping(cls, load_parameters(source).get(section, {}), f"{source}: {section}")


def load_parameters(source: str | Path) -> dict[str, Any]:
    """Sections of a preset or YAML file in ROS parameter form (`/**: ros__parameters:`)."""
    path = Path(source)
    if path.suffix not in (".yaml", ".yml"):
        if str(source) not in presets():
            raise unknown("preset", str(source), presets(), ", or name a .yaml file")
        text = resources.files("diwa_data").joinpath(f"config/{source}.yaml").read_bytes()
    elif not path.is_file():
        raise DiwaError(f"no configuration file {path}")
    else:
        text = path.read_bytes()
    sections = renamed(ros_parameters(text, str(source)), str(source))
    base = sections.pop("preset", None) if path.suffix not in (".yaml", ".yml") else None
    for name, values in sections.items():
        if name not in SECTIONS:
            raise DiwaError(f"{source}: unknown section {name}; known: {', '.join(SECTIONS)}")
        if not isinstance(values, dict):
            raise DiwaError(f"{source}: {name}: expected keys and values, got {values!r}")
        sections[name] = renamed(values, f"{source}: {name}", RENAMED_KEYS.get(name, {}))
    return merged(load_parameters(base), sections) if base else sections


def ros_parameters(text: bytes, where: str) -> dict[str, Any]:
    """The parameters for all nodes in a ROS parameter file. Raises `DiwaError` naming `where` if it is none."""
    try:
        return dict(yaml.safe_load(text)["/**"]["ros__parameters"] or {})
    except (yaml.YAMLError, KeyError, TypeError, ValueError, RecursionError) as error:
        why = " ".join(str(error).split())[:300]
        raise DiwaError(f"{where}: not YAML of the form '/**: ros__parameters: ...' ({why})") from error


def node_sections(text: bytes) -> list[str]:
    """Names of the sections of a ROS parameter file that `ros_parameters` reads: `/**`, and those of single nodes."""
    return [str(name) for name in yaml.safe_load(text)]


def renamed(values: Mapping[str, Any], where: str, names: Mapping[str, str] = RENAMED) -> dict[str, Any]:
    """`values` under the names of today; stderr says which are deprecated. Raises `DiwaError` for one under both."""
    for old, new in names.items():
        if old in values and new in values:
            raise DiwaError(f"{where}: {old} and {new} are the same: give {new} alone")
        if old in values:
            _say_once(f"{where}: {old} is deprecated: it is {new} now")
    return {names.get(name, name): value for name, value in values.items()}


@cache
def _say_once(line: str) -> None:
    print(line, file=sys.stderr)


def from_mapping(cls: type[T], values: dict[str, Any], where: str) -> T:
    """Build the dataclass `cls` from nested plain values; `where` names the source in errors.

    A dataclass whose files look otherwise has a method `gathered(values, where)` that makes its fields of theirs, and
    its inverse `spread(values)`.
    """
    values = _known(cls, values, where)
    options = dacite.Config(strict=True, cast=[tuple], type_hooks={float: _to_float})
    try:
        return dacite.from_dict(cls, values, options)
    except (DiwaError, dacite.DaciteError, TypeError, ValueError, ArithmeticError) as error:
        raise DiwaError(f"{where}: {' '.join(str(error).split())[:300]}") from error


def to_mapping(config: Any) -> dict[str, Any]:
    """The nested plain values of a dataclass as files and ROS parameters have them: what `from_mapping` reads."""
    values = {f.name: _plain(getattr(config, f.name)) for f in dataclasses.fields(config)}
    return config.spread(values) if hasattr(config, "spread") else values


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return to_mapping(value) if dataclasses.is_dataclass(value) else value


def require_at_least(config: Any, minimum: int, *names: str) -> None:
    """Raise `DiwaError` if a field of the dataclass `config` that `names` lists is below `minimum`."""
    for name in names:
        if getattr(config, name) < minimum:
            raise DiwaError(f"{name} is {getattr(config, name)}; it must be {minimum} or more")


def require_shares(config: Any, *names: str) -> None:
    """Raise `DiwaError` if a field of the dataclass `config` that `names` lists is not between 0 and 1."""
    for name in names:
        if not 0 <= getattr(config, name) <= 1:
            raise DiwaError(f"{name} is {getattr(config, name)}; it must be a share from 0 to 1")


def require_seed(seed: int) -> None:
    """Raise `DiwaError` if generators cannot begin with `seed`."""
    if not 0 <= seed < 1 << 63:
        raise DiwaError(f"seed is {seed}; it must be 0 or more and have at most 63 bits")


def installed(group: str) -> dict[str, EntryPoint]:
    """Name -> entry point, of all installed packages that have some in `group`.

    Raises `DiwaError` where two of them mean different things by one name.
    """
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=group):
        if (other := found.setdefault(entry.name, entry)).value != entry.value:
            both = f"{other.value} and {entry.value}"
            raise DiwaError(f"{group} has two entry points {entry.name!r}, {both}: uninstall one of their packages")
    return found


def load_object(reference: str, what: str) -> Any:
    """The object that `reference` names. `what` begins errors: `policy 'my_package.flow:FlowPolicy'`.

    Raises `DiwaError` for whatever goes wrong while its module is imported.
    """
    if not REFERENCE.fullmatch(reference):
        raise DiwaError(f"{what} is not an object of a module: write it as MODULE:NAME")
    module, _, name = reference.partition(":")
    try:
        return EntryPoint(name, reference, "").load()
    except ModuleNotFoundError as error:
        if error.name and (module == error.name or module.startswith(f"{error.name}.")):
            cure = "install the package that brings it, or put its folder on PYTHONPATH"
            raise DiwaError(f"{what}: there is no module {error.name}: {cure}") from error
        raise DiwaError(f"{what}: {module} needs {error.name}, which is not installed") from error
    except AttributeError as error:
        raise DiwaError(f"{what}: {error}") from error
    except Exception as error:  # of the code of others, which may raise anything
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        where = f'python -c "import {module}" says where'
        raise DiwaError(f"{what}: {module} cannot be imported ({why}); {where}") from error


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` on top of `base`, nested mappings merged."""
    result = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if both else value
    return result


def _differing_flags(config: Any, default: Any, prefix: str) -> list[str]:
    words: list[str] = []
    for field in dataclasses.fields(config):
        value, usual, name = getattr(config, field.name), getattr(default, field.name), prefix + _dashed(field.name)
        if value == usual:
            continue
        if dataclasses.is_dataclass(value) and type(value) is type(usual):
            words += _differing_flags(value, usual, f"{name}.")
        elif isinstance(value, bool):
            words.append(f"--{name}" if value else f"--{prefix}no-{_dashed(field.name)}")
        else:
            words += [f"--{name}", *_words(value)]
    return words


def _words(value: Any) -> list[str]:
    """A value as words of a command: a list is several, a mapping its keys and values."""
    if isinstance(value, dict):
        return [str(word) for pair in value.items() for word in pair]
    return [str(v) for v in value] if isinstance(value, list | tuple) else [str(value)]


def _dashed(name: str) -> str:
    return name.replace("_", "-")


def _to_float(value: Any) -> Any:
    """YAML writes 1.0e-4 for a float; a whole number is one too."""
    if isinstance(value, str):
        raise DiwaError(f"{value!r} is text to YAML, not a number: write it like 1.0e-4")
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def require_keys(cls: Any, values: Mapping[str, Any], where: str) -> None:
    """Raise `DiwaError` naming a key of `values` that is not a field of the dataclass `cls`, and those that are."""
    known = [f.name for f in dataclasses.fields(cls)]
    for key in values:
        if key not in known:
            raise DiwaError(f"{where}: unknown key {key!r:.100}; known: {', '.join(known)}")


def _known(cls: Any, values: Any, where: str) -> dict[str, Any]:
    """`values`, gathered as fields of `cls` where they need it. Raises `DiwaError` for those that are none."""
    if not isinstance(values, dict):
        raise DiwaError(f"{where}: expected keys and values, got {values!r:.100}")
    if hasattr(cls, "gathered"):
        values = cls.gathered(values, where)
    require_keys(cls, values, where)
    kinds = get_type_hints(cls)
    return {key: _known_inside(kinds[key], value, f"{where}.{key}") for key, value in values.items()}


def _known_inside(kind: Any, value: Any, where: str) -> Any:
    """`value` with what `_known` makes of the dataclasses in this type: itself, one or None, or a list of them."""
    if dataclasses.is_dataclass(kind) and isinstance(value, dict):
        return _known(kind, value, where)
    if get_origin(kind) is tuple and isinstance(value, str):  # its letters would be the list
        raise DiwaError(f"{where} is {value!r:.100}: write a list, as in [{value:.50}]")
    inner = [each for each in get_args(kind) if dataclasses.is_dataclass(each)]
    if not inner:
        return value
    if get_origin(kind) is tuple and isinstance(value, list | tuple):
        return tuple(_known_inside(inner[0], each, f"{where}[{number}]") for number, each in enumerate(value))
    return _known_inside(inner[0], value, where) if get_origin(kind) in (Union, UnionType) else value
