"""Nests of tensors, and a captured function where there is no GPU to capture on."""

from dataclasses import dataclass

import pytest
import torch

from diwa_data.errors import DiwaError
from diwa_learning.core.capture import WARM_UP, Captured, map_tensors, tensors_of
from diwa_learning.world_model.rssm import State


@dataclass(frozen=True)
class Nest:
    """Everything that may stand in one."""

    images: dict[str, torch.Tensor]
    state: State
    pair: tuple[torch.Tensor, int]
    nothing: None = None


def make_nest() -> Nest:
    state = State(torch.ones(2, 3), torch.ones(2, 4), torch.ones(2, 0))
    return Nest({"b": torch.arange(2.0), "a": torch.zeros(1)}, state, (torch.full((2,), 7.0), 5))


def test_every_tensor_of_a_nest_is_changed_and_nothing_else():
    doubled = map_tensors(make_nest(), lambda tensor: 2 * tensor)
    assert doubled.images["b"].tolist() == [0, 2]
    assert bool((doubled.state.z == 2).all())
    assert doubled.pair[0].tolist() == [14, 14]
    assert (doubled.pair[1], doubled.nothing) == (5, None)
    assert [tuple(tensor.shape) for tensor in tensors_of(doubled)] == [(2,), (1,), (2, 3), (2, 4), (2, 0), (2,)]


def test_on_the_cpu_a_captured_function_is_the_function():
    captured = Captured(lambda nest, x: map_tensors(nest, lambda tensor: tensor + x), make_nest(), torch.ones(()))
    assert captured(make_nest(), torch.tensor(3.0)).images["b"].tolist() == [3, 4]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_every_call_runs_it_once_with_the_inputs_of_the_call():
    total = torch.zeros((), device="cuda")

    def add(x: torch.Tensor) -> torch.Tensor:
        total.add_(x.sum())
        return total + torch.rand((), device="cuda")

    captured = Captured(add, torch.zeros(3, device="cuda"))
    results = [float(captured(torch.full((3,), float(n), device="cuda"))) for n in range(WARM_UP + 4)]
    noise = [result - 3 * n * (n + 1) / 2 for n, result in enumerate(results)]
    assert all(0 <= each < 1 for each in noise)
    assert len(set(noise)) == len(noise)
    with pytest.raises(DiwaError, match="captured for tensors"):
        captured(torch.zeros(4, device="cuda"))
