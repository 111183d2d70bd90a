"""Types of messages, services and actions of drivers, which need not be installed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from diwa_data.errors import DiwaError


def imported(get: Callable[[str], Any], name: str, whose: str) -> Any:
    """The class of the type `name`, by rosidl's `get_message`, `get_service` or `get_action`.

    Raises `DiwaError` if its package is not installed, naming `whose` driver brings it.
    """
    try:
        return get(name)
    except (ModuleNotFoundError, AttributeError, ValueError) as error:
        package = name.partition("/")[0]
        raise DiwaError(
            f"no {package} here: source the workspace of your {whose} driver, which brings {name}"
        ) from error
