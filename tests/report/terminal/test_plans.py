from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.models.catalog import find_model
from pytest_nemoperf.models.components import MoE
from pytest_nemoperf.pricing.price import Price, StepTimeEstimate, price_plan
from pytest_nemoperf.recipes.resolve import resolve
from pytest_nemoperf.recipes.systems import find_system
from pytest_nemoperf.report.cells import bytes_text, flops_text
from pytest_nemoperf.report.terminal.plans import render_dry_run, render_price
from pytest_nemoperf.results.cases import NotRun
from pytest_nemoperf.results.dry_run import DryRun, PricedCase, suite_cost
from tests.builders import make_recipe
from tests.report.blocks import case_rows, facts, section

H100 = find_system("h100")


def price_of(**changes: Any) -> Price:
    values = {"model": "llama3-8b", "layouts": {"h100": Layout(gpus=8, dp_shard=8)}, "seq_len": 4096, **changes}
    return price_plan(resolve(make_recipe(global_batch_size=64, **values), system=H100), system=H100, baseline=None)


def figures_of(text: str) -> dict[str, str]:
    """Return the figures of the last case in the report of a dry run, by heading."""
    return case_rows(text.splitlines(), column="fits").popitem()[1]


def test_a_pipeline_shows_its_stages_and_its_bubble() -> None:
    price = price_of(layouts={"h100": Layout(gpus=8, pp=8)})

    text = render_price(price, system_title="DGX-H100")

    assert facts(text)["pipeline bubble"] == "9.9% of the step"
    (stages,) = (line.split() for line in text.splitlines() if line.startswith("  pipeline stage"))
    assert {"0", "4", "7"} <= set(stages)
    assert stages.count("(fullest)") == 1
    assert max(len(line) for line in text.splitlines() if line != price.plan.case) <= 80


def test_what_the_framework_can_not_run_is_told_and_folded() -> None:
    price = replace(price_of(), unsupported="nine words " * 9)

    lines = render_price(price, system_title="DGX-H100").splitlines()

    first = next(place for place, line in enumerate(lines) if line.startswith("not runnable here   nine words"))
    assert lines[first + 1].startswith(" " * 20 + "words")
    assert len(lines[first]) <= 80


def test_notes_are_shown_with_the_plan_and_after_a_dry_run_s_table() -> None:
    price = price_of(notes=["the first", "the second"])
    dry_run = DryRun(system="h100", system_title="DGX-H100", cases=(PricedCase(nodeid="test_a.py::a", price=price),))

    text = render_price(price, system_title="DGX-H100")
    lines = render_dry_run(dry_run, written=[]).splitlines()

    assert facts(text)["notes"] == "the first; the second"
    assert section(lines, heading="notes") == ["  a", "    the first", "    the second"]


def test_small_plans_have_small_units() -> None:
    price = price_of(model="llama-tiny", layouts={"h100": Layout(gpus=1)}, seq_len=8)
    dry_run = DryRun(system="h100", system_title="DGX-H100", cases=(PricedCase(nodeid="a", price=price),))

    row = figures_of(render_dry_run(dry_run, written=[]))

    assert row["fits"] == "yes"
    assert row["memory"].endswith(" MiB")
    assert row["model FLOPs"].endswith(" GFLOP")
    assert " 0.00 " not in render_price(price, system_title="DGX-H100")


def test_choices_that_are_not_the_default_are_shown() -> None:
    layout = Layout(gpus=8, tp=2, cp=2, pp=2, sequence_parallel=False, pp_schedule="zero_bubble", cp_comm="a2a")

    text = render_price(price_of(layouts={"h100": layout}), system_title="DGX-H100")

    assert (" gpus=8, tp=2, pp=2, cp=2, sequence_parallel=false, pp_schedule=zero_bubble, cp_comm=a2a ") in " ".join(
        text.split()
    )


def test_a_mixture_shows_the_parameters_a_token_uses() -> None:
    model = replace(find_model("llama-tiny"), moe=MoE(num_experts=8, topk=2, ffn_hidden_size=64))

    price = price_of(model=model)

    assert f"({price.num_active_parameters:,} active)" in render_price(price, system_title="DGX-H100")


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1536, "1.5 KiB"), (35.1 * 2**30, "35.1 GiB"), (977 * 2**30, "977 GiB")],
)
def test_bytes_have_the_unit_that_leaves_a_whole_digit(count: float, text: str) -> None:
    assert bytes_text(count) == text


