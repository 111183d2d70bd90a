"""Requests to a Franka's driver: recovery from an error, collision thresholds, and a controller's restart.

`franka_ros2` (FR3) recovers by an action, `multipanda_ros2` (FER) by a service, under other names. Which of them is
there is found by its type, and the packages of messages are imported only then.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

from action_msgs.msg import GoalStatus
from rclpy.action import ActionClient
from rclpy.node import Node
from rclpy.task import Future
from rosidl_runtime_py.utilities import get_action, get_service

from diwa_data.errors import DiwaError
from diwa_data.ros.node import every
from diwa_deploy.collision import CollisionConfig
from diwa_deploy.ros.message_types import imported

RECOVERY_ACTION = "franka_msgs/action/ErrorRecovery"
RECOVERY_SERVICE = "franka_msgs/srv/ErrorRecovery"
COLLISION = "franka_msgs/srv/SetFullCollisionBehavior"
SWITCH = "controller_manager_msgs/srv/SwitchController"
_GOALS = "/_action/send_goal"
_STEP = 0.05  # seconds between two looks at what is waited for
_BEST_EFFORT, _STRICT = 1, 2  # of SwitchController: nothing is wrong with a controller that was stopped already


class FrankaDriver:
    """The driver in the namespace of `node`. All that waits is for its callbacks in a reentrant group."""

    def __init__(self, node: Node, patience: float):
        """`patience`: seconds in which the driver must answer."""
        self._node, self._patience = node, patience
        self._clients: dict[str, Any] = {}

    async def recover(self, name: str = "") -> None:
        """Clear the arm's error, by the server `name`; empty finds it. Raises `DiwaError` if that fails."""
        found = self._find(f"{RECOVERY_ACTION}_SendGoal", name + _GOALS if name else "")
        if not found:
            await self._ask(self._only(RECOVERY_SERVICE, name, "recovers from errors"), RECOVERY_SERVICE)
            return
        where, kind = found[0].removesuffix(_GOALS), imported(get_action, RECOVERY_ACTION, "arm's")
        client = self._client(where, lambda: ActionClient(self._node, kind, where))
        goal = await self._answer(client.send_goal_async(kind.Goal()), where)
        if not goal.accepted:
            raise DiwaError(f"{where} refused to recover")
        if (await self._answer(goal.get_result_async(), where)).status != GoalStatus.STATUS_SUCCEEDED:
            raise DiwaError(f"{where} could not recover: the driver's log says why")

    async def set_collision(self, config: CollisionConfig) -> None:
        """Set the thresholds, the same while it accelerates and while it does not. Raises `DiwaError` if refused."""
        thresholds: dict[str, list[float]] = {}
        for each in fields(config):
            bound = "lower" if each.name.startswith("contact_") else "upper"
            for phase in ("acceleration", "nominal"):
                kind = each.name.removeprefix("contact_")
                thresholds[f"{bound}_{kind}_thresholds_{phase}"] = list(getattr(config, each.name))
        await self._ask(self._only(COLLISION, "", "takes collision thresholds"), COLLISION, **thresholds)

    @property
    def takes_collision(self) -> bool:
        """Somebody is there who takes collision thresholds."""
        return bool(self._find(COLLISION))

    async def switch(self, manager: str, controller: str, on: bool) -> None:
        """Start or stop a controller of ros2_control. Raises `DiwaError` if that fails."""
        where = f"{self._node.resolve_service_name(manager)}/switch_controller"
        if not self._find(SWITCH, where):
            cure = "does the arm's driver run? Without ros2_control set the parameter controller to ''"
            raise DiwaError(f"no {where}: {cure}")
        which = {f"{'activate' if on else 'deactivate'}_controllers": [controller]}
        await self._ask(where, SWITCH, strictness=_STRICT if on else _BEST_EFFORT, **which)

    async def pause(self, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        """Wait, for so long at most."""
        ended = Future(executor=self._node.executor)
        steps = [round(seconds / _STEP)]

        def look() -> None:
            steps[0] -= 1
            if (until() or steps[0] <= 0) and not ended.done():
                ended.set_result(None)

        timer = every(self._node, _STEP, look)
        await ended
        self._node.destroy_timer(timer)

    def _find(self, kind: str, name: str = "") -> list[str]:
        """The services of a type in the namespace of the node, or the one of this name."""
        inside = f"{self._node.get_namespace().rstrip('/')}/"
        wanted = self._node.resolve_service_name(name) if name else ""
        there = [each for each, kinds in self._node.get_service_names_and_types() if kind in kinds]
        return [each for each in there if (each == wanted if wanted else each.startswith(inside))]

    def _only(self, kind: str, name: str, does: str) -> str:
        found = self._find(kind, name)
        if not found:
            where = name or f"{self._node.get_namespace().rstrip('/')}/..."
            raise DiwaError(f"nobody at {where} {does} ({kind}): does the arm's driver run?")
        if len(found) > 1:
            raise DiwaError(f"{' and '.join(sorted(found))} are of the type {kind}: start this node in one's namespace")
        return found[0]

    async def _ask(self, where: str, kind: str, **fields: Any) -> None:
        """Call a service that answers whether it did it, and in some version of it, why not."""
        service = imported(get_service, kind, "arm's")
        client = self._client(where, lambda: self._node.create_client(service, where))
        said = await self._answer(client.call_async(service.Request(**fields)), where)
        if not (said.ok if hasattr(said, "ok") else said.success):
            why = getattr(said, "error", "") or getattr(said, "message", "")
            raise DiwaError(f"{where} refused: {why or 'its log says why'}")

    def _client(self, where: str, make: Callable[[], Any]) -> Any:
        if where not in self._clients:
            self._clients[where] = make()
        return self._clients[where]

    async def _answer(self, future: Future, where: str) -> Any:
        await self.pause(self._patience, future.done)
        if not future.done():
            raise DiwaError(f"{where} did not answer within {self._patience:g} s")
        return future.result()
