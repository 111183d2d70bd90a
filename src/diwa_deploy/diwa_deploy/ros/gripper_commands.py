"""How grippers are told to open and close: the actions of a Franka's, actions of `control_msgs`, or a topic."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, Protocol

from rclpy.action import ActionClient
from rclpy.node import Node
from rosidl_runtime_py.utilities import get_action, get_message

from diwa_data.robot_config import FRANKA_NAMESPACE, CommandTopic
from diwa_data.ros.topics import LATCHED
from diwa_deploy.gripper import CLOSE_BELOW, OPEN_ABOVE, GripperConfig, GripperWorker
from diwa_deploy.ros.message_types import imported


@dataclass(frozen=True)
class FrankaConfig:
    """Settings of a Franka's gripper."""

    namespace: str = FRANKA_NAMESPACE
    """Namespace of the actions `grasp` and `move`."""
    open_width: float = 0.08
    """Distance between the open fingers, in metres."""
    speed: float = 0.1
    """Speed of the fingers, in metres per second."""
    force: float = 20.0
    """Closing force, in newtons."""


class Gripper(Protocol):
    """A gripper that can be told something."""

    def command(self, value: float) -> None:
        """+1 open .. -1 close; returns at once."""

    def problem(self) -> str:
        """Reason why nobody hears it; empty if someone does."""

    def close(self) -> None:
        """Cancel what is under way."""


class ActionGoal:
    """A goal of an action server, from the moment it is sent."""

    def __init__(self, client: ActionClient, goal: Any):
        self._cancelled = self._ended = False
        self._result: Any = None
        self._handle: Any = None
        client.send_goal_async(goal).add_done_callback(self._on_answer)

    def done(self) -> bool:
        """It has ended, was refused or cancelled."""
        return self._ended or (self._result is not None and self._result.done())

    def cancel(self) -> None:
        """Ask the server to end it, also if it has not even answered yet."""
        self._cancelled = True
        if self._handle is not None:
            self._handle.cancel_goal_async()

    def _on_answer(self, answer: Any) -> None:
        self._handle = answer.result()
        if not self._handle.accepted:
            self._ended = True
            return
        self._result = self._handle.get_result_async()
        if self._cancelled:
            self._handle.cancel_goal_async()


class ServedGripper(ABC):
    """A gripper behind actions: goals on edges only, from a thread of its own."""

    def __init__(self, node: Node, patience: GripperConfig):
        self._worker = GripperWorker(self.send, patience, node.get_logger().error)
        self.command, self.close = self._worker.command, self._worker.close

    @abstractmethod
    def send(self, wish: bool) -> ActionGoal:
        """Begin to open it (True) or to close it."""


class FrankaGripper(ServedGripper):
    """Closes by grasping whatever is between the fingers, opens by moving to the full width."""

    def __init__(self, node: Node, config: FrankaConfig, patience: GripperConfig):
        super().__init__(node, patience)
        self._config, self._where = config, node.resolve_topic_name(config.namespace)
        self._types = {name: action_type(f"franka_msgs/action/{name}") for name in ("Grasp", "Move")}
        self._clients = {
            name: ActionClient(node, kind, f"{config.namespace}/{name.lower()}") for name, kind in self._types.items()
        }

    def send(self, wish: bool) -> ActionGoal:
        """Move to the full width, or grasp."""
        config = self._config
        if wish:
            return self._goal("Move", width=config.open_width, speed=config.speed)
        goal = self._types["Grasp"].Goal(width=0.0, speed=config.speed, force=config.force)
        goal.epsilon.inner, goal.epsilon.outer = 0.0, config.open_width
        return ActionGoal(self._clients["Grasp"], goal)

    def problem(self) -> str:
        """A server is missing."""
        ready = all(client.server_is_ready() for client in self._clients.values())
        return "" if ready else f"no gripper at {self._where}: is it started?"

    def _goal(self, name: str, **fields: float) -> ActionGoal:
        return ActionGoal(self._clients[name], self._types[name].Goal(**fields))


class ActionGripper(ServedGripper):
    """A gripper behind `control_msgs/action/GripperCommand`, or `ParallelGripperCommand`, which names joints."""

    def __init__(self, node: Node, config: CommandTopic, patience: GripperConfig):
        super().__init__(node, patience)
        self._config, self._type = config, action_type(config.type)
        self._where = node.resolve_topic_name(config.topic)
        self._client = ActionClient(node, self._type, config.topic)

    def send(self, wish: bool) -> ActionGoal:
        """Send it to the open or the closed position."""
        goal, config = self._type.Goal(), self._config
        position = config.open if wish else config.closed
        if hasattr(goal.command, "max_effort"):
            goal.command.position, goal.command.max_effort = position, config.effort
        else:
            goal.command.name = list(config.joints)
            goal.command.position, goal.command.effort = (
                [each] * len(config.joints) for each in (position, config.effort)
            )
        return ActionGoal(self._client, goal)

    def problem(self) -> str:
        """Its server is missing."""
        return "" if self._client.server_is_ready() else f"no server of the action {self._where}: is it started?"


class TopicGripper:
    """A gripper that follows a number, several, or the positions of its joints on a topic: told at every command."""

    def __init__(self, node: Node, config: CommandTopic):
        self._node, self._config, self._type = node, config, message_type(config.type)
        self._publisher = node.create_publisher(self._type, config.topic, LATCHED)

    def command(self, value: float) -> None:
        """Publish the open or the closed position; nothing for a value that is neither."""
        if not (value > OPEN_ABOVE or value < CLOSE_BELOW):
            return
        config, message = self._config, self._type()
        positions = [config.open if value > 0 else config.closed] * max(1, len(config.joints))
        if hasattr(message, "position"):
            message.header.stamp = self._node.get_clock().now().to_msg()
            message.name, message.position = list(config.joints), positions
        else:
            message.data = positions if config.type.endswith("MultiArray") else positions[0]
        self._publisher.publish(message)

    def close(self) -> None:
        """Nothing is under way."""

    def problem(self) -> str:
        """Nobody subscribes to it."""
        topic = self._node.resolve_topic_name(self._config.topic)
        heard = self._node.count_subscribers(topic)
        return "" if heard else f"nobody subscribes to {topic}: is the gripper's driver started?"


def make_gripper(node: Node, config: CommandTopic, franka: FrankaConfig, patience: GripperConfig) -> Gripper:
    """The gripper that is told by commands of `config.type`. Raises `DiwaError` if its package is not installed."""
    if config.is_franka:
        franka = replace(franka, namespace=config.topic or franka.namespace)
        return FrankaGripper(node, franka, patience)
    return ActionGripper(node, config, patience) if config.is_action else TopicGripper(node, config)


def action_type(name: str) -> Any:
    """The class of a type of actions. Raises `DiwaError` if its package is not installed."""
    return imported(get_action, name, "gripper's")


def message_type(name: str) -> Any:
    """The class of a type of messages. Raises `DiwaError` if its package is not installed."""
    return imported(get_message, name, "gripper's")
