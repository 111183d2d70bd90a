"""`diwa inspect BAG --suggest-mapping`: loads as it is where the bag has everything, and says what is missing."""

from pathlib import Path

import numpy as np
import pytest

from diwa_data.dataset.align import DatasetConfig
from diwa_data.dataset.dataset import build_dataset, load_dataset
from diwa_data.errors import DiwaError
from diwa_data.foreign import survey
from diwa_data.foreign.mapping import load_mapping
from diwa_data.foreign.suggest import suggest_mapping, write_suggestion
from diwa_data.foreign.values import BOOL
from diwa_data.recording import messages
from diwa_data.spec import CameraSpec, Spec
from diwa_data.testing.foreign import Lab, write_foreign
from diwa_data.testing.synthetic import record_synthetic

SPEC = Spec(cameras=(CameraSpec("static", (40, 48), size=(48, 48)), CameraSpec("gripper", (40, 48), size=(48, 48))))


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record_synthetic(tmp_path_factory.mktemp("own"), SPEC, 2.0, {"source": "play"})


def restless(lab: Lab):
    """The front camera shakes; a depth camera and a Bayer camera are there too."""

    def change(topic, message):
        if topic == "/diwa/static/image":
            message.data = np.roll(message.data, int(message.header.stamp.nanosec * 3e-6))
            yield (
                "/depth/image_raw/compressedDepth",
                "sensor_msgs/msg/CompressedImage",
                lab.message(
                    "sensor_msgs/msg/CompressedImage",
                    header=message.header,
                    format="16UC1; compressedDepth png",
                    data=message.data[:9],
                ),
            )
        yield from lab.of(topic, message)

    return change


def test_a_suggestion_loads_and_builds_without_an_edit(own: Path, tmp_path: Path) -> None:
    bag = write_foreign(own, tmp_path / "run1", change=restless(Lab()))
    said = write_suggestion(bag, tmp_path / "lab.yaml")
    assert "check every line" in said
    text, mapping = (tmp_path / "lab.yaml").read_text(), load_mapping(tmp_path / "lab.yaml")
    assert [camera.name for camera in mapping.cameras] == ["wrist", "front"]  # the one that shakes is not the clock
    assert mapping.cameras[0].crop == (0, 4, 40, 40)
    assert (mapping.pose.parent, mapping.pose.child, mapping.target.topic) == ("base", "tcp", "/teleop/target")
    assert mapping.gripper_width.joints == ("panda_finger_joint1", "panda_finger_joint2")
    assert (mapping.gripper_command.topic, mapping.gripper_command.threshold) == (
        "/gripper/command",
        pytest.approx(0.04),
    )
    assert (mapping.record_rate, mapping.rate) == (30.0, 7.5)
    assert (mapping.episodes.by, mapping.episodes.topic, mapping.success.by) == ("events", "/episode", "annotate")
    assert "MISSING" not in text
    assert (
        "# not used: /depth/image_raw/compressedDepth (compressed image of format '16UC1; compressedDepth png'" in text
    )
    build_dataset([bag], tmp_path / "D.h5", DatasetConfig(workers=1), mapping=tmp_path / "lab.yaml")
    assert len(load_dataset(tmp_path / "D.h5").episodes[0]) == 15


def test_a_suggestion_never_replaces_a_file(own: Path, tmp_path: Path) -> None:
    (tmp_path / "lab.yaml").write_text("mine")
    with pytest.raises(DiwaError, match=r"lab\.yaml exists already"):
        write_suggestion(write_foreign(own, tmp_path / "run1"), tmp_path / "lab.yaml")
    assert (tmp_path / "lab.yaml").read_text() == "mine"


@pytest.mark.parametrize(
    ("topics", "said", "error"),
    [
        ("/image", "cameras: no colour images", "cameras is None: list one to four"),
        (
            messages.CURRENT_POSE,
            "pose: no message with a pose, no moving frames of /tf (frames: none)",
            "pose is missing",
        ),
        (messages.JOINT_STATES, "gripper_width", "gripper_width is missing"),
    ],
)
def test_what_is_missing_is_named(own: Path, tmp_path: Path, topics: str, said: str, error: str) -> None:
    lab = Lab()

    def change(topic, message):
        if not topic.endswith(topics) and not (topic == messages.GRIPPER_COMMAND and topics == messages.JOINT_STATES):
            yield from lab.of(topic, message)

    bag = write_foreign(own, tmp_path / "run1", change=change)
    text = suggest_mapping(bag)
    assert text.splitlines()[2].startswith(f"# MISSING {said}")
    (tmp_path / "lab.yaml").write_text(text)
    with pytest.raises(DiwaError, match=error):
        load_mapping(tmp_path / "lab.yaml")


def test_alternatives_are_comments(own: Path, tmp_path: Path) -> None:
    lab = Lab()

    def change(topic, message):
        if topic == messages.CURRENT_POSE:
            yield "/a/vr_controller", "geometry_msgs/msg/PoseStamped", message
            yield "/arm/current_pose", "geometry_msgs/msg/PoseStamped", message
        if topic == messages.EPISODE_EVENT:
            yield "/record/running", "std_msgs/msg/Bool", lab.message("std_msgs/msg/Bool", data=message.data == "start")
        elif topic == messages.GRIPPER_COMMAND and message.data < 0:
            yield "/gripper/close", BOOL, lab.message(BOOL, data=True)
        elif topic not in (messages.GRIPPER_COMMAND, messages.TARGET_POSE):
            yield from lab.of(topic, message)

    text = suggest_mapping(write_foreign(own, tmp_path / "run1", change=change))
    assert "\n  topic: /arm/current_pose" in text
    assert "\n#  topic: /a/vr_controller" in text
    assert "#  parent: base" in text
    assert "  # topic: /record/running  # true, false" in text
    assert "# target: no commanded pose was found" in text
    (tmp_path / "lab.yaml").write_text(text)
    command = load_mapping(tmp_path / "lab.yaml").gripper_command
    assert (command.threshold, command.inverted, command.initial) == (0.5, True, "open")


def test_pictures_of_a_damaged_camera_are_told(own: Path, tmp_path: Path) -> None:
    lab = Lab()

    def change(topic, message):
        if topic == "/diwa/static/image":
            message.encoding = "bayer_rggb8"
            yield "/front/image_raw", "sensor_msgs/msg/Image", message
        else:
            yield from lab.of(topic, message)

    text = suggest_mapping(write_foreign(own, tmp_path / "run1", change=change))
    assert "# not used: /front/image_raw (image encoding 'bayer_rggb8' is a Bayer pattern" in text


def test_a_command_that_comes_late_in_the_bag_is_found(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey, "_SECONDS", 0.5)
    lab = Lab()

    def change(topic, message):
        if topic == messages.GRIPPER_COMMAND and message.data < 0:
            yield "/gripper/close", BOOL, lab.message(BOOL, data=True)
        elif topic != messages.GRIPPER_COMMAND:
            yield from lab.of(topic, message)

    (tmp_path / "lab.yaml").write_text(suggest_mapping(write_foreign(own, tmp_path / "run1", change=change)))
    command = load_mapping(tmp_path / "lab.yaml").gripper_command
    assert (command.topic, command.inverted, command.initial) == ("/gripper/close", True, "open")
