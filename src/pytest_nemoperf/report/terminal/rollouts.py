"""Reinforcement learning: rollouts and memory of a plan, figures and phases beside a baseline's."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from types import MappingProxyType

from pytest_nemoperf.errors import count_text
from pytest_nemoperf.measure.figures import figure_over_runs, phases_over_runs
from pytest_nemoperf.measure.measurement import Run
from pytest_nemoperf.pricing.price import Price
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.recipes.rl import RL
from pytest_nemoperf.records.metrics import RL_METRICS, Metric, format_number
from pytest_nemoperf.report.cells import bytes_text, signed_percent

PHASES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "generation": ("generation",),
        "exposed generation": ("exposed_generation",),
        "log-probabilities": ("policy_logprobs", "reference_logprobs"),
        "training": ("training",),
        "refit": ("refit",),
    }
)
"""Parts of a step: ``generation`` is timed on the generating ranks, the wait for it on the training ranks.

Phases of the training ranks come before those of the generating ranks.
"""

NOT_MODELLED = """\
not in these figures: log-probability and generation passes (their FLOPs and
traffic), buffers of a refit, logits of a decoding step; in the memory and
traffic of training each row has all tokens of a sequence
"""
"""Note on the parts of reinforcement learning that have no price."""


def rollout_facts(plan: Plan, *, rl: RL) -> Iterator[tuple[str, str]]:
    """Yield (name, value) of a plan's rollouts: generator, samples, lengths, staleness, updates."""
    generation = plan.layout.generation
    if generation is not None:
        replicas = count_text(generation.dp, "replica")
        ranks = "the same ranks" if generation.is_colocated else f"{count_text(generation.gpus, 'rank')} of its own"
        yield "generation", f"{rl.generator}, {ranks}, {replicas} of tp={generation.tp}, pp={generation.pp}"
        yield "its precision", plan.generation_precision
    prompts = count_text(rl.num_prompts_per_step, "prompt")
    responses = count_text(rl.num_generations_per_prompt, "response")
    yield "samples per step", f"{rl.num_samples} ({prompts} x {responses})"
    yield "lengths", f"prompts {_prompts_text(rl)}, responses {_responses_text(rl)}"
    if rl.max_staleness:
        yield "steps off policy", f"{rl.max_staleness} at most"
    yield "updates per step", str(plan.num_updates)


def generation_lines(price: Price) -> Iterator[str]:
    """Yield lines on the memory of generation; nothing for a workload without it."""
    generation = price.generation
    if generation is None:
        return
    place = "beside training's" if generation.is_colocated else "on its own ranks"
    slots = count_text(generation.num_slots, "slot")
    if price.plan.rl is not None and price.plan.rl.generator == "vllm":
        slots = f"one sample's, the least for {slots}"
    yield (
        f"generation: {bytes_text(generation.weights)} weights, {bytes_text(generation.cache)} cache ({slots}), {place}"
    )
    if generation.num_kv_copies > 1:
        yield (
            f"each key-value head is on {generation.num_kv_copies} ranks of a replica: copies are "
            f"{bytes_text(generation.copied_weights)} of these weights,"
        )
        yield f"{bytes_text(generation.copied_cache)} of this cache"
    yield f"a refit fills {bytes_text(generation.refit_bytes)} on all ranks together"


def compare_rollouts(
    now: Sequence[Run], *, baseline: Sequence[Run], judged: Collection[str] = ()
) -> list[tuple[str, str, str, str]]:
    """Return (figure, baseline, now, delta) of the figures of reinforcement learning that either side has.

    Args:
        now: Runs of this session.
        baseline: Runs of the baseline.
        judged: Names of metrics that are shown elsewhere, since they are judged.
    """
    rows = []
    for metric in RL_METRICS:
        if metric.name in judged:
            continue
        then_value = figure_over_runs(baseline, metric=metric.name)
        now_value = figure_over_runs(now, metric=metric.name)
        if then_value is not None or now_value is not None:
            delta = _delta_text(metric, then=then_value, now=now_value)
            rows.append((_label(metric), _value_text(metric, then_value), _value_text(metric, now_value), delta))
    return rows


def phase_times(runs: Sequence[Run]) -> dict[str, float]:
    """Return seconds of a step under PHASES, without those that took none."""
    seconds = {**phases_over_runs(runs, group="generation"), **phases_over_runs(runs)}
    times = {}
    for phase, names in PHASES.items():
        total = sum(seconds.get(name, 0.0) for name in names)
        if total:
            times[phase] = total
    return times


def _label(metric: Metric) -> str:
    """Return the label with the unit of its values; times have theirs beside them."""
    if metric.unit in ("", "s", metric.label):
        return metric.label
    return f"{metric.label} ({metric.unit})"


def _value_text(metric: Metric, value: float | None) -> str:
    if value is None:
        return "-"
    if metric.unit == "s":
        return metric.format(value)
    return format_number(value, digits=metric.digits)


def _delta_text(metric: Metric, *, then: float | None, now: float | None) -> str:
    """Return a change in percent, of a percentage in points; a dash if a side is unknown or the baseline is zero."""
    if then is None or now is None:
        return "-"
    if metric.unit == "%":
        if then == now:
            return "0.0 points"
        return f"{now - then:+.1f} points"
    if then == now:
        return "0.0%"
    if then == 0:
        return "-"
    return signed_percent(metric.delta_pct(now, baseline=then))


def _prompts_text(rl: RL) -> str:
    if rl.min_prompt_len is None or rl.min_prompt_len == rl.prompt_len:
        return str(rl.prompt_len)
    return f"{rl.min_prompt_len} to {rl.prompt_len}"


def _responses_text(rl: RL) -> str:
    match rl.response_lengths:
        case "fixed":
            return str(rl.max_response_len)
        case "sampled":
            return f"until they stop, {rl.max_response_len} at most"
        case lengths:
            return f"{min(lengths)} to {max(lengths)}, replayed"
