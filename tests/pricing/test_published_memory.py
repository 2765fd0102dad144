"""Published pre-training layouts of H100 under the rules of the native engine and of Megatron-Core.

Counts and reasons are in docs/framework-plans.md, "Memory by framework".
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Final

import pytest

from pytest_nemoperf.pricing.memory import stage_memory
from pytest_nemoperf.pricing.price import price_plan
from pytest_nemoperf.published.row import PublishedRow
from pytest_nemoperf.recipes.memory_rules import megatron_rules, native_rules
from pytest_nemoperf.recipes.recipe import Plan, Recompute
from pytest_nemoperf.recipes.systems import find_system
from tests.flops.test_published_layouts import ROWS, plan_of

MEMORY_GIB: Final = (find_system("h100").memory_gb or 0.0) * 1e9 / 2**30
# Rows under the pages' headings of pre-training, the first of each model, degrees, batch, length and FSDP.
LAYOUTS: Final = (
    *("pt0019", "pt0023", "pt0027", "pt0130", "pt0160", "pt0231", "pt0233", "pt0234", "pt0246", "pt0260", "pt0281"),
    *("pt0311", "pt0319", "pt0480", "pt0486", "pt0489", "pt0571", "pt0572", "pt0576", "pt0589", "pt0590", "pt0598"),
    *("pt0599", "pt0619", "pt0622", "pt0623", "pt0625", "pt0627", "pt0628", "pt0629", "pt0640", "pt0642", "pt0646"),
    *("pt0648", "pt0652", "pt1182"),
)
TOO_LARGE: Final = {
    "pt0571": 80,  # DeepSeek-V3, pp=4 on 1024: weights of a stage stay gathered, and their gradients whole
    "pt0572": 117,  # the same on 256
    "pt0589": 90,  # Nemotron 3 Nano, ep=8 on 8: states on 8 ranks only, four sequences at once
    "pt0599": 125,  # Nemotron 3 Ultra, 550B, pp=1: two sequences at once
    "pt0619": 81,  # GPT3-20B, tp=2: 57 GiB of whole weights and gradients, 19 GiB of 8-bit copies
    "pt0628": 77,  # Nemotron-340B on 128: 10 GiB of 8-bit copies
}
"""GiB that the others need under Megatron-Core's rules with full recomputation."""


@cache
def published() -> dict[str, PublishedRow]:
    return {row.id: row for row in ROWS if row.id in LAYOUTS}


def with_copies(plan: Plan, *, is_optimizer_shared: bool) -> Plan:
    """Return the plan with whole weights on its data-parallel ranks."""
    layout = replace(plan.layout, dp_replicate=plan.layout.dp, dp_shard=1)
    if is_optimizer_shared and layout.has_optimizer_copies:
        layout = replace(layout, shard_optimizer=True)
    return replace(plan, layout=layout)


@cache
def needed_gib(name: str, *, kind: str) -> tuple[float, ...]:
    """Return the memory of a row's fullest rank under each recomputation; FSDP where kind and page have it."""
    row = published()[name]
    plan = plan_of(row)
    rules = native_rules(plan) if kind == "native, copies" else megatron_rules(plan)
    if kind.endswith("copies"):
        plan = with_copies(plan, is_optimizer_shared=False)
    elif not row.fsdp:
        plan = with_copies(plan, is_optimizer_shared=True)
    if kind == "megatron, 8-bit weights":
        rules = replace(rules, quantized=0)  # bf16 weights and 8-bit copies, or two 8-bit copies alone
    needed = []
    for recompute in Recompute:
        changed = replace(plan, recompute=recompute)
        stages = [stage_memory(changed, pp_rank=rank, rules=rules) for rank in range(plan.layout.pp)]
        needed.append(max(stage.peak for stage in stages) / 2**30)
    return tuple(needed)


@pytest.mark.parametrize(
    ("kind", "counts"),
    [
        ("native, copies", (0, 0, 12)),
        ("megatron, copies", (3, 3, 10)),
        ("megatron, shared states", (13, 13, 30)),
        ("megatron, 8-bit weights", (20, 20, 32)),
    ],
)
def test_so_many_published_layouts_of_h100_fit_into_its_memory(kind: str, counts: tuple[int, ...]) -> None:
    counted = [0, 0, 0]
    for name in LAYOUTS:
        for index, needed in enumerate(needed_gib(name, kind=kind)):
            counted[index] += needed <= MEMORY_GIB

    assert len(published()) == len(LAYOUTS) == 36
    assert tuple(counted) == counts


def test_none_of_them_is_priced_as_one_that_does_not_fit() -> None:
    system = find_system("h100")
    outcomes = []
    for row in published().values():
        plan = plan_of(row)
        unstated = ["recompute"]
        if not row.fsdp:
            plan = with_copies(plan, is_optimizer_shared=True)
            unstated.append("shard_optimizer")
        price = price_plan(
            replace(plan, unstated=tuple(unstated)), system=system, baseline=None, rules=megatron_rules(plan)
        )
        assert price.memory_range is not None
        assert price.memory_range.low_bytes <= price.peak_bytes <= price.memory_range.high_bytes
        outcomes.append(price.is_fitting)

    assert False not in outcomes
    assert (outcomes.count(True), outcomes.count(None)) == (4, len(LAYOUTS) - 4)


def test_the_others_are_named_with_what_they_need() -> None:
    needed = {}
    for name in LAYOUTS:
        *_, full = needed_gib(name, kind="megatron, shared states")
        if full > MEMORY_GIB:
            needed[name] = round(full)

    assert needed == TOO_LARGE
