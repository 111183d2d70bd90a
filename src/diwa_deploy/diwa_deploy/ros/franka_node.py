"""A Franka's own beside its driver: its mode on `/diwa/arm_mode`, collision thresholds, and recovery from a reflex."""

from __future__ import annotations

from dataclasses import dataclass, field

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node
from rclpy.serialization import deserialize_message
from rosidl_runtime_py.utilities import get_message
from std_msgs.msg import Int8
from std_srvs.srv import Trigger

from diwa_data.errors import DiwaError
from diwa_data.recording import messages
from diwa_data.robot_config import RobotConfig
from diwa_data.ros import clock
from diwa_data.ros.arm_mode import GUIDING, MOVING, RECOVERING, USER_STOPPED, mode_words
from diwa_data.ros.node import Diagnostics, every, read_parameters, run_node
from diwa_data.ros.topics import MatchedSubscriptions, on_graph, other_publishers
from diwa_deploy.collision import CollisionConfig
from diwa_deploy.ros.franka_driver import FrankaDriver

STALE = 1.0
"""Seconds without a state after which the mode is not known."""
QUIET = 0.5
"""Seconds without a target after which nobody moves the arm."""
_GAP = 1.0 / 50.0  # seconds between two modes: states come at 1 kHz, and are large
_GIVEN_AGAIN = 10.0  # seconds after thresholds were refused, as some drivers do while the arm moves
_SETTLES = 3.0  # seconds after a recovery in which the arm moves again
_CURES = {
    MOVING: "there is nothing to recover from",
    GUIDING: "let go of the arm first",
    USER_STOPPED: "release the user stop first",
    RECOVERING: "wait for it",
}


@dataclass(frozen=True)
class FrankaNodeConfig:
    """Parameters of `franka`."""

    robot: RobotConfig = field(default_factory=RobotConfig)
    """The robot's file; every node is given the same."""
    state: str = "franka_robot_state_broadcaster/robot_state"
    """Topic of the driver's states, of any type with a field `robot_mode`."""
    recovery: str = ""
    """Name of the driver's action or service that recovers from errors; empty finds it by its type."""
    controller: str = "cartesian_controller"
    """Controller that a recovery stops and starts, so that it forgets its last target; empty = none."""
    controller_manager: str = "controller_manager"
    """Whose controller that is."""
    collision: CollisionConfig = field(default_factory=CollisionConfig)
    """Thresholds that the arm is given whenever its driver starts, and after each recovery."""
    patience: float = 10.0
    """Seconds in which the driver must answer."""


class FrankaNode(Node):
    """Recovers only when it is asked to by `~/recover`, and never while somebody moves the arm."""

    def __init__(self) -> None:
        super().__init__("franka", automatically_declare_parameters_from_overrides=True)
        self._config = config = read_parameters(self, FrankaNodeConfig)
        self._mode, self._received, self._targeted = -1, -float("inf"), -float("inf")
        self._busy, self._given, self._problem, self._again = False, False, "", -float("inf")
        self._driver = FrankaDriver(self, config.patience)
        self._say = self.create_publisher(Int8, messages.relative(messages.ARM_MODE), 10)
        self._states = MatchedSubscriptions(self, {config.state: config.state}, self._on_state, newest=True)
        kind = get_message(messages.TYPES[messages.TARGET_POSE])
        self.create_subscription(kind, messages.relative(messages.TARGET_POSE), self._on_target, 1, raw=True)
        beside = ReentrantCallbackGroup()  # while they wait, states come in
        self.create_service(Trigger, "~/recover", self._recover, callback_group=beside)
        self._diagnostics = Diagnostics(self)
        every(self, 0.5, self._states.update)
        every(self, 1.0, self._report)
        if config.collision:
            every(self, 1.0, self._look_for_driver, beside)

    def close(self) -> None:
        """Nothing to give back."""

    def _on_state(self, topic: str, message_type: str, received: float, data: bytes) -> None:
        if received - self._received < _GAP:
            return
        state = deserialize_message(data, get_message(message_type))
        mode = getattr(state, "robot_mode", None)
        if mode is None:
            problem = (
                f"{self._states.name(topic)} is a {message_type}, which has no robot_mode: set the parameter state"
            )
            self.get_logger().error(problem, throttle_duration_sec=10.0)
            return
        if mode != self._mode and self._mode >= 0:
            self.get_logger().info(f"the arm is in {mode_words(mode)}")
        self._mode, self._received = int(mode), received
        self._say.publish(Int8(data=self._mode))

    def _on_target(self, data: bytes) -> None:
        self._targeted = clock.now()

    def _refusal(self) -> str:
        """Why the arm is not recovered now; empty if it is."""
        if self._busy:
            return "a recovery is under way"
        if clock.now() - self._received > STALE:
            return f"the arm's mode is not known: {self._states.describe(self._config.state)}"
        if cure := _CURES.get(self._mode):
            return f"the arm is in {mode_words(self._mode)}: {cure}"
        if clock.now() - self._targeted < QUIET:
            topic = on_graph(self, messages.TARGET_POSE)
            return f"{other_publishers(self, topic)} still publishes {topic}: stop it first"
        return ""

    async def _recover(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """Clear the arm's error, and answer what to do next, or why it was not done."""
        response.message = self._refusal()
        if not response.message:
            self._busy = True
            try:
                response.message, response.success = await self._recovered(), True
            except DiwaError as error:
                response.message = str(error)
            finally:
                self._busy = False
        if response.success:  # rclpy takes one severity a line
            self.get_logger().info(response.message)
        else:
            self.get_logger().error(response.message)
        return response

    async def _recovered(self) -> str:
        driver, config, controller = self._driver, self._config, self._config.controller
        if controller:
            await driver.switch(config.controller_manager, controller, on=False)
        try:
            await driver.recover(config.recovery)
            if config.collision:
                await driver.set_collision(config.collision)
            if controller:
                await driver.switch(config.controller_manager, controller, on=True)
        except DiwaError as error:
            raise DiwaError(f"{error}; {controller} does not run" if controller else str(error)) from error
        await driver.pause(_SETTLES, until=lambda: self._mode == MOVING)
        if self._mode != MOVING:
            now = f"recovered, but the arm is in {mode_words(self._mode)}"
            raise DiwaError(f"{now}: look at Desk, and at ros2 control list_controllers")
        return "recovered, the arm holds where it is: rearm policy (~/rearm), or press the deadman again"

    async def _look_for_driver(self) -> None:
        """Give thresholds to a driver that is there anew."""
        self._given = self._given and self._driver.takes_collision
        if self._busy or self._given or clock.now() < self._again or not self._driver.takes_collision:
            return
        self._again = clock.now() + self._config.patience + _GIVEN_AGAIN
        try:
            await self._driver.set_collision(self._config.collision)
            self._given, self._problem = True, ""
            self.get_logger().info("the arm has its collision thresholds")
        except DiwaError as error:
            self._problem = f"the arm does not have the collision thresholds of its parameters: {error}"
            self.get_logger().error(self._problem)

    def _report(self) -> None:
        known = clock.now() - self._received <= STALE
        mode = mode_words(self._mode) if known else "not known"
        stands = "" if known and self._mode == MOVING else f"the arm's mode: {mode}"
        self._diagnostics.add("arm", stands or self._problem, mode=mode)
        self._diagnostics.publish()


def main() -> None:
    """The node `franka`."""
    run_node(FrankaNode)


if __name__ == "__main__":
    main()
