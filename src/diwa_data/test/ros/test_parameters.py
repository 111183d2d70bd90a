"""Parameters that are read once cannot be changed, those that are followed can; simulated time is refused."""

from __future__ import annotations

import signal
from dataclasses import dataclass, field

import pytest

from diwa_data.limits import MotionLimits
from diwa_data.robot_config import RobotConfig
from diwa_data.teleop.clutch import TeleopConfig
from diwa_data.testing.waiting import wait

pytestmark = pytest.mark.ros

NODES = {
    "recorder": ("folder:={folder}", "min_free_mb:=0.0"),
    "teleop": ("device:=scripted",),
    "camera": ("camera:=static", "robot.static.driver:=/driver"),
}


@dataclass(frozen=True)
class Config:
    """Parameters of a node."""

    name: str = "a"
    rate: float = 60.0
    limits: MotionLimits = field(default_factory=MotionLimits)


@pytest.mark.parametrize("name", NODES)
def test_ros2_param_set_is_refused_where_it_would_change_nothing(start, topics, tmp_path, name):
    from rcl_interfaces.srv import DescribeParameters, ListParameters, SetParameters
    from rclpy.parameter import Parameter

    process = start(name, *(setting.format(folder=tmp_path) for setting in NODES[name]))
    ask = {
        kind: topics.call(lambda kind=kind, what=what: topics.node.create_client(kind, f"/{name}/{what}"))
        for kind, what in (
            (ListParameters, "list_parameters"),
            (DescribeParameters, "describe_parameters"),
            (SetParameters, "set_parameters"),
        )
    }
    assert ask[SetParameters].wait_for_service(15), process.said
    names = wait(ask[ListParameters].call_async(ListParameters.Request())).result.names
    described = wait(ask[DescribeParameters].call_async(DescribeParameters.Request(names=names)))
    open_ones = {one.name for one in described.descriptors if not one.read_only}
    assert "robot.name" in names
    assert open_ones <= {"start_type_description_service"}
    change = Parameter("robot.name", value="another").to_parameter_msg()
    (answer,) = wait(ask[SetParameters].call_async(SetParameters.Request(parameters=[change]))).results
    assert not answer.successful
    assert "read-only" in answer.reason
    assert process.stop(signal.SIGTERM) == 0


@pytest.mark.parametrize("name", NODES)
def test_simulated_time_is_refused_and_the_node_ends(start, tmp_path, name):
    process = start(name, "use_sim_time:=true", *(setting.format(folder=tmp_path) for setting in NODES[name]))
    assert process.wait() == 2
    assert "use_sim_time is true, but ages and deadlines are those of real time" in process.wait_for("[FATAL]")


GIVEN = ("rate:=30", "limits.max_speed:=0.1")


@pytest.fixture
def node(domain, request):
    import rclpy
    from rclpy.node import Node

    context, given = rclpy.Context(), getattr(request, "param", GIVEN)
    arguments = ["--ros-args", *(word for setting in given for word in ("-p", setting))]
    rclpy.init(args=arguments, context=context, domain_id=domain)
    made = Node("followed", context=context, automatically_declare_parameters_from_overrides=True)
    yield made
    made.destroy_node()
    context.try_shutdown()


def test_followed_parameters_change_when_they_may_and_stay_sound(node):
    from rclpy.parameter import Parameter

    from diwa_data.ros.node import follow_parameters

    problem = ""
    read = follow_parameters(node, Config, lambda: problem, ("name",))
    assert read() == Config(rate=30.0, limits=MotionLimits(max_speed=0.1))

    def change(name: str, value: object) -> str:
        (result,) = node.set_parameters([Parameter(name, value=value)])
        return "" if result.successful else result.reason

    assert change("limits.max_speed", 0.02) == ""
    assert change("rate", 50) == "", "a whole number is a number"
    assert read() == Config(rate=50.0, limits=MotionLimits(max_speed=0.02))
    assert "read-only" in change("name", "b")
    assert "read-only" in change("use_sim_time", True)
    assert "is text to YAML, not a number" in change("rate", "fast")
    problem = "the node is active"
    assert change("rate", 10.0) == "the node is active"
    assert read() == Config(rate=50.0, limits=MotionLimits(max_speed=0.02))


def test_timers_do_not_hear_of_the_wall_clock(node):
    from rclpy.clock import ClockType

    from diwa_data.ros.node import every

    every(node, 0.1, lambda: None)
    assert [timer.clock.clock_type for timer in node.timers] == [ClockType.STEADY_TIME]


@dataclass(frozen=True)
class Moving:
    """Parameters of a node that moves the arm."""

    robot: RobotConfig = field(default_factory=RobotConfig)
    teleop: TeleopConfig = field(default_factory=TeleopConfig)


@pytest.mark.parametrize(
    "node",
    [("robot.limits.max_speed:=0.1", "robot.limits.max_tilt:=0.5", "teleop.limits.max_tilt:=0.9")],
    indirect=True,
)
def test_the_robots_limits_hold_where_a_node_has_none_of_its_own(node):
    from rclpy.parameter import Parameter

    from diwa_data.ros.node import follow_parameters

    read = follow_parameters(node, Moving, lambda: "", ("robot.",), "teleop.limits")
    assert read().teleop.limits == MotionLimits(max_speed=0.1, max_tilt=0.9)
    assert node.get_parameter("teleop.limits.max_speed").value == 0.1, "as ros2 param dump shows it"
    node.set_parameters([Parameter("teleop.limits.max_speed", value=0.2)])
    assert read().teleop.limits.max_speed == 0.2
