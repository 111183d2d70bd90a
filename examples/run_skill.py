"""Run a skill on the simulated Panda: with the control loop, safety filter and agent of a real arm.

    python examples/run_skill.py turn_on_led

`diwa run-skill` does this; on a robot it is an action of a ROS 2 node.
"""

import sys
from pathlib import Path

from diwa_cli.video import Film
from diwa_data.limits import MotionLimits
from diwa_data.robot import Observation
from diwa_deploy.bundle import find_bundle
from diwa_deploy.control import AS_TRAINED, SkillRunner, Tick
from diwa_learning.core.checkpoint import read_spec
from diwa_sim.environments import open_environment, seeing
from diwa_sim.table import SimConfig


def main(skill: str = "turn_on_led", ticks: int = 72, video: Path = Path("skill.mp4"), seed: int = 0) -> None:
    bundle = find_bundle(skill)  # $DIWA_HOME/skills, then those that come with the package
    limits = MotionLimits(max_speed=0.2)  # metres per second: slower than usual
    robot = open_environment(seeing(SimConfig(), read_spec(bundle.world_model)), limits)
    try:
        runner = SkillRunner(bundle.skill, bundle.path, robot.spec, limits)
        robot.reset(bundle.skill, seed)
        film = Film(robot)

        def watch(observation: Observation, tick: Tick) -> None:
            film(observation, tick)
            position = observation.pose.position.round(3)
            print(f"hand {position}, success {tick.success_probability:.2f}, limited by {sorted(tick.interventions)}")

        result = runner.run(robot, ticks, seed, AS_TRAINED, watch)
        verdict = "done" if robot.succeeded() else "not done"
        print(f"{bundle.skill} ended by {result.reason} after {result.steps} ticks; in truth it is {verdict}")
        if film.write(video):
            print(f"film: {video}")
    finally:
        robot.close()


if __name__ == "__main__":
    words = sys.argv[1:]
    main(*words[:1], *map(int, words[1:2]), *map(Path, words[2:3]))