@pytest.mark.parametrize(
    ("count", "text"), [(5, "5 FLOP"), (3.59e8, "359 MFLOP"), (1.5e12, "1.5 TFLOP"), (4e18, "4,000 PFLOP")]
)
def test_flops_have_the_unit_that_leaves_a_whole_digit(count: float, text: str) -> None:
    assert flops_text(count) == text


def test_a_dry_run_shows_each_case_with_its_figures_and_the_reasons_of_the_others() -> None:
    price = replace(price_of(layouts={"h100": Layout(gpus=8, pp=2, dp_shard=4)}), unsupported="torch is not installed")
    dry_run = DryRun(
        system="h100",
        system_title="DGX-H100",
        cases=(PricedCase(nodeid="test_a.py::a", price=price),),
        not_priced=(NotRun(nodeid="test_a.py::b", reason="no recipe"),),
        changes="pp=2",
    )

    lines = render_dry_run(dry_run, written=["out/dry_run.json"]).splitlines()

    assert "dry run on h100 (DGX-H100): nothing was launched" in lines
    assert "cases are changed by --perf-set pp=2" in lines
    row = figures_of("\n".join(lines))
    assert price.is_fitting is False
    assert row["fits"] == "NO"
    assert (row["bubble"], row["expected step"]) == (f"{100 * price.bubble_fraction:.1f}%", "~ 3.6 .. 6.7 s")
    assert section(lines, heading="priced, but not runnable here") == [
        "  torch is not installed",
        "    a",
    ]
    assert section(lines, heading="not priced") == ["  no recipe", "    test_a.py::b"]
    assert "written: out/dry_run.json" in lines


def test_cases_that_can_not_run_for_one_reason_are_listed_below_it() -> None:
    prices = [replace(price_of(micro_batch_size=size), unsupported="torch is not installed") for size in (1, 2)]
    cases = tuple(PricedCase(nodeid="a", price=price) for price in prices)

    lines = render_dry_run(DryRun(system="h100", system_title="DGX-H100", cases=cases), written=[]).splitlines()

    assert section(lines, heading="priced, but not runnable here") == [
        "  torch is not installed",
        "    llama3-8b fsdp8 mbs1, llama3-8b fsdp8 mbs2",
    ]


@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_a_dry_run_has_one_line_a_case_and_none_is_too_long(width: int) -> None:
    sizes = (1, 2, 4)
    prices = [price_of(micro_batch_size=size, notes=["many words " * 20]) for size in sizes]
    cases = []
    for size, price in zip(sizes, prices, strict=True):
        cases.append(PricedCase(nodeid=f"test_x.py::test_{'long_name_' * 6}[mbs{size}]", price=price))
    dry_run = DryRun(system="h100", system_title="DGX-H100", cases=tuple(cases), cost=suite_cost(cases))

    lines = render_dry_run(dry_run, written=[], width=width).splitlines()

    assert max(map(len, lines)) <= width
    assert [row["fits"] for row in case_rows(lines, column="fits").values()] == ["NO", "NO", "NO"]


def test_full_ids_are_listed_when_asked_for() -> None:
    price = price_of()
    dry_run = DryRun(system="h100", system_title="DGX-H100", cases=(PricedCase(nodeid="a", price=price),))

    lines = render_dry_run(dry_run, written=[], has_ids=True).splitlines()

    assert section(lines, heading="case ids") == [f"  a: {price.plan.case}"]


def test_time_outs_are_listed_with_their_source_when_asked_for() -> None:
    price = price_of()
    dry_run = DryRun(system="h100", system_title="DGX-H100", cases=(PricedCase(nodeid="a", price=price),))

    lines = render_dry_run(dry_run, written=[], has_ids=True).splitlines()

    text = " ".join(line.strip() for line in section(lines, heading="time-outs"))
    assert text == f"a: {price.plan.timeout_sec:g} s ({price.plan.timeout_basis})"
    assert max(map(len, lines)) <= 80


def test_a_dry_run_without_cases_says_only_why() -> None:
    dry_run = DryRun(system="cpu", system_title="CPU", cases=(), not_priced=(NotRun(nodeid="a", reason="b"),))

    assert (
        render_dry_run(dry_run, written=[]) == "dry run on cpu (CPU): nothing was launched\n\nnot priced:\n  b\n    a"
    )


UNSTATED = ("recompute", "shard_optimizer")
COPIES = {"h100": Layout(gpus=8, dp_replicate=8)}


