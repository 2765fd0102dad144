"""Ceilings as text."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pytest_nemoperf.report.ceilings import ceiling_lines, ceiling_sentences, product_lines
from pytest_nemoperf.report.terminal.failure import render_failure
from pytest_nemoperf.report.terminal.summary import render_summary
from pytest_nemoperf.results.cases import CaseReport
from pytest_nemoperf.results.ceilings import AtCeiling, OfProducts
from tests.builders import make_measurement, make_run
from tests.report.builders import make_report, make_results
from tests.results.test_ceilings import make_ceiling

GEMM = make_ceiling(dtype="bf16", rate=749.0, shape="m=8192 k=4096 n=14336", threads=0)
COPY = make_ceiling(kernel="memory_copy", dtype="uint8", metric="call_gib_per_sec", rate=2794.0, threads=0)
NEAR = AtCeiling(products=GEMM, copy=COPY, products_pct=78.0, products_sec=0.078, optimizer_sec=0.002, step_pct=80.0)


def report(near: AtCeiling | None, *, mfu_pct: float | None = 62.0) -> CaseReport:
    run = make_run()
    if mfu_pct is not None:
        run = replace(run, metrics={**run.metrics, "mfu_pct": mfu_pct})
    return make_report(make_measurement(runs=(run,)), ceiling=near)


def sentences(near: AtCeiling | None, **changes: Any) -> list[str]:
    return list(ceiling_sentences(report(near, **changes).result))


def test_a_case_has_its_share_of_the_peak_and_of_the_measured_gemm() -> None:
    assert sentences(NEAR) == [
        "62% of peak, 78% of this machine's measured GEMM (749 TFLOP/s of m=8192 k=4096 n=14336, 2026-11-27)",
        "80% of the step is at the ceiling: 78 ms of model FLOPs at its rate and 2 ms of the optimizer's memory at "
        "2,794 GiB/s, of 100 ms",
    ]


def test_an_unknown_peak_is_left_out_and_a_missing_ceiling_says_why() -> None:
    assert sentences(NEAR, mfu_pct=None)[0].startswith("78% of this machine's measured GEMM")
    assert sentences(AtCeiling(why_none="no product in bf16 is stored")) == ["no product in bf16 is stored"]
    assert sentences(None) == []


def test_the_summary_has_columns_beside_the_mfu_and_the_sentences() -> None:
    case = report(NEAR)

    text = render_summary(make_results(case), reports=[case], width=160, color=False)

    head = next(line for line in text.splitlines() if "verdict" in line)
    above = text.splitlines()[text.splitlines().index(head) - 1]
    assert above.index("MFU") < above.index("GEMM") < above.index("ceiling") < above.index("step")
    assert "beside the ceilings of this machine" in text
    assert "78% of this machine's measured GEMM" in text


def test_a_failing_case_says_how_near_to_the_ceiling_it_was() -> None:
    text = render_failure(report(NEAR), width=200, color=False)

    assert "ceilings of this machine" in text
    assert "80% of the step is at the ceiling" in text


def test_ceilings_are_listed_with_the_fastest_of_a_kind_first() -> None:
    lines = ceiling_lines(
        [make_ceiling(rate=1.0, shape="m=1"), make_ceiling(rate=2.0, shape="m=2", spread_pct=1.5), GEMM]
    )

    assert [line.split()[1] for line in lines[1::2]] == ["bf16", "fp32", "fp32"]
    assert "1.5%" in lines[3]
    assert lines[3].endswith("2026-11-27")
    assert lines[4] == "  m=2, 1 thread, baselines/cpu/bench-a.json"
    assert max(map(len, lines)) <= 80


def test_stored_cases_are_listed_with_na_for_what_is_unknown() -> None:
    known = OfProducts(case="pretrain-a", tflops=408.0, mfu_pct=41.2, products_pct=54.4)
    unknown = OfProducts(case="pretrain-b", tflops=1.0, mfu_pct=None, products_pct=None)

    _, first, second = product_lines([known, unknown])

    assert first.split() == ["pretrain-a", "408", "41%", "54%"]
    assert second.split() == ["pretrain-b", "1", "n/a", "n/a"]
