"""Ceilings as text: the table of a machine's, and the sentences on a case beside them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from pytest_nemoperf.errors import count_text
from pytest_nemoperf.measure.figures import figure_over_runs
from pytest_nemoperf.records.metrics import MFU_PCT, STEP_TIME_SEC, TRAINING_MFU_PCT, format_number, format_time
from pytest_nemoperf.report.cells import percent
from pytest_nemoperf.report.console import align
from pytest_nemoperf.report.tables import NOT_APPLICABLE
from pytest_nemoperf.results.cases import CaseResult
from pytest_nemoperf.results.ceilings import Ceiling, OfProducts, rate_text

CEILING_HEADINGS: Final = ("kernel", "numbers", "rate", "spread", "runs", "of")


def ceiling_sentences(case: CaseResult) -> Iterator[str]:
    """Yield sentences on a case beside its machine's ceilings: ``62% of peak, 78% of this machine's measured GEMM``."""
    near = case.ceiling
    if near is None:
        return
    if near.products is None or near.products_pct is None:
        yield near.why_none
        return
    runs = case.measurement.runs
    subject = "training alone: " if case.plan is not None and case.plan.rl is not None else ""
    mfu_pct = figure_over_runs(runs, metric=MFU_PCT.name) or figure_over_runs(runs, metric=TRAINING_MFU_PCT.name)
    of_peak = f"{percent(mfu_pct)} of peak, " if mfu_pct is not None else ""
    product = near.products
    yield (
        f"{subject}{of_peak}{percent(near.products_pct)} of this machine's measured GEMM ({rate_text(product)} of "
        f"{product.shape}, {product.date[:10]})"
    )
    step_sec = figure_over_runs(runs, metric=STEP_TIME_SEC.name)
    if near.step_pct is None or near.products_sec is None or step_sec is None:
        return
    parts = [f"{format_time(near.products_sec)} of model FLOPs at its rate"]
    if near.optimizer_sec is not None and near.copy is not None:
        parts.append(f"{format_time(near.optimizer_sec)} of the optimizer's memory at {rate_text(near.copy)}")
    yield f"{percent(near.step_pct)} of the step is at the ceiling: {' and '.join(parts)}, of {format_time(step_sec)}"


def product_lines(shares: Sequence[OfProducts]) -> list[str]:
    """Return the table of stored cases beside their machine's ceiling of products."""
    rows: list[Sequence[str]] = [("case", "TFLOP/s/GPU", "MFU", "of GEMM")]
    for each in shares:
        of_products = NOT_APPLICABLE if each.products_pct is None else percent(each.products_pct)
        mfu = NOT_APPLICABLE if each.mfu_pct is None else percent(each.mfu_pct)
        rows.append((each.case, format_number(each.tflops), mfu, of_products))
    return align(rows, num_left=1)


def ceiling_lines(ceilings: Sequence[Ceiling]) -> list[str]:
    """Return the table of ceilings, the fastest of a kind first: a line of figures, below it the shape and the file."""
    rows: list[Sequence[str]] = [CEILING_HEADINGS]
    origins = [""]
    for each in sorted(ceilings, key=lambda each: (each.kernel, each.dtype, -each.rate)):
        threads = count_text(each.threads, "thread") if each.threads else ""
        origins.append("  " + ", ".join(filter(None, (each.shape, threads, each.source))))
        spread = percent(each.spread_pct)
        rows.append((each.kernel, each.dtype, rate_text(each), spread, str(each.num_runs), each.date[:10]))
    lines = []
    for line, origin in zip(align(rows, num_left=2), origins, strict=True):
        lines.append(line)
        if origin:
            lines.append(origin)
    return lines
