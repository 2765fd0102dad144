"""Kernels at model shapes, timed by pytest-benchmark and judged like every other case.

Their rates are the ceilings of this machine (docs/ceilings.md), which a training step is compared with beside the peak
of the data sheet.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest

from pytest_nemoperf import find_model

DENSE = "llama3-8b"
MIXTURE = "qwen3-30b-a3b"
CPU_SHARE = 8
"""On a CPU the dense model has an eighth of its width, to save time."""
ADAMW_BYTES = 28
"""Per fp32 parameter: weight, gradient and two moments are read, and all but the gradient written."""


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
    """As it always was: its stored baselines have no rate, and stay comparable."""
    benchmark(kernels["mlp_matmul"])


@NOISY
def test_causal_attention(benchmark, kernels):
    benchmark(kernels["causal_attention"])


@dataclass(frozen=True, kw_only=True)
class Dims:
    """Sizes of a layer and of the batch that goes through it."""

    tokens: int
    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    copy_bytes: int

    def matrix(self, name: str) -> tuple[int, int]:
        """Return inputs and outputs of a product of the layer."""
        queries = self.heads * self.head_dim
        sizes = {
            "qkv": (self.hidden, queries + 2 * self.kv_heads * self.head_dim),
            "out": (queries, self.hidden),
            "gate_up": (self.hidden, 2 * self.ffn),
            "down": (self.ffn, self.hidden),
        }
        return sizes[name]


class Device:
    """The device that kernels run on, and the sizes that suit it."""

    def __init__(self, torch: Any) -> None:
        self.torch = torch
        self.has_cuda = torch.cuda.is_available()
        self.name = "cuda" if self.has_cuda else "cpu"
        self.dtype = torch.bfloat16 if self.has_cuda else torch.float32
        model = find_model(DENSE)
        self.dims = Dims(
            tokens=8192,
            hidden=model.hidden_size,
            ffn=model.ffn_hidden_size,
            heads=model.num_heads,
            kv_heads=model.num_kv_heads,
            head_dim=model.head_dim,
            vocab=model.vocab_size,
            copy_bytes=2**30,
        )
        if not self.has_cuda:
            self.dims = replace(
                self.dims,
                tokens=512,
                hidden=model.hidden_size // CPU_SHARE,
                ffn=model.ffn_hidden_size // CPU_SHARE,
                heads=model.num_heads // CPU_SHARE,
                kv_heads=model.num_kv_heads // CPU_SHARE,
                vocab=model.vocab_size // CPU_SHARE,
                copy_bytes=2**26,
            )

    def random(self, *shape: int, dtype: Any = None, **options: Any) -> Any:
        """Return a tensor of normal numbers."""
        return self.torch.randn(*shape, device=self.name, dtype=dtype or self.dtype, **options)

    def finished(self, call: Callable[[], object]) -> object:
        """Call a kernel, and wait for its end: a launch returns before the work is done."""
        result = call()
        if self.has_cuda:
            self.torch.cuda.synchronize()
        return result

    def time(
        self, benchmark: Any, kernel: str, call: Callable[[], object], *, shape: dict[str, int], **work: Any
    ) -> None:
        """Time a kernel, and state what it is: its work a call as ``flops`` or ``bytes``, and another ``dtype``."""
        names = {self.torch.bfloat16: "bf16", self.torch.float32: "fp32"}
        benchmark.extra_info.update(kernel=kernel, shape=shape, **{"dtype": names[self.dtype], **work})
        if not self.has_cuda:
            benchmark.extra_info["threads"] = self.torch.get_num_threads()
        benchmark(self.finished, call)


@pytest.fixture(scope="module")
def device(torch) -> Device:
    return Device(torch)


@pytest.fixture
def gpu(device) -> Device:
    """The device of kernels that say nothing on a CPU: another one of the file has the same speed there."""
    if not device.has_cuda:
        pytest.skip("of a GPU alone: on a CPU this kernel is bound by the same product or copy as others of its file")
    return device


SHORT = pytest.mark.benchmark(max_time=0.5)


def time_product(benchmark: Any, device: Device, name: str) -> None:
    inputs, outputs = device.dims.matrix(name)
    x_TI = device.random(device.dims.tokens, inputs)
    weight_OI = device.random(outputs, inputs)
    shape = {"m": device.dims.tokens, "k": inputs, "n": outputs}
    product = partial(device.torch.nn.functional.linear, x_TI, weight_OI)
    device.time(benchmark, "gemm", product, shape=shape, flops=2 * device.dims.tokens * inputs * outputs)


@NOISY
@SHORT
@pytest.mark.parametrize("name", ["gate_up", "down"])
def test_gemm(benchmark, device, name):
    time_product(benchmark, device, name)


@NOISY
@SHORT
@pytest.mark.parametrize("name", ["qkv", "out"])
def test_gemm_of_attention(benchmark, gpu, name):
    time_product(benchmark, gpu, name)


@NOISY
@SHORT
def test_grouped_gemm(benchmark, gpu):
    grouped_mm = getattr(gpu.torch.nn.functional, "grouped_mm", None)
    if grouped_mm is None:
        pytest.skip(f"torch {gpu.torch.__version__} has no grouped_mm")
    model = find_model(MIXTURE)
    num_experts = model.moe.num_experts
    rows = gpu.dims.tokens * model.moe.topk
    outputs = 2 * model.moe.ffn_hidden_size  # gate and up
    x_RI = gpu.random(rows, model.hidden_size)
    weight_EIO = gpu.random(num_experts, outputs, model.hidden_size).transpose(1, 2)
    ends_E = gpu.torch.arange(1, num_experts + 1, device=gpu.name, dtype=gpu.torch.int32) * (rows // num_experts)
    shape = {"experts": num_experts, "m": rows, "k": model.hidden_size, "n": outputs}
    product = partial(grouped_mm, x_RI, weight_EIO, offs=ends_E)
    gpu.time(benchmark, "grouped_gemm", product, shape=shape, flops=2 * rows * model.hidden_size * outputs)


def attention_inputs(device: Device) -> tuple[list[Any], dict[str, int]]:
    """Return queries, keys and values of one sequence, which need gradients, and their sizes."""
    dims = device.dims
    inputs = []
    for heads in (dims.heads, dims.kv_heads, dims.kv_heads):
        inputs.append(device.random(1, heads, dims.tokens, dims.head_dim, requires_grad=True))
    shape = {"heads": dims.heads, "kv_heads": dims.kv_heads, "seq_len": dims.tokens, "head_dim": dims.head_dim}
    return inputs, shape


def forward_flops(dims: Dims) -> int:
    """Return the FLOPs of two causal products, of which half the scores count."""
    return 2 * dims.heads * dims.tokens**2 * dims.head_dim


@NOISY
@SHORT
def test_attention_forward(benchmark, gpu):
    inputs, shape = attention_inputs(gpu)
    forward = partial(gpu.torch.nn.functional.scaled_dot_product_attention, *inputs, is_causal=True, enable_gqa=True)
    gpu.time(benchmark, "attention_forward", forward, shape=shape, flops=forward_flops(gpu.dims))


@NOISY
@SHORT
def test_attention_backward(benchmark, device):
    """Four products, twice the forward's; the scores that fused kernels compute once more don't count."""
    inputs, shape = attention_inputs(device)
    out = device.torch.nn.functional.scaled_dot_product_attention(*inputs, is_causal=True, enable_gqa=True)
    gradient = device.torch.ones_like(out)
    backward = partial(device.torch.autograd.grad, out, inputs, gradient, retain_graph=True)
    device.time(benchmark, "attention_backward", backward, shape=shape, flops=2 * forward_flops(device.dims))


@NOISY
@SHORT
def test_rms_norm(benchmark, gpu):
    """Launched ten times a call: the wait for the end of one would be a good part of its time."""
    launches = 10
    x_TD = gpu.random(gpu.dims.tokens, gpu.dims.hidden)
    weight_D = gpu.random(gpu.dims.hidden)

    def norm() -> None:
        for _ in range(launches):
            gpu.torch.nn.functional.rms_norm(x_TD, (gpu.dims.hidden,), weight=weight_D)

    shape = {"tokens": gpu.dims.tokens, "hidden": gpu.dims.hidden, "launches": launches}
    gpu.time(benchmark, "rms_norm", norm, shape=shape, bytes=launches * 2 * x_TD.numel() * x_TD.element_size())


@NOISY
@SHORT
def test_cross_entropy(benchmark, device):
    """Forward alone; at least the logits are read once."""
    dims = device.dims
    logits_TV = device.random(dims.tokens, dims.vocab)
    labels_T = device.torch.randint(dims.vocab, (dims.tokens,), device=device.name)
    loss = partial(device.torch.nn.functional.cross_entropy, logits_TV, labels_T)
    moved = logits_TV.numel() * logits_TV.element_size()
    device.time(benchmark, "cross_entropy", loss, shape={"tokens": dims.tokens, "vocab": dims.vocab}, bytes=moved)


@NOISY
@SHORT
def test_adamw(benchmark, device):
    """The optimizer on the matrices of one layer, in fp32 as master weights are."""
    torch = device.torch
    weights = []
    for name in ("qkv", "out", "gate_up", "down"):
        weight = device.random(*device.dims.matrix(name), dtype=torch.float32)
        weights.append(torch.nn.Parameter(weight))
        weights[-1].grad = torch.ones_like(weight)
    optimizer = torch.optim.AdamW(weights, fused=True)
    num_parameters = sum(weight.numel() for weight in weights)
    shape = {"parameters": num_parameters}
    device.time(benchmark, "adamw", optimizer.step, shape=shape, bytes=ADAMW_BYTES * num_parameters, dtype="fp32")


@NOISY
@SHORT
def test_memory_copy(benchmark, device):
    source = device.torch.zeros(device.dims.copy_bytes, dtype=device.torch.uint8, device=device.name)
    target = device.torch.empty_like(source)
    copy = partial(target.copy_, source)
    moved = 2 * device.dims.copy_bytes  # read and written
    device.time(benchmark, "memory_copy", copy, shape={"bytes": device.dims.copy_bytes}, bytes=moved, dtype="uint8")


@pytest.fixture
def engine() -> Any:
    """transformer-engine, whose wheels need CUDA."""
    return pytest.importorskip(
        "transformer_engine.pytorch",
        reason="transformer-engine is not installed, so its layers are not timed beside torch's",
        exc_type=ImportError,
    )


@NOISY
@SHORT
@pytest.mark.parametrize("dtype", ["bf16", "fp8"])
def test_transformer_engine_linear(benchmark, gpu, engine, dtype):
    inputs, outputs = gpu.dims.matrix("gate_up")
    layer = engine.Linear(inputs, outputs, bias=False, params_dtype=gpu.dtype)
    x_TI = gpu.random(gpu.dims.tokens, inputs)
    product = partial(layer, x_TI)
    if dtype == "fp8":
        recipes = pytest.importorskip("transformer_engine.common.recipe", exc_type=ImportError)
        product = partial(in_fp8, engine, recipes.Float8CurrentScaling(), product)
    shape = {"m": gpu.dims.tokens, "k": inputs, "n": outputs}
    flops = 2 * gpu.dims.tokens * inputs * outputs
    gpu.time(benchmark, "transformer_engine_linear", product, shape=shape, flops=flops, dtype=dtype)


def in_fp8(engine: Any, recipe: Any, product: Callable[[], object]) -> object:
    """Run a layer in 8 bits; weights and inputs are scaled in each call, as in training without cached weights."""
    if hasattr(engine, "autocast"):  # from 2.9 on
        with engine.autocast(enabled=True, recipe=recipe):
            return product()
    with engine.fp8_autocast(enabled=True, fp8_recipe=recipe):
        return product()


@NOISY
@SHORT
def test_transformer_engine_norm_and_linear(benchmark, gpu, engine):
    inputs, outputs = gpu.dims.matrix("qkv")
    layer = engine.LayerNormLinear(inputs, outputs, bias=False, normalization="RMSNorm", params_dtype=gpu.dtype)
    x_TI = gpu.random(gpu.dims.tokens, inputs)
    shape = {"m": gpu.dims.tokens, "k": inputs, "n": outputs}
    flops = 2 * gpu.dims.tokens * inputs * outputs
    gpu.time(benchmark, "transformer_engine_norm_linear", partial(layer, x_TI), shape=shape, flops=flops)


@NOISY
@SHORT
def test_transformer_engine_attention(benchmark, gpu, engine):
    dims = gpu.dims
    core = engine.DotProductAttention(
        dims.heads, dims.head_dim, num_gqa_groups=dims.kv_heads, attn_mask_type="causal", qkv_format="bshd"
    )
    inputs, shape = attention_inputs(gpu)
    inputs_BSHC = [each_BHSC.detach().transpose(1, 2).contiguous() for each_BHSC in inputs]
    forward = partial(core, *inputs_BSHC)
    gpu.time(benchmark, "transformer_engine_attention", forward, shape=shape, flops=forward_flops(dims))
