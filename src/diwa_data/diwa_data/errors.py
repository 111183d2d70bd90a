"""The one error that users see."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches


class DiwaError(Exception):
    """Something the user can act on: the message names the value and the cure.

    The command line prints it without a traceback and exits with status 2.
    """


def how_to_install(extra: str) -> str:
    """The cure where an extra's package is missing: in the clone, since no index holds the project."""
    return f"in the clone's folder, run pip install -e '.[{extra}]'"


@contextmanager
def damage_as_error(what: str, cure: str) -> Iterator[None]:
    """Turn whatever Python or a library raises on a damaged or foreign file into a `DiwaError`: '{what} (why): {cure}'.

    Only for code that does nothing but read such a file: there is no telling what a parser raises on other bytes than
    it expects.
    """
    try:
        yield
    except DiwaError:
        raise
    except Exception as error:
        why = " ".join(str(error).split())[:300] or type(error).__name__
        raise DiwaError(f"{what} ({why}): {cure}") from error


def unknown(kind: str, name: str, choices: Iterable[str], otherwise: str = "") -> DiwaError:
    """The error about a `name` that is none of `choices`: it lists them, and names the most similar if one is close.

    `kind` is what it should have named, such as "skill"; `otherwise` ends the sentence with another way out.
    """
    choices = list(choices)
    similar = get_close_matches(name.lower(), choices, n=1)
    hint = f". Did you mean {similar[0]!r}?" if similar else ""
    known = f"choose one of {', '.join(choices)}" if choices else "none is known"
    return DiwaError(f"unknown {kind} {name!r}; {known}{otherwise}{hint}")
