"""The one error that users see."""


class DiwaError(Exception):
    """Something the user can act on: the message names the value and the cure.

    The command line prints it without a traceback and exits with status 2.
    """


def how_to_install(extra: str) -> str:
    """What to do where an extra's package is missing: in the clone, since no index holds the project."""
    return f"in the clone's folder, run pip install -e '.[{extra}]'"
