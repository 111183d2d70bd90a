"""The node that trains: it tells how far it is, stops cleanly, goes on where it stopped, refuses in one line."""

from __future__ import annotations

import os
import signal

import pytest

from diwa_learning.core.checkpoint import weights_hash

pytestmark = pytest.mark.ros

FRAMES_A_STEP = 2 * 6
FRAMES = 300 * FRAMES_A_STEP


def test_a_stopped_training_tells_how_far_it_is_and_continues_to_the_same_weights(train, told, tmp_path):
    straight = train(tmp_path / "straight")
    assert straight.wait(120) == 0
    straight.wait_for(f"world_model is finished: {tmp_path / 'straight'}")
    ended = told.wait_for(lambda values: values["state"] == "finished")
    assert int(ended["done"]) == int(ended["total"]) == FRAMES

    done = 0
    for number in (signal.SIGINT, signal.SIGTERM):
        told.statuses.clear()
        stopped = train(tmp_path / "stopped")
        values = told.wait_for(lambda values, done=done: done < int(values.get("done", 0)) < FRAMES)
        assert (values["state"], values["phase"], values["unit"]) == ("training", "world_model", "frames")
        assert min(float(values[name]) for name in ("rate", "eta_s", "loss", "kl")) > 0
        assert told.statuses[-1].name == "train: world_model"
        assert stopped.stop(number) == 0
        assert not [line for line in stopped.said if "Traceback" in line]
        values = told.wait_for(lambda values: values["state"] == "stopped")
        done = int(values["done"])
        assert (tmp_path / "stopped" / "resume" / "state.safetensors").is_file()

    continued = train(tmp_path / "stopped")
    assert continued.wait(120) == 0
    continued.wait_for(f"world_model: continuing {tmp_path / 'stopped'} at step {done // FRAMES_A_STEP}")
    assert weights_hash(tmp_path / "stopped") == weights_hash(tmp_path / "straight")


@pytest.mark.parametrize(
    ("parameters", "problem"),
    [
        (("stage:=dream",), "unknown stage 'dream'; choose one of world_model, ensemble, policy, reward, finetune"),
        (("stage:=policy", "policy.epoch:=3"), "parameters of /train.policy: unknown key 'epoch'; known: net, epochs"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_one_line(start, parameters, problem):
    process = start(*parameters)
    assert process.wait(60) == 2
    assert problem in process.wait_for("[FATAL]")
    assert len(process.said) == 1


@pytest.mark.workspace
@pytest.mark.parametrize(("dataset", "status"), [("play.h5", 0), ("nowhere.h5", 1)])
def test_the_launch_ends_with_the_training(play, domain, tmp_path, monkeypatch, dataset, status):
    from ament_index_python.packages import get_package_share_directory
    from launch import LaunchService
    from launch.actions import IncludeLaunchDescription
    from launch.launch_description_sources import PythonLaunchDescriptionSource

    monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
    config = tmp_path / "mine.yaml"
    config.write_text("/**:\n  ros__parameters:\n    world_model: {updates: 4, depth: 2}\n    demo: {rollouts: 2}\n")
    given = {
        "stage": "world_model", "dataset": str(tmp_path / dataset), "preset": "debug", "config": str(config),
        "set": "world_model.updates:=2", "out": str(tmp_path / "out"),
    }  # fmt: skip
    file = os.path.join(get_package_share_directory("diwa_learning"), "launch", "train.launch.py")
    service = LaunchService(noninteractive=True)
    service.include_launch_description(
        IncludeLaunchDescription(PythonLaunchDescriptionSource(file), launch_arguments=given.items())
    )
    assert service.run() == status
    assert (tmp_path / "out" / "weights.safetensors").is_file() == (not status)
