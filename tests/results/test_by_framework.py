from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.measure.measurement import Run
from pytest_nemoperf.results.by_framework import Unmeasured, compare_frameworks
from pytest_nemoperf.results.cases import CaseResult
from pytest_nemoperf.results.framework_figures import FigureRange, FrameworkComparison, LossBeside
from tests.builders import make_measurement, make_plan, make_rl, make_run
from tests.report.builders import make_report

RECIPE = "pretrain-llama-tiny-1n2g-fp32-fsdp2-seq64-gbs4-mbs1"


def case_of(
    framework: str, *rates: float, runs: tuple[Run, ...] = (), problems: tuple[str, ...] = (), **changes: Any
) -> CaseResult:
    """Return a judged case of a recipe in a framework, with a launch of each rate."""
    plan = make_plan(framework=framework, **changes)
    runs = runs or tuple(map(make_run, rates))
    measurement = make_measurement(case=plan.case, runs=runs, problems=problems)
    return replace(make_report(measurement).result, plan=plan)


def run_of(rate: float, *, loss: float | None, last_step: int = 7) -> Run:
    return replace(make_run(rate), loss=loss, last_step=last_step)


def the_only(comparisons: tuple[FrameworkComparison, ...]) -> FrameworkComparison:
    (comparison,) = comparisons
    return comparison


def test_cases_that_differ_by_framework_alone_are_set_side_by_side() -> None:
    cases = [case_of("torch", 90.0, 100.0, 120.0), case_of("megatron", 150.0, 151.0, 149.0)]

    comparison = the_only(compare_frameworks(cases))

    assert (comparison.recipe, comparison.reference, comparison.notes) == (RECIPE, "torch", ())
    one, other = comparison.rows
    assert [row.framework for row in comparison.rows] == ["torch", "megatron"]
    assert one.metrics["tokens_per_sec_per_gpu"] == FigureRange(low=90.0, figure=104.552, high=120.0)
    assert (one.ratio, one.spread_pct, one.num_runs, one.loss) == (1.0, 30.0, 3, None)
    assert (other.ratio, other.spread_pct) == (1.43467, 1.33)
    assert other.metrics.keys() == {"tokens_per_sec_per_gpu", "tflops_per_sec_per_gpu", "peak_memory_gib"}


