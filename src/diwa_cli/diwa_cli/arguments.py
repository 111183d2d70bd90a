"""Arguments of the commands: a preset, then a YAML file, then flags; each overrides what stands before it."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import inspect
import io
import re
import shlex
import sys
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout, suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

import tyro

from diwa_data.config import DEFAULT_PRESET, from_mapping, load_parameters, load_section, merged
from diwa_data.errors import DiwaError
from diwa_data.files import require_new, require_output, require_output_folder

T = TypeVar("T")

Flags = Annotated[T, tyro.conf.arg(name="")]
"""A config dataclass whose fields are flags of their own: `--batch-size`, `--rssm.hidden`."""

OutputFile = Annotated[Path, require_output]
"""A file that a command writes: refused before its work begins where nothing may be written."""
OutputFolder = Annotated[Path, require_output_folder]
"""A folder that a command makes or goes on with."""
NewFolder = Annotated[Path, require_new]
"""A folder that a command makes: nothing may be there."""

HELP = f"""

All defaults shown are those of the preset: --preset debug|laptop|paper|calvin ({DEFAULT_PRESET} unless named), then
--config FILE.yaml over it, then flags over both."""


@dataclasses.dataclass(frozen=True)
class Source:
    """Where the defaults of a run come from."""

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


def split_source(args: list[str]) -> tuple[Source, list[str]]:
    """Take --preset and --config out of `args`; an unknown preset or file is a `DiwaError`."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--preset", default=DEFAULT_PRESET)
    parser.add_argument("--config", type=Path)
    known, rest = parser.parse_known_args(args)
    source = Source(known.preset, known.config)
    load_parameters(source.preset)
    return source, rest


def call(command: Callable[..., int | None], name: str, args: list[str]) -> int:
    """Parse `args` into the parameters of `command` and run it; its status, 0 for None."""
    description = (inspect.getdoc(command) or "").partition("\n\nArgs:")[0]
    if any(isinstance(p.default, Source) or dataclasses.is_dataclass(p.default) for p in _parameters(command)):
        description += HELP

    @functools.wraps(command)
    def checked(*values: Any, **named: Any) -> int | None:
        given = inspect.signature(command).bind(*values, **named).arguments
        if "" in args and not {".", "./"} & set(args):
            _refuse_empty(given.values())
        for parameter in _parameters(command):
            for check in output_checks(parameter):
                if (path := given.get(parameter.name)) is not None:
                    check(path)
        return command(*values, **named)

    parse = functools.partial(tyro.cli, checked, prog=f"diwa {name}", description=description)
    try:
        return parse(args=args) or 0
    except SystemExit as end:
        if end.code:
            for wrong, right in _misspelt(args, parse):
                print(f"unknown flag {wrong}, did you mean {right}?", file=sys.stderr)
        raise


def output_checks(parameter: inspect.Parameter) -> list[Callable[[Path], None]]:
    """The checks of a parameter whose type is `OutputFile`, `OutputFolder` or `NewFolder`, or one of them or None."""
    kinds = [parameter.annotation, *get_args(parameter.annotation)]
    return [m for kind in kinds for m in getattr(kind, "__metadata__", ()) if m in _OUTPUT_CHECKS]


def _refuse_empty(values: Iterable[Any]) -> None:
    """Raise `DiwaError` if an empty path is among `values`: as a path it is the folder where we are."""
    for value in values:
        paths = value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]
        if Path() in paths:
            raise DiwaError("a path is empty: name a file or folder (is a variable of the shell unset?)")


def _misspelt(args: list[str], parse: Callable[..., Any]) -> list[tuple[str, str]]:
    """The unknown flags among `args`, each with the known one that it, or its end, resembles most."""
    text = io.StringIO()
    with redirect_stdout(text), suppress(SystemExit):
        parse(args=["--help"])
    known = re.findall(r"(?<!\S)--[a-z][a-z0-9.-]*[a-z0-9]", text.getvalue())
    given = [word.partition("=")[0].replace("_", "-") for word in args if word.startswith("--")]
    names = {f"--{flag[2:].rpartition('.')[2]}": flag for flag in known} | {flag: flag for flag in known}
    similar = {flag: get_close_matches(flag, names, n=1) for flag in given if flag not in known}
    return [(flag, names[found[0]]) for flag, found in similar.items() if found]


def wait_for_enter(question: str) -> None:
    """Ask on the terminal and wait. Raises `DiwaError` where nobody can answer."""
    try:
        input(question)
    except EOFError as error:
        raise DiwaError("this command asks questions: run it in a terminal") from error


def command_line(name: str, source: Source, config: Any, section: str, **paths: Any) -> str:
    """The shell command of this call: paths, preset, and a flag for each field in which `config` differs from it.

    A path named `_` stands without a flag; a list is several values.
    """
    words = ["diwa", name]
    for key, value in paths.items():
        values = [str(v) for v in value] if isinstance(value, list | tuple) else [str(value)]
        words += values if key == "_" else [f"--{_dashed(key)}", *values]
    words += source.flags()
    words += _differing_flags(config, source.section(type(config), section), "")
    return shlex.join(words)


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
            words += [f"--{name}", *(str(v) for v in (value if isinstance(value, tuple) else (value,)))]
    return words


_OUTPUT_CHECKS = (require_output, require_output_folder, require_new)


def _parameters(command: Callable[..., Any]) -> list[inspect.Parameter]:
    return list(inspect.signature(command).parameters.values())


def _dashed(name: str) -> str:
    return name.replace("_", "-")
