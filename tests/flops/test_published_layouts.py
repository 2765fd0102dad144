"""Every published layout resolves, or is listed here and in docs/plans.md with the reason."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Final

import pytest

from pytest_nemoperf.errors import NemoPerfError
from pytest_nemoperf.flops.published import find_published_model
from pytest_nemoperf.published.contradictions import ContradictionKind, find_contradictions
from pytest_nemoperf.published.row import PublishedRow
from pytest_nemoperf.recipes.overrides import complete_layout
from pytest_nemoperf.recipes.recipe import Plan, Precision, Recipe
from pytest_nemoperf.recipes.resolve import resolve
from pytest_nemoperf.recipes.systems import find_system
from tests.published.rows import pretraining_rows

ROWS: Final = pretraining_rows()
PRECISIONS = {
    "BF16": Precision.BF16,
    "FP8": Precision.FP8_DS,
    "FP8-CS": Precision.FP8_CS,
    "FP8-MX": Precision.MXFP8,
    "MXFP8": Precision.MXFP8,
    "NVFP4": Precision.NVFP4,
}
UNRESOLVED = {
    "the page prints no global batch": 21,
    "no catalog model is printed as 'Wan 2.1 14B'": 8,
    "is not a multiple of tp*pp*cp*dp_replicate (1*41*1*1=41)": 7,
    "the page prints no tp, pp or cp, and without them the batch is too small for the ranks": 4,
    "the page prints no sequence length": 5,
    "ep=64 does not divide dp_shard*cp*tp (32*1*1=32)": 2,
    "global_batch_size=1 is not a multiple of micro_batch_size*dp_replicate*dp_shard (64*1*4=256)": 1,
    "global_batch_size=8 is not a multiple of micro_batch_size*dp_replicate*dp_shard (1*1*16=16)": 1,
    "global_batch_size=4 is not a multiple of micro_batch_size*dp_replicate*dp_shard (1*1*16=16)": 1,
}


def plan_of(row: PublishedRow) -> Plan:
    """Return the plan of a row.

    A degree a page does not print is 1; FSDP or the distributed optimizer takes the remaining ranks. A micro batch that
    is not printed follows from the accumulation if that is, else it is 1.
    """
    model = find_published_model(row.model)
    names = ("gpus", "tp", "pp", "cp", "vp", "ep", "etp")
    degrees = {name: getattr(row, name) for name in names if getattr(row, name)}
    if degrees.get("pp", 1) == 1:
        degrees.pop("vp", None)  # pages print it without a pipeline as well
    layout = complete_layout(degrees)
    batch = row.global_batch_size or (row.local_batch_size or 0) * layout.dp
    if not batch:
        raise NemoPerfError("the page prints no global batch")
    if not row.seq_len:
        raise NemoPerfError("the page prints no sequence length")
    micro_batch = row.micro_batch_size
    if not micro_batch and row.grad_accum_steps:
        micro_batch = batch // (layout.dp * row.grad_accum_steps)
    system = find_system(row.system)
    recipe = Recipe(
        model=model,
        layouts={system.name: layout},
        seq_len=row.seq_len,
        global_batch_size=batch,
        micro_batch_size=micro_batch or 1,
        precision=PRECISIONS.get(row.precision, Precision.BF16),
        framework="megatron",
    )
    return resolve(recipe, system=system)


def reason_of(row: PublishedRow) -> str | None:
    """Return why a row does not resolve; None if it does."""
    try:
        plan_of(row)
    except NemoPerfError as exc:
        if "gradient accumulation steps" in str(exc) and None in (row.tp, row.pp, row.cp):
            return "the page prints no tp, pp or cp, and without them the batch is too small for the ranks"
        for reason in UNRESOLVED:
            if reason in str(exc):
                return reason
        return str(exc)
    return None


def test_every_published_layout_resolves_or_is_listed() -> None:
    reasons = Counter(reason for row in ROWS if (reason := reason_of(row)) is not None)

    assert len(ROWS) == 596
    assert dict(reasons) == UNRESOLVED


def test_printed_accumulation_follows_from_the_batch_but_in_rows_kept_out_for_it() -> None:
    kept_out = find_contradictions(ROWS)
    plans = [(row, plan_of(row)) for row in ROWS if row.grad_accum_steps and reason_of(row) is None]

    # Automodel accumulates local batches, which a pipeline cuts into micro-batches.
    contradicted = set()
    for row, plan in plans:
        batch = row.local_batch_size or plan.micro_batch_size
        if plan.global_batch_size != (row.grad_accum_steps or 0) * batch * plan.layout.dp:
            contradicted.add(row.id)

    assert len(plans) > 200
    assert contradicted == {
        row_id for row_id, found in kept_out.items() if found.kind is ContradictionKind.ACCUMULATION
    }


@pytest.mark.parametrize("reason", UNRESOLVED)
def test_the_reasons_are_in_the_documentation(reason: str) -> None:
    text = (Path(__file__).parents[2] / "docs" / "plans.md").read_text(encoding="utf-8")

    assert reason in " ".join(text.split())
