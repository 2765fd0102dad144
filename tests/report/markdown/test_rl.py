from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pytest_nemoperf.layouts.layout import GenerationLayout, Layout
from pytest_nemoperf.measure.measurement import workload_of
from pytest_nemoperf.recipes.recipe import Precision
from pytest_nemoperf.report.markdown.pretrain import render_markdown
from pytest_nemoperf.results.cases import CaseReport
from tests.report.blocks import page_tables
from tests.report.builders import make_passed, make_results, make_rl_report

# The header of NeMo RL's performance page for v0.4, as its authors wrote it.
PAGE_HEADER = (
    "| Model | Training Backend|T-Max Sequence Length | G-Average Seq len| #-GPUs | G-GBS |T-GBS|G-TP|G-PP|G-DP|T-TP|"
    "T-CP| T-EP| T-PP|T-VPP|T-DP | Tokens / sec / GPU | Total Step time(s) |"
)
HEADINGS = [heading.strip() for heading in PAGE_HEADER.strip("|").split("|")]


def _page(*reports: CaseReport, inject_pct: float = 0.0) -> list[str]:
    return render_markdown(make_results(*reports, inject_pct=inject_pct)).splitlines()


def _planned(report: CaseReport, **changes: Any) -> CaseReport:
    assert report.result.plan is not None
    plan = replace(report.result.plan, **changes)
    measurement = replace(report.result.measurement, workload=workload_of(plan))
    return replace(report, result=replace(report.result, plan=plan, measurement=measurement))


def test_columns_are_those_of_the_page_in_its_order() -> None:
    figures, _ = page_tables(_page(make_rl_report()))

    assert list(figures[0]) == HEADINGS


def test_every_value_is_under_its_heading() -> None:
    generation = GenerationLayout(gpus=8, tp=2, pp=1, is_colocated=False)
    layout = Layout(gpus=48, tp=2, cp=2, pp=3, vp=2, ep=4, dp_shard=4, generation=generation)
    report = _planned(make_rl_report(), layout=layout, seq_len=4096, global_batch_size=2)

    (figures, *_) = page_tables(_page(report))

    assert figures == [
        {
            "Model": "llama-tiny",
            "Training Backend": "PyTorch",
            "T-Max Sequence Length": "4096",
            "G-Average Seq len": "24",
            "#-GPUs": "56",
            "G-GBS": "8",
            "T-GBS": "2",
            "G-TP": "2",
            "G-PP": "1",
            "G-DP": "4",
            "T-TP": "2",
            "T-CP": "2",
            "T-EP": "4",
            "T-PP": "3",
            "T-VPP": "2",
            "T-DP": "4",
            "Tokens / sec / GPU": "1600",
            "Total Step time(s)": "0.1",
        }
    ]


def test_no_virtual_pipeline_is_not_applicable() -> None:
    (figures, *_) = page_tables(_page(make_rl_report()))

    assert figures[0]["T-VPP"] == "n/a"


@pytest.mark.parametrize(
    ("rl", "changes", "heading"),
    [
        pytest.param(
            {},
            {},
            "### GRPO Performance on-policy. Dataset: sums of two numbers, made from a seed",
            id="on-policy",
        ),
        pytest.param(
            {"algorithm": "dapo"},
            {"framework": "nemo-rl"},
            "### DAPO Performance on-policy. Dataset: as framework nemo-rl has it",
            id="another framework",
        ),
        pytest.param(
            {},
            {"max_staleness": 1},
            "### GRPO Performance 1-step off. Dataset: sums of two numbers, made from a seed",
            id="off-policy",
        ),
    ],
)
def test_sections_are_headed_in_the_manner_of_the_page(
    rl: dict[str, Any], changes: dict[str, Any], heading: str
) -> None:
    report = make_rl_report(rl=rl)
    assert report.result.plan is not None
    if "max_staleness" in changes:
        assert report.result.plan.rl is not None
        changes = {"rl": replace(report.result.plan.rl, **changes)}

    lines = _page(_planned(report, **changes))

    assert [line for line in lines if line.startswith("#")] == [
        heading,
        "#### System: CPU. Precision: Training FP32, Generation FP32.",
    ]


def test_eight_bits_of_training_are_sixteen_of_generation() -> None:
    lines = _page(_planned(make_rl_report(), precision=Precision.FP8_CS))

    assert "#### System: CPU. Precision: Training FP8-CS, Generation BF16." in lines


def test_pinned_lengths_are_told_and_kept_apart_from_sampled_ones() -> None:
    lines = _page(make_rl_report(), make_rl_report(rl={"response_lengths": "sampled"}))

    notes = [line for line in lines if line.endswith("over the whole step and all GPUs.")]
    assert len(notes) == 2
    assert [note.startswith("Lengths of responses are pinned") for note in notes] == [False, True]
    assert [line for line in lines if line.startswith("### ")] == [
        "### GRPO Performance on-policy. Dataset: sums of two numbers, made from a seed"
    ]


def test_phases_of_a_step_are_in_a_second_table() -> None:
    _, phases = page_tables(_page(make_rl_report()))

    assert phases == [
        {
            "Model": "llama-tiny",
            "Layout": "fsdp2-gdp2",
            "Ranks": "training",
            "generation": "0.05",
            "reward": "0.001",
            "policy_logprobs": "0.01",
            "reference_logprobs": "0.01",
            "advantage": "0.001",
            "training": "0.02",
            "refit": "0.007",
            "other": "0.001",
        }
    ]


def test_rows_that_differ_in_no_column_are_told_apart_by_their_case() -> None:
    one, other = make_rl_report(), make_rl_report(rl={"temperature": 0.7})
    assert other.result.plan is not None
    measurement = replace(other.result.measurement, case="grpo-llama-tiny-warm")
    other = replace(other, result=replace(other.result, measurement=measurement))

    (figures, *_) = page_tables(_page(one, other))

    names = [row["Model"] for row in figures]
    assert names == [f"llama-tiny ({one.result.verdict.case})", "llama-tiny (grpo-llama-tiny-warm)"]


def test_pre_training_comes_first_and_keeps_its_own_table() -> None:
    lines = _page(make_rl_report(), make_passed())

    pre_training, rl = (line for line in lines if line.startswith(("## ", "### ")))
    assert pre_training == "## Native Engine Pre-Training Performance"
    assert rl.startswith("### GRPO Performance")


def test_a_self_test_marks_heading_and_row() -> None:
    lines = _page(make_rl_report(), inject_pct=20)

    assert any(line.startswith("#### System: CPU.") and "INJECTED DELAY" in line for line in lines)
    assert all("INJECTED DELAY" in row["Model"] for table in page_tables(lines) for row in table)
