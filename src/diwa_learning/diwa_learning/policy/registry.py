"""Policy classes by name: ours, those that installed packages bring, and any class by its module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from diwa_data.config import installed, load_object
from diwa_data.errors import DiwaError, unknown
from diwa_learning.policy.base import ChainPolicy
from diwa_learning.policy.diffusion import DiffusionPolicy
from diwa_learning.policy.gaussian import GaussianPolicy

OURS: dict[str, Callable[..., ChainPolicy]] = {"diffusion": DiffusionPolicy, "gaussian": GaussianPolicy}
GROUP = "diwa.policies"
"""Entry points of packages that bring a policy: its name -> its class."""


def require_policy_name(kind: str) -> None:
    """Raise `DiwaError`, with the names that there are, for one that no package has; nothing is imported."""
    if kind not in OURS and ":" not in kind and kind not in installed(GROUP):
        names = [*OURS, *installed(GROUP)]
        raise unknown("policy", kind, names, ", name a class as MODULE:CLASS, or install the package that brings it")


def policy_class(kind: str) -> Callable[..., ChainPolicy]:
    """The class of a `kind`: a name, or `MODULE:CLASS`. Raises `DiwaError` if there is none, or it is not a policy."""
    require_policy_name(kind)
    if kind in OURS:
        return OURS[kind]
    what = f"policy {kind!r}"
    found: Any = load_object(kind if ":" in kind else installed(GROUP)[kind].value, what)
    if not (isinstance(found, type) and issubclass(found, ChainPolicy)):
        raise DiwaError(f"{what} is not a subclass of diwa_learning.policy.base.ChainPolicy")
    return found
