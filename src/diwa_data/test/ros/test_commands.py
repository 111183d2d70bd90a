"""`ros2` as it is typed after `source install/setup.bash`: it runs under the system's interpreter, not under ours."""

from __future__ import annotations

import pytest

pytestmark = [pytest.mark.ros, pytest.mark.workspace]

LAUNCH_FILES = (
    ("diwa_data", "teleop_record"),
    ("diwa_data", "build_dataset"),
    ("diwa_sim", "sim"),
    ("diwa_learning", "train"),
    ("diwa_deploy", "run_skill"),
    ("diwa_deploy", "arm"),
)


@pytest.fixture
def ros2(domain):
    """`ros2(words)`: its exit status, and what it said."""
    from diwa_data.testing.ros import Program

    started: list[Program] = []

    def run(*words: str, seconds: float = 60.0) -> tuple[int, str]:
        started.append(Program(domain, "ros2", *words))
        status = started[-1].wait(seconds)
        return status, "\n".join(started[-1].said)

    yield run
    for program in started:
        if program.running:
            program.kill()


@pytest.mark.parametrize(("package", "name"), LAUNCH_FILES)
def test_every_launch_file_is_found_and_read(ros2, package, name):
    status, said = ros2("launch", package, f"{name}.launch.py", "--show-args")
    assert status == 0, said
    assert "Arguments (pass arguments as '<name>:=<value>'):" in said


def test_the_commands_that_look_at_a_graph_work(ros2, recorder):
    for words, expected in (
        (("node", "list", "--no-daemon"), "/recorder"),
        (("topic", "list", "--no-daemon"), "/diwa/recording"),
        (("param", "get", "--no-daemon", "/recorder", "robot.base_frame"), "panda_link0"),
        (("param", "set", "--no-daemon", "/recorder", "storage", "sqlite3"), "read-only"),
        (("lifecycle", "nodes", "--no-daemon"), ""),
        (("run", "diwa_deploy", "run_skill_node", "--ros-args", "-p", "patience:=0.1"), "does it run? (after 0.1 s)"),
    ):
        status, said = ros2(*words)
        assert expected in said, words
        assert "Traceback" not in said
        assert status == (2 if words[0] == "run" else 0), said


def test_the_bag_of_an_episode_is_read(ros2, recorded):
    status, said = ros2("bag", "info", str(recorded / "000000"))
    assert status == 0, said
    assert "/diwa/current_pose" in said


@pytest.mark.parametrize("empty", [False, True])
def test_the_launch_of_a_build_ends_as_the_build_does(ros2, tmp_path, bags, empty):
    (tmp_path / "empty").mkdir()
    words = (f"bags:={tmp_path / 'empty' if empty else bags}", f"out:={tmp_path / 'd.h5'}", "workers:=1")
    status, said = ros2("launch", "diwa_data", "build_dataset.launch.py", *words)
    assert status == empty, said
    assert ("holds no finished episode" in said) == empty
    assert (tmp_path / "d.h5").exists() == (not empty)
