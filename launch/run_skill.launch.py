"""Run a skill: `ros2 launch diwa_deploy run_skill.launch.py skill:=open_drawer [robot:=sim checkpoint:=...]`.

Or several, one after the other: `sequence:='open_drawer turn_on_led'`.
"""

from launch import LaunchDescription

from diwa_data.errors import DiwaError
from diwa_data.ros.launching import (
    EXTRA_TOPICS,
    PLAY,
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
    argument("skill", "", "Skill to run, by the name of its bundle."),
    argument("sequence", "", "Skills to run one after the other instead: 'open_drawer turn_on_led'."),
    argument("checkpoint", "", "Folder of its bundle, or of a sequence's bundles; empty = the installed ones."),
    *ROBOT,
    argument("max_steps", "72", "Most control ticks (7.5 a second)."),
    argument("success_ticks", "-1", "Ticks in a row that show success to end the skill; -1 = as trained, 0 = none do."),
    argument("threads", "1", "Threads of a decision; more help only on idle cores."),
    argument("runtime", "auto", "Library of the decisions; auto = onnx if installed.", ("auto", "torch", "onnx")),
    argument("ddim_steps", "0", "Deterministic denoising steps for each chunk; 0 = all steps, with noise."),
    argument("server", "", "Machine that runs 'diwa serve-policy', such as http://gpu:8700; empty = this one."),
    argument("policy", "finetuned", "Policy of the bundle to run.", ("finetuned", "base", "both")),
    argument("rollouts", "0", "Blind trials of each policy; 0 = run the skill once."),
    argument("out", "comparison.json", "File of these trials; an interrupted comparison continues."),
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
    names, record = given["sequence"].replace(",", " ").split(), given["record"] == "true"
    if bool(names) == bool(given["skill"]):
        raise DiwaError("name what to run: skill:=open_drawer, or sequence:='open_drawer turn_on_led'")
    skill = PLAY if names else skill_name(given["skill"])
    of_node = ("max_steps", "success_ticks", "threads", "ddim_steps")
    numbers = {name: int(number(given, name)) for name in (*of_node, "seed", "rollouts") if name != "success_ticks"}
    numbers["success_ticks"] = int(number(given, "success_ticks", lowest=-1))
    if names and numbers["rollouts"]:
        raise DiwaError("rollouts compare policies of one skill: give skill:=, and no sequence")
    chosen = {name: given[name] for name in ("checkpoint", "policy", "runtime", "server")}
    chosen |= {name: numbers[name] for name in of_node}
    chosen |= {"skills": list(dict.fromkeys(map(skill_name, names)))} if names else {"skill": skill}
    scene = given | {"skill": names[0]} if names else given
    actions = [kept_node("diwa_deploy", "policy", setup, **chosen), *robot_actions(scene, setup)]
    if record:
        folder = given["bag_dir"] or f"~/diwa_bags{setup.namespace}/runs/{skill}"
        recording = {"folder": folder, "skill": skill, "operator": "policy"} | extra_topics(given)
        actions.append(kept_node("diwa_data", "recorder", setup, **recording))
    if given["auto"] == "true":
        goal = {name: numbers[name] for name in ("max_steps", "seed", "rollouts")}
        goal |= {"policy": given["policy"], "out": given["out"], "record": record}
        goal |= {"sequence": names} if names else {"skill": skill}
        actions.append(final_node("diwa_deploy", "run_skill", setup, **goal))
    return actions
