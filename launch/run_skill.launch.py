"""Run a skill: `ros2 launch diwa_deploy run_skill.launch.py skill:=open_drawer [robot:=sim checkpoint:=...]`."""

from launch import LaunchDescription

from diwa_data.ros.launching import (
    EXTRA_TOPICS,
    ROBOT,
    Setup,
    argument,
    extra_topics,
    final_node,
    kept_node,
    launch_description,
    number,
    robot_actions,
    switch,
)
from diwa_data.skills import skill_name

ARGUMENTS = (
    argument("skill", None, "Which skill: the name of its bundle."),
    argument("checkpoint", "", "Its bundle; empty = the installed one."),
    *ROBOT,
    argument("max_steps", "72", "Control ticks (7.5 a second) at most."),
    argument("success_ticks", "-1", "Ticks to be sure of a success; -1 = as trained, 0 = never."),
    argument("threads", "1", "Threads of a decision; more pay only on idle cores."),
    argument("runtime", "auto", "What computes decisions; auto = onnx if installed.", ("auto", "torch", "onnx")),
    argument("ddim_steps", "0", "Deterministic steps to sample a chunk in; 0 = all, with noise."),
    argument("policy", "finetuned", "Which policy of the bundle.", ("finetuned", "base", "both")),
    argument("rollouts", "0", "Blind trials of each policy; 0 = run once."),
    argument("out", "comparison.json", "File of those trials; continues."),
    switch("auto", "true", "Configure, activate, run once and end."),
    switch("record", "false", "Record into a bag."),
    argument("bag_dir", "", "Folder of bags; empty = ~/diwa_bags/runs/SKILL."),
    EXTRA_TOPICS,
)


def generate_launch_description() -> LaunchDescription:
    """The policy, what brings it up and runs it once, and the simulated robot or the real one's cameras."""
    return launch_description(ARGUMENTS, _actions)


def _actions(given: dict[str, str]) -> list:
    setup = Setup.of(given, given["robot"])
    skill, record = skill_name(given["skill"]), given["record"] == "true"
    of_node = ("max_steps", "success_ticks", "threads", "ddim_steps")
    numbers = {name: int(number(given, name)) for name in (*of_node, "seed", "rollouts")}
    chosen = {"skill": skill, "checkpoint": given["checkpoint"], "policy": given["policy"], "runtime": given["runtime"]}
    chosen |= {name: numbers[name] for name in of_node}
    actions = [kept_node("diwa_deploy", "policy", setup, **chosen), *robot_actions(given, setup)]
    if record:
        folder = given["bag_dir"] or f"~/diwa_bags{setup.namespace}/runs/{skill}"
        recording = {"folder": folder, "skill": skill, "operator": "policy"} | extra_topics(given)
        actions.append(kept_node("diwa_data", "recorder", setup, **recording))
    if given["auto"] == "true":
        goal = {name: numbers[name] for name in ("max_steps", "seed", "rollouts")}
        goal |= {"skill": skill, "policy": given["policy"], "out": given["out"], "record": record}
        actions.append(final_node("diwa_deploy", "run_skill", setup, **goal))
    return actions
