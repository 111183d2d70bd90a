"""Teleoperate and record: `ros2 launch diwa_data teleop_record.launch.py [device:=scripted robot:=sim ...]`."""

from launch import LaunchDescription

from diwa_data.errors import DiwaError
from diwa_data.ros.launching import (
    EXTRA_TOPICS,
    ROBOT,
    SKILL,
    Setup,
    argument,
    extra_topics,
    kept_node,
    launch_description,
    number,
    robot_actions,
    skill_parameter,
    switch,
)

DEVICES = ("vive", "webxr", "keyboard", "scripted")
ARGUMENTS = (
    argument("device", "vive", "Device that the operator holds; scripted needs robot:=sim.", DEVICES),
    *ROBOT,
    argument("bag_dir", "", "Folder of bags; empty = ~/diwa_bags/ROBOT/SKILL."),
    argument("storage", "mcap", "Storage format of rosbag2.", ("mcap", "sqlite3")),
    SKILL,
    argument("operator", "", "Name of the person who teleoperates, for the labels."),
    argument("episodes", "0", "Episodes of the scripted operator; 0 = until Ctrl-C."),
    argument("episode_seconds", "120.0", "Length of an episode of the scripted operator's play, seconds."),
    argument("tasks", "", "Simulated tasks that it also tries in play, separated by spaces."),
    switch("keep_failed", "false", "Keep the scripted operator's failed tries, marked."),
    argument("min_free_mb", "1000.0", "Disk space that must stay free, MB."),
    EXTRA_TOPICS,
)


def generate_launch_description() -> LaunchDescription:
    """Controller, recorder, and a robot: the simulated one, or the drivers of the real one's cameras."""
    return launch_description(ARGUMENTS, _actions)


def _actions(given: dict[str, str]) -> list:
    setup, skill = Setup.of(given, given["robot"]), skill_parameter(given["skill"])
    recording = {
        "folder": given["bag_dir"] or f"~/diwa_bags{setup.namespace}/{given['robot']}/{given['skill']}",
        "storage": given["storage"],
        "skill": skill,
        "operator": given["operator"] or given["device"],
        "min_free_mb": number(given, "min_free_mb"),
    }
    recording |= extra_topics(given)
    actions = [
        kept_node("diwa_data", "teleop", setup, device=given["device"]),
        kept_node("diwa_data", "recorder", setup, **recording),
    ]
    if given["device"] == "scripted":
        if given["robot"] != "sim":
            raise DiwaError("device:=scripted sees only the simulated scene: use it with robot:=sim")
        numbers = {name: int(number(given, name)) for name in ("episodes", "seed")}
        numbers |= {"episode_seconds": number(given, "episode_seconds")}
        kept, tasks = given["keep_failed"] == "true", given["tasks"].split()
        more = {"tasks": tasks} if tasks else {}  # ROS has no empty lists
        actions.append(kept_node("diwa_sim", "operator", setup, skill=skill, keep_failed=kept, **numbers, **more))
    return actions + robot_actions(given, setup)
