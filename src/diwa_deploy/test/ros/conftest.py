"""The deployment node beside an imaginary robot that follows its targets, with a skill of untrained networks."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diwa_data.limits import MotionLimits
from diwa_data.pose import Pose
from diwa_data.recording import messages
from diwa_data.robot_config import CAMERAS, CameraConfig, RobotConfig
from diwa_data.spec import Spec
from diwa_data.testing.waiting import wait
from diwa_deploy.bundle import write_bundle
from diwa_learning.core.checkpoint import save_checkpoint, weights_hash
from diwa_learning.policy.checkpoint import PolicyNetConfig, describe, make_policy, policy_weights
from diwa_learning.policy.train import PolicyConfig
from diwa_learning.reward.classifier import RewardClassifier, RewardConfig
from diwa_learning.world_model.config import WorldModelConfig
from diwa_learning.world_model.model import WorldModel
from diwa_learning.world_model.rssm import RSSMConfig

HOME = Pose.from_quaternion(np.array([0.5, 0.0, 0.3]), np.array([1.0, 0.0, 0.0, 0.0]))
SMALL = CameraConfig(record_size=(40, 48))
RATE = 60.0


def make_bundle(folder: Path, spec: Spec) -> Path:
    """A skill bundle of the smallest networks, untrained."""
    torch.manual_seed(0)
    config = WorldModelConfig(depth=2, rssm=RSSMConfig(recurrent=12, categoricals=3, classes=4, hidden=10))
    model = WorldModel(config, spec)
    save_checkpoint(folder / "world_model", "world_model", model.state_dict(), config, spec, {})
    key = weights_hash(folder / "world_model")
    net = PolicyNetConfig(width=8, denoising_steps=2)
    policy = make_policy(net, model.feature_dim, spec.action_dim)
    about = describe(net, "open_drawer", trained_steps=0)
    save_checkpoint(folder / "policy", "policy", policy_weights(policy), PolicyConfig(net=net), spec, about, key)
    reward, skill = RewardClassifier(model.feature_dim, 8), {"skill": "open_drawer"}
    save_checkpoint(folder / "reward", "reward", reward.state_dict(), RewardConfig(width=8), spec, skill, key)
    parts = {name: folder / name for name in ("world_model", "policy", "reward")} | {"base": folder / "policy"}
    return write_bundle(folder / "bundle", parts, skill).path


@pytest.fixture(scope="session")
def spec() -> Spec:
    return RobotConfig(cameras=dict.fromkeys(CAMERAS, SMALL)).spec


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory, spec: Spec) -> Path:
    return make_bundle(tmp_path_factory.mktemp("skill"), spec)


@pytest.fixture
def start(domain: int) -> Iterator[Callable[..., Any]]:
    """`start("policy_node", "name:=value", ...)`: nodes in processes of their own; all end with the test."""
    from diwa_data.testing.ros import NodeProcess

    started: list[NodeProcess] = []

    def begin(name: str, *settings: str, remaps: Iterable[str] = ()) -> NodeProcess:
        started.append(NodeProcess(f"diwa_deploy.ros.{name}", domain, *settings, remaps=remaps))
        return started[-1]

    yield begin
    for node in started:
        node.end()


class Arm:
    """Commands to the arm: targets with the time they came, and the gripper's commands."""

    def __init__(self, topics: Any):
        self.targets: list[Pose] = topics.subscribe(messages.TARGET_POSE)
        self.grippers: list[float] = topics.subscribe(messages.GRIPPER_COMMAND)

    def pose(self, _: float) -> Pose:
        """It is where it was told to be."""
        return self.targets[-1] if self.targets else HOME

    def violations(self) -> int:
        """Published steps beyond the speed limits."""
        limits = MotionLimits()
        steps = [(b.position - a.position, b.rotation * a.rotation.inv()) for a, b in itertools.pairwise(self.targets)]
        moved = [np.linalg.norm(step) > limits.max_speed / RATE + 1e-6 for step, _ in steps]
        turned = [turn.magnitude() > limits.max_rotation_speed / RATE + 1e-6 for _, turn in steps]
        return int(sum(moved) + sum(turned))  # numpy's integers do not cross the processes of pytest

    def moved(self, seconds: float) -> float:
        """Metres that the target moves from now on, once it has braked, in so many seconds."""
        time.sleep(0.4)
        start = self.targets[-1].position
        time.sleep(seconds)
        return float(np.linalg.norm(self.targets[-1].position - start))


@pytest.fixture
def arm(topics: Any) -> Arm:
    return Arm(topics)


