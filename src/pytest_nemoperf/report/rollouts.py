"""Reinforcement learning in words: what a plan generates and keeps in memory, and its figures beside a baseline's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from pytest_nemoperf.measure import Run, median_over_runs, median_phases
from pytest_nemoperf.metrics import RL_METRICS, Metric, format_time
from pytest_nemoperf.plurals import count_text
from pytest_nemoperf.pricing import Price
from pytest_nemoperf.recipe import Plan
from pytest_nemoperf.report.cells import bytes_text, signed_percent
from pytest_nemoperf.rl import RL

_PHASES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "generation": ("generation",),
        "exposed": ("exposed_generation",),
        "logprobs": ("policy_logprobs", "reference_logprobs"),
        "training": ("training",),
        "refit": ("refit",),
    }
)
PHASE_HEADINGS = tuple(_PHASES)
"""Parts of a step. Generation is timed where it happens; ``exposed`` is what ranks that only train wait for it."""

_NOT_MODELLED = """\
not in these figures: log-probability and generation passes (their FLOPs and
traffic), buffers of a refit, logits of a decoding step; in the memory and
traffic of training each row has all tokens of a sequence
"""


def rollout_facts(plan: Plan, *, rl: RL) -> Iterator[tuple[str, str]]:
    """Yield (name, value) of what a step generates, and who does it."""
    generation = plan.layout.generation
    if generation is not None:
        ranks = "the same ranks" if generation.is_colocated else f"{generation.gpus} ranks of its own"
        replicas = count_text(generation.dp, "replica")
        yield "generation", f"{rl.generator}, {ranks}, {replicas} of tp={generation.tp}, pp={generation.pp}"
    yield (
        "samples per step",
        f"{rl.num_samples} ({rl.num_prompts_per_step} prompts x {rl.num_generations_per_prompt} responses)",
    )
    yield "lengths", f"prompts {_prompts_text(rl)}, responses {_responses_text(rl)}"
    if rl.max_staleness:
        yield "steps off policy", f"{rl.max_staleness} at most"
    yield "updates per step", str(plan.num_updates)


def generation_lines(price: Price) -> Iterator[str]:
    """Yield what generation keeps in memory; nothing for a workload without it."""
    generation = price.generation
    if generation is None:
        return
    where = "beside training's" if generation.is_colocated else "on its own ranks"
    yield (
        f"generation: {bytes_text(generation.weights)} weights, {bytes_text(generation.cache)} cache "
        f"({count_text(generation.num_slots, 'slot')}), {where}"
    )
    if generation.num_kv_copies > 1:
        yield (
            f"each key-value head is on {generation.num_kv_copies} ranks of a replica: copies are "
            f"{bytes_text(generation.copied_weights)} of these weights,"
        )
        yield f"{bytes_text(generation.copied_cache)} of this cache"
    yield f"a refit fills {bytes_text(generation.refit_bytes)} on all ranks together"


def not_modelled_text(plan: Plan) -> str:
    """Return what a price of reinforcement learning leaves out; empty for other workloads."""
    return _NOT_MODELLED if plan.rl is not None else ""


def compare_rollouts(now: Sequence[Run], *, baseline: Sequence[Run]) -> list[tuple[str, str, str, str]]:
    """Return (figure, baseline, now, delta) of the figures of reinforcement learning that either side has."""
    rows = []
    for metric in RL_METRICS:
        then_value = median_over_runs(baseline, metric=metric.name)
        now_value = median_over_runs(now, metric=metric.name)
        if then_value is not None or now_value is not None:
            then, now_text = ("-" if value is None else metric.format(value) for value in (then_value, now_value))
            rows.append((metric.label, then, now_text, _delta_text(metric, then=then_value, now=now_value)))
    return rows


def phase_cells(now: Sequence[Run], *, baseline: Sequence[Run]) -> list[str]:
    """Return the time of each of PHASE_HEADINGS in a step, and how it differs from a baseline's where there is one."""
    # Of what a training rank does not do itself, the generating ranks know the time.
    after, before = ({**median_phases(runs, group="generation"), **median_phases(runs)} for runs in (now, baseline))
    cells = []
    for names in _PHASES.values():
        seconds, then = (sum(phases.get(name, 0.0) for name in names) for phases in (after, before))
        change = f" {signed_percent(100.0 * (seconds - then) / then)}" if then else ""
        cells.append(f"{format_time(seconds)}{change}" if seconds else "-")
    return cells


def _delta_text(metric: Metric, *, then: float | None, now: float | None) -> str:
    """Return a change in percent; of a percentage in points, and of what was nothing none."""
    if then is None or now is None:
        return "-"
    if metric.unit == "%":
        return f"{now - then:+.1f} points" if now != then else "0.0 points"
    if then == now:
        return "0.0%"
    return signed_percent(metric.delta_pct(now, baseline=then)) if then else "-"


def _prompts_text(rl: RL) -> str:
    is_one = rl.min_prompt_len is None or rl.min_prompt_len == rl.prompt_len
    return str(rl.prompt_len) if is_one else f"{rl.min_prompt_len} to {rl.prompt_len}"


def _responses_text(rl: RL) -> str:
    match rl.response_lengths:
        case "fixed":
            return str(rl.max_response_len)
        case "sampled":
            return f"until they stop, {rl.max_response_len} at most"
        case lengths:
            return f"{min(lengths)} to {max(lengths)}, replayed"