def test_the_named_order_counts_and_the_first_one_with_figures_is_the_reference() -> None:
    cases = [case_of("torch", 100.0, 101.0), case_of("mine", 200.0, 201.0)]
    plan = make_plan(framework="megatron")
    unmeasured = [Unmeasured(nodeid="test_x.py::test_y[megatron]", plan=plan, reason="it has no CPU path")]

    comparison = the_only(compare_frameworks(cases, unmeasured=unmeasured, order=("megatron", "mine", "torch")))

    assert [row.framework for row in comparison.rows] == ["megatron", "mine", "torch"]
    assert [row.problem for row in comparison.rows] == ["it has no CPU path", "", ""]
    assert comparison.reference == "mine"
    assert comparison.notes == ("megatron has no figures, so the ratios are to mine",)


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 5},
        {"variant": "x"},
        {"precision": "bf16"},
        {"global_batch_size": 8},
        {"layouts": {"cpu": Layout(gpus=2, tp=2)}},
        {"flops_convention": "full-attention"},
        {"framework": "command", "command": ("train",)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_recipes_that_differ_in_anything_else_are_not_compared(changes: dict[str, Any]) -> None:
    framework = changes.get("framework", "megatron")
    others = {name: value for name, value in changes.items() if name != "framework"}

    assert compare_frameworks([case_of("torch", 100.0), case_of(framework, 100.0, **others)]) == ()


@pytest.mark.parametrize(
    "changes", [{"python": "/opt/python"}, {"env": {"A": "1"}}, {"framework_options": {"overlap": True}}]
)
def test_interpreter_environment_and_own_options_belong_to_a_framework(changes: dict[str, Any]) -> None:
    comparison = the_only(compare_frameworks([case_of("torch", 100.0), case_of("megatron", 100.0, **changes)]))

    assert [row.framework for row in comparison.rows] == ["torch", "megatron"]


def test_a_framework_with_an_invalid_case_shows_no_figures_but_the_reason() -> None:
    cases = [case_of("torch", 100.0), case_of("megatron", 900.0, problems=("run 1: loss is not finite",))]

    _, invalid = the_only(compare_frameworks(cases)).rows

    assert (invalid.problem, invalid.metrics, invalid.ratio) == ("INVALID: run 1: loss is not finite", {}, None)


def test_a_case_that_was_judged_after_all_counts() -> None:
    cases = [case_of("torch", 100.0), case_of("megatron", 90.0)]
    unmeasured = [Unmeasured(nodeid="test_x.py::test_y[megatron]", plan=make_plan(framework="megatron"), reason="died")]

    comparison = the_only(compare_frameworks(cases, unmeasured=unmeasured))

    assert [row.problem for row in comparison.rows] == ["", ""]


def test_where_no_framework_has_figures_there_is_nothing_to_compare() -> None:
    unmeasured = []
    for framework in ("torch", "megatron"):
        unmeasured.append(Unmeasured(nodeid="test_x.py::test_y", plan=make_plan(framework=framework), reason="no"))

    assert compare_frameworks([], unmeasured=unmeasured) == ()


def test_losses_are_compared_at_the_last_step_that_both_have() -> None:
    torch_runs = (run_of(100.0, loss=6.0, last_step=12), run_of(100.0, loss=6.2, last_step=7))
    runs = (run_of(99.0, loss=5.9, last_step=20), run_of(101.0, loss=6.200031, last_step=7))

    comparison = the_only(compare_frameworks([case_of("torch", runs=torch_runs), case_of("megatron", runs=runs)]))

    assert comparison.rows[1].loss == LossBeside(step=7, loss=6.200031, reference=6.2, change_pct=0.0005)


def test_a_loss_far_from_the_references_is_told_in_words_and_is_no_verdict() -> None:
    cases = [
        case_of("torch", runs=(run_of(100.0, loss=6.0),) * 2),
        case_of("fast", runs=(run_of(900.0, loss=5.0),) * 2),
    ]

    comparison = the_only(compare_frameworks(cases))

    assert comparison.notes == (
        "fast: loss 5 at step 7 is not that of torch, 6 (more than 2% apart): the two may train different things, and "
        "then its speed says nothing",
    )
    assert comparison.rows[1].ratio == 9.0


@pytest.mark.parametrize(
    "run", [run_of(90.0, loss=None), run_of(90.0, loss=6.0, last_step=8)], ids=["none", "other step"]
)
def test_a_framework_without_a_loss_to_compare_shows_nothing_of_its_work(run: Run) -> None:
    cases = [case_of("torch", runs=(run_of(100.0, loss=6.0),) * 2), case_of("megatron", runs=(run, run))]

    comparison = the_only(compare_frameworks(cases))

    assert comparison.rows[1].loss is None
    assert comparison.notes == ("megatron: no loss at a step of torch, so nothing shows that both train the same",)


def test_losses_of_reinforcement_learning_are_not_compared() -> None:
    cases = [
        case_of(name, 100.0 + number, 100.0 + number, rl=make_rl()) for number, name in enumerate(("torch", "trl"))
    ]

    comparison = the_only(compare_frameworks(cases))

    assert comparison.rows[1].loss is None
    assert comparison.notes == ()


def test_launches_that_overlap_tell_no_order() -> None:
    comparison = the_only(compare_frameworks([case_of("torch", 90.0, 101.0), case_of("megatron", 100.0, 110.0)]))

    assert comparison.notes == (
        "megatron beside torch: the ranges of their launches overlap, so these do not tell the faster one",
    )


def test_a_single_launch_shows_no_spread() -> None:
    comparison = the_only(compare_frameworks([case_of("torch", 90.0, 101.0), case_of("megatron", 300.0)]))

    assert comparison.rows[1].spread_pct is None
    assert [note.partition(":")[0] for note in comparison.notes] == ["megatron beside torch"]
    assert "--perf-runs" in comparison.notes[0]
