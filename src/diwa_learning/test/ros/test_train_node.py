"""The node that trains: it tells how far it is, stops cleanly, goes on where it stopped, refuses in one line."""

from __future__ import annotations

import os
import signal

import pytest

from diwa_learning.checkpoint import weights_hash

pytestmark = pytest.mark.ros

FRAMES = 150 * 8 * 10


def training(values: dict[str, str]) -> bool:
    """Some of the training is done, and not all of it."""
    return values["state"] == "training" and 0 < int(values["done"]) < FRAMES


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_training_tells_how_far_it_is_and_continues_to_the_same_weights(train, told, tmp_path, number):
    straight = train(tmp_path / "straight")
    assert straight.wait(120) == 0
    ended = told.wait_for(lambda values: values["state"] == "finished")
    assert int(ended["done"]) == int(ended["total"]) == FRAMES

    told.statuses.clear()
    stopped = train(tmp_path / "stopped")
    values = told.wait_for(training)
    assert (values["phase"], values["total"], values["unit"]) == ("world_model", str(FRAMES), "frames")
    assert min(float(values[name]) for name in ("rate", "eta_s", "loss", "kl")) > 0
    assert told.statuses[-1].name == "train: world_model"
    assert stopped.stop(number) == 0
    assert not [line for line in stopped.said if "Traceback" in line]
    told.wait_for(lambda values: values["state"] == "stopped")
    assert (tmp_path / "stopped" / "resume" / "state.safetensors").is_file()

    continued = train(tmp_path / "stopped")
    assert continued.wait(120) == 0
    continued.wait_for("world_model: continuing")
    continued.wait_for(f"world_model is finished: {tmp_path / 'stopped'}")
    assert weights_hash(tmp_path / "stopped") == weights_hash(tmp_path / "straight")


@pytest.mark.parametrize(
    ("parameters", "problem"),
    [
        (("stage:=dream",), "unknown stage 'dream'; choose one of world_model, policy, reward, finetune"),
        (("stage:=policy", "policy.epoch:=3"), "parameters of /train.policy: unknown key 'epoch'; known: net, epochs"),
        (("stage:=policy", "dataset:=nowhere.h5"), "no dataset nowhere.h5: build it with 'diwa build-dataset'"),
        (("stage:=policy", "policy.epochs:=1.5"), "policy.epochs"),
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
