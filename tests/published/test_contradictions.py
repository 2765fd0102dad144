from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_nemoperf.flops.conventions import find_convention
from pytest_nemoperf.flops.count import num_flops_per_token
from pytest_nemoperf.models.catalog import find_model
from pytest_nemoperf.published.contradictions import ContradictionKind, find_contradictions, tflops_contradiction
from pytest_nemoperf.published.row import PublishedRollouts, PublishedRow

ROW: Final = PublishedRow(
    id="pt9000",
    source="NVIDIA-NeMo/Megatron-Bridge",
    path="docs/performance-summary.md",
    release="25.11",
    task="pretrain",
    framework="megatron_bridge",
    model="LLAMA3_8B",
    system="h100",
    system_title="DGX-H100",
    gpus=8,
    printed={"tokens_per_sec_per_gpu": "14451", "tflops_per_sec_per_gpu": "744"},
    date="2025-12-04",
    precision="FP8-CS",
    global_batch_size=128,
    micro_batch_size=1,
    seq_len=8192,
    tp=1,
    pp=1,
    cp=1,
    grad_accum_steps=16,
)
WITH_TOTALS: Final = replace(
    ROW,
    source="NVIDIA/dgxc-benchmarking",
    release="v25.04",
    model="Llama 3.1 8b",
    printed={
        "tokens_per_sec_per_gpu": "9892.125",
        "total_tokens_per_sec": "79137",
        "step_time_sec": "13.25",
        "mfu_pct": "57.6",
        "peak_tflops_used": "989",
    },
)
SAMPLES: Final = replace(
    ROW,
    source="NVIDIA-NeMo/RL",
    release="v0.4",
    task="grpo",
    framework="nemo_rl",
    gpus=16,
    seq_len=4096,
    grad_accum_steps=None,
    printed={"tokens_per_sec_per_gpu": "1562", "step_time_sec": "97.7"},
    rollouts=PublishedRollouts(
        max_staleness=0,
        backend="Megatron-core",
        mean_response_len=1060,
        num_samples=2048,
        tp=1,
        pp=1,
        precision="BF16",
    ),
)


def kind_of(row: PublishedRow, *others: PublishedRow) -> ContradictionKind | None:
    found = find_contradictions([row, *others])
    return found[row.id].kind if row.id in found else None


def reason_of(row: PublishedRow, *others: PublishedRow) -> str:
    return find_contradictions([row, *others])[row.id].reason


def test_a_row_that_agrees_with_itself_has_none() -> None:
    assert find_contradictions([ROW]) == {}


@pytest.mark.parametrize(
    ("changes", "kind", "reason"),
    [
        (
            {"printed": {**ROW.printed, "tflops_per_sec_per_gpu": "700"}},
            ContradictionKind.TFLOPS,
            r"prints 700 TFLOP/s/GPU, and 14451 tokens/s/GPU x 51.47 GFLOP a token \(megatron-bridge-25.09\) are 743",
        ),
        (
            {"grad_accum_steps": 8},
            ContradictionKind.ACCUMULATION,
            r"prints GA 8, and GBS 128 / \(MBS 1 x 8 data-parallel ranks\) is 16",
        ),
        (
            {"local_batch_size": 2},
            ContradictionKind.ACCUMULATION,
            r"prints GA 16, and GBS 128 / \(LBS 2 x 8 data-parallel ranks\) is 8",
        ),
        ({"tp": 3}, ContradictionKind.DEGREES, r"prints 8 GPUs, which tp\*pp\*cp = 3\*1\*1 = 3 does not divide"),
        ({"dp": 2}, ContradictionKind.DEGREES, r"prints DP 2, and 8 GPUs with .* leave 8 data-parallel ranks"),
        ({"ep": 3}, ContradictionKind.DEGREES, r"prints EP 3, and 8 GPUs with PP 1 leave 8 ranks to a stage for it"),
        (
            {"micro_batch_size": 3},
            ContradictionKind.DEGREES,
            r"prints GBS 128, and MBS 3 on 8 data-parallel ranks needs a multiple of 24",
        ),
    ],
)
def test_figures_that_cannot_all_be_right_are_named(
    changes: dict[str, Any], kind: ContradictionKind, reason: str
) -> None:
    row = replace(ROW, **changes)

    assert kind_of(row) is kind
    assert re.match(reason, reason_of(row))


def test_data_parallel_copies_beside_expert_parallelism_may_be_printed() -> None:
    assert kind_of(replace(ROW, dp=2, ep=4)) is None


