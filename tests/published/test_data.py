"""Shipped rows: contradictory ones and drafts are excluded for exactly their reasons, and every value makes sense."""

from __future__ import annotations

import json
import re
from collections import Counter

import pytest

from pytest_nemoperf.flops.published import find_published_model
from pytest_nemoperf.published.contradictions import ContradictionKind, find_contradictions
from pytest_nemoperf.published.files import published_rows
from pytest_nemoperf.recipes.systems import find_system
from tests.published.rows import SYSTEMS, all_rows
from tests.published.sort_rows import FOLDER


def test_rows_have_no_contradiction_and_excluded_ones_exactly_theirs() -> None:
    found = find_contradictions(all_rows())

    kept = [row.id for system in SYSTEMS for row in published_rows(system).rows]
    excluded = {each.row.id: each.reason for system in SYSTEMS for each in published_rows(system).excluded}

    assert {row_id: each.reason for row_id, each in found.items()} == excluded, (
        "run python -m tests.published.sort_rows"
    )
    assert not found.keys() & set(kept)


def test_each_kind_of_contradiction_excludes_so_many_rows() -> None:
    counts = Counter(each.kind for each in find_contradictions(all_rows()).values())

    assert counts == {
        ContradictionKind.DRAFT: 2,
        ContradictionKind.TFLOPS: 4,
        ContradictionKind.ACCUMULATION: 16,
        ContradictionKind.DEGREES: 19,
        ContradictionKind.MFU: 7,
        ContradictionKind.SAMPLES: 7,
        ContradictionKind.SUPERSEDED: 47,
    }


def test_every_file_of_rows_is_a_systems_own() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.json")) == sorted(SYSTEMS)
    for system in SYSTEMS:
        shipped = published_rows(system)
        for row in (*shipped.rows, *(each.row for each in shipped.excluded)):
            assert row.system == system


def test_ids_are_unique_and_a_line_holds_a_row() -> None:
    ids = [row.id for row in all_rows()]

    assert len(ids) == len(set(ids)) == 631
    for path in FOLDER.glob("*.json"):
        for line in path.read_text(encoding="utf-8").splitlines()[1:]:
            if line.startswith("{"):
                json.loads(line.rstrip(","))


@pytest.mark.parametrize("system", SYSTEMS)
def test_printed_figures_are_positive_numbers(system: str) -> None:
    for row in published_rows(system).rows:
        assert row.printed, row.id
        for metric in row.printed:
            assert (row.value(metric) or 0) > 0, (row.id, metric)


def test_systems_of_rows_are_those_of_their_titles() -> None:
    for row in all_rows():
        title = row.system_title.removeprefix("DGX-").removeprefix("8x ").split("-NVL")[0].split(" ")[0]
        assert title.lower() == row.system, row.id
        assert find_system(row.system).memory_gb, row.system


def task_of(section: str, *, mark: str | None) -> str:
    """Return the task of a table by its heading, or by the mark in a column of it."""
    heading = f"{section} {mark or ''}".lower()
    if "lora" in heading:
        return "lora"
    return "sft" if re.search(r"sft|fine-?\s?tuning", heading) else "pretrain"


def test_tasks_are_those_of_the_tables_and_of_the_models_names() -> None:
    for row in all_rows():
        if row.rollouts is None:
            task = row.task if row.section.endswith("/ Finetuning") else None  # a column of the table
            assert row.task == task_of(row.section, mark=task), row.id
            assert ("finetuning" in row.model.lower()) <= (row.task != "pretrain"), row.id


def test_fewer_layers_than_the_models_are_printed_by_scaled_down_runs_alone() -> None:
    fewer: Counter[str] = Counter()
    for row in all_rows():
        if row.num_layers is not None and row.num_layers != find_published_model(row.model).num_layers:
            fewer[row.path.split("/")[0]] += 1
            assert row.num_layers < find_published_model(row.model).num_layers, row.id

    # Grok-1 and Llama 3.1 405B on a share of their GPUs; Llama 4 Maverick has 48.
    assert fewer == {"grok1": 18, "llama3.1": 11, "llama4": 5}


def test_precisions_are_words_of_pages() -> None:
    words = {row.precision for row in all_rows()}

    assert words == {"", "BF16", "FP8", "FP8-CS", "FP8-MX", "MXFP8", "NVFP4"}


def test_drafts_are_excluded_with_both_prompts_they_imply() -> None:
    drafts = {each.row.id: each.reason for each in published_rows("h100").excluded if each.row.is_draft}

    assert drafts.keys() == {"rl095", "rl096"}
    for reason in drafts.values():
        assert "101 of them prompt (rl095)" in reason
        assert "274 of them prompt (rl096)" in reason
