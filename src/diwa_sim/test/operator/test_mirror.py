"""The mirrored scene against the simulator it is told about."""

import numpy as np

from diwa_sim.operator.operator import SceneMirror, ScriptedOperator
from diwa_sim.operator.plans import play
from diwa_sim.steps import Habits
from diwa_sim.table import SimulatedPanda


def test_the_mirror_shows_what_the_simulator_holds():
    robot = SimulatedPanda()
    mirror = SceneMirror(robot.scene_state(), robot.target_pose)
    for seed in range(5):
        robot.reset("", seed)
        mirror.update(robot.scene_state(), robot.target_pose)
        for site in ("drawer_handle", "slider_knob", "lever_tip", "button_top"):
            np.testing.assert_allclose(mirror.site(site), robot.site(site), atol=1e-9)
        np.testing.assert_array_equal(mirror.scene_state(), robot.scene_state())
        assert mirror.hand is robot.hand


def test_an_operator_who_looks_at_the_mirror_moves_like_one_at_the_table():
    readings = []
    for mirrored in (False, True):
        robot = SimulatedPanda()
        robot.reset("", 3)
        scene = SceneMirror(robot.scene_state(), robot.target_pose) if mirrored else robot
        rng = np.random.default_rng(0)
        habits = Habits.at_play(rng)
        operator = ScriptedOperator(scene, play(scene, habits, rng), habits, rng)
        readings.append([operator.read().pose.position for _ in range(30)])
    np.testing.assert_allclose(readings[0], readings[1], atol=1e-12)
