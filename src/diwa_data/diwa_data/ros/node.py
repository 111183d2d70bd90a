"""Common to all nodes: run until Ctrl-C, read parameters into a dataclass, report on `/diagnostics`."""

from __future__ import annotations

import array
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rcl_interfaces.msg import ParameterDescriptor, SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.executors import SingleThreadedExecutor
from rclpy.logging import get_logger
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions

from diwa_data.config import from_mapping, merged, to_mapping
from diwa_data.errors import DiwaError
from diwa_data.recording import messages

_LOOK_UP_EVERY = 0.2  # seconds: how soon a silent node notices a signal


def full_namespace(name: str, above: str = "") -> str:
    """The namespace `name` below `above`, with a leading slash; empty = none. A `DiwaError` if it is not a name."""
    joined = "/".join(part.strip("/") for part in ("" if name.startswith("/") else above, name))
    if not re.fullmatch(r"(/[A-Za-z_][A-Za-z0-9_]*)*", full := f"/{joined.strip('/')}".rstrip("/")):
        raise DiwaError(
            f"namespace:={name} is not a name: use letters, digits and _, beginning with a letter, such as left"
        )
    return full


def every(node: Any, seconds: float, callback: Callable[[], Any], group: Any = None) -> Any:
    """Call `callback` every so many seconds, in the callback group `group` or the node's own; returns the timer.

    The timers of rclpy stand still while the wall clock is behind where it was, or waits for `/clock`; these do not.
    """
    return node.create_timer(seconds, callback, group, clock=Clock(clock_type=ClockType.STEADY_TIME))


def run_work(make: Callable[[], Any]) -> NoReturn:
    """Make a node, have it `work()` in this thread while another spins it, `close()` it, and exit.

    0 when it is done, and after Ctrl-C or SIGTERM, which raise KeyboardInterrupt in the work unless it has handlers of
    its own; 2 with one line after a `DiwaError`, or an error of a file.
    """

    def work(node: Any, executor: SingleThreadedExecutor) -> None:
        ended = threading.Event()

        def spin() -> None:
            while not ended.is_set():
                executor.spin_once(timeout_sec=_LOOK_UP_EVERY)

        spinning = threading.Thread(target=spin, daemon=True)
        spinning.start()
        try:
            node.work()
        finally:
            leave_in_peace()
            ended.set()
            spinning.join()

    _run(make, work, signal.default_int_handler, (DiwaError, OSError))


@contextmanager
def interruptible() -> Iterator[None]:
    """Within it, a signal ends a node of `run_node` at once: for what only reads, and takes long."""
    _interruptible.append(True)
    try:
        yield
    finally:
        _interruptible.pop()


_interruptible: list[bool] = []


def run_node(make: Callable[[], Any]) -> NoReturn:
    """Make a node, spin it, `close()` it, and exit: 0 after Ctrl-C, SIGTERM or `SystemExit`, 2 after a `DiwaError`.

    A signal waits for what is running unless that is `interruptible`, and the node can still publish while it closes.
    """
    stopped: list[int] = []

    def on_signal(number: int, _: Any) -> None:
        stopped.append(number)
        if _interruptible:
            raise KeyboardInterrupt

    def spin(node: Any, executor: SingleThreadedExecutor) -> None:
        every(node, _LOOK_UP_EVERY, lambda: None)  # cheaper than a timeout, which is a new timer at every spin
        while not stopped:
            executor.spin_once()

    _run(make, spin, on_signal, (DiwaError,))


def _run(
    make: Callable[[], Any],
    act: Callable[[Any, SingleThreadedExecutor], None],
    on_signal: Callable[[int, Any], Any],
    told: tuple[type[Exception], ...],
) -> NoReturn:
    """`act(node, executor)`, then close the node, whatever ended it; errors of `told` are one line and status 2."""
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    node, status = None, 0
    try:
        node = make()
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        act(node, executor)
    except (KeyboardInterrupt, SystemExit):
        pass
    except told as error:
        get_logger("diwa").fatal(str(error))
        status = 2
    finally:
        leave_in_peace()
        if node is not None:
            node.close()
            node.destroy_node()
        rclpy.try_shutdown()
    sys.exit(status)


