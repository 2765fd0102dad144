"""Shim under which Megatron-Core's own code runs on a CPU, over gloo; for tests only.

Run as a script with the words of a Python command line behind it: it installs itself, then runs that module. It
replaces, and nothing else:

- torch.cuda.current_device, synchronize, empty_cache, Stream, Event, current_stream, stream, get_rng_state,
  set_rng_state, manual_seed and nvtx's ranges: the CPU's, or nothing. There is one stream of work on a CPU, so that
  nothing has to wait for another.
- Arguments device="cuda" (and numbers of devices) of torch's functions, Tensor.to("cuda") and Tensor.cuda(): the CPU.
- Tensor.type(), which says "torch.cuda.FloatTensor" for the CPU's tensor: Megatron-Core looks for gradients of that
  type when it computes their norm.
- CheckpointFunction.backward of megatron.core.tensor_parallel.random, so that what it computes again is on the CPU,
  too: torch leaves such a mode in backward.
- _get_cuda_rng_state and _set_cuda_rng_state of megatron.core.tensor_parallel.random: the CPU's generator.
- te_general_gemm of megatron.core.transformer.moe.moe_utils, which is None without transformer-engine but is not
  looked up so: the router's own product is taken.
- DotProductAttention.__init__, which drops the widths k_channels and v_channels that latent attention gives it: its own
  code takes any widths, but only transformer-engine's attention has the parameters.
- HAVE_TE of megatron.core.transformer.multi_latent_attention, which 0.16.1 takes for true without transformer-engine.
- torch.compile, which leaves functions as they are: small ones are compiled otherwise, which takes longer than a test.
- maybe_move_tensor_to_cpu and the stream of the token dispatcher of mixtures of experts: the tensor is there already.

Model, layers, tensor and expert parallel communication, schedules, messages of the pipeline, data parallelism, loss,
and optimizers are Megatron-Core's.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

CPU = torch.device("cpu")


class OnCPU(TorchFunctionMode):
    """Mode that puts on the CPU what is asked for on a GPU."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        options = dict(kwargs or {})
        if is_cuda(options.get("device")):
            options["device"] = CPU
        if func is torch.Tensor.cuda:
            return args[0]
        if func is torch.Tensor.to:
            args = tuple(CPU if is_cuda(argument) else argument for argument in args)
        if func is torch.Tensor.type and len(args) == 1 and not options:
            return func(*args).replace("torch.", "torch.cuda.", 1)
        return func(*args, **options)


class Nothing:
    """Stream or event of a device without any: takes every call, and is its own context."""

    def __init__(self, *args: Any, **options: Any) -> None:
        pass

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Nothing:
            return self

        return call

    def __enter__(self) -> Nothing:
        return self

    def __exit__(self, *error: object) -> None:
        pass


def is_cuda(device: object) -> bool:
    if isinstance(device, torch.device):
        return device.type == "cuda"
    if isinstance(device, str):
        return device.startswith("cuda")
    return type(device) is int


def install() -> None:
    """Replace what the docstring of this module lists."""

    def do_nothing(*args: Any, **options: Any) -> None:
        pass

    def nothing(*args: Any, **options: Any) -> Nothing:
        return Nothing()

    def get_rng_state(*args: Any, **options: Any) -> torch.Tensor:
        return torch.get_rng_state()

    def set_rng_state(state: torch.Tensor, *args: Any, **options: Any) -> None:
        torch.set_rng_state(state)

    cuda: Any = torch.cuda
    cuda.current_device = lambda: CPU
    cuda.synchronize = cuda.empty_cache = do_nothing
    cuda.Stream = cuda.Event = Nothing
    cuda.current_stream = cuda.stream = nothing
    cuda.get_rng_state = get_rng_state
    cuda.set_rng_state = set_rng_state
    cuda.manual_seed = torch.manual_seed
    cuda.nvtx.range_push = cuda.nvtx.range_pop = do_nothing

    from megatron.core.tensor_parallel import random
    from megatron.core.transformer import multi_latent_attention
    from megatron.core.transformer.dot_product_attention import DotProductAttention
    from megatron.core.transformer.moe import moe_utils, token_dispatcher

    torch._dynamo.config.disable = True
    multi_latent_attention.HAVE_TE = False
    attention: Any = DotProductAttention
    attention.__init__ = without_widths(attention.__init__)
    checkpoint: Any = random.CheckpointFunction
    checkpoint.backward = staticmethod(on_cpu(checkpoint.backward))
    random._get_cuda_rng_state = get_rng_state
    random._set_cuda_rng_state = set_rng_state
    moe_utils.te_general_gemm = None
    token_dispatcher.MoEAlltoAllTokenDispatcher.cuda_dtoh_stream = Nothing()
    token_dispatcher.maybe_move_tensor_to_cpu = stay
    mode: Any = OnCPU()
    mode.__enter__()  # to the end of the process


def on_cpu(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        mode: Any = OnCPU()
        with mode:
            return function(*args)

    return call


def without_widths(build: Callable[..., None]) -> Callable[..., None]:
    def build_without(*args: Any, k_channels: int = 0, v_channels: int = 0, **options: Any) -> None:
        build(*args, **options)

    return build_without


def stay(tensor: torch.Tensor | None, *flags: bool, as_numpy: bool = False, **options: bool) -> Any:
    """Return a tensor that is on the CPU, as numpy's if asked for."""
    if as_numpy and tensor is not None:
        return tensor.numpy()
    return tensor


if __name__ == "__main__":
    sys.path.pop(0)  # this folder, where this file would be imported for the package of the same name
    install()
    _, _, module = sys.argv[:3]  # this script, -m, the module
    sys.argv[:] = sys.argv[2:]
    runpy.run_module(module, run_name="__main__")
