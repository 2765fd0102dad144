"""Program that runs NeMo Automodel's command line, or a script that it starts in a rank, on a CPU; for tests only.

Replaced are names of devices, counters of GPU memory, random states of GPUs and other calls that do nothing on a CPU,
and the count of GPUs. Recipe, configuration, data loading, FSDP2, tensor parallelism, DDP, loss, optimizer and logging
are Automodel's own.
"""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed.run as torchrun
from torch.overrides import TorchFunctionMode

_NOTHING = (
    "reset_peak_memory_stats",
    "synchronize",
    "empty_cache",
    "manual_seed",
    "manual_seed_all",
    "set_rng_state_all",
    "set_device",
    "current_stream",
)
_ZERO = ("max_memory_allocated", "memory_allocated", "max_memory_reserved", "memory_reserved", "current_device")


def main(words: Sequence[str]) -> None:
    """Run ``-m module argument ...`` or ``script argument ...``."""
    os.environ["TORCHDYNAMO_DISABLE"] = "1"  # compiled parts of tensor parallelism fail on a CPU
    replace_calls()
    replace_launch()
    if words[0] == "-m":
        sys.argv = list(words[1:])
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = list(words)
        runpy.run_path(words[0], run_name="__main__")


def replace_calls() -> None:
    """Replace what asks for a GPU."""
    cuda: Any = torch.cuda
    for name in _NOTHING:
        setattr(cuda, name, _returning(None))
    for name in _ZERO:
        setattr(cuda, name, _returning(0))
    cuda.device_count = _returning(1)
    cuda.get_rng_state = lambda *_, **__: torch.get_rng_state()
    cuda.get_rng_state_all = lambda *_, **__: [torch.get_rng_state()]
    cuda.set_rng_state = lambda state, *_, **__: torch.set_rng_state(state)
    cuda.nvtx.range_push = _returning(None)
    cuda.nvtx.range_pop = _returning(None)
    module: Any = torch.nn.Module
    move, move_empty = module.to, module.to_empty

    def to(self: Any, *args: Any, **named: Any) -> Any:
        named = {name: _on_cpu(value) for name, value in named.items()}
        return move(self, *map(_on_cpu, args), **named)

    def to_empty(self: Any, *, device: Any, recurse: bool = True) -> Any:
        return move_empty(self, device=_on_cpu(device), recurse=recurse)

    module.to, module.to_empty = to, to_empty
    OnCPU().__enter__()  # type: ignore[no-untyped-call]  # (torch annotates it not)


def replace_launch() -> None:
    """Let Automodel start as many ranks as it is asked to, through this program."""
    start: Callable[[Any], None] = torchrun.run

    def run(args: Any) -> None:
        args.training_script_args = [args.training_script, *args.training_script_args]
        args.training_script = __file__
        start(args)

    launcher: Any = torchrun
    launcher.run = run
    launcher.determine_local_world_size = lambda nproc_per_node: 64 if nproc_per_node == "gpu" else int(nproc_per_node)


class OnCPU(TorchFunctionMode):
    """Sends tensors that are meant for a GPU to the CPU."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if "device" in kwargs:
            kwargs["device"] = _on_cpu(kwargs["device"])
        if func is torch.Tensor.cuda:
            return args[0]
        if func is torch.Tensor.to:
            args = (args[0], *map(_on_cpu, args[1:]))
        return func(*args, **kwargs)


def _on_cpu(value: Any) -> Any:
    is_number = isinstance(value, int) and not isinstance(value, bool)
    if is_number or (isinstance(value, (str, torch.device)) and str(value).startswith("cuda")):
        return torch.device("cpu")
    return value


def _returning(value: Any) -> Callable[..., Any]:
    return lambda *_, **__: value


if __name__ == "__main__":
    main(sys.argv[1:])
