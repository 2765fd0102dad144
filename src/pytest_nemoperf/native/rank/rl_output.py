"""Step records of reinforcement learning: times of training and generating ranks, and rollout statistics."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from pytest_nemoperf.native.phases import RankStep
from pytest_nemoperf.native.rank.output import largest_peak, slowest_of
from pytest_nemoperf.native.rl.learn.rollout_facts import RolloutFacts
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.records.step import GroupStep, RolloutStats, StepRecord


def rl_step_records(
    plan: Plan, *, gathered: Sequence[Sequence[RankStep]], facts: Sequence[RolloutFacts]
) -> Iterable[StepRecord]:
    """Yield one record a step.

    The slowest training rank gives the step's time and phases; if other ranks generate, the slowest of them gives those
    of its group.

    Args:
        plan: Plan of the run.
        gathered: From gather_steps.
        facts: Facts of each step, from a training rank.
    """
    layout = plan.layout
    generation = layout.generation
    assert generation is not None  # noqa: S101 (resolve filled it)
    for step, (ranks, fact) in enumerate(zip(zip(*gathered, strict=True), facts, strict=True)):
        training = ranks[: layout.gpus]
        generating = ranks[-generation.gpus :]
        slowest = slowest_of(training)
        groups = {}
        if not generation.is_colocated:
            other = slowest_of(generating)
            groups["generation"] = GroupStep(step_time_sec=other.step_time_sec, phases=_phases(other.phases))
        yield StepRecord(
            step=step,
            step_time_sec=slowest.step_time_sec,
            tokens=fact.num_tokens,
            phases=_phases(slowest.phases),
            flops=fact.flops,
            loss=training[0].loss,
            grad_norm=training[0].grad_norm,
            peak_memory_bytes=largest_peak(ranks),
            rank_times_sec=tuple(rank.step_time_sec for rank in training),
            rank_busy_sec=tuple(rank.busy_sec for rank in training),
            groups=groups,
            rollout=_with_rank_figures(fact.rollout, ranks=ranks, generating=generating),
        )


def _with_rank_figures(
    rollout: RolloutStats, *, ranks: Sequence[RankStep], generating: Sequence[RankStep]
) -> RolloutStats:
    """Return the statistics with the figures that the ranks timed."""
    times = []
    num_tokens = 0.0
    num_slot_passes = 0.0
    for rank in generating:  # every rank of a replica has its replica's numbers: their quotient is that of the replicas
        times.append(rank.generation_sec)
        num_tokens += rank.num_generated_tokens
        num_slot_passes += rank.num_slot_passes
    return replace(
        rollout,
        generation_time_sec=max(times),
        batch_fill_pct=100 * num_tokens / num_slot_passes,
        imbalance_pct=100 * (max(times) - statistics.fmean(times)) / max(times),
        refit_time_sec=max(rank.phases["refit"] for rank in ranks),
    )


def _phases(phases: Mapping[str, float]) -> dict[str, float]:
    """Return seconds by phase, of those that took any time."""
    return {name: seconds for name, seconds in phases.items() if seconds > 0}
