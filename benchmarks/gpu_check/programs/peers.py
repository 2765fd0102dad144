"""Native step beside transformers' LlamaForCausalLM on the same batch, and the GEMM rate at the model's shapes.

transformers runs as its users run it: fp32 weights under bf16 autocast, sdpa, fused AdamW, clipping. Weights are drawn
apart, so losses are near each other, not equal; ``benchmarks/native_step.py`` compares them with equal weights.
"""

from __future__ import annotations

import gc
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
from llama_config import llama_config

from gpu_check.findings import Findings
from gpu_check.programs.program import Context, run_program
from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.native.device import peak_memory_bytes, reset_peak_memory
from pytest_nemoperf.native.parallel.mesh import RankMesh
from pytest_nemoperf.native.parallel.parallelize import parallelize
from pytest_nemoperf.native.phases import phase_clock
from pytest_nemoperf.native.train.data import SyntheticTokens
from pytest_nemoperf.native.train.loop import Trainer
from pytest_nemoperf.recipes.hyperparameters import BETAS, LEARNING_RATE, MAX_GRAD_NORM, WEIGHT_DECAY
from pytest_nemoperf.recipes.recipe import Plan, Precision, Recipe
from pytest_nemoperf.recipes.resolve import resolve
from pytest_nemoperf.recipes.systems import find_system

