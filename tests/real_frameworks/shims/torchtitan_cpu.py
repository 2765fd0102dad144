"""torchtitan on a CPU: replaces what asks for an accelerator, then runs the program that the next argument names.

A device for tests, never a supported path. Replaced, and so not shown by these tests:

* attention: FlexAttention has no backward pass on a CPU; torch's scaled_dot_product_attention takes its place, and no
  mask is built;
* the choice of the device, memory statistics, barriers of one device, the timeouts of process groups;
* FSDP's reduction with a factor, which gloo does not have; torchtitan's factor is 1, so that a sum is the same;
* the default backend of sharding, ``spmd_types``, whose FSDP needs another device: ``partial_dtensor`` is chosen, in
  on_cpu.py;
* with pipelines, the entry of torch's schedules that takes micro-batches, which torch 2.13 lacks and 2.14 has.

Everything else is torchtitan's and torch's own.
"""

from __future__ import annotations

import resource
import runpy
import sys
import types
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
import torchtitan.tools.utils as titan_utils
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.distributed.pipelining.schedules import PipelineScheduleSingle, _PipelineSchedule

_CPU_MEMORY = 2**34


def install() -> None:
    """Replace the parts."""
    _replace_device()
    _replace_attention()
    _replace_collectives()
    _add_micro_batches()


def _replace_device() -> None:
    cpu: Any = torch.cpu
    cpu.get_device_name = lambda *_: "CPU"
    cpu.get_device_properties = lambda *_: types.SimpleNamespace(total_memory=_CPU_MEMORY)
    cpu.set_device = cpu.empty_cache = cpu.reset_peak_memory_stats = lambda *_: None
    cpu.memory_stats = _memory_stats
    titan_utils.device_type = "cpu"
    titan_utils.device_module = cpu
    titan_utils.get_local_device = lambda: torch.device("cpu")


def _memory_stats(*_: Any) -> dict[str, int]:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    names = ("active_bytes.all.peak", "reserved_bytes.all.peak")
    return {**dict.fromkeys(names, peak), "num_alloc_retries": 0, "num_ooms": 0}


def _replace_attention() -> None:
    from torchtitan.models.common import attention, decoder  # it asks for the device when it is imported

    def causal(
        self: Any,
        q_BLNH: Tensor,  # noqa: N803 (its tensor parallelism goes by these names)
        k_BLNH: Tensor,  # noqa: N803 (as above)
        v_BLNH: Tensor,  # noqa: N803 (as above)
        **kwargs: Any,
    ) -> Tensor:
        q, k, v = [heads.transpose(1, 2) for heads in (q_BLNH, k_BLNH, v_BLNH)]
        shares = q.shape[1] != k.shape[1]
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=kwargs.get("scale"), enable_gqa=shares)
        return out.transpose(1, 2).contiguous()

    attention.FlexAttention.forward = causal
    decoder.Decoder.get_attention_masks = lambda *_, **__: None


def _replace_collectives() -> None:
    from torchtitan.distributed import utils as distributed_utils

    distributed_utils.set_pg_timeouts = lambda *_, **__: None
    barrier = dist.barrier
    dist.barrier = lambda *_, **__: barrier()
    module: Any = FSDPModule
    set_factor = module.set_gradient_divide_factor

    def set_factor_and_sum(self: FSDPModule, factor: float) -> None:
        self.set_force_sum_reduction_for_comms(True)
        set_factor(self, factor)

    module.set_gradient_divide_factor = set_factor_and_sum


def _add_micro_batches() -> None:
    def step(self: Any, *, arg_mbs: Any, kwarg_mbs: Any, target_mbs: Any, losses: Any, **kwargs: Any) -> None:
        stages = [self._stage] if isinstance(self, PipelineScheduleSingle) else self._stages
        for stage in stages:
            stage.has_backward = self._has_backward
            stage.clear_runtime_states()
        self._step_microbatches(arg_mbs, kwarg_mbs, target_mbs, losses, **kwargs)

    classes: list[Any] = [_PipelineSchedule]
    for schedule in classes:
        schedule.step = step
        classes += schedule.__subclasses__()


if __name__ == "__main__":
    install()
    words = sys.argv[1:]
    assert words[0] == "-m"
    sys.argv = words[1:]
    runpy.run_module(
        words[1], run_name="__main__"
    )  # this file stays __main__: torch.compile looks its functions up there
