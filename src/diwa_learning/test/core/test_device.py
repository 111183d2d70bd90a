"""Which machines multiply bfloat16, and where functions are compiled."""

import pytest
import torch

from diwa_learning.core.device import compiled, cpu_multiplies_bfloat16, is_half, step

AVX2 = "processor\t: 0\nflags\t\t: fpu sse2 avx avx2 fma\n\nprocessor\t: 1\nflags\t\t: fpu sse2 avx avx2 fma\n"
BF16 = AVX2.replace("fma", "fma avx512f avx512_bf16")
ARM = "processor\t: 0\nFeatures\t: fp asimd sve bf16 i8mm\n"
MIXED = "processor\t: 0\nflags\t\t: avx2 avx512_bf16\n\nprocessor\t: 1\nflags\t\t: avx2\n"


@pytest.mark.parametrize(
    ("text", "multiplies"), [(AVX2, False), (BF16, True), (ARM, True), (MIXED, False), ("processor: 0\n", False)]
)
def test_a_processor_says_whether_it_multiplies_bfloat16(tmp_path, text, multiplies):
    (tmp_path / "cpuinfo").write_text(text)
    assert cpu_multiplies_bfloat16(tmp_path / "cpuinfo") is multiplies


def test_a_system_that_does_not_say_gets_float32(tmp_path):
    assert cpu_multiplies_bfloat16(tmp_path / "absent") is False


def test_only_auto_asks_the_processor():
    cpu = torch.device("cpu")
    assert not is_half("float32", cpu)
    assert is_half("bfloat16", cpu)
    assert is_half("auto", cpu) == cpu_multiplies_bfloat16()


def test_functions_are_compiled_on_a_gpu_alone(monkeypatch):
    def double(x):
        return 2 * x

    asked = {}
    monkeypatch.setattr(torch, "compile", lambda function, **options: asked.update(options) or function)
    assert compiled(double, torch.device("cpu")) is double
    assert asked == {}
    compiled(double, torch.device("cuda"))
    assert asked["mode"] == "reduce-overhead"


def test_a_step_follows_its_own_gradient_alone():
    x = torch.nn.Parameter(torch.tensor(1.0))
    for _ in range(2):
        step(torch.optim.SGD([x], 0.25), x**2)
    assert x.item() == 0.25