def leave_in_peace() -> None:
    """From now on signals are ignored: a second Ctrl-C must not change the status of a process that is ending."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


T = TypeVar("T")
_SIM_TIME = "use_sim_time"
_OF_ROS = (_SIM_TIME, "start_type_description_service", "qos_overrides")


def read_parameters(node: Node, cls: type[T], limits: str = "") -> T:
    """The overrides given to `node` as a `cls`; its other fields are declared with their defaults, all read-only.

    The node must have been made with `automatically_declare_parameters_from_overrides=True`. `limits`: dotted name of
    its field that is as `robot.limits` where nothing else was given. Raises `DiwaError` for an unknown parameter,
    naming the known ones.
    """
    config = from_mapping(cls, _with_limits(overrides(node), limits), source(node))
    declare(node, config)
    return config


def follow_parameters(
    node: Node, cls: type[T], locked: Callable[[], str], fixed: tuple[str, ...] = (), limits: str = ""
) -> Callable[[], T]:
    """As `read_parameters`, but they may change: returns a function that reads them as they are now.

    `locked()`: why none may change at the moment; empty = they may. `fixed`: beginnings of the names of those that are
    read-only. A change that makes no `cls` is refused with the reason.
    """

    def read(changed: Sequence[Parameter] = ()) -> T:
        return from_mapping(cls, _with_limits(overrides(node, changed), limits), source(node))

    def check(changed: list[Parameter]) -> SetParametersResult:
        problem = locked()
        try:
            read(changed)
        except DiwaError as error:
            problem = problem or str(error)
        return SetParametersResult(successful=not problem, reason=problem)

    declare(node, read(), fixed)
    node.add_on_set_parameters_callback(check)
    return read


def overrides(node: Node, changed: Sequence[Parameter] = ()) -> dict[str, Any]:
    """The parameters given to `node`, and those `changed`, nested by the dots in the names."""
    given: dict[str, Any] = {}
    for parameter in (*node.get_parameters_by_prefix("").values(), *changed):
        *path, name = parameter.name.split(".")
        if (path or [name])[0] in _OF_ROS:
            continue
        tree = given
        for key in path:
            tree = tree.setdefault(key, {})
        tree[name] = list(parameter.value) if isinstance(parameter.value, array.array) else parameter.value
    return given


def _with_limits(given: dict[str, Any], name: str) -> dict[str, Any]:
    """`given`, whose nested mapping `name` takes from `robot.limits` what it does not have."""
    robot = given.get("robot")
    if name and isinstance(robot, dict) and isinstance(robot.get("limits"), dict):
        nested = robot["limits"]
        for key in reversed(name.split(".")):
            nested = {key: nested}
        given = merged(nested, given)
    return given


def source(node: Node) -> str:
    """The name of the parameters of `node` in errors."""
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
    for name, value in _leaves("", to_mapping(config)):
        descriptor = ParameterDescriptor(dynamic_typing=True, read_only=name.startswith(fixed))
        if node.has_parameter(name):
            node.set_descriptor(name, descriptor)
        elif value != []:  # an empty list has no type in ROS
            node.declare_parameter(name, value, descriptor)


def _leaves(prefix: str, tree: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Leaves of nested dictionaries by dotted name."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(f"{prefix}{name}.", value)
        else:
            yield f"{prefix}{name}", list(value) if isinstance(value, tuple) else value


class Diagnostics:
    """Statuses of a node on `/diagnostics`, once a second: one topic for all namespaces, as ROS's own tools expect."""

    def __init__(self, node: Node):
        self._node = node
        self._publisher = node.create_publisher(DiagnosticArray, messages.DIAGNOSTICS, 10)
        self._statuses: list[DiagnosticStatus] = []

    def add(self, name: str, problem: str = "", **values: object) -> None:
        """One status: an error that says `problem`, or ok without one; `values` are shown as text."""
        status = DiagnosticStatus(message=problem or "ok", hardware_id="diwa")
        status.level = DiagnosticStatus.ERROR if problem else DiagnosticStatus.OK
        status.name = f"{self._node.get_fully_qualified_name().removeprefix('/')}: {name}"
        status.values = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
        self._statuses.append(status)

    def publish(self) -> None:
        """Send what was added since the last time."""
        message = DiagnosticArray(status=self._statuses)
        message.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(message)
        self._statuses = []
