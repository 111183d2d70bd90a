"""The node of a Panda without ros2_control, against an imitation of `panda_py`."""

from __future__ import annotations

import time

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from diwa_data.pose import Pose
from diwa_data.recording import messages
from diwa_data.recording.messages import gripper_width

pytestmark = pytest.mark.ros

IMITATION = '''
import time, types, numpy as np

class Panda:
    """Is where it was told to be; writes down what it is told."""
    def __init__(self, hostname):
        self.position, self.orientation, self.mode = np.array([0.4, 0.0, 0.4]), np.array([1.0, 0.0, 0.0, 0.0]), 2
        print("connected to", hostname, flush=True)
    def get_position(self): return self.position
    def get_orientation(self): return self.orientation
    def get_state(self):
        q, mode = [0.0, -0.785, 0.0, -2.356, 0.0, 1.571, 0.785], types.SimpleNamespace(value=self.mode)
        return types.SimpleNamespace(q=q, dq=[0.0] * 7, robot_mode=mode)
    def start_controller(self, controller): controller.panda = self; print("started", flush=True)
    def stop_controller(self): print("stopped", flush=True)
    def recover(self): print("recovered", flush=True)

class CartesianImpedance:
    def __init__(self, impedance): print("stiffness", impedance[0, 0], impedance[5, 5], flush=True)
    def set_control(self, position, orientation): self.panda.position, self.panda.orientation = position, orientation

class Gripper:
    def __init__(self, hostname): self.width = 0.08
    def read_once(self): return types.SimpleNamespace(width=self.width)
    def move(self, width, speed): self.width = width; print("move", width, flush=True); return True
    def grasp(self, width, speed, force, inner, outer):
        print("grasp", flush=True); time.sleep(100)
    def stop(self): print("fingers stopped", flush=True); return True

controllers = types.SimpleNamespace(CartesianImpedance=CartesianImpedance)
libfranka = types.SimpleNamespace(Gripper=Gripper)
'''


@pytest.fixture
def node(domain, tmp_path, monkeypatch, request):
    from diwa_data.testing.ros import NodeProcess

    (tmp_path / "panda_py.py").write_text(IMITATION)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    settings = ("hostname:=10.0.0.2", "worker.patience:=1.0", *getattr(request, "param", ()))
    process = NodeProcess("diwa_deploy.ros.panda_arm_node", domain, *settings)
    process.wait_for("started")
    yield process
    if process.running:
        process.kill()


def test_it_follows_the_target_and_says_where_it_is(topics, node):
    poses, joints = topics.subscribe(messages.CURRENT_POSE), topics.subscribe(messages.JOINT_STATES)
    time.sleep(1.0)
    assert "connected to 10.0.0.2" in node.said
    assert "stiffness 400.0 30.0" in node.said
    np.testing.assert_allclose(poses[-1].position, [0.4, 0, 0.4])
    assert gripper_width(joints[-1], "joints") == pytest.approx(0.08)
    for x in (0.42, 0.44):
        send(topics, [x, 0.01, 0.39])
    np.testing.assert_allclose(poses[-1].position, [0.44, 0.01, 0.39])
    assert len(poses) > 30
    assert node.stop() == 0
    assert node.said[-1] == "stopped"


@pytest.mark.parametrize("node", [("robot.action.gripper:=false",)], indirect=True)
def test_an_arm_without_a_gripper_says_its_joints_alone(topics, node):
    joints = topics.subscribe(messages.JOINT_STATES)
    time.sleep(1.0)
    assert joints[-1].name == [f"panda_joint{number}" for number in range(1, 8)]
    assert node.stop() == 0


def send(topics, position: list[float], frame: str = messages.BASE_FRAME) -> None:
    """A target, gripper down, twice: the first may come before the node hears."""
    target = Pose(np.array(position), Rotation.from_rotvec([np.pi, 0, 0]))
    for _ in range(2):
        topics.publish(messages.TARGET_POSE, messages.encode_pose(target, time.time(), frame), 1)
        time.sleep(0.3)


def test_targets_that_cannot_be_are_not_followed(topics, node):
    poses = topics.subscribe(messages.CURRENT_POSE)
    send(topics, [0.42, 0.0, 0.4], frame="world")
    node.wait_for("/diwa/target_pose is in the frame 'world', not in the robot's base 'panda_link0'")
    send(topics, [0.6, 0.0, 0.4])
    node.wait_for("the arm holds: the target jumped: it is 0.200 m and 0.00 rad from the hand")
    time.sleep(1.0)  # what is said is throttled
    send(topics, [0.42, 0.0, 2.0])
    node.wait_for("the arm holds: ")
    np.testing.assert_allclose(poses[-1].position, [0.4, 0, 0.4])


def test_two_publishers_of_targets_are_not_followed(topics, node):
    from geometry_msgs.msg import PoseStamped

    poses = topics.subscribe(messages.CURRENT_POSE)
    send(topics, [0.4, 0.0, 0.4])
    topics.call(lambda: topics.node.create_publisher(PoseStamped, messages.TARGET_POSE, 1))
    time.sleep(1.0)
    send(topics, [0.42, 0.0, 0.4])
    node.wait_for("the arm holds: /test, /test publish /diwa/target_pose: stop all but one")
    np.testing.assert_allclose(poses[-1].position, [0.4, 0, 0.4])


def test_a_grasp_that_hangs_is_stopped_and_recovery_starts_anew(topics, node):
    from std_srvs.srv import Trigger

    from diwa_data.ros.topics import LATCHED

    topics.publish(messages.GRIPPER_COMMAND, messages.encode_float(-1.0), LATCHED)
    node.wait_for("grasp")
    node.wait_for("the gripper did not close within 1 s: cancelled")
    node.wait_for("fingers stopped")
    topics.publish(messages.GRIPPER_COMMAND, messages.encode_float(1.0), LATCHED)
    node.wait_for("move 0.08")
    client = topics.call(lambda: topics.node.create_client(Trigger, "/panda_arm/recover"))
    assert client.wait_for_service(5.0)
    answer = client.call_async(Trigger.Request())
    node.wait_for("recovered")
    time.sleep(1.0)
    assert answer.done()
    assert answer.result().message == "recovered: holding the measured pose"
    assert sum(line == "started" for line in node.said) == 2


def test_without_an_address_or_the_package_it_says_so(domain):
    from diwa_data.testing.ros import NodeProcess

    lost = NodeProcess("diwa_deploy.ros.panda_arm_node", domain)
    assert lost.wait() == 2
    lost.wait_for("panda_arm needs the address of the control box")
