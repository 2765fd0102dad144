"""Reinforcement learning in words: what a plan generates, and what it keeps in memory for that."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_nemoperf.pricing import Price
from pytest_nemoperf.recipe import Plan
from pytest_nemoperf.report.cells import bytes_text, count_text
from pytest_nemoperf.rl import RL

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
    yield f"a refit fills {bytes_text(generation.refit_bytes)} on all ranks together"


def not_modelled_text(plan: Plan) -> str:
    """Return what a price of reinforcement learning leaves out; empty for other workloads."""
    return _NOT_MODELLED if plan.rl is not None else ""


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