_GIB: Final = 2**30
_WARMUP_STEPS: Final = 3
_STEPS: Final = 10
_PRODUCTS: Final = 10
_MOST_APART: Final = 0.05
"""Of the first losses: weights of two draws predict nothing yet, both near the logarithm of the vocabulary."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """Steps of one implementation.

    Attributes:
        times_sec: Wall times, synchronised, after the warm-up.
        losses: Loss of each step, warm-up included.
        peak_bytes: Peak of memory after the warm-up.
    """

    times_sec: list[float]
    losses: list[float]
    peak_bytes: int


def examine(context: Context, findings: Findings) -> None:
    """Time both, one after the other: two models with their optimizers would not fit into 80 GB."""
    device = torch.device("cpu" if context.is_cpu else "cuda")
    if context.is_cpu:
        torch.set_num_threads(1)  # operators this small wait for threads
    plan = make_plan(context)
    native = _native(plan, device=device)
    _free(device)
    peer = _transformers(plan, device=device)
    _free(device)
    gemm_tflops = _gemm_tflops(plan, device=device)
    table = findings.table(
        f"{plan.model.name}, {plan.precision}, {plan.seq_len} tokens, {plan.global_batch_size} sequences a step",
        ["implementation", "median ms", "least..most ms", "tokens/s", "TFLOP/s", "of the GEMM rate %", "peak GiB"],
    )
    for name, timed in (("native", native), ("transformers", peer)):
        median_sec = statistics.median(timed.times_sec)
        tflops = plan.flops_per_token * plan.tokens_per_step / median_sec / 1e12
        table.add(
            name,
            f"{median_sec * 1e3:.1f}",
            f"{min(timed.times_sec) * 1e3:.1f}..{max(timed.times_sec) * 1e3:.1f}",
            f"{plan.tokens_per_step / median_sec:,.0f}",
            f"{tflops:.3g}",
            f"{100 * tflops / gemm_tflops:.0f}",
            f"{timed.peak_bytes / _GIB:.1f}",
        )
    ratio = statistics.median(peer.times_sec) / statistics.median(native.times_sec)
    findings.remarks.append(f"native takes 1/{ratio:.2f} of transformers' time")
    findings.remarks.append(f"matrix products at the model's shapes: {gemm_tflops:.3g} TFLOP/s")
    if abs(native.losses[0] / peer.losses[0] - 1) > _MOST_APART:
        findings.problems.append(f"the first losses are {native.losses[0]:.3f} and {peer.losses[0]:.3f}")


def make_plan(context: Context) -> Plan:
    """Return the 1B plan on a GPU, or its stand-in."""
    sizes: dict[str, Any] = {"model": "llama3.2-1b", "seq_len": 4096, "global_batch_size": 8, "micro_batch_size": 2}
    if context.is_cpu:
        sizes = {"model": "llama-tiny", "seq_len": 128, "global_batch_size": 4, "micro_batch_size": 2}
    precision = Precision.FP32 if context.is_cpu else Precision.BF16
    recipe = Recipe(layouts={context.system: Layout(gpus=1)}, precision=precision, steps=_STEPS, **sizes)
    return resolve(recipe, system=find_system(context.system))


def _native(plan: Plan, *, device: torch.device) -> Timed:
    (model,) = parallelize(plan, mesh=RankMesh(), device=device)
    data = SyntheticTokens(plan, dp_rank=0, device=device)
    trainer = Trainer(plan, chunks=[model], mesh=RankMesh(), data=data, clock=phase_clock(device))

    def step(number: int) -> float:
        loss = trainer.step(number).loss
        assert loss is not None
        return loss

    return _time(step, device=device)


def _transformers(plan: Plan, *, device: torch.device) -> Timed:
    from transformers import LlamaForCausalLM

    with device:
        peer = LlamaForCausalLM(llama_config(plan)).float().train()
    optimizer = torch.optim.AdamW(
        peer.parameters(), lr=LEARNING_RATE, betas=BETAS, weight_decay=WEIGHT_DECAY, fused=True
    )
    data = SyntheticTokens(plan, dp_rank=0, device=device)

    def step(number: int) -> float:
        total = 0.0
        for tokens_BS, labels_BSN in data.micro_batches(number):
            labels_BS = labels_BSN[..., 0].contiguous()
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
                out = peer(input_ids=tokens_BS, labels=labels_BS, shift_labels=labels_BS)
            loss = out.loss / plan.grad_accum_steps
            loss.backward()
            total += loss.detach()
        torch.nn.utils.clip_grad_norm_(peer.parameters(), MAX_GRAD_NORM, foreach=True)
        optimizer.step()
        optimizer.zero_grad()
        return float(total)

    return _time(step, device=device)


def _time(step: Callable[[int], float], *, device: torch.device) -> Timed:
    times_sec = []
    losses = []
    for number in range(_WARMUP_STEPS + _STEPS):
        if number == _WARMUP_STEPS:
            reset_peak_memory(device)
        _synchronize(device)
        start = time.perf_counter()
        losses.append(step(number))
        _synchronize(device)
        times_sec.append(time.perf_counter() - start)
    return Timed(times_sec=times_sec[_WARMUP_STEPS:], losses=losses, peak_bytes=peak_memory_bytes(device))


def _gemm_tflops(plan: Plan, *, device: torch.device) -> float:
    """Return the rate of the blocks' products of one micro-batch, each weighted by its FLOPs."""
    model = plan.model
    tokens = plan.micro_batch_size * plan.seq_len
    query_rows = model.num_heads * model.head_dim
    shapes = (
        (model.hidden_size, query_rows + 2 * model.num_kv_heads * model.head_dim),
        (query_rows, model.hidden_size),
        (model.hidden_size, 2 * model.ffn_hidden_size),
        (model.ffn_hidden_size, model.hidden_size),
    )
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    flops = 0.0
    seconds = 0.0
    for inputs, outputs in shapes:
        x_TI = torch.randn(tokens, inputs, device=device, dtype=dtype)
        weight_OI = torch.randn(outputs, inputs, device=device, dtype=dtype)
        for _ in range(_WARMUP_STEPS):
            torch.nn.functional.linear(x_TI, weight_OI)
        _synchronize(device)
        start = time.perf_counter()
        for _ in range(_PRODUCTS):
            torch.nn.functional.linear(x_TI, weight_OI)
        _synchronize(device)
        seconds += time.perf_counter() - start
        flops += 2.0 * tokens * inputs * outputs * _PRODUCTS
    return flops / seconds / 1e12


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _free(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


if __name__ == "__main__":
    sys.exit(run_program(examine))
