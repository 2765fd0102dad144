"""Time limits of runs: from the work of a step at a rate far below any seen, or from the step times of earlier runs.

A limit ends runs that hang; it does not judge slow ones. Every rate here is therefore several times slower than the
slowest machine that is known to be sound, and each limit says where it comes from.

Ceilings that were measured on the machine, as of its matrix products, would replace the share of the peak
(``_slowest_flops_per_sec``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from pytest_nemoperf.layouts.layout import GenerationLayout
from pytest_nemoperf.models.weights import num_parameters
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.recipes.rules import NATIVE
from pytest_nemoperf.recipes.systems import System
from pytest_nemoperf.records.metrics import TIME_TO_FIRST_STEP_SEC

STORED_FACTOR = 8.0
"""Times a stored step time that a step may take: other tenants, a throttled GPU, a debug build."""
_LEAST_SEC = 120.0
"""No derived limit is shorter: the start of ranks scatters by more than short runs take."""
_MOST_SEC = 7 * 86_400.0
"""No derived limit is longer: no scheduler grants more, as to 8B parameters on a CPU."""
_STARTUP_SEC = 60.0
"""Process groups and the model; with imports torchrun took 33 s for 8 CPU ranks, one H100 17 s for 1B parameters."""
_IMPORT_SEC = 300.0
"""Imports from a cold network file system, where ranks make their own: those of a warm server don't count."""
_FRAMEWORK_STARTUP_SEC = 1800.0
"""The same for any other framework or command: it may load a checkpoint, start a cluster and compile kernels."""
_COMPILE_SEC = 300.0
"""Compilation at a cold cache; a launch of 16 equal blocks took 26 s on an H100, most of it the start."""
_PARAMETERS_PER_SEC = 1e8
"""Parameters that a rank draws at its start, one whole weight after the other; one H100 drew 1.2e9 within its 17 s."""
_SLOW_PEAK_SHARE = 0.04
"""Share of the dense bf16 peak, in any precision; the slowest published row reached 9.5%, and windows as dense masks on
an H100 10%."""
_UNKNOWN_PEAK_TFLOPS = 300.0
"""Peak of a GPU whose precision has none in the catalog; that of an A100."""
_CPU_FLOPS_PER_SEC = 2e8
"""A rank on a CPU, which has no peak in the catalog: a tenth of a core of the last decade without vector units."""
_STEP_SEC = 2.0
"""Each step beside its FLOPs: data, optimizer, host, records."""
_LEAST_STEP_SEC = 1.0
"""Each step of a stored time, however short: a busy host stops ranks for longer than steps of milliseconds."""
_LAYER_SEC = 0.02
"""Each layer of each micro-batch: its hundred-odd kernels are launched in 1 to 2 ms where nothing else is slow."""
_DECODED_LAYER_SEC = 0.008
"""Each layer of a pass that decodes one token a sequence: 0.8 ms on an H100, whose host launched the kernels."""
_WEIGHT_BYTES_PER_SEC = 1e11
"""Weights read in such a pass; GPUs of the catalog read 2e12 or more."""
_BYTES_PER_WEIGHT = 2
_PASSES_OVER_TRAINING = 2.0
"""Policy and reference log-probabilities, values and prompts, relative to training: each is a third of its FLOPs."""
_CPU = "cpu"
_VLLM = "vllm"


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeLimit:
    """Wall-clock limit of a run.

    Attributes:
        sec: Seconds.
        basis: Words that say where it comes from.
    """

    sec: float
    basis: str


def derived_limit(plan: Plan, *, system: System) -> TimeLimit:
    """Return the limit of a plan that nothing is known of but its FLOPs.

    Args:
        plan: Plan; its own limit is not read.
        system: Its system.
    """
    step_sec = _STEP_SEC + _slow_work_sec(plan, system=system)
    rate = "a CPU rank's slowest rate" if plan.device == _CPU else f"{100 * _SLOW_PEAK_SHARE:g}% of the bf16 peak"
    return _limit(plan, step_sec=step_sec, of_step=f"derived from FLOPs at {rate}")


