"""A simulated Panda at a table, its tasks and a scripted operator; importing it registers `diwa/Table-v0`."""

import gymnasium

gymnasium.register("diwa/Table-v0", "diwa_sim.environments:SkillEnvironment", max_episode_steps=72)
