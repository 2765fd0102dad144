"""The kernels of perf_tests/test_kernels.py: each runs, and states the work that it does."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pytest_nemoperf.measure.kernel import kernel_of

SUITE = Path(__file__).parents[2] / "perf_tests" / "test_kernels.py"
KERNELS = (
    ("test_gemm", "gate_up"),
    ("test_gemm", "down"),
    ("test_gemm_of_attention", "qkv"),
    ("test_gemm_of_attention", "out"),
    ("test_grouped_gemm", ""),
    ("test_attention_forward", ""),
    ("test_attention_backward", ""),
    ("test_rms_norm", ""),
    ("test_cross_entropy", ""),
    ("test_adamw", ""),
    ("test_memory_copy", ""),
)
CAUSAL_SHARE = 2
"""torch counts the products of attention whole, the suite the half that a causal mask leaves."""


class FakeBenchmark:
    """Benchmark fixture that calls once, and counts the FLOPs of the call."""

    def __init__(self) -> None:
        self.extra_info: dict[str, Any] = {}
        self.flops = 0

    def __call__(self, function: Callable[..., object], *arguments: object) -> None:
        # products of attention are counted where it is not one fused kernel
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            function(*arguments)
        self.flops = counter.get_total_flops()


@pytest.fixture(scope="module")
def suite() -> ModuleType:
    spec = spec_from_file_location("kernel_suite", SUITE)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def device(suite: ModuleType) -> Any:
    """The CPU at sizes that take no time, in the type of numbers of a GPU."""
    device = suite.Device(torch)
    dims = replace(device.dims, tokens=64, hidden=64, ffn=96, heads=4, kv_heads=2, head_dim=16, vocab=128)
    device.dims = replace(dims, copy_bytes=2**12)
    device.dtype = torch.bfloat16
    return device


@pytest.fixture
def small_mixture(suite: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    model = suite.find_model(suite.MIXTURE)
    moe = replace(model.moe, num_experts=8, topk=2, ffn_hidden_size=32)
    monkeypatch.setattr(suite, "find_model", lambda _: replace(model, hidden_size=64, moe=moe))


@pytest.mark.usefixtures("small_mixture")
@pytest.mark.parametrize(("test", "name"), KERNELS)
def test_each_kernel_runs_and_states_its_work(suite: ModuleType, device: Any, test: str, name: str) -> None:
    benchmark = FakeBenchmark()
    arguments = [benchmark, device, *([name] if name else [])]

    inspect.unwrap(getattr(suite, test))(*arguments)

    kernel = kernel_of(benchmark.extra_info)
    assert kernel is not None
    assert kernel.workload["shape"]
    assert (kernel.flops is None) != (kernel.num_bytes is None)


@pytest.mark.parametrize(
    ("test", "name", "share"),
    [
        ("test_gemm", "gate_up", 1),
        ("test_gemm", "down", 1),
        ("test_gemm_of_attention", "qkv", 1),
        ("test_gemm_of_attention", "out", 1),
        ("test_attention_forward", "", CAUSAL_SHARE),
    ],
)
def test_stated_flops_are_those_that_torch_counts(
    suite: ModuleType, device: Any, test: str, name: str, share: int
) -> None:
    benchmark = FakeBenchmark()
    arguments = [benchmark, device, *([name] if name else [])]

    inspect.unwrap(getattr(suite, test))(*arguments)

    assert benchmark.extra_info["flops"] * share == benchmark.flops


def test_every_kernel_of_the_suite_is_tested(suite: ModuleType) -> None:
    known = {test for test, _ in KERNELS} | {"test_mlp_matmul", "test_causal_attention"}
    names = {name for name, value in vars(suite).items() if name.startswith("test_") and callable(value)}

    assert {name for name in names if not name.startswith("test_transformer_engine")} == known