def stored_limit(plan: Plan, *, step_time_sec: float) -> TimeLimit:
    """Return the limit of a plan that has run on the same machine.

    Args:
        plan: Plan; its own limit is not read.
        step_time_sec: Stored time of a step.
    """
    step_sec = max(_LEAST_STEP_SEC, STORED_FACTOR * step_time_sec)
    return _limit(plan, step_sec=step_sec, of_step=f"{STORED_FACTOR:g}x the stored step time of {step_time_sec:.3g} s")


def with_limit(plan: Plan, limit: TimeLimit) -> Plan:
    """Return the plan with a limit and its basis."""
    return replace(plan, timeout_sec=limit.sec, timeout_basis=limit.basis)


def _limit(plan: Plan, *, step_sec: float, of_step: str) -> TimeLimit:
    startup_sec = _startup_sec(plan)
    steps_sec = plan.total_steps * step_sec * (1 + plan.inject_pct / 100)
    sec = round(min(max(_LEAST_SEC, startup_sec + steps_sec), _MOST_SEC))
    basis = f"{startup_sec:.0f} s to start and {plan.total_steps} steps of {step_sec:.3g} s, {of_step}"
    if sec <= _LEAST_SEC:
        basis = f"the least there is; {basis}"
    if sec >= _MOST_SEC:
        basis = f"the most there is; {basis}"
    return TimeLimit(sec=float(sec), basis=basis)


def _startup_sec(plan: Plan) -> float:
    startup_sec = _FRAMEWORK_STARTUP_SEC
    if plan.framework == NATIVE:
        startup_sec = _STARTUP_SEC + num_parameters(plan.model) / _PARAMETERS_PER_SEC
        if TIME_TO_FIRST_STEP_SEC.name in plan.extra_metrics:
            startup_sec += _IMPORT_SEC
        if plan.rl is not None and plan.rl.generator == _VLLM:  # which is imported late, and compiles its kernels
            startup_sec += _IMPORT_SEC + _COMPILE_SEC
    if plan.is_compiled:
        startup_sec += _COMPILE_SEC
    return startup_sec


def _slow_work_sec(plan: Plan, *, system: System) -> float:
    """Return the time of a step's FLOPs, kernels and decoding passes at the slowest rates."""
    per_rank = plan.tokens_per_step * plan.flops_per_token / plan.layout.gpus
    work_sec = per_rank / _slowest_flops_per_sec(plan, system=system)
    num_micro_batches = plan.grad_accum_steps * plan.num_updates
    work_sec += _LAYER_SEC * plan.model.num_layers * num_micro_batches
    if plan.rl is None:
        return work_sec
    return (1 + _PASSES_OVER_TRAINING) * work_sec + _decoding_sec(plan)


def _slowest_flops_per_sec(plan: Plan, *, system: System) -> float:
    if plan.device == _CPU:
        return _CPU_FLOPS_PER_SEC
    known = system.peak_tflops.get("bf16") or plan.peak_tflops or _UNKNOWN_PEAK_TFLOPS
    return 1e12 * known * _SLOW_PEAK_SHARE


def _decoding_sec(plan: Plan) -> float:
    """Return the time of a step's decoding passes, one for each token of the longest response and each batch."""
    if plan.rl is None:
        return 0.0
    generation = plan.layout.generation or GenerationLayout(gpus=plan.layout.gpus)
    num_passes = plan.rl.max_response_len
    samples = -(-plan.rl.num_samples // generation.dp)
    num_passes *= -(-samples // plan.rl.num_slots(dp=generation.dp))
    weight_bytes = _BYTES_PER_WEIGHT * num_parameters(plan.model) / (generation.tp * generation.pp)
    return num_passes * (_DECODED_LAYER_SEC * plan.model.num_layers + weight_bytes / _WEIGHT_BYTES_PER_SEC)