@pytest.fixture
def robot(topics: Any, arm: Arm) -> Iterator:
    from diwa_data.testing.ros import SyntheticRobot

    made = SyntheticRobot(topics, silent=(messages.TARGET_POSE, messages.GRIPPER_COMMAND))
    made.pose = arm.pose
    yield made
    made.close()


class Policy:
    """The node in this process, and a client of it in another context."""

    def __init__(self, domain: int, bundle: Path, topics: Any, *settings: str):
        import rclpy
        from lifecycle_msgs.srv import ChangeState
        from rclpy.action import ActionClient
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.signals import SignalHandlerOptions

        from diwa_data.testing.ros import PARAMETERS
        from diwa_deploy.ros.policy_node import PolicyNode
        from diwa_interfaces.action import ExecuteSkill

        told = [*PARAMETERS, "skill:=open_drawer", f"checkpoint:={bundle}", "success_ticks:=0", *settings]
        arguments = ["--ros-args", *[word for setting in told for word in ("-p", setting)]]
        rclpy.init(args=arguments, domain_id=domain, signal_handler_options=SignalHandlerOptions.NO)
        self.node = PolicyNode()
        self._goal = ExecuteSkill.Goal
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        self._open = True
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()
        self._change = topics.call(lambda: topics.node.create_client(ChangeState, "/policy/change_state"))
        self._action = topics.call(lambda: ActionClient(topics.node, ExecuteSkill, "execute_skill"))
        self.feedback: list[Any] = []

    def transition(self, name: str) -> bool:
        """configure, activate, deactivate or cleanup, as `ros2 lifecycle set` asks for it."""
        from lifecycle_msgs.msg import Transition
        from lifecycle_msgs.srv import ChangeState

        assert self._change.wait_for_service(5.0)
        number = getattr(Transition, f"TRANSITION_{name.upper()}")
        return wait(self._change.call_async(ChangeState.Request(transition=Transition(id=number)))).success

    def send(self, max_steps: int = 1000, skill: str = "open_drawer") -> Any:
        """Send a goal; its handle."""
        goal = self._goal(skill=skill, max_steps=max_steps)
        return wait(self._action.send_goal_async(goal, feedback_callback=self.feedback.append))

    def call(self, topics: Any, name: str) -> Any:
        """The answer of a service of the node: rearm or go_to_start."""
        from std_srvs.srv import Trigger

        client = topics.call(lambda: topics.node.create_client(Trigger, f"/policy/{name}"))
        assert client.wait_for_service(5.0)
        return wait(client.call_async(Trigger.Request()))

    def act(self, answer: Callable[[int], np.ndarray], delay: Callable[[int], float] = lambda _: 0.0) -> None:
        """From now on actions are `answer(n)`, each after `delay(n)` seconds, instead of the policy's."""
        agent = self.node._server.runners["open_drawer"]._agent
        decide, count = agent.act, itertools.count()

        def act(observation, executed):
            decision, n = decide(observation, executed), next(count)
            time.sleep(delay(n))
            return type(decision)(np.asarray(answer(n), np.float32), decision.success_probability)

        agent.act = act

    def close(self) -> None:
        import rclpy

        self._open = False
        self._thread.join()
        self.node.close()
        self.node.destroy_node()
        rclpy.try_shutdown()

    def _spin(self) -> None:
        while self._open:
            self._executor.spin_once(timeout_sec=0.05)


@pytest.fixture
def open_policy(domain: int, topics: Any, robot: Any) -> Iterator[Callable[..., Policy]]:
    """`open_policy(bundle, "name:=value", ...)`: the node, told of this bundle; closed with the test."""
    opened: list[Policy] = []

    def open_one(bundle: Path, *settings: str) -> Policy:
        opened.append(Policy(domain, bundle, topics, *settings))
        return opened[-1]

    yield open_one
    for policy in opened:
        policy.close()


@pytest.fixture
def policy(open_policy: Callable[..., Policy], bundle: Path) -> Policy:
    return open_policy(bundle)


@pytest.fixture
def bundle_of() -> Callable[[Path, Spec], Path]:
    """`bundle_of(folder, spec)`: a bundle for another contract."""
    return make_bundle


@pytest.fixture
def active(policy: Policy) -> Policy:
    """Configured and active."""
    assert policy.transition("configure")
    time.sleep(0.5)
    assert policy.transition("activate")
    return policy


@pytest.fixture
def result() -> Callable[[Any], Any]:
    """`result(handle)`: the result of an accepted goal."""
    return lambda handle: wait(handle.get_result_async()).result


