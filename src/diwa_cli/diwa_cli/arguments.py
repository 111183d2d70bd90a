"""Arguments of the commands: a preset, then a YAML file, then flags; each overrides what stands before it."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import inspect
import io
import re
import sys
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout, suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from diwa_data.config import DEFAULT_PRESET, Job, Source, load_parameters
from diwa_data.errors import DiwaError
from diwa_data.files import require_new, require_output

ALL = "--help-all"
"""Flag for the whole help of a command, with settings in groups."""

OutputFile = Annotated[Path, require_output]
"""A file that a command writes: refused before its work begins where nothing may be written."""
NewFile = Annotated[Path, require_new]
"""A file that a command makes: nothing may be there."""
NewFolder = Annotated[Path, require_new]
"""A folder that a command makes: nothing may be there."""

KINDS = ConstructorRegistry()
"""Types of flags that are shown otherwise than by tyro."""

HELP = f"""

Defaults are those of --preset debug|laptop|robot|paper|calvin|calvin_laptop
({DEFAULT_PRESET} if not given). --config FILE.yaml overrides it; flags override both."""


@KINDS.primitive_rule
def _none(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[None] | None:
    """None is shown as `none`, and may be written either way."""
    if info.type is not type(None):
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="none",
        choices=("none", "None"),
        instance_from_str=lambda words: None,
        is_instance=lambda value: value is None,
        str_from_instance=lambda value: ["none"],
    )


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

    @functools.wraps(command)
    def checked(*values: Any, **named: Any) -> int | None:
        given = inspect.signature(command).bind(*values, **named).arguments
        if "" in args and not {".", "./"} & set(args):
            _refuse_empty(given.values())
        for parameter in inspect.signature(command).parameters.values():
            for check in output_checks(parameter):
                if (path := given.get(parameter.name)) is not None:
                    check(path)
        return command(*values, **named)

    description = (inspect.getdoc(command) or "").partition("\n\nArgs:")[0]
    parse = functools.partial(tyro.cli, checked, prog=f"diwa {name}", description=description, registry=KINDS)
    try:
        return parse(args=["--help" if word == ALL else word for word in args]) or 0
    except SystemExit as end:
        if end.code:
            for wrong, right in _misspelt(args, parse):
                print(f"unknown flag {wrong}, did you mean {right}?", file=sys.stderr)
        raise


def run_job(job: type[Job], name: str, args: list[str]) -> int:
    """Parse `args` of the command `name` into a job, with the source's settings as defaults, and run it; its status."""
    source, rest = split_source(args)
    usual, hints = job.settings(source), get_type_hints(job, include_extras=True)
    brief = bool({"-h", "--help"} & set(rest)) and ALL not in rest
    hidden = [f"--{one}.*" for one in usual if one not in ("config", "source")]
    if brief and "config" in usual:
        hidden = [f"--{one.replace('_', '-')}.*" for one in _groups(usual["config"])] + hidden
        usual["config"] = _without_groups(usual["config"])
        hints["config"] = type(usual["config"])
    fields: list[Any] = [(one, Annotated[hints[one], tyro.conf.Positional]) for one in job.positional]
    for one, default in usual.items():
        aside = tyro.conf.Suppress if brief or one == "source" else None
        fields.append((one, Annotated[hints[one], tyro.conf.arg(name="") if one == "config" else aside], default))
    flags = dataclasses.make_dataclass(job.__name__, fields, bases=(job,), frozen=True)

    def command(given: Any) -> int:
        if getattr(given, "out", None):
            job.check_out(given.out)
        return 1 if given.run() is False else 0

    command.__annotations__["given"] = Annotated[flags, tyro.conf.arg(name="")]
    command.__doc__ = f"{inspect.getdoc(job)}{HELP if usual else ''}"
    if brief and hidden:
        command.__doc__ += f"\n{ALL} lists more settings: {' '.join(hidden)}"
    return call(command, name, rest)


def _groups(settings: Any) -> dict[str, Any]:
    """The fields that are settings of their own."""
    return {name: value for name, value in vars(settings).items() if dataclasses.is_dataclass(value)}


def _without_groups(settings: Any) -> Any:
    """The same settings, in a class whose groups are left out of help texts."""
    kind, suppress = type(settings), tyro.conf.Suppress
    aside = [(name, Annotated[type(value), suppress], value) for name, value in _groups(settings).items()]
    return dataclasses.make_dataclass(kind.__name__, aside, bases=(kind,), frozen=True)(**vars(settings))


def output_checks(parameter: inspect.Parameter) -> list[Callable[[Path], None]]:
    """The checks of a parameter whose type is `OutputFile` or `NewFolder`, or one of them or None."""
    kinds = [parameter.annotation, *get_args(parameter.annotation)]
    return [m for kind in kinds for m in getattr(kind, "__metadata__", ()) if m in _OUTPUT_CHECKS]


def _refuse_empty(values: Iterable[Any]) -> None:
    """Raise `DiwaError` if an empty path is among `values`: as a path it is the folder where we are."""
    for value in values:
        inner = vars(value) if isinstance(value, Job) else value
        if isinstance(inner, dict | list | tuple):
            _refuse_empty(inner.values() if isinstance(inner, dict) else inner)
        elif inner == Path():
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


_OUTPUT_CHECKS = (require_output, require_new)
