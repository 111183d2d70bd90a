"""Poses, numbers and words in messages of any type."""

import numpy as np
import pytest
from rosbags.interfaces import MessageDefinition, MessageDefinitionFormat
from scipy.spatial.transform import Rotation

from diwa_data.errors import DiwaError
from diwa_data.foreign.values import joints_in, message_type, number_in, pose_in, word_in
from diwa_data.pose import Pose
from diwa_data.recording.messages import decode, encode_joints, encode_pose, typestore
from diwa_data.testing.foreign import Lab

LAB = Lab()
POSE = Pose(np.array([0.1, -0.2, 0.3]), Rotation.from_euler("xyz", [0.4, -0.5, 2.0]))
STAMPED = decode(encode_pose(POSE, 1.0, "/base"), "geometry_msgs/msg/PoseStamped")
NONE = MessageDefinition(MessageDefinitionFormat.NONE, "")


def made(kind: str, **fields):
    return LAB.message(kind, **fields)


def with_covariance():
    return made("geometry_msgs/msg/PoseWithCovariance", pose=STAMPED.pose, covariance=np.zeros(36))


def twist():
    return made("geometry_msgs/msg/TwistWithCovariance", twist=None, covariance=np.zeros(36))


@pytest.mark.parametrize(
    ("message", "frame"),
    [
        (STAMPED, "base"),
        (STAMPED.pose, ""),
        (made("geometry_msgs/msg/PoseWithCovarianceStamped", header=STAMPED.header, pose=with_covariance()), "base"),
        (
            made(
                "nav_msgs/msg/Odometry",
                header=STAMPED.header,
                child_frame_id="tcp",
                pose=with_covariance(),
                twist=twist(),
            ),
            "base",
        ),
        (LAB.transform("base", "tcp", STAMPED.header.stamp, STAMPED.pose), "base"),
        (LAB.transform("base", "tcp", STAMPED.header.stamp, STAMPED.pose).transform, ""),
    ],
)
def test_a_pose_is_found_in_its_usual_places(message, frame: str) -> None:
    found = pose_in(message, "", "here")
    np.testing.assert_allclose(found.pose.position, POSE.position)
    np.testing.assert_allclose(found.pose.rotation.as_matrix(), POSE.rotation.as_matrix(), atol=1e-12)
    assert found.frame == frame


def test_an_element_of_a_list_is_named_by_its_number() -> None:
    poses = made("geometry_msgs/msg/PoseArray", header=STAMPED.header, poses=[None, STAMPED.pose])
    assert pose_in(poses, "poses.1", "here").frame == "base"
    with pytest.raises(DiwaError, match=r"here has no '2' in its list; it has 2 elements, 0 to 1"):
        pose_in(poses, "poses.2", "here")
    with pytest.raises(DiwaError, match="here holds no pose; its fields are header, poses"):
        pose_in(poses, "", "here")


def test_a_matrix_that_turns_nothing_is_refused() -> None:
    message = made("std_msgs/msg/Float64MultiArray", layout=None, data=np.arange(16.0))
    with pytest.raises(DiwaError, match="is not a matrix of a pose"):
        pose_in(message, "data", "here")


@pytest.mark.parametrize(
    ("message", "field", "value"),
    [
        (made("std_msgs/msg/Float64", data=0.5), "", 0.5),
        (made("std_msgs/msg/Bool", data=True), "", 1.0),
        (made("std_msgs/msg/UInt8", data=3), "", 3.0),
        (made("std_msgs/msg/Float32MultiArray", layout=None, data=np.array([1, 2], np.float32)), "data.1", 2.0),
        (made("control_msgs/msg/GripperCommand", position=0.04, max_effort=1.0), "", 0.04),
        (made("control_msgs/msg/GripperCommand", position=0.04, max_effort=1.0), "max_effort", 1.0),
        (STAMPED, "pose.position.z", 0.3),
    ],
)
def test_a_number_is_found(message, field: str, value: float) -> None:
    assert number_in(message, field, "here") == value


def test_words_are_text_true_false_and_digits() -> None:
    messages = [made("std_msgs/msg/String", data="go"), made("std_msgs/msg/Bool", data=np.bool_(True))]
    assert [word_in(message, "", "here") for message in messages] == ["go", "true"]
    assert word_in(
        made("sensor_msgs/msg/Joy", header=None, axes=[], buttons=np.array([0, 1], np.int32)), "buttons.1", ""
    )
    with pytest.raises(DiwaError, match=r"here holds no word"):
        word_in(made("std_msgs/msg/Float64", data=0.5), "", "here")


def test_joints_of_others_are_no_error() -> None:
    message = decode(
        encode_joints(["a", "b", "c"], np.array([1.0, 2.0, 4.0]), np.zeros(3), 0.0), "sensor_msgs/msg/JointState"
    )
    assert joints_in(message, ("a", "c"), "here") == 5.0
    assert joints_in(message, ("a", "finger"), "here") is None


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("my_msgs/msg/State", ""),
        ("my_msgs/msg/State'): exec('1", "float64 x"),
        ("my_msgs/msg/State", "float64 x\n" * 200_000),
    ],
)
def test_a_type_without_a_definition_that_can_be_trusted_is_refused(name: str, text: str) -> None:
    definition = MessageDefinition(MessageDefinitionFormat.MSG, text)
    with pytest.raises(DiwaError, match="definition is not in the bag"):
        message_type(name, definition, "here")


def test_known_types_are_not_taken_from_the_bag() -> None:
    lying = MessageDefinition(MessageDefinitionFormat.MSG, "float64 x")
    assert message_type("sensor_msgs/msg/Image", lying, "here").store is typestore()
    assert message_type("control_msgs/msg/GripperCommand", NONE, "here").has_header is False
    with pytest.raises(DiwaError, match="definition of my_msgs/msg/State cannot be read"):
        message_type("my_msgs/msg/State", MessageDefinition(MessageDefinitionFormat.MSG, "float64 3x"), "here")
