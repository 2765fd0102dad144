"""Step times estimated from FLOPs and bytes, for plans of which nothing comparable was measured.

Training takes its FLOPs at a share of the GPU's peak, which the native engine reached on one H100 with a model of the
same kind; generation takes a pass for each token of a response. Other engines are not estimated. What a range covers
beside the scatter of those shares is assumed, and said so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from pytest_nemoperf.layouts.pipeline_schedule import bubble_fraction
from pytest_nemoperf.models.trainable import unsupported_model
from pytest_nemoperf.pricing.generation_memory import GenerationMemory
from pytest_nemoperf.recipes.recipe import Plan, Recompute
from pytest_nemoperf.recipes.rl import RL
from pytest_nemoperf.recipes.rules import NATIVE
from pytest_nemoperf.recipes.systems import System

_MEASURED_ON: Final = frozenset({"h100", "h200"})
"""Systems with the chip that the shares were measured on."""
_SCATTER: Final = 1.15  # models of one kind were up to 12% from their kind's share
_OTHER_CHIP: Final = 1.4  # assumed: a larger peak is reached to a smaller share
_SEVERAL_GPUS: Final = 1.4  # assumed: communication that nothing hides
_SECOND_FORWARD: Final = 4 / 3
"""Full recomputation: a forward pass is a third of a step's FLOPs."""
_FORWARD_SHARE: Final = 1 / 3
_MEMORY_SHARE: Final = 0.9  # a copy on the H100 took 3.0 of 3.35 TB/s
_LAYER_OF_PASS_SEC: Final = 0.46e-3
"""A layer of a decoding pass, whose kernels the processor launches: 384 passes of 16 layers took 2.8 s on the H100."""
_SLOWEST_LAYER_OF_PASS_SEC: Final = 0.78e-3  # the same without cuDNN's attention: 4.8 s
_STARTUP_SEC: Final = 18.0
"""From launch to the first step: a launch with 16.5 s of steps took 35 s on the H100, and 18 s with warm ranks."""
_ROLLOUT_STARTUP_SEC: Final = 36.0  # with cuDNN's plans for each length of a response


class ModelKind(StrEnum):
    """Kinds of models by the kernels that a step spends its time in."""

    DENSE = "dense models"
    COMPILED = "compiled dense models"
    MIXTURE = "mixtures of experts"
    WINDOWS = "models with windows"
    SCORES = "models with sinks or soft caps"


PEAK_SHARES: Final[Mapping[ModelKind, float]] = MappingProxyType(
    {
        ModelKind.DENSE: 0.41,  # llama3.2-1b 0.413, llama3.2-3b 0.424; 0.363 in GRPO's updates of 512 tokens
        ModelKind.COMPILED: 0.46,  # llama3.2-1b 0.458
        ModelKind.MIXTURE: 0.23,  # qwen3-30b-a3b in 4 layers 0.246, deepseek-v2-lite in 5 layers 0.209
        ModelKind.WINDOWS: 0.21,  # gemma3-1b 0.207: dense masks
        ModelKind.SCORES: 0.10,  # gpt-oss-20b in 2 layers 0.101: scores in memory
    }
)
"""Share of the bf16 peak of 989 TFLOP/s by kind, on one NVIDIA H100 80GB HBM3 with torch 2.11 at 4,096 tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoughTime:
    """Step time that is estimated, not measured.

    Attributes:
        step_time_sec: The estimate.
        low_sec: Fast end of its range.
        high_sec: Slow end.
        basis: Share of the peak that it rests on, in words.
    """

    step_time_sec: float
    low_sec: float
    high_sec: float
    basis: str


def startup_sec(plan: Plan) -> float | None:
    """Return seconds from a launch to its first step; None for engines and devices of which they aren't known."""
    if plan.framework != NATIVE or plan.device != "cuda":
        return None
    return _STARTUP_SEC if plan.rl is None else _ROLLOUT_STARTUP_SEC


