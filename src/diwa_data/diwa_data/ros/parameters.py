"""ROS parameters of a node as the frozen dataclass that describes them."""

from __future__ import annotations

import array
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from rcl_interfaces.msg import ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from diwa_data.config import from_mapping
from diwa_data.errors import DiwaError

T = TypeVar("T")

_SIM_TIME = "use_sim_time"
_OF_ROS = (_SIM_TIME, "start_type_description_service", "qos_overrides")


def read_parameters(node: Node, cls: type[T]) -> T:
    """The overrides given to `node` as a `cls`; its other fields are declared with their defaults, all read-only.

    The node must have been made with `automatically_declare_parameters_from_overrides=True`. Raises `DiwaError` for an
    unknown parameter, naming the known ones.
    """
    config = from_mapping(cls, overrides(node), source(node))
    declare(node, config)
    return config


def follow_parameters(
    node: Node, cls: type[T], locked: Callable[[], str], fixed: tuple[str, ...] = ()
) -> Callable[[], T]:
    """As `read_parameters`, but they may change: returns a function that reads them as they are now.

    `locked()`: why none may change at the moment; empty = they may. `fixed`: beginnings of the names of those that are
    read-only. A change that makes no `cls` is refused with the reason.
    """

    def read(changed: Sequence[Parameter] = ()) -> T:
        values = overrides(node)
        for parameter in changed:
            _put(values, parameter.name.split("."), parameter.value)
        return from_mapping(cls, values, source(node))

    def judge(changed: list[Parameter]) -> SetParametersResult:
        problem = locked()
        try:
            read(changed)
        except DiwaError as error:
            problem = problem or str(error)
        return SetParametersResult(successful=not problem, reason=problem)

    declare(node, read(), fixed)
    node.add_on_set_parameters_callback(judge)
    return read


def overrides(node: Node) -> dict[str, Any]:
    """What was given to `node`, nested by the dots in the names."""
    given: dict[str, Any] = {}
    for name, parameter in node.get_parameters_by_prefix("").items():
        if name.split(".")[0] not in _OF_ROS:
            _put(given, name.split("."), parameter.value)
    return given


def source(node: Node) -> str:
    """What errors call the parameters of `node`."""
    return f"parameters of {node.get_fully_qualified_name()}"


def declare(node: Node, config: Any, fixed: tuple[str, ...] = ("",)) -> None:
    """Declare the fields of the dataclass `config` that were not given to `node`.

    Those whose names begin with one of `fixed` are read-only: they are read once. Raises `DiwaError` where simulated
    time is wanted.
    """
    if node.get_parameter(_SIM_TIME).value:
        why = "ages and deadlines are those of real time here"
        raise DiwaError(f"{_SIM_TIME} is true, but {why}: start {node.get_name()} without it")
    node.set_descriptor(_SIM_TIME, ParameterDescriptor(dynamic_typing=True, read_only=True))
    for name, value in _flat("", dataclasses.asdict(config)):
        descriptor = ParameterDescriptor(dynamic_typing=True, read_only=name.startswith(fixed))
        if node.has_parameter(name):
            node.set_descriptor(name, descriptor)
        elif value != []:  # an empty list has no type in ROS
            node.declare_parameter(name, value, descriptor)


def _put(tree: dict[str, Any], path: list[str], value: Any) -> None:
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = list(value) if isinstance(value, array.array) else value


def _flat(prefix: str, tree: dict[str, Any]) -> list[tuple[str, Any]]:
    """Leaves of nested dictionaries by dotted name."""
    leaves = []
    for name, value in tree.items():
        if isinstance(value, dict):
            leaves += _flat(f"{prefix}{name}.", value)
        else:
            leaves.append((f"{prefix}{name}", list(value) if isinstance(value, tuple) else value))
    return leaves
