"""Ctrl-C ends the simulated robot in time."""

from __future__ import annotations

import pytest

from diwa_data.recording import messages
from diwa_data.testing.waiting import until

pytestmark = pytest.mark.ros


def test_a_simulated_robot_ends_in_time(domain, topics, record_property):
    from diwa_data.testing.ros import NodeProcess

    poses = topics.subscribe(messages.CURRENT_POSE)
    node = NodeProcess("diwa_sim.ros.sim_robot_node", domain)
    until(lambda: len(poses) > 30)
    whole, alone = node.interrupt()
    for name, value in (("state", "sim_robot: runs"), ("seconds", round(whole, 2)), ("alone", round(alone, 2))):
        record_property(name, value)
    assert node.wait() == 0, node.said
    assert alone < 2.0