def rough_time(plan: Plan, *, system: System, generation: GenerationMemory | None) -> RoughTime | None:
    """Return the estimated time of a step; None without a known share of a peak.

    Args:
        plan: From resolve.
        system: The plan's system.
        generation: Memory of generation, whose bytes each pass reads.
    """
    peak = system.peak_tflops.get("bf16")
    if plan.framework != NATIVE or plan.device != "cuda" or peak is None or unsupported_model(plan.model):
        return None
    kind = model_kind(plan)
    share = PEAK_SHARES[kind]
    slow = _training_flops(plan) / (share * peak * 1e12 * plan.layout.gpus)
    slow /= 1 - bubble_fraction(plan.layout, num_micro_batches=plan.grad_accum_steps)
    basis = f"{100 * share:.0f}% of the bf16 peak, as {kind} reached on one H100"
    fast = slow
    if plan.precision.needs_transformer_engine:
        fast *= peak / system.peak_tflops.get(plan.precision.number_format, peak)
        basis += f"; {plan.precision} gains nothing at the slow end, all of its own peak at the fast one"
    times = _Range(low=fast / _SCATTER, middle=(fast + slow) / 2, high=slow * _SCATTER)
    if plan.rl is not None and generation is not None:
        rollouts = _generation_time(plan, rl=plan.rl, generation=generation, system=system)
        times = times.followed_by(rollouts) if generation.is_colocated else times.beside(rollouts)
        basis += "; a decoding pass takes 0.46 ms a layer, or the time to read weights and cache if that is more"
    slowest = times.high
    if system.name not in _MEASURED_ON:
        slowest *= _OTHER_CHIP
    if plan.layout.total_gpus > 1:
        slowest *= _SEVERAL_GPUS
    return RoughTime(step_time_sec=times.middle, low_sec=times.low, high_sec=slowest, basis=basis)


def model_kind(plan: Plan) -> ModelKind:
    """Return the kind of a plan's model; windows that a sequence does not fill are none."""
    model = plan.model
    if model.attention_sinks or model.attention_softcap is not None:
        return ModelKind.SCORES
    windows = [layer.window for layer in model.layer_counts if layer.window is not None]
    if windows and min(windows) < plan.seq_len:
        return ModelKind.WINDOWS
    if model.moe is not None:
        return ModelKind.MIXTURE
    return ModelKind.COMPILED if plan.is_compiled else ModelKind.DENSE


@dataclass(frozen=True, slots=True, kw_only=True)
class _Range:
    """Seconds, from the fast end to the slow one."""

    low: float
    middle: float
    high: float

    def followed_by(self, other: _Range) -> _Range:
        return _Range(low=self.low + other.low, middle=self.middle + other.middle, high=self.high + other.high)

    def beside(self, other: _Range) -> _Range:
        return _Range(
            low=max(self.low, other.low), middle=max(self.middle, other.middle), high=max(self.high, other.high)
        )


def _training_flops(plan: Plan) -> float:
    """Return FLOPs of a step, with those of recomputation and of the passes for log-probabilities.

    Selective recomputation repeats the attention core alone, which is left out.
    """
    flops = plan.flops_per_token * plan.tokens_per_step
    trained = flops * _SECOND_FORWARD if plan.recompute is Recompute.FULL else flops
    if plan.rl is None:
        return trained
    algorithm = plan.rl.algorithm_config
    forward = flops * _FORWARD_SHARE
    total = trained + forward  # of the policy that generated
    if algorithm.has_value_model:
        total *= 2
    if algorithm.has_reference:
        total += forward
    return total


def _generation_time(plan: Plan, *, rl: RL, generation: GenerationMemory, system: System) -> _Range:
    """Return the time of the passes of a replica, one for each token of the longest response of a batch."""
    layout = plan.layout.generation
    assert layout is not None  # noqa: S101 (generation's memory is that of its layout)
    samples = math.ceil(rl.num_samples / layout.dp)
    num_passes = math.ceil(samples / generation.num_slots) * rl.max_response_len
    read = 0.0
    if system.memory_tb_per_sec is not None:
        # The cache fills as responses grow: on average a half of it is read.
        read = (generation.weights + generation.cache / 2) / (_MEMORY_SHARE * system.memory_tb_per_sec * 1e12)
    launched = num_passes * max(plan.model.num_layers * _LAYER_OF_PASS_SEC, read)
    slowest = num_passes * max(plan.model.num_layers * _SLOWEST_LAYER_OF_PASS_SEC, read)
    if rl.generator == "native":
        return _Range(low=launched / _SCATTER, middle=launched, high=slowest)
    # vLLM replays graphs: between reading alone and the native generator's launches.
    return _Range(low=num_passes * read, middle=(num_passes * read + launched) / 2, high=launched)
