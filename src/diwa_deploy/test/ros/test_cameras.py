"""Robot files with one and with three cameras, from the scripted operator to a bag, a dataset and a skill."""

from __future__ import annotations

from pathlib import Path

import pytest

from diwa_data.dataset.align import DatasetConfig
from diwa_data.dataset.dataset import build_dataset, load_dataset
from diwa_data.recording import messages
from diwa_data.recording.bag_reader import Bag, find_bags
from diwa_data.robot_config import load_robot

pytestmark = [pytest.mark.ros, pytest.mark.workspace]

SCENE = "drawer, slider, lever, button, bulb, led, cube_x, cube_y, cube_z, cube_qx, cube_qy, cube_qz, cube_qw"
FILE = """
/**:
  ros__parameters:
    robot:
      name: panda_sim
      scene_state: [{scene}]
      joints: {{warn: 0.0, hold: 0.0, warn_singular: 0.0, hold_singular: 0.0}}
      cameras: [{names}]
{sections}
"""
SECTIONS = {
    "side": "      side: {size: [48, 80], record_size: [120, 200]}",
    "front": "      front: {size: [80, 80]}",
    "wrist": "      wrist: {record_size: [100, 100]}",
}


@pytest.mark.parametrize("names", [["side"], ["front", "wrist", "side"]], ids=["one", "three"])
def test_a_lab_records_builds_and_runs_with_its_own_cameras(domain, tmp_path: Path, bundle_of, names) -> None:
    from diwa_data.testing.ros import Program

    file, bags = tmp_path / "lab.yaml", tmp_path / "bags"
    sections = "\n".join(SECTIONS[name] for name in names)
    file.write_text(FILE.format(scene=SCENE, names=", ".join(names), sections=sections))
    spec = load_robot(file).spec
    robot = ("robot:=sim", f"robot_file:={file}", "skill:=open_drawer")
    launch = ("ros2", "launch", "diwa_data", "teleop_record.launch.py", *robot, "device:=scripted", "episodes:=1")
    program = Program(domain, *launch, "seed:=3", "min_free_mb:=10.0", f"bag_dir:={bags}")
    assert program.wait(120) == 0, program.said
    with Bag(find_bags([bags])[0]) as bag:
        assert bag.spec == spec
        topics = [messages.image_topic(name) for name in names]
        counts = [bag.topics[topic] for topic in topics]
        assert min(counts) == max(counts) > 60
        assert {topic for topic in bag.topics if topic.endswith("/image")} == {*topics}
        infos = [bag.topics[messages.camera_info_topic(name)] for name in names]
        assert min(infos) >= min(counts) - 1
        assert max(infos) <= max(counts) + 2, "one with each image, and the latched one at the start"
        assert bag.sidecar.slow_cameras == {}
    build_dataset([bags], tmp_path / "d.h5", DatasetConfig(workers=1))
    episode = load_dataset(tmp_path / "d.h5", spec).episodes[0]
    assert {name: images.shape[1:3] for name, images in episode.images.items()} == {
        camera.name: camera.size for camera in spec.cameras
    }

    skill = ("diwa_deploy", "run_skill.launch.py", *robot, f"checkpoint:={bundle_of(tmp_path / 'skill', spec)}")
    program = Program(domain, "ros2", "launch", *skill, "max_steps:=4", "success_ticks:=0")
    assert program.wait(90) == 1, program.said
    program.wait_for("open_drawer: no success (max_steps) after 4 steps")


def test_a_camera_that_the_scene_does_not_have_ends_the_launch_with_a_line(domain, tmp_path: Path) -> None:
    from diwa_data.testing.ros import Program

    file = tmp_path / "lab.yaml"
    file.write_text(FILE.format(scene=SCENE, names="frnt", sections=""))
    program = Program(domain, "ros2", "launch", "diwa_sim", "sim.launch.py", f"robot_file:={file}")
    assert program.wait(60) == 1
    program.wait_for("unknown camera of the simulated scene 'frnt'; choose one of ")