def test_memory_over_unstated_settings_is_a_range_with_the_reason() -> None:
    price = price_of(layouts=COPIES, unstated=UNSTATED)

    text = render_price(price, system_title="DGX-H100")

    assert price.memory_range is not None
    assert price.is_fitting is None
    low = bytes_text(price.memory_range.low_bytes).removesuffix(" GiB")
    assert f"  {low} .. {bytes_text(price.memory_range.high_bytes)}: the recipe's source does not state\n" in text
    assert "    recomputation and sharding of the optimizer's states;\n" in text
    assert f"    the rows above are with the recipe's own choice, {bytes_text(price.peak_bytes)}\n" in text
    assert "does not fit" not in text


def test_a_range_that_begins_below_the_memory_of_a_gpu_fits_in_part() -> None:
    price = price_of(layouts=COPIES, unstated=UNSTATED)
    assert price.memory_range is not None
    price = replace(price, capacity_bytes=price.memory_range.high_bytes - 1)

    text = render_price(price, system_title="DGX-H100")

    assert "  a part of it fits into the " in text
    assert "% .. 100%)" in text


@pytest.mark.parametrize(
    ("capacity_gb", "relation"),
    [
        (10_000, "all of it fits into the 9.09 TiB (10000 GB) of one GPU"),
        (1, "by these estimates even the least is more than the 954 MiB (1 GB) of one GPU"),
        (None, "the memory of h100 is not known"),
    ],
)
def test_a_range_is_held_against_the_memory_of_a_gpu(capacity_gb: int | None, relation: str) -> None:
    capacity = None if capacity_gb is None else capacity_gb * 10**9
    price = price_of(layouts=COPIES, unstated=UNSTATED)
    price = replace(price, capacity_bytes=capacity, is_fitting=True if capacity_gb == 10_000 else None)

    assert relation in render_price(price, system_title="DGX-H100")


def test_a_dry_run_shows_ranges_and_where_a_step_time_is_from() -> None:
    expected = StepTimeEstimate(
        recorded="2026-05-27",
        machine={},
        num_runs=1,
        step_time_sec=9.0,
        tokens_per_sec_per_gpu=14451.0,
        published="NVIDIA-NeMo/Megatron-Bridge 26.04",
    )
    price = replace(price_of(layouts=COPIES, unstated=UNSTATED), expected=expected)
    cases = (PricedCase(nodeid="test_a.py::a", price=price, num_launches=5), PricedCase(nodeid="b", price=price_of()))
    dry_run = DryRun(system="h100", system_title="DGX-H100", cases=cases, cost=suite_cost(cases))

    text = render_dry_run(dry_run, written=[])

    assert price.memory_range is not None
    row = case_rows(text.splitlines(), column="fits")["a"]
    assert row["fits"] == "?"
    assert row["memory"].startswith(f"{bytes_text(price.memory_range.low_bytes).split()[0]} .. ")
    assert row["expected step"] == "9 s published"
    assert "memory from .. to: over settings that the recipe's source does not state;" in text
    assert "GPU-hours of the suite's steps: 0.869 (0.0693 of them estimated), for 2 cases\n" in text
    assert (
        "  step times: 0 from stored baselines, 1 from published rows, 1 estimated; 0\n    cases without one\n" in text
    )
    assert "9 s, 14,451 tokens/sec/GPU (published in" in render_price(price, system_title="DGX-H100")


def test_an_estimated_step_time_is_marked_and_tells_what_it_rests_on() -> None:
    price = price_of(layouts={"h100": Layout(gpus=8, tp=2, dp_shard=4)})
    cases = (PricedCase(nodeid="a", price=price),)
    dry_run = DryRun(system="h100", system_title="DGX-H100", cases=cases, cost=suite_cost(cases))

    text = render_dry_run(dry_run, written=[])

    assert price.estimated is not None
    assert price.is_fitting is True
    assert figures_of(text)["expected step"] == "~ 3.4 .. 6.3 s"
    assert section(text.splitlines(), heading="~: estimated, never measured; FLOPs of a step at") == [
        "  41% of the bf16 peak, as dense models reached on one H100"
    ]
    assert "one launch of each case, with 18 s or more to start each, as on one H100:\n  8 GPUs: " in text
    priced = facts(render_price(price, system_title="DGX-H100"))
    assert priced["expected step time"] == "unknown: no baseline is stored for this case"
    assert priced["estimated step time"].startswith("3.9 s (3.4 .. 6.3 s), never measured: 41% of the bf16 peak")


def test_a_suite_without_step_times_says_so() -> None:
    cases = (PricedCase(nodeid="a", price=price_of(framework="megatron")),)
    dry_run = DryRun(system="h100", system_title="DGX-H100", cases=cases, cost=suite_cost(cases))

    text = render_dry_run(dry_run, written=[])

    assert "GPU-hours of the suite: unknown, for no case has a stored, published or" in text