@pytest.mark.parametrize(
    ("metric", "text", "kind"),
    [
        ("total_tokens_per_sec", "80000", ContradictionKind.TOTALS),
        ("step_time_sec", "14.25", ContradictionKind.TOTALS),
        ("mfu_pct", "47.6", ContradictionKind.MFU),
    ],
)
def test_totals_and_mfu_follow_from_the_rate(metric: str, text: str, kind: ContradictionKind) -> None:
    assert kind_of(replace(WITH_TOTALS, printed={**WITH_TOTALS.printed, metric: text})) is kind


def test_a_row_with_totals_that_agree_has_none() -> None:
    assert kind_of(WITH_TOTALS) is None


def test_mfu_of_fine_tuning_is_not_checked() -> None:
    printed = {**WITH_TOTALS.printed, "mfu_pct": "47.6"}

    assert kind_of(replace(WITH_TOTALS, printed=printed, task="lora")) is None


def test_mfu_is_that_of_the_printed_layers() -> None:
    assert kind_of(replace(WITH_TOTALS, num_layers=16)) is ContradictionKind.MFU


def test_a_model_outside_of_the_catalog_is_not_checked() -> None:
    assert kind_of(replace(ROW, model="Unheard 9B")) is None


def test_tokens_of_a_sample_are_those_of_the_models_other_rows() -> None:
    good = replace(SAMPLES, id="rl9001", printed={"tokens_per_sec_per_gpu": "2161", "step_time_sec": "70.6"})
    odd = replace(SAMPLES, id="rl9002", release="v0.5", printed={**SAMPLES.printed, "step_time_sec": "53"})

    found = find_contradictions([SAMPLES, good, odd])

    assert found["rl9002"].kind is ContradictionKind.SAMPLES
    assert (
        "1562 tokens/s/GPU x 16 GPUs x 53 s / 2048 samples are 647 tokens a sample, fewer than the 1060 generated"
        in (found["rl9002"].reason)
    )


def test_a_page_that_corrects_a_row_supersedes_it() -> None:
    later = replace(ROW, id="pt9001", date="2026-01-01", printed={**ROW.printed, "tflops_per_sec_per_gpu": "745"})

    found = find_contradictions([ROW, later])

    assert found.keys() == {"pt9000"}
    assert found["pt9000"].reason == (
        "superseded: the page of 2026-01-01 prints 14451 tokens/s/GPU and 745 TFLOP/s/GPU in place of "
        "14451 tokens/s/GPU and 744 TFLOP/s/GPU (pt9001)"
    )


def test_of_rows_with_the_same_columns_and_other_figures_in_one_table_none_is_the_promise() -> None:
    twin = replace(ROW, id="pt9001", printed={**ROW.printed, "tflops_per_sec_per_gpu": "745"})

    found = find_contradictions([ROW, twin])

    assert found.keys() == {"pt9000", "pt9001"}
    assert [each.kind for each in found.values()] == [ContradictionKind.TWINS] * 2
    assert "for the same columns" in found["pt9000"].reason
    assert "for the same columns" in found["pt9001"].reason


@pytest.mark.parametrize("changes", [{"variant": "inside parentheses"}, {"notes": ("techniques: async TP",)}])
def test_rows_told_apart_by_a_remark_are_no_twins(changes: dict[str, Any]) -> None:
    twin = replace(ROW, id="pt9001", printed={**ROW.printed, "tflops_per_sec_per_gpu": "745"}, **changes)

    assert find_contradictions([ROW, twin]) == {}


def test_the_name_that_says_more_of_two_equal_rows_remains() -> None:
    named = replace(ROW, id="pt9001", model="LLAMA3_8B (dropless)")

    found = find_contradictions([named, ROW])

    assert found.keys() == {"pt9000"}
    assert "prints it again as 'LLAMA3_8B (dropless)' (pt9001)" in found["pt9000"].reason


@given(digits=st.integers(min_value=0, max_value=2), tokens=st.integers(min_value=1000, max_value=90000))
def test_tflops_rounded_from_tokens_never_contradict_them(digits: int, tokens: int) -> None:
    convention = find_convention("megatron-bridge-25.09")
    exact = tokens * num_flops_per_token(find_model("llama3-8b"), seq_len=8192, convention=convention) / 1e12
    row = replace(ROW, printed={"tokens_per_sec_per_gpu": f"{tokens}", "tflops_per_sec_per_gpu": f"{exact:.{digits}f}"})

    assert tflops_contradiction(row) == ""
