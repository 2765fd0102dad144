"""Every published layout resolves, or is listed here and in docs/plans.md with the reason."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pytest_nemoperf.errors import NemoPerfError
from pytest_nemoperf.flops.published import find_published_model
from pytest_nemoperf.recipes.overrides import complete_layout
from pytest_nemoperf.recipes.recipe import Plan, Precision, Recipe
from pytest_nemoperf.recipes.resolve import resolve
from pytest_nemoperf.recipes.systems import find_system

ROWS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "data" / "published_layouts.json").read_text(encoding="utf-8")
)["rows"]
# By their names on the pages; the last two have 8 GPUs a node.
SYSTEMS = {
    "DGX-H100": "h100",
    "DGX-B200": "b200",
    "DGX-B300": "b300",
    "DGX-GB200": "gb200",
    "DGX-GB300": "gb300",
    "8x H200": "h200",
    "8x H100 96GB HBM2e 500W (Grand Teton)": "h100",
}
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
CONTRADICTED_ACCUMULATION = {
    # gbs/(mbs*dp) is 8, the page says 16
    *("pt0003", "pt0103", "pt0113"),
    # 8 or 16 GPUs at tp=4 leave 2 or 4 data-parallel ranks: 512 or 256, the page says 128 (and 1 rank)
    *("pt0738", "pt0739", "pt0743", "pt0744", "pt0848", "pt0924", "pt0928"),
    # one rank of local batches of 4 accumulates 32/4 = 8, the page says 4; two do 4, it says 2
    *("pt0578", "pt0583", "pt0585"),
    # strong scaling: the page gives every row the accumulation of its largest
    *("pt1154", "pt1155", "pt1157"),
}


def plan_of(row: dict[str, Any]) -> Plan:
    """Return the plan of a row.

    A degree a page does not print is 1; FSDP or the distributed optimizer takes the remaining ranks. A micro batch that
    is not printed follows from the accumulation if that is, else it is 1.
    """
    model = find_published_model(row["model"])
    degrees = {name: row[name] for name in ("gpus", "tp", "pp", "cp", "vp", "ep", "etp") if row.get(name)}
    if degrees.get("pp", 1) == 1:
        degrees.pop("vp", None)  # pages print it without a pipeline as well
    layout = complete_layout(degrees)
    local_batch = row.get("lbs", 0) * layout.dp
    if not row.get("gbs") and not local_batch:
        raise NemoPerfError("the page prints no global batch")
    if not row.get("seq_len"):
        raise NemoPerfError("the page prints no sequence length")
    micro_batch = row.get("mbs")
    if not micro_batch and row.get("ga"):
        micro_batch = row["gbs"] // (layout.dp * row["ga"])
    system = find_system(SYSTEMS[row["system"]])
    recipe = Recipe(
        model=model,
        layouts={system.name: layout},
        seq_len=row["seq_len"],
        global_batch_size=row.get("gbs") or local_batch,
        micro_batch_size=micro_batch or 1,
        precision=PRECISIONS.get(row.get("precision", "BF16"), Precision.BF16),
        framework="megatron",
    )
    return resolve(recipe, system=system)


def reason_of(row: dict[str, Any]) -> str | None:
    """Return why a row does not resolve; None if it does."""
    try:
        plan_of(row)
    except NemoPerfError as exc:
        if "gradient accumulation steps" in str(exc) and not {"tp", "pp", "cp"} <= row.keys():
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


def test_printed_gradient_accumulation_follows_from_the_batch_but_where_pages_contradict_themselves() -> None:
    plans = [(row, plan_of(row)) for row in ROWS if row.get("ga") and reason_of(row) is None]

    # Automodel accumulates local batches, which a pipeline cuts into micro-batches.
    contradicted = {
        row["id"]
        for row, plan in plans
        if plan.global_batch_size != row["ga"] * (row.get("lbs") or plan.micro_batch_size) * plan.layout.dp
    }

    assert len(plans) > 200
    assert contradicted == CONTRADICTED_ACCUMULATION


@pytest.mark.parametrize("reason", UNRESOLVED)
def test_the_reasons_are_in_the_documentation(reason: str) -> None:
    text = (Path(__file__).parents[2] / "docs" / "plans.md").read_text(encoding="utf-8")

    assert reason in " ".join(text.split())