@pytest.fixture
def fault(record_property: Callable[[str, object], None], arm: Arm) -> Callable[..., None]:
    """Notes a row of the fault table, after a look at what the arm was told."""

    def note(name: str, what_the_arm_did: str) -> None:
        violations = arm.violations()
        for key, value in (("fault", name), ("arm", what_the_arm_did), ("violations", violations)):
            record_property(key, value)
        assert violations == 0

    return note


class FrankaDriver:
    """An imitation of one: says its mode at 100 Hz, and does what it is asked for; writes down what that was."""

    def __init__(self, topics: Any, namespace: str = "", by_service: bool = False):
        self.told: list[str] = []
        self.mode, self.recovers_to, self.refuses = 2, 2, ""
        self._open, self._topics = True, topics
        topics.call(lambda: self._serve(topics.node, namespace, by_service))
        self._thread = threading.Thread(target=self._speak, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._open = False
        self._thread.join()

    def _serve(self, node: Any, namespace: str, by_service: bool) -> None:
        from controller_manager_msgs.srv import SwitchController
        from franka_msgs.action import ErrorRecovery
        from franka_msgs.msg import FrankaRobotState
        from franka_msgs.srv import ErrorRecovery as ByService
        from franka_msgs.srv import SetFullCollisionBehavior
        from rclpy.action import ActionServer

        state = f"{namespace}/franka_robot_state_broadcaster/robot_state"
        self._state, self._publisher = FrankaRobotState, node.create_publisher(FrankaRobotState, state, 10)
        if by_service:
            node.create_service(ByService, f"{namespace}/panda_error_recovery_service_server/error_recovery", self._ask)
        else:
            ActionServer(node, ErrorRecovery, f"{namespace}/action_server/error_recovery", self._recover)
        name = f"{namespace}/service_server/set_full_collision_behavior"
        node.create_service(SetFullCollisionBehavior, name, self._collision)
        node.create_service(SwitchController, f"{namespace}/controller_manager/switch_controller", self._switch)

    def _speak(self) -> None:
        while self._open:
            self._publisher.publish(self._state(robot_mode=self.mode))
            time.sleep(0.01)

    def _recover(self, goal: Any) -> Any:
        from franka_msgs.action import ErrorRecovery

        self.told.append("recover")
        if self.refuses == "recover":
            goal.abort()
        else:
            self.mode = self.recovers_to
            goal.succeed()
        return ErrorRecovery.Result()

    def _ask(self, _: Any, response: Any) -> Any:
        self.told.append("recover")
        self.mode = self.recovers_to
        response.success = True
        return response

    def _collision(self, request: Any, response: Any) -> Any:
        forces = request.lower_force_thresholds_nominal[0], request.upper_force_thresholds_acceleration[5]
        torques = request.lower_torque_thresholds_acceleration[6], request.upper_torque_thresholds_nominal[0]
        self.told.append(f"thresholds {[*map(float, (*forces, *torques))]}")
        response.success, response.error = self.refuses != "thresholds", "command rejected due to the current mode"
        return response

    def _switch(self, request: Any, response: Any) -> Any:
        self.told += [f"stop {name}" for name in request.deactivate_controllers]
        self.told += [f"start {name}" for name in request.activate_controllers]
        response.ok = True
        return response


@pytest.fixture
def imitate(topics: Any) -> Iterator[Callable[..., FrankaDriver]]:
    """`imitate(namespace, by_service)`: a Franka's driver; closed with the test."""
    made: list[FrankaDriver] = []

    def one(namespace: str = "", by_service: bool = False) -> FrankaDriver:
        made.append(FrankaDriver(topics, namespace, by_service))
        return made[-1]

    yield one
    for driver in made:
        driver.close()


@pytest.fixture
def driver(imitate: Callable[..., FrankaDriver]) -> FrankaDriver:
    return imitate()


@pytest.fixture
def recover(topics: Any) -> Callable[..., Any]:
    """`recover(namespace)`: what the node answers."""
    from std_srvs.srv import Trigger

    def client_of(namespace: str) -> Any:
        return topics.call(lambda: topics.node.create_client(Trigger, f"{namespace}/franka/recover"))

    clients = {name: client_of(name) for name in ("", "/left")}  # known to the node when it begins: it loses no answer

    def ask(namespace: str = "") -> Any:
        assert clients[namespace].wait_for_service(60.0)
        return wait(clients[namespace].call_async(Trigger.Request()))

    return ask
