"""One deployment step: two 200x200 images in, one action out, with the threads of the policy node's default.

At the paper's sizes and the laptop preset's, alone and beside processes that keep all cores busy; by PyTorch, and by
ONNX Runtime where it is installed. Percentile 99 of all ticks stands for the slowest ones, which sample a new chunk in
20 denoising steps; these have a row of their own.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from common import Measurement
from scipy.spatial.transform import Rotation

from diwa_data.config import load_section
from diwa_data.pose import Pose
from diwa_data.robot import Observation
from diwa_data.spec import Spec
from diwa_deploy.control import THREADS, deciding_threads
from diwa_learning.agent import Agent
from diwa_learning.onnx_agent import in_runtime
from diwa_learning.policy.checkpoint import make_policy
from diwa_learning.policy.train import PolicyConfig
from diwa_learning.reward.classifier import RewardClassifier, RewardConfig
from diwa_learning.world_model.config import WorldModelConfig
from diwa_learning.world_model.model import WorldModel

TARGET, BUSY_TARGET = 25.0, 30.0
"""Milliseconds of the slowest tick in a hundred, alone and beside busy processes."""


def main(ticks: int = 600) -> None:
    for size, runtime in itertools.product(("paper", "laptop"), ("torch", "auto")):
        agent, found = in_runtime(untrained_agent(size), runtime, THREADS)
        if runtime == "auto" and found != "ONNX Runtime":
            continue
        suffix = ("_laptop" if size == "laptop" else "") + ("_onnx" if runtime == "auto" else "")
        with deciding_threads(THREADS):
            plain, chunk = latencies(agent, ticks)
            with busy_cores():
                busy = np.concatenate(latencies(agent, ticks // 3, agent.spec.tick))
        everything = np.concatenate([plain, chunk])
        for name, values, percent, target in (
            ("p50", everything, 50, TARGET),
            ("p99", everything, 99, TARGET),
            ("chunk_p99", chunk, 99, TARGET),
            ("busy_p99", busy, 99, BUSY_TARGET),
        ):
            value = float(np.percentile(values, percent))
            Measurement(f"control_tick{suffix}_{name}_ms", value, "ms", target).print()


def untrained_agent(size: str) -> Agent:
    """An agent of a preset's sizes."""
    torch.manual_seed(0)
    spec = Spec()
    config = load_section(WorldModelConfig, "world_model", size)
    model = WorldModel(config, spec, decodes=False).eval().requires_grad_(False).to(memory_format=torch.channels_last)
    net = load_section(PolicyConfig, "policy", size).net
    policy = make_policy(net, model.feature_dim, spec.action_dim).requires_grad_(False)
    width = load_section(RewardConfig, "reward", size).width
    return Agent(model, policy, RewardClassifier(model.feature_dim, width).requires_grad_(False), spec)


def latencies(agent: Agent, ticks: int, pause: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Milliseconds of the ticks that take their action from the queue, and of those that sample a chunk.

    `pause`: seconds between ticks, in which a robot waits for the next frame.
    """
    rng, spec = np.random.default_rng(0), agent.spec
    images = {c.name: rng.integers(0, 255, (*c.record_size, 3), np.uint8) for c in spec.cameras}
    pose = Pose(np.zeros(3), Rotation.identity())
    observation = Observation(images, pose, pose, 0.08, 0.0, 0.0)
    agent.reset(0)
    action, chunk, milliseconds, warm_up = spec.action.null, agent.policy.chunk, [], 40
    for _ in range(warm_up + ticks):
        time.sleep(pause)
        started = time.perf_counter()
        action = agent.act(observation, action).action
        milliseconds.append(1e3 * (time.perf_counter() - started))
    samples = np.arange(len(milliseconds)) % chunk == 0
    kept, samples = np.array(milliseconds)[warm_up:], samples[warm_up:]
    return kept[~samples], kept[samples]


@contextmanager
def busy_cores() -> Iterator[None]:
    """A process for each core that does nothing but compute."""
    processes: list[subprocess.Popen] = []
    try:
        for _ in range(os.cpu_count() or 1):
            processes.append(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
        time.sleep(0.5)
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


if __name__ == "__main__":
    main()
