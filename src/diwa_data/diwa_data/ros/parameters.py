"""ROS parameters of a node as the frozen dataclass that describes them."""

from __future__ import annotations

import array
import dataclasses
from typing import Any, TypeVar

from rcl_interfaces.msg import ParameterDescriptor
from rclpy.node import Node

from diwa_data.config import from_mapping

T = TypeVar("T")

_OF_ROS = ("use_sim_time", "start_type_description_service", "qos_overrides")


def read_parameters(node: Node, cls: type[T]) -> T:
    """The overrides given to `node` as a `cls`; its other fields are declared with their defaults.

    The node must have been made with `automatically_declare_parameters_from_overrides=True`. Raises `DiwaError` for an
    unknown parameter, naming the known ones.
    """
    config = from_mapping(cls, overrides(node), source(node))
    declare(node, config)
    return config


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


def declare(node: Node, config: Any) -> None:
    """Declare the fields of the dataclass `config` that were not given to `node`."""
    for name, value in _flat("", dataclasses.asdict(config)):
        if not node.has_parameter(name) and value != []:  # an empty list has no type in ROS
            node.declare_parameter(name, value, ParameterDescriptor(dynamic_typing=True))


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
