"""Two simulated arms side by side in one graph: each has its recorder and its policy, and neither hears the other."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from diwa_data.recording import messages
from diwa_data.recording.bag_reader import Bag, find_bags, is_bag
from diwa_data.testing.waiting import wait

pytestmark = [pytest.mark.ros, pytest.mark.workspace]

ROBOT = """/**:
  ros__parameters:
    robot:
      cameras: [static, gripper]
      static: {record_size: [40, 48]}
      gripper: {record_size: [40, 48]}
      joints: {warn: 0.0, hold: 0.0, warn_singular: 0.0, hold_singular: 0.0}
      topics: {command: {type: std_msgs/msg/Float64}}
/**/policy:
  ros__parameters:
    arm: {watchdog: {warn: 5.0, hold: 10.0, abort: 20.0}}  # on a busy machine two arms are late
"""
BOTH = """
from launch import LaunchDescription
from launch.actions import GroupAction, IncludeLaunchDescription
from launch_ros.actions import PushRosNamespace
from launch_ros.substitutions import FindPackageShare

def arm(**more):
    file = [FindPackageShare("diwa_deploy"), "/launch/run_skill.launch.py"]
    return IncludeLaunchDescription(file, launch_arguments=(ARGUMENTS | more).items())

def generate_launch_description():
    right = GroupAction([PushRosNamespace("right"), arm(bag_dir=FOLDER + "/right")])
    return LaunchDescription([right, arm(namespace="left", bag_dir=FOLDER + "/left")])
"""
"""One has its namespace by the argument, the other from the group of a launch file that includes ours."""
OF_ALL = {"/diagnostics", "/rosout", "/parameter_events"}
"""Topics that ROS has once for all."""


@pytest.fixture
def launched(domain: int, bundle: Path, tmp_path: Path) -> Iterator[Any]:
    """Both, not yet configured."""
    from diwa_data.testing.ros import Program

    (tmp_path / "robot.yaml").write_text(ROBOT)
    given = {"skill": "open_drawer", "robot": "sim", "robot_file": str(tmp_path / "robot.yaml"), "auto": "false"}
    given |= {"checkpoint": str(bundle), "record": "true", "success_ticks": "0", "max_steps": "8"}
    (tmp_path / "both.launch.py").write_text(f"ARGUMENTS, FOLDER = {given}, {str(tmp_path)!r}\n{BOTH}")
    program = Program(domain, "ros2", "launch", str(tmp_path / "both.launch.py"))
    yield program
    program.end()


class Arm:
    """A client in the namespace of one of them."""

    def __init__(self, domain: int, namespace: str):
        from lifecycle_msgs.srv import ChangeState
        from rclpy.action import ActionClient

        from diwa_data.testing.ros import Topics
        from diwa_interfaces.action import ExecuteSkill

        self.topics, self._goal = Topics(domain, namespace), ExecuteSkill.Goal
        node = self.topics.node
        self._change = self.topics.call(lambda: node.create_client(ChangeState, "policy/change_state"))
        self._action = self.topics.call(lambda: ActionClient(node, ExecuteSkill, "execute_skill"))

    def bring_up(self) -> None:
        """Configure and activate, which is refused while streams are missing."""
        from lifecycle_msgs.msg import Transition
        from lifecycle_msgs.srv import ChangeState

        assert self._change.wait_for_service(60.0)
        for number in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
            request, end = ChangeState.Request(transition=Transition(id=number)), time.monotonic() + 60.0
            while not wait(self._change.call_async(request)).success:
                assert time.monotonic() < end
                time.sleep(0.5)

    def run(self) -> Any:
        """The result of a goal, once it is there."""
        handle = wait(self._action.send_goal_async(self._goal(skill="open_drawer")))
        assert handle.accepted
        return handle.get_result_async()


@pytest.fixture
def arms(domain: int) -> Iterator[tuple[Arm, Arm]]:
    made = Arm(domain, "left"), Arm(domain, "right")
    yield made
    for arm in made:
        arm.topics.close()


def test_each_arm_has_its_policy_and_its_recorder(launched: Any, arms: tuple[Arm, Arm], tmp_path: Path) -> None:
    left, right = arms
    for arm in arms:
        arm.bring_up()
    end = time.monotonic() + 60.0
    while not any("recording 000000" in line for line in launched.said):  # refused while cameras are slow
        assert time.monotonic() < end
        left.topics.event("start")
        time.sleep(1.0)
    running = [arm.run() for arm in arms]
    assert [wait(result).result.reason for result in running] == ["max_steps", "max_steps"]
    right.topics.event("stop")
    launched.wait_for("nothing is being recorded")  # said by the other recorder
    left.topics.event("stop")
    launched.wait_for("finished 000000")
    names = {name for name, _ in left.topics.node.get_topic_names_and_types()}
    assert {name for name in names if not name.startswith(("/left/", "/right/"))} == OF_ALL
    assert {"/right/diwa/target_pose", "/right/joint_states", "/right/tf", "/right/robot_description"} <= names
    assert not [path for path in (tmp_path / "right").iterdir() if is_bag(path)]
    (path,) = find_bags([tmp_path / "left"])
    with Bag(path) as bag:
        assert bag.sidecar.labels["namespace"] == "left"
        assert {messages.TARGET_POSE, messages.CURRENT_POSE, messages.image_topic("static")} <= {*bag.topics}
