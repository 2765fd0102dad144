from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.models.catalog import find_model
from pytest_nemoperf.recipes.recipe import Precision
from pytest_nemoperf.report.markdown.pretrain import render_markdown
from pytest_nemoperf.results.cases import CaseReport
from tests.builders import make_baseline, make_measurement, make_provenance, make_run
from tests.report.blocks import page_tables
from tests.report.builders import make_call, make_invalid, make_passed, make_regressed, make_report, make_results

# The header of the page these tables are for, as its authors wrote it.
PAGE_HEADER = (
    "| Model | #-GPUs | GBS | MBS | Sequence Length | FSDP | TP | PP | CP | VP | EP | GA "
    "| Tokens / sec / GPU | Model TFLOP / sec / GPU |"
)


def page(*reports: CaseReport, inject_pct: float = 0.0) -> list[str]:
    return render_markdown(make_results(*reports, inject_pct=inject_pct)).splitlines()


def rows_of(lines: list[str]) -> list[dict[str, str]]:
    """Return the rows of the first table, cells by heading."""
    return page_tables(lines)[0]


def named(model: str) -> ModelConfig:
    return replace(find_model("llama-tiny"), name=model)


def test_columns_are_those_of_the_page() -> None:
    assert PAGE_HEADER in page(make_passed())


def test_every_value_is_under_its_heading() -> None:
    layout = Layout(gpus=96, dp_shard=4, tp=2, pp=4, vp=5, cp=3, ep=6)
    changes = {
        "layout": layout,
        "model": named("llama"),
        "global_batch_size": 448,
        "micro_batch_size": 7,
        "seq_len": 8192,
    }
    report = make_report(make_measurement((11_290.4,) * 3), plan_changes=changes)

    lines = page(report)

    assert rows_of(lines) == [
        {
            "Model": "llama",
            "#-GPUs": "96",
            "GBS": "448",
            "MBS": "7",
            "Sequence Length": "8192",
            "FSDP": "1",
            "TP": "2",
            "PP": "4",
            "CP": "3",
            "VP": "5",
            "EP": "6",
            "GA": "16",
            "Tokens / sec / GPU": "11290",
            "Model TFLOP / sec / GPU": "11.3",
        }
    ]


def test_ddp_is_fsdp_0_and_without_a_pipeline_vp_does_not_apply() -> None:
    report = make_passed(plan_changes={"layout": Layout(gpus=2, dp_replicate=2)})

    (row,) = rows_of(page(report))

    assert (row["FSDP"], row["VP"]) == ("0", "n/a")


def test_precisions_have_tables_of_their_own() -> None:
    lines = page(make_passed("b", plan_changes={"precision": Precision.BF16}), make_passed("a"))

    assert [line for line in lines if line.startswith("#")] == [
        "## Native Engine Pre-Training Performance",
        "#### System: CPU. Precision: BF16",
        "#### System: CPU. Precision: FP32",
    ]


def test_frameworks_have_sections_of_their_own_under_the_titles_of_the_page() -> None:
    frameworks = ("torchtitan", "mine", "automodel", "torch", "megatron")

    lines = page(*(make_passed(name, plan_changes={"framework": name}) for name in frameworks))

    assert [line for line in lines if line.startswith("## ")] == [
        "## Automodel Pre-Training Performance",
        "## Megatron-Core Pre-Training Performance",
        "## mine Pre-Training Performance",
        "## Native Engine Pre-Training Performance",
        "## torchtitan Pre-Training Performance",
    ]


def test_rows_are_sorted_by_model_then_gpus_as_numbers() -> None:
    def report(model: str, gpus: int) -> CaseReport:
        layout = Layout(gpus=gpus, dp_shard=gpus)
        return make_passed(f"{model}-{gpus}", plan_changes={"model": named(model), "layout": layout})

    lines = page(report("b", 8), report("a", 16), report("a", 8))

    assert [(row["Model"], row["#-GPUs"]) for row in rows_of(lines)] == [("a", "8"), ("a", "16"), ("b", "8")]


def test_the_order_of_the_cases_does_not_change_the_tables() -> None:
    reports = [make_passed("a"), make_passed("b", plan_changes={"precision": Precision.BF16}), make_call()]

    assert page(*reports) == page(*reversed(reports))


def test_rows_that_only_the_case_id_tells_apart_have_it() -> None:
    lines = page(make_passed("one"), make_passed("two"))

    assert [row["Model"] for row in rows_of(lines)] == ["llama-tiny (one)", "llama-tiny (two)"]


