"""Decisions by ONNX Runtime: PyTorch's up to rounding, and PyTorch's own where it cannot be had."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch

from diwa_data.errors import DiwaError
from diwa_data.pose import Pose
from diwa_data.robot import Observation
from diwa_data.spec import CameraSpec, Spec
from diwa_deploy.bundle import SHIPPED, load_bundle
from diwa_learning import onnx_agent
from diwa_learning.agent import Agent, NoClassifier, load_agent
from diwa_learning.onnx_agent import OnnxAgent, in_runtime, largest_difference
from diwa_learning.policy.checkpoint import PolicyNetConfig, make_policy
from diwa_learning.world_model.config import WorldModelConfig
from diwa_learning.world_model.model import WorldModel, load_world_model
from diwa_learning.world_model.rssm import RSSMConfig

needs_onnx = pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="needs the extra onnx")


@pytest.fixture(scope="module", params=[0, 4], ids=["ddpm", "ddim"])
def agent(request: pytest.FixtureRequest) -> Agent:
    """The one of a shipped skill."""
    bundle = load_bundle(SHIPPED / "open_drawer")
    spec = load_world_model(bundle.world_model, decodes=False).spec
    return load_agent(bundle.world_model, bundle.policy_named("finetuned"), bundle.reward, spec, request.param)


def decisions(agent: Agent, seed: int, ticks: int = 10) -> np.ndarray:
    """Actions and probabilities (ticks, 8) on random images, the hand turning and moving."""
    rng, found, action = np.random.default_rng(seed), [], agent.spec.action.null
    agent.reset(seed)
    for tick in range(ticks):
        images = {c.name: rng.integers(0, 256, (*c.record_size, 3), np.uint8) for c in agent.spec.cameras}
        pose = Pose.from_quaternion(np.array([0.4, 0.01 * tick, 0.3]), np.array([1.0, 0.02 * tick, 0.0, 0.0]))
        decision = agent.act(Observation(images, pose, pose, 0.08, 0.0, 0.0), action)
        action = decision.action
        found.append([*action, decision.success_probability])
    return np.array(found)


@needs_onnx
def test_onnx_decides_as_pytorch_does(agent: Agent) -> None:
    exported, name = in_runtime(agent, "auto", 1)
    assert name == "ONNX Runtime"
    assert largest_difference(agent, exported) < 1e-5
    np.testing.assert_allclose(decisions(exported, 1), decisions(agent, 1), atol=1e-4)
    assert np.abs(decisions(exported, 2) - decisions(exported, 1)).max() > 1e-3
    np.testing.assert_array_equal(decisions(exported, 1), decisions(exported, 1))


@needs_onnx
def test_cameras_of_other_names_and_sizes_are_exported() -> None:
    cameras = (CameraSpec("front"), CameraSpec("values", (30, 50), size=(48, 80)), CameraSpec("side", size=(96, 64)))
    sizes = RSSMConfig(recurrent=12, categoricals=3, classes=4, hidden=10)
    torch.manual_seed(0)
    told = {"image_components": 2, "component_weight": 1.0, "slow_features": 3, "slow_weight": 1.0}
    model = WorldModel(WorldModelConfig(depth=2, rssm=sizes, **told), Spec("x", cameras))
    model.slow.load_state_dict(
        {name: torch.rand_like(part) / part.numel() for name, part in model.slow.state_dict().items()}
    )
    policy = make_policy(PolicyNetConfig(width=8, denoising_steps=2), model.feature_dim, 7)
    agent = Agent(model.eval(), policy.eval(), NoClassifier(), model.spec)
    exported, name = in_runtime(agent, "auto", 1)
    assert name == "ONNX Runtime"
    np.testing.assert_allclose(decisions(exported, 1)[:, :7], decisions(agent, 1)[:, :7], atol=1e-4)


@needs_onnx
def test_an_export_of_other_numbers_is_not_used(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    sample = OnnxAgent.sample
    monkeypatch.setattr(OnnxAgent, "sample", lambda self, *inputs: sample(self, *inputs) + 1e-3)
    assert in_runtime(agent, "onnx", 1) == (agent, "PyTorch, as ONNX Runtime differs from it by 0.001")
    monkeypatch.setattr(OnnxAgent, "sample", lambda self, *inputs: sample(self, *inputs) * torch.nan)
    assert in_runtime(agent, "onnx", 1) == (agent, "PyTorch, as ONNX Runtime differs from it by nan")


@needs_onnx
def test_an_exporter_that_fails_leaves_pytorch_and_its_settings(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise TypeError("no argument\n dynamo")

    monkeypatch.setattr(torch.onnx, "export", fail)
    told = "PyTorch, as the export to ONNX Runtime failed (no argument dynamo)"
    assert in_runtime(agent, "onnx", 1) == (agent, told)
    assert torch.backends.mkldnn.enabled


def test_without_the_extra_pytorch_decides_unless_onnx_was_asked_for(agent: Agent, monkeypatch) -> None:
    monkeypatch.setattr(onnx_agent.importlib.util, "find_spec", lambda name: None)
    assert in_runtime(agent, "auto", 1) == (agent, "PyTorch")
    with pytest.raises(DiwaError, match=r"onnx and onnxruntime cannot be imported: pip install -e '\.\[onnx\]'"):
        in_runtime(agent, "onnx", 1)
