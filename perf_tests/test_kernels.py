"""Kernels at model shapes, timed by pytest-benchmark and judged like every other case."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest


@pytest.fixture(scope="module")
def torch() -> Iterator[Any]:
    """The library, imported when a kernel runs and not when tests are collected.

    On a CPU it gets one thread: two wait for each other whenever anything else runs on the machine.
    """
    import torch

    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield torch
    torch.set_num_threads(num_threads)


@pytest.fixture(scope="module")
def kernels(torch) -> dict[str, Callable[[], object]]:
    """Matrix product and attention of Llama 3 8B; at an eighth of its width on a CPU, to save time."""
    has_cuda = torch.cuda.is_available()
    if has_cuda:
        options = {"device": "cuda", "dtype": torch.bfloat16}
        hidden, ffn, heads, tokens = 4096, 14336, 32, 8192
    else:
        options = {"dtype": torch.float32}
        hidden, ffn, heads, tokens = 512, 1792, 4, 512
    head_dim = 128
    tokens_TD = torch.randn(tokens, hidden, **options)
    weight_DF = torch.randn(hidden, ffn, **options)
    query = torch.randn(1, heads, tokens, head_dim, **options)
    key = torch.randn(1, heads, tokens, head_dim, **options)
    value = torch.randn(1, heads, tokens, head_dim, **options)

    def attention() -> object:
        return torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)

    def finished(kernel: Callable[[], object]) -> Callable[[], object]:
        def run() -> object:
            result = kernel()
            if has_cuda:  # a launch returns before the work is done
                torch.cuda.synchronize()
            return result

        return run

    return {"mlp_matmul": finished(lambda: tokens_TD @ weight_DF), "causal_attention": finished(attention)}


# One launch shows no noise between launches, and on a shared CPU that is far more than the default allows.
NOISY = pytest.mark.perf(tolerance=15)


@NOISY
def test_mlp_matmul(benchmark, kernels):
    benchmark(kernels["mlp_matmul"])


@NOISY
def test_causal_attention(benchmark, kernels):
    benchmark(kernels["causal_attention"])
