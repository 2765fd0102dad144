"""Speeds that no device has: model FLOPs above the dense peak."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pytest_nemoperf.errors import count_text
from pytest_nemoperf.measure.expected_records import ExpectedRecords
from pytest_nemoperf.records.metrics import FLOPS_PER_TFLOP
from pytest_nemoperf.records.step import StepRecord

_MIN_SHARE_OF_PEAK = 0.01
"""Training that runs at less is slower than any known: another unit is then no likely reason."""
_SMALLER_UNITS = ((1e3, "milliseconds"), (1e6, "microseconds"))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """FLOPs of some steps, and the time they took.

    Attributes:
        name: Part of a step that they are of.
        flops: Model FLOPs on all its GPUs.
        seconds: Time of all steps together.
        num_steps: Number of steps.
        num_gpus: GPUs that did it.
    """

    name: str
    flops: float
    seconds: float
    num_steps: int
    num_gpus: int

    @property
    def tflops_rate(self) -> float:
        """TFLOP per second and GPU."""
        return self.flops / self.seconds / self.num_gpus / FLOPS_PER_TFLOP


def speed_problems(expected: ExpectedRecords, *, measured: Sequence[StepRecord]) -> Iterator[str]:
    """Yield a sentence for each part of the steps that computes faster than the device can, with a guess at the unit.

    A device without a known peak is held to the largest one of the catalog in the same precision.

    Args:
        expected: GPUs, FLOPs and peak of the plan.
        measured: Steps after warm-up.
    """
    most_tflops = expected.most_tflops
    if most_tflops is None:
        return
    source = "the dense peak of the device"
    if expected.peak_tflops is None:
        source = "the largest peak of any device in the catalog in this precision"
    for work in _work_of(expected, measured=measured):
        rate = work.tflops_rate
        if rate <= most_tflops:
            continue
        sentence = (
            f"{work.name} computes {rate:,.4g} TFLOP/s/GPU, {rate / most_tflops:.3g} times {source} "
            f"({most_tflops:,.4g} TFLOP/s): {count_text(work.num_steps, 'step')} of together {work.flops:.4g} FLOPs in "
            f"{work.seconds:.4g} s on {count_text(work.num_gpus, 'GPU')}"
        )
        guess = "the device was not synchronised, or model, batch, sequence length or precision are not those that ran"
        for factor, unit in _SMALLER_UNITS:
            if _MIN_SHARE_OF_PEAK * most_tflops <= rate / factor <= most_tflops:
                guess = f"seconds were read as {unit}, {guess}"
                break
        yield f"{sentence}; maybe {guess}"


def _work_of(expected: ExpectedRecords, *, measured: Sequence[StepRecord]) -> Iterator[_Work]:
    """Yield the training phase of reinforcement learning, and whole steps with the least FLOPs they can have."""
    if not measured:
        return
    rollout = expected.rollout
    flops = 0.0
    for record in measured:
        if record.flops is not None and rollout is None:
            flops += record.flops
        elif expected.has_exact_tokens and expected.flops_per_token is not None:
            flops += expected.flops_per_token * record.tokens
        elif expected.min_flops_per_token is not None:
            flops += expected.min_flops_per_token * record.tokens
    seconds = math.fsum(record.step_time_sec for record in measured)
    num_steps = len(measured)
    yield _Work(name="a step", flops=flops, seconds=seconds, num_steps=num_steps, num_gpus=expected.num_gpus)
    if rollout is not None:
        seconds = math.fsum(record.phases.get("training", 0.0) for record in measured)
        flops = math.fsum(record.flops or 0.0 for record in measured)
        if seconds > 0:
            num_gpus = rollout.num_training_gpus
            yield _Work(name="training", flops=flops, seconds=seconds, num_steps=num_steps, num_gpus=num_gpus)
