"""Live messages become the ticks that a dataset would have."""

import threading

import numpy as np
import pytest

from diwa_data.errors import DiwaError
from diwa_data.pose import Pose
from diwa_data.recording import messages
from diwa_data.spec import CameraSpec, Spec
from diwa_data.testing.synthetic import JOINTS, synthetic_image, synthetic_pose
from diwa_deploy.live import LiveStreams

SIZE = (40, 48)
SPEC = Spec(cameras=(CameraSpec("static", record_size=SIZE), CameraSpec("gripper", record_size=SIZE)))


def feed(streams: LiveStreams, frames, pose=synthetic_pose, offset: float = 0.0) -> None:
    """Frames by number, at 30 Hz; everything arrives 4 ms after it was stamped, the clock last."""
    for frame in frames:
        now = frame / 30 + offset
        sent = {
            messages.CURRENT_POSE: messages.encode_pose(pose(now), now),
            messages.JOINT_STATES: messages.encode_joints(JOINTS, np.full(9, 0.02), np.zeros(9), now),
            messages.image_topic("gripper"): messages.encode_image(synthetic_image(now + 1, *SIZE), now, "g"),
            messages.image_topic("static"): messages.encode_image(synthetic_image(now, *SIZE), now, "s"),
        }
        streams.feed_target(synthetic_pose(now + 2), now + 0.003)
        for topic, data in sent.items():
            streams.feed(topic, bytes(data), now, now + 0.004)
        streams.feed_target(synthetic_pose(now + 3), now + 0.005)  # published after the frame came


def wait(streams: LiveStreams):
    return streams.wait(lambda: "nothing came", patience=0.0)


def test_every_fourth_frame_is_a_tick_with_what_was_known_then():
    streams = LiveStreams(SPEC, max_age=0.2)
    for tick in range(3):
        feed(streams, range(4 * tick, 4 * tick + 1))
        observation = wait(streams)
        now = 4 * tick / 30
        assert (observation.stamp, observation.received) == (pytest.approx(now), pytest.approx(now + 0.004))
        np.testing.assert_array_equal(observation.images["gripper"], synthetic_image(now + 1, *SIZE))
        np.testing.assert_allclose(observation.pose.position, synthetic_pose(now).position)
        np.testing.assert_allclose(observation.target.position, synthetic_pose(now + 2).position)
        assert observation.gripper_width == pytest.approx(0.04)
        assert wait(streams) == "nothing came"
        feed(streams, range(4 * tick + 1, 4 * tick + 4))
        assert wait(streams) == "nothing came"
    assert streams.missed == 0


def test_a_tick_whose_frame_is_lost_is_left_out_and_counted():
    streams = LiveStreams(SPEC, max_age=0.2)
    feed(streams, range(3))
    wait(streams)
    feed(streams, range(5, 9))  # 3 and 4 are lost: no tick 1
    assert wait(streams).stamp == pytest.approx(8 / 30)
    assert streams.missed == 1


def test_after_a_long_gap_or_a_restart_the_next_frame_begins_anew():
    streams = LiveStreams(SPEC, max_age=0.2)
    feed(streams, range(1))
    wait(streams)
    feed(streams, range(31, 32))
    assert wait(streams).stamp == pytest.approx(31 / 30)
    streams.restart()
    feed(streams, range(33, 34))
    assert wait(streams).stamp == pytest.approx(33 / 30)
    feed(streams, range(34, 36), offset=-1.0)  # the camera's clock is set back
    assert wait(streams).stamp == pytest.approx(34 / 30 - 1)


def test_only_the_newest_tick_waits_for_slow_inference():
    streams = LiveStreams(SPEC, max_age=0.2)
    feed(streams, range(13))
    assert wait(streams).stamp == pytest.approx(12 / 30)
    assert streams.missed == 3


def test_a_waiting_thread_wakes_when_the_frame_comes_and_when_it_is_told_to_stop():
    streams, found = LiveStreams(SPEC, max_age=0.2), []
    thread = threading.Thread(target=lambda: found.append(streams.wait(lambda: "")))
    thread.start()
    feed(streams, range(1))
    thread.join(5)
    assert found[0].stamp == 0.0
    assert streams.wait(lambda: "cancelled") == "cancelled"


def test_ages_and_a_pose_that_is_not_finite():
    streams = LiveStreams(SPEC, max_age=0.2)
    assert set(streams.ages(1.0).values()) == {np.inf}
    feed(streams, range(1), pose=lambda _: Pose(np.full(3, np.nan), synthetic_pose(0).rotation))
    assert streams.ages(1.0)[messages.CURRENT_POSE] == pytest.approx(0.996)
    with pytest.raises(DiwaError, match="is not finite"):
        wait(streams)
