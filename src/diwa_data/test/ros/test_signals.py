"""Ctrl-C: it waits for what moves or writes, and for nothing else."""

from __future__ import annotations

import sys
import time

import pytest

pytestmark = pytest.mark.ros

NODE = """
import time
from contextlib import nullcontext
from rclpy.node import Node
from diwa_data.ros.node import every, interruptible, run_node

class Busy(Node):
    def __init__(self):
        super().__init__("busy")
        every(self, 0.1, self.work)
    def work(self):
        with interruptible() if WHERE == "reads" else nullcontext():
            print("works", flush=True)
            time.sleep(SECONDS)
        print("worked", flush=True)
    def close(self):
        print("closed", flush=True)

run_node(Busy)
"""


@pytest.mark.parametrize(("where", "seconds"), [("reads", 600.0), ("moves", 3.0)])
def test_what_only_reads_ends_at_once_and_the_rest_in_order(domain, where, seconds):
    from diwa_data.testing.ros import Program

    node = Program(domain, sys.executable, "-c", f"WHERE, SECONDS = {where!r}, {seconds}\n{NODE}")
    node.wait_for("works")
    time.sleep(0.5)
    assert node.stop() == 0
    assert node.said == (["works", "closed"] if where == "reads" else ["works", "worked", "closed"])