def test_the_flops_convention_is_named_under_the_table() -> None:
    assert "FLOPs are counted under the convention `megatron-bridge`." in page(make_passed())


def test_two_conventions_in_a_table_are_told_apart() -> None:
    other = make_report(make_measurement(case="b", flops_convention="full-attention"))

    lines = page(make_passed("a"), other)

    assert "FLOPs are counted under the convention `megatron-bridge` (a); `full-attention` (b)." in lines


def test_cases_without_a_plan_have_the_columns_they_need() -> None:
    lines = page(make_call(seconds=123e-6))

    assert rows_of(lines) == [{"Case": "bench-matmul", "Time / call (s)": "0.000123"}]


def test_a_loop_without_flops_has_its_rate() -> None:
    run = make_run(1000.0)
    run = replace(run, metrics={"tokens_per_sec_per_gpu": 1000.0, "step_time_sec": 0.1})
    measurement = make_measurement(case="loop-mine", runs=(run,), flops_per_token=None, flops_convention=None)

    lines = page(make_report(measurement, has_plan=False))

    assert rows_of(lines) == [{"Case": "loop-mine", "Step time (s)": "0.1", "Tokens / sec / GPU": "1000"}]
    assert not any("convention" in line for line in lines)


def test_a_missing_figure_is_not_a_zero() -> None:
    run = make_run(1000.0)
    run = replace(run, metrics={"tokens_per_sec_per_gpu": 1000.0, "step_time_sec": 0.1})
    report = make_report(make_measurement(runs=(run,), flops_per_token=None, flops_convention=None))

    (row,) = rows_of(page(report))
    assert (row["Tokens / sec / GPU"], row["Model TFLOP / sec / GPU"]) == ("1000", "n/a")


def test_an_invalid_case_is_named_with_its_reason_and_has_no_row() -> None:
    lines = page(make_passed("fine"), make_invalid("broken"))

    assert len(rows_of(lines)) == 1
    assert "- INVALID, not shown: `broken`: run 1: loss is not finite at step 4 (9 of 13 steps)" in lines


def test_a_regressed_case_has_a_row_and_a_note() -> None:
    lines = page(make_regressed("slow"))

    (row,) = rows_of(lines)
    assert (row["Tokens / sec / GPU"], row["Model TFLOP / sec / GPU"]) == ("833", "0.833")
    assert any(line.startswith("- REGRESSED: `slow`: tokens/sec/GPU is 16.7% below the baseline") for line in lines)


def test_a_recipe_s_notes_are_among_those_of_the_page() -> None:
    lines = page(make_passed("a", plan_changes={"notes": ("figures of a draft",)}))

    assert "- `a`: figures of a draft" in lines


def test_an_accepted_regression_says_why() -> None:
    report = make_regressed("slow")
    report = replace(report, result=replace(report.result, accepted_reason="traded for memory", is_failure=False))

    assert any(line.endswith("; accepted: traded for memory") for line in page(report))


def test_the_origin_of_the_figures_is_at_the_end() -> None:
    lines = page(make_passed())

    assert lines[lines.index("Origin:") + 2 :] == [
        "- Date: 2026-11-22T12:00:00Z, commit 0123456789ab",
        "- Device: Test CPU",
        "- Versions: python 3.11.7, torch 2.13.0",
        "- Command: `pytest -m perf`",
    ]


def test_the_origin_names_the_driver_and_what_git_could_not_tell() -> None:
    results = make_results(make_passed())
    origin = make_provenance(device="NVIDIA H100", driver="580.65")

    lines = render_markdown(replace(results, provenance=origin, git_problem="no git")).splitlines()

    assert "- Device: NVIDIA H100, driver 580.65" in lines
    assert "- git can't tell what was measured: no git" in lines


@given(st.text(max_size=60))
def test_no_case_id_breaks_the_table(case: str) -> None:
    measurement = make_measurement(case=case, runs=make_call().result.measurement.runs)

    lines = page(make_report(measurement, baseline=make_baseline(case=case), has_plan=False))

    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 3
    assert all(line.replace(r"\|", "").count("|") == 3 for line in table)


def test_a_page_shows_what_was_judged() -> None:
    report = make_report(make_measurement((1000.0, 1000.0, 1030.0)), baseline=make_baseline())
    judged = report.result.verdict.comparisons[0].now

    (row,) = rows_of(page(report))
    assert round(judged) == 1010
    assert row["Tokens / sec / GPU"] == "1010"
