"""Messages of other arms and grippers as ours, and our target as theirs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from diwa_data.config import from_mapping
from diwa_data.errors import DiwaError
from diwa_data.foreign.arm_topics import FINGER, MAX_AGE, TF, TF_STATIC, ArmTarget, ArmTopics
from diwa_data.pose import Pose
from diwa_data.recording import messages
from diwa_data.recording.messages import decode_value, gripper_width, header_stamp, require_frame
from diwa_data.robot_config import RobotConfig, TargetTopic

NOW = 1000.0
ROBOTIQ = {"topic": "/gripper/joint_states", "joints": ["knuckle"], "scale": -0.10625, "offset": 0.085}


def make(name: str, **fields: Any) -> Any:
    return messages.typestore().types[name](**fields)


def header(stamp: float, frame: str = "") -> Any:
    time = make("builtin_interfaces/msg/Time", sec=int(stamp), nanosec=round(stamp % 1 * 1e9))
    return make("std_msgs/msg/Header", stamp=time, frame_id=frame)


def pose_stamped(pose: Pose, stamp: float, frame: str) -> Any:
    return messages.decode(bytes(messages.encode_pose(pose, stamp, frame)), "geometry_msgs/msg/PoseStamped")


def joints(stamp: float, **positions: float) -> Any:
    values = np.array(list(positions.values()))
    data = messages.encode_joints(list(positions), values, 10 * values, stamp)
    return messages.decode(bytes(data), "sensor_msgs/msg/JointState")


def transform(parent: str, child: str, pose: Pose, stamp: float = 0.0) -> Any:
    vector = make("geometry_msgs/msg/Vector3", **dict(zip("xyz", pose.position.tolist(), strict=True)))
    turn = make("geometry_msgs/msg/Quaternion", **dict(zip("xyzw", pose.quaternion.tolist(), strict=True)))
    of = make("geometry_msgs/msg/Transform", translation=vector, rotation=turn)
    return make("geometry_msgs/msg/TransformStamped", header=header(stamp, parent), child_frame_id=child, transform=of)


def tf(*transforms: Any) -> Any:
    return make("tf2_msgs/msg/TFMessage", transforms=list(transforms))


def arm(**topics: Any) -> ArmTopics:
    return ArmTopics(from_mapping(RobotConfig, {"base_frame": "base", "topics": topics}, "robot"))


def pose_of(told: list) -> Pose:
    (only,) = told
    require_frame(only.data, "base", only.topic)
    return decode_value(only.topic, bytes(only.data), only.topic)


def same(first: Pose, second: Pose) -> bool:
    turned = (first.rotation * second.rotation.inv()).magnitude()
    return bool(np.allclose(first.position, second.position, atol=1e-9) and turned < 1e-7)


poses = st.builds(
    lambda position, vector: Pose(np.array(position), Rotation.from_rotvec(vector)),
    st.tuples(*[st.floats(-2, 2)] * 3),
    st.tuples(*[st.floats(-3, 3)] * 3),
)


class State:
    """A state message as `franka_msgs` of a FER has it: the pose is sixteen numbers by columns."""

    def __init__(self, pose: Pose, stamp: float):
        matrix = np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = pose.rotation.as_matrix(), pose.position
        self.header, self.o_t_ee, self.robot_mode = header(stamp, "base"), matrix.T.reshape(-1), 2

    @classmethod
    def get_fields_and_field_types(cls) -> dict[str, str]:
        return {"header": "std_msgs/Header", "o_t_ee": "double[16]", "robot_mode": "uint8"}


class NewState(State):
    """As `franka_msgs` of an FR3 has it: a PoseStamped, whose header names the frame."""

    def __init__(self, pose: Pose, stamp: float):
        super().__init__(pose, stamp)
        self.o_t_ee = pose_stamped(pose, stamp, "base")


@given(poses)
def test_every_way_to_say_a_pose_says_the_same(pose: Pose) -> None:
    stamped = arm(pose={"topic": "/lab/pose"})
    assert same(pose_of([*stamped.take("/lab/pose", pose_stamped(pose, 5.25, "base"), NOW, NOW)]), pose)
    state = arm(pose={"topic": "/lab/state", "field": "o_t_ee"})
    for kind in (State, NewState):
        (told,) = state.take("/lab/state", kind(pose, 5.25), NOW, NOW)
        assert (told.topic, header_stamp(told.data)) == (messages.CURRENT_POSE, 5.25)
        assert same(pose_of([told]), pose)


@given(poses, poses, poses)
def test_the_hand_is_found_through_the_tree_of_frames(link: Pose, hand: Pose, mount: Pose) -> None:
    robot = arm(pose={"child": "tool"})
    assert robot.topics == [TF, TF_STATIC]
    assert [*robot.take(TF, tf(transform("base", "link", link, 3.0)), NOW, NOW)] == []
    assert "no transforms between base and tool; frames there are: base, link" in robot.unused()[messages.CURRENT_POSE]
    static = tf(transform("flange", "tool", hand), transform("world", "base", mount))
    assert [*robot.take(TF_STATIC, static, NOW, NOW)] == []
    (told,) = robot.take(TF, tf(transform("link", "flange", mount, 4.5)), NOW, NOW)
    whole = link.rotation * mount.rotation
    expected = Pose(
        link.position + link.rotation.apply(mount.position) + whole.apply(hand.position), whole * hand.rotation
    )
    assert same(pose_of([told]), expected)
    assert header_stamp(told.data) == 3.0  # of the oldest transform on the way
    assert robot.unused() == {}
    assert [*robot.take(TF, tf(transform("base", "camera", link, 5.0)), NOW, NOW)] == []


def test_a_pose_that_is_none_is_refused_and_names_what_there_is() -> None:
    robot = arm(pose={"topic": "/lab/state", "field": "o_t_e"})
    with pytest.raises(DiwaError, match=r"/lab/state has no 'o_t_e' in its State; its fields are header, o_t_ee"):
        [*robot.take("/lab/state", State(Pose(np.zeros(3), Rotation.identity()), 1.0), NOW, NOW)]
    with pytest.raises(DiwaError, match="/lab/pose holds no pose; its fields are header, name, position"):
        [*arm(pose={"topic": "/lab/pose"}).take("/lab/pose", joints(1.0, a=0.0), NOW, NOW)]
    bad = Pose(np.array([math.nan, 0, 0]), Rotation.identity())
    with pytest.raises(DiwaError, match="is not finite"):
        [*arm(pose={"topic": "/lab/pose"}).take("/lab/pose", pose_stamped(bad, 1.0, "base"), NOW, NOW)]
    static = arm(pose={"child": "tool"})
    assert [
        *static.take(TF_STATIC, tf(transform("base", "tool", Pose(np.ones(3), Rotation.identity()))), NOW, NOW)
    ] == []
    assert (
        static.unused()[messages.CURRENT_POSE] == "only static transforms between base and tool: the hand never moves"
    )


def test_a_knuckle_becomes_a_width_beside_the_arms_joints() -> None:
    robot = arm(joints="/joint_states", width=ROBOTIQ)
    assert robot.gives == ["/diwa/joint_states"]
    assert [*robot.take("/joint_states", joints(1.0, shoulder=0.1, elbow=0.2), NOW, NOW)] == []
    assert "no width of the gripper on /gripper/joint_states" in robot.unused()["/diwa/joint_states"]
    assert [*robot.take("/gripper/joint_states", joints(1.0, other=0.3), NOW + 0.1, NOW)] == []
    assert "no joint knuckle; joints there are: other" in robot.unused()["/diwa/joint_states"]
    assert [*robot.take("/gripper/joint_states", joints(1.0, knuckle=0.4), NOW + 0.2, NOW)] == []  # the arm's clock
    (told,) = robot.take("/joint_states", joints(1.25, shoulder=0.1, elbow=0.2), NOW + 0.3, NOW)
    seen = decode_value(messages.JOINT_STATES, bytes(told.data), "here")
    assert seen.name == ["shoulder", "elbow", FINGER]
    np.testing.assert_allclose(seen.velocity, [1.0, 2.0, 0.0])
    assert (gripper_width(seen, "here"), header_stamp(told.data)) == (pytest.approx(0.0425), 1.25)
    assert robot.unused() == {}
    assert [*robot.take("/joint_states", joints(2.0, shoulder=0.1), NOW + 0.3 + MAX_AGE, NOW)] == []
    assert "no width" in robot.unused()["/diwa/joint_states"]  # a gripper's driver that died must not look alive


def test_two_broadcasters_on_one_topic_and_fingers_of_another_unit() -> None:
    robot = arm(width={"joints": ["finger_joint"], "scale": -0.10625, "offset": 0.085})
    assert robot.topics == ["joint_states"]
    assert len([*robot.take("joint_states", joints(1.0, finger_joint=0.8), NOW, NOW)]) == 1  # nothing of an arm yet
    (told,) = robot.take("joint_states", joints(1.0, elbow=0.2), NOW, NOW)
    seen = decode_value(messages.JOINT_STATES, bytes(told.data), "here")
    assert (seen.name, gripper_width(seen, "here")) == (["elbow", FINGER], pytest.approx(0.0, abs=1e-9))
    assert [*robot.take("joint_states", joints(1.0, finger_joint=0.0), NOW, NOW)] == []
    (told,) = robot.take("joint_states", joints(1.0, elbow=0.2, finger_joint=0.0), NOW, NOW)
    assert gripper_width(decode_value(messages.JOINT_STATES, bytes(told.data), "here"), "here") == pytest.approx(0.085)


def test_a_gripper_alone_and_a_number_without_a_header() -> None:
    robot = arm(width={"topic": "/gripper/width_mm", "scale": 0.001})
    (told,) = robot.take("/gripper/width_mm", make("std_msgs/msg/Float64", data=61.5), NOW, 1234.5)
    seen = decode_value(messages.JOINT_STATES, bytes(told.data), "here")
    assert (seen.name, gripper_width(seen, "here"), header_stamp(told.data)) == (
        [FINGER],
        pytest.approx(0.0615),
        1234.5,
    )
    with pytest.raises(DiwaError, match="width nan is not finite"):
        [*robot.take("/gripper/width_mm", make("std_msgs/msg/Float64", data=math.nan), NOW, NOW)]
    with pytest.raises(DiwaError, match="/gripper/width_mm holds no number"):
        [*robot.take("/gripper/width_mm", make("std_msgs/msg/String", data="open"), NOW, NOW)]


def test_an_arm_without_a_gripper_tells_its_joints_alone() -> None:
    config = {"base_frame": "base", "action": {"gripper": False}, "topics": {"joints": "/ur/joint_states"}}
    robot = ArmTopics(from_mapping(RobotConfig, config, "robot"))
    (told,) = robot.take("/ur/joint_states", joints(1.0, shoulder=0.1, finger_like=0.2), NOW, NOW)
    assert decode_value(messages.JOINT_STATES, bytes(told.data), "here").name == ["shoulder", "finger_like"]
    assert robot.unused() == {}


@given(poses, poses)
def test_the_target_is_told_in_the_arms_own_frame(target: Pose, base: Pose) -> None:
    plain = ArmTarget(TargetTopic("/arm/target"), "base")
    assert plain.problem() == ""
    told = plain.told(target, 2.5)
    require_frame(told, "base", "target")
    other = ArmTarget(TargetTopic("/arm/target", "world"), "base")
    assert other.problem() == "no transforms between world and base; frames there are: none"
    other.hear(TF_STATIC, tf(transform("world", "base", base)))
    assert other.problem() == ""
    told = other.told(target, 2.5)
    require_frame(told, "world", "target")
    assert header_stamp(told) == 2.5
    expected = Pose(base.position + base.rotation.apply(target.position), base.rotation * target.rotation)
    assert same(decode_value(messages.TARGET_POSE, bytes(told), "target"), expected)
