"""The graph that users start, from the scripted operator to a bag; then the dataset and its replay."""

from __future__ import annotations

import tempfile
import unittest
from pathlib import Path

import pytest

launch_testing = pytest.importorskip("launch_testing", reason="needs ROS 2 (launch_testing)")

from ament_index_python.packages import PackageNotFoundError, get_package_share_directory  # noqa: E402
from launch import LaunchDescription  # noqa: E402
from launch.actions import IncludeLaunchDescription  # noqa: E402
from launch.launch_description_sources import PythonLaunchDescriptionSource  # noqa: E402
from launch_testing.actions import ReadyToTest  # noqa: E402
from launch_testing.asserts import assertExitCodes  # noqa: E402

from diwa_data import messages  # noqa: E402
from diwa_data.align import DatasetConfig  # noqa: E402
from diwa_data.bags import Bag, find_bags  # noqa: E402
from diwa_data.dataset import build_dataset, load_dataset  # noqa: E402
from diwa_sim.replay import replay  # noqa: E402

try:
    SHARE = Path(get_package_share_directory("diwa_data"))
except PackageNotFoundError:
    pytest.skip(
        "needs ROS 2 and the built workspace: colcon build, then source install/setup.bash", allow_module_level=True
    )

BAGS = Path(tempfile.mkdtemp(prefix="diwa_graph_"))
ARGUMENTS = {
    "device": "scripted", "robot": "sim", "skill": "open_drawer", "episodes": "2", "seed": "3", "bag_dir": str(BAGS),
    "min_free_mb": "10.0",
}  # fmt: skip


@pytest.mark.launch_test
def generate_test_description() -> LaunchDescription:
    """What `ros2 launch diwa_data teleop_record.launch.py` starts."""
    source = PythonLaunchDescriptionSource(str(SHARE / "launch" / "teleop_record.launch.py"))
    return LaunchDescription([IncludeLaunchDescription(source, launch_arguments=ARGUMENTS.items()), ReadyToTest()])


class WhileItRuns(unittest.TestCase):
    """The graph says what it does, and ends by itself when the operator is done."""

    def test_two_episodes_are_recorded(self, proc_output, proc_info) -> None:
        proc_output.assertWaitFor("recording 000000", timeout=20)
        proc_output.assertWaitFor("finished 000001", timeout=90)
        proc_output.assertWaitFor("2 episodes are done", timeout=10)


@launch_testing.post_shutdown_test()
class Afterwards(unittest.TestCase):
    """What is left."""

    def test_every_node_ended_well(self, proc_info) -> None:
        assertExitCodes(proc_info)

    def test_the_bags_are_whole_and_replay(self) -> None:
        bags = find_bags([BAGS])
        assert [bag.name for bag in bags] == ["000000", "000001"]
        for path in bags:
            with Bag(path) as bag:
                static = bag.sidecar.topics[messages.image_topic("static")]
                assert abs(static.rate - 30.0) < 0.6
                assert static.missing(30.0) <= 2
                assert bag.topics[messages.camera_info_topic("gripper")] == 1
                assert bag.sidecar.mark("success") is not None
        dataset = BAGS / "d.h5"
        build_dataset([BAGS], dataset, DatasetConfig(workers=1))
        assert all(len(episode) > 20 for episode in load_dataset(dataset).episodes)
        assert [result.succeeded for result in replay(dataset)] == [True, True]
