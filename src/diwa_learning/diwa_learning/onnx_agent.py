"""The networks of an agent in ONNX Runtime (extra `onnx`): the same decisions in about half the time.

They are exported when an agent is loaded, in less than a second, and nothing is kept: there is no file that could be
damaged or belong to other weights. The classifier stays in PyTorch; it costs next to nothing.
"""

from __future__ import annotations

import importlib.util
import io
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from diwa_data.errors import DiwaError
from diwa_learning.agent import Agent
from diwa_learning.world_model.latents import filter_frame
from diwa_learning.world_model.rssm import State

Runtime = Literal["auto", "torch", "onnx"]
"""The library that computes decisions; `auto` is ONNX Runtime where it is installed."""
TOLERANCE = 1e-4
"""Largest difference from PyTorch, of model states and of actions before they are clipped."""
CHECKS = 8
"""Random frames and chunks that are compared."""


class OnnxAgent(Agent):
    """`agent` with world model and policy exported to ONNX Runtime, which computes with `threads` threads."""

    def __init__(self, agent: Agent, threads: int):
        self._cameras = [camera.name for camera in agent.spec.cameras]
        before, inputs = _random_step(agent, torch.Generator().manual_seed(0))
        images, *others = inputs
        frames = [images[name] for name in self._cameras]
        noise = agent.policy.draw_noise(1)
        self._filter = _session(_Filter(agent), [*before.parts(), *frames, *others], threads)
        self._chunk = _session(_Chunk(agent), [before.features, noise], threads)
        super().__init__(agent.world_model, agent.policy, agent.reward, agent.spec, agent.ddim_steps)

    def advance(
        self,
        before: State,
        images: Mapping[str, Tensor],
        state: Tensor,
        target: Tensor,
        executed: Tensor,
        noise: Tensor,
    ) -> tuple[State, Tensor]:
        frames = [images[name] for name in self._cameras]
        *parts, embeds = _run(self._filter, [*before.parts(), *frames, state, target, executed, noise])
        return State(*parts), embeds

    def sample(self, features: Tensor, noise: Tensor) -> Tensor:
        return _run(self._chunk, [features, noise])[0]


def in_runtime(agent: Agent, runtime: Runtime, threads: int) -> tuple[Agent, str]:
    """`agent` as `runtime` computes it, and the runtime's name, with the reason if it is not ONNX Runtime.

    Raises `DiwaError` if ONNX Runtime is asked for and is not installed.
    """
    missing = [name for name in ("onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
    if runtime == "onnx" and missing:
        raise DiwaError(
            f"runtime is onnx, but {' and '.join(missing)} cannot be imported: pip install -e '.[onnx]' in the clone"
        )
    if runtime == "torch" or missing:
        return agent, "PyTorch"
    try:
        exported = OnnxAgent(agent, threads)
        difference = largest_difference(agent, exported)
    except Exception as error:  # whatever an exporter of another version raises, PyTorch decides as well
        return agent, f"PyTorch, as the export to ONNX Runtime failed ({' '.join(str(error).split())[:200]})"
    if not difference <= TOLERANCE:
        return agent, f"PyTorch, as ONNX Runtime differs from it by {difference:.2g}"
    return exported, "ONNX Runtime"


@torch.inference_mode()
def largest_difference(agent: Agent, other: Agent) -> float:
    """Between two agents of the same checkpoints, over random frames, model states and noise."""
    rng, differences = torch.Generator().manual_seed(1), []
    for _ in range(CHECKS):
        before, inputs = _random_step(agent, rng)
        noise = agent.policy.draw_noise(1, rng)
        (state, embeds), (other_state, other_embeds) = (each.advance(before, *inputs) for each in (agent, other))
        chunks = [each.sample(state.features, noise) for each in (agent, other)]
        pairs = zip([*state.parts(), embeds, chunks[0]], [*other_state.parts(), other_embeds, chunks[1]], strict=True)
        differences += [(a - b).abs().max() for a, b in pairs if a.numel()]
    return float(torch.stack(differences).max())


def _random_step(agent: Agent, rng: torch.Generator) -> tuple[State, tuple[Any, ...]]:
    """A model state and what a filter takes in after it: images, robot state, target, executed action, noise."""
    model, spec = agent.world_model, agent.spec
    images = {c.name: torch.randint(256, (1, *c.size, 3), generator=rng).to(torch.uint8) for c in spec.cameras}
    state = model.state_mean + model.state_std * torch.randn(1, model.state_dim, generator=rng)
    action = torch.rand(1, spec.action_dim, generator=rng) * 2 - 1
    begun = model.rssm.initial(1)
    h = torch.rand(begun.h.shape, generator=rng) * 2 - 1
    z, noise = model.rssm.sample(model.rssm.noise(1, rng=rng)), model.rssm.noise(1, rng=rng)
    return replace(begun, h=h, z=z), (images, state, state[:, :9], action, noise)


class _Filter(nn.Module):
    """`filter_frame` of tensors alone: the parts of the state before, the images, what comes with them."""

    def __init__(self, agent: Agent):
        super().__init__()
        self.model = agent.world_model

    def forward(self, h: Tensor, z: Tensor, target: Tensor, slow: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        *frames, state, published, executed, noise = inputs
        images = dict(zip((camera.name for camera in self.model.spec.cameras), frames, strict=True))
        before = State(h, z, target, slow)
        after, embeds = filter_frame(self.model, before, images, state, published, executed, noise)
        return *after.parts(), embeds


class _Chunk(nn.Module):
    """Samples a chunk."""

    def __init__(self, agent: Agent):
        super().__init__()
        self.policy, self.agent = agent.policy, agent

    def forward(self, features: Tensor, noise: Tensor) -> Tensor:
        return self.agent.sample(features, noise)


def _session(module: nn.Module, inputs: list[Tensor], threads: int) -> Any:
    import onnxruntime

    names = [f"input_{i}" for i in range(len(inputs))]
    exported: Any = io.BytesIO()  # which the exporter takes, whatever its annotation says
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        with torch.backends.mkldnn.flags(enabled=False):  # then convolutions are PyTorch's own, which can be exported
            torch.onnx.export(module.eval(), tuple(inputs), exported, input_names=names, dynamo=False)
    return onnxruntime.InferenceSession(exported.getvalue(), options, providers=["CPUExecutionProvider"])


def _run(session: Any, inputs: list[Tensor]) -> list[Tensor]:
    values = {f"input_{i}": value.numpy() for i, value in enumerate(inputs)}
    used = {each.name: values[each.name] for each in session.get_inputs()}  # the exporter drops what has no effect
    return [torch.from_numpy(np.asarray(each)) for each in session.run(None, used)]
