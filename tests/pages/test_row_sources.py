from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_nemoperf.errors import BaselineError
from pytest_nemoperf.json_codec import to_data, to_json
from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.pages.releases import list_releases, release_path, write_release
from pytest_nemoperf.pages.row_sources import (
    SourceKind,
    count_systems,
    read_published,
    read_row_set,
)
from pytest_nemoperf.published import files
from pytest_nemoperf.published.row import ExcludedRow, PublishedRows
from pytest_nemoperf.results.row import RowKind
from tests.builders import make_plan
from tests.report.builders import make_invalid, make_passed, make_results
from tests.results.row_builders import make_case, make_release, make_row, store_plan, write_results


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two baselines of cpu and a release, in a folder of baselines beside which commands run."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "baselines"
    store_plan(folder, make_plan(), 1000.0, 1010.0)
    store_plan(folder, make_plan(layouts={"cpu": Layout(gpus=2, tp=2)}, framework="mine"), 900.0)
    write_release(release_path(folder, name="0.4"), release=make_release("0.4", make_row(), date="2026-11-02"))
    return folder


@pytest.mark.parametrize(
    ("operand", "kind", "cases"),
    [
        ("cpu", "system", 2),
        ("system:cpu", "system", 2),
        ("system:h100", "system", 0),
        ("0.4", "release", 1),
        ("release:0.4", "release", 1),
        ("framework:torch", "framework", 1),
        ("torch", "framework", 1),
        ("mine", "framework", 1),
        ("layout:tp2", "layout", 1),
        ("fsdp2", "layout", 1),
        ("baselines", "baselines", 2),
        ("baselines/cpu", "baselines", 2),
        ("baselines/releases/0.4.json", "release", 1),
    ],
)
def test_rows_are_found_by_the_name_of_their_source(stored: Path, operand: str, kind: str, cases: int) -> None:
    found = read_row_set(operand, baselines_dir=stored)

    assert (found.kind, len(found.rows)) == (kind, cases)


def test_a_row_of_a_baseline_names_its_file(stored: Path) -> None:
    row, _ = read_row_set("cpu", baselines_dir=stored).rows

    assert Path(row.origin.source).is_file()
    assert row.value("tokens_per_sec_per_gpu") == pytest.approx(900.0)
    assert row.origin.kind is RowKind.MEASURED


def test_one_baseline_is_a_source_too(stored: Path) -> None:
    path = min((stored / "cpu").iterdir())

    (row,) = read_row_set(str(path), baselines_dir=stored).rows

    assert row.case == path.stem


@pytest.mark.parametrize("operand", ["out/results.json", "out"])
def test_results_are_read_without_their_invalid_cases(stored: Path, operand: str) -> None:
    results = make_results(make_passed("pretrain-a"), make_invalid("pretrain-b"))
    path = stored.parent / "out" / "results.json"
    path.parent.mkdir()
    path.write_text(to_json(results), encoding="utf-8")

    found = read_row_set(operand, baselines_dir=stored)

    assert (found.kind, [row.case for row in found.rows]) == (SourceKind.RESULTS, ["pretrain-a"])


@pytest.mark.parametrize(
    ("operand", "message"),
    [
        ("h10", r"^h10: neither a file or folder nor a release, system, framework or layout; did you mean h100"),
        ("system:h10", r"^unknown system 'h10'; did you mean h100"),
        ("release:0.5", r"^release '0\.5': no such file in .*releases; did you mean 0\.4\?"),
        ("framework:megatron", r"^framework 'megatron' has no baseline in .*; known: mine, torch"),
        ("layout:tp4", r"^layout 'tp4' has no baseline in .*; did you mean tp2"),
        ("published:h10", r"^unknown system 'h10'; did you mean h100"),
        ("published:", r"^published: names no system"),
        ("", r"^: neither a file"),
        ("baselines/releases", r"is the folder of all releases; name one of them, as release:NAME"),
    ],
)
def test_an_unknown_source_says_what_is_known(stored: Path, operand: str, message: str) -> None:
    with pytest.raises(BaselineError, match=message):
        read_row_set(operand, baselines_dir=stored)


def test_a_name_of_several_sources_lists_the_spellings(stored: Path) -> None:
    (stored.parent / "torch").mkdir()
    write_release(release_path(stored, name="torch"), release=make_release("torch", make_row()))

    spellings = r"\./torch or release:torch or framework:torch"
    with pytest.raises(BaselineError, match=rf"^torch names several sources of rows; write {spellings}$"):
        read_row_set("torch", baselines_dir=stored)


def test_without_a_release_the_command_that_makes_one_is_named(tmp_path: Path) -> None:
    with pytest.raises(BaselineError, match="there is none yet: nemoperf release makes one"):
        read_row_set("release:1", baselines_dir=tmp_path)


def test_the_folder_of_published_rows_is_named_by_system(stored: Path) -> None:
    (stored / "published").mkdir()

    with pytest.raises(BaselineError, match="is the folder of published rows; name their system, as published:h100"):
        read_row_set("baselines/published", baselines_dir=stored)


@pytest.mark.parametrize("folder", ["state", "state/runs", "state/runs/one", "state/runs/one/pretrain-a"])
def test_a_folder_of_measured_runs_is_told_from_one_of_baselines(stored: Path, folder: str) -> None:
    case = stored.parent / "state" / "runs" / "one" / "pretrain-a"
    case.mkdir(parents=True)
    (case / "case.json").write_text("{}")

    with pytest.raises(
        BaselineError, match=r"holds runs as they were measured; .*\.nemoperf/latest, or judge the runs"
    ):
        read_row_set(folder, baselines_dir=stored)


def test_a_folder_without_rows_says_what_it_lacks(stored: Path) -> None:
    (stored.parent / "empty").mkdir()

    with pytest.raises(BaselineError, match=r"^empty: holds neither results\.json nor baselines"):
        read_row_set("empty", baselines_dir=stored)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "holds none of cases, rows and runs"),
        ('{"cases": []}', r"\$ lacks the key 'system'"),
        ('{"rows": [], "date": "2026-11-30"}', r"lacks the key"),
        ('{"rows": [], "excluded": []}', r"holds published rows; name their system, as published:file"),
        ('{"runs": []}', r"lacks the key"),
    ],
)
def test_a_file_that_is_none_of_ours_is_an_error_with_its_path(stored: Path, text: str, message: str) -> None:
    path = stored.parent / "file.json"
    path.write_text(text, encoding="utf-8")

    with pytest.raises(BaselineError, match=f"^file.json.*{message}"):
        read_row_set("file.json", baselines_dir=stored)


def test_an_unreadable_baseline_is_an_error_with_its_path(stored: Path) -> None:
    path = stored / "cpu" / "broken.json"
    path.write_text('{"schema_version": 1}', encoding="utf-8")

    for operand in ("cpu", "framework:torch", "no-such-name"):
        with pytest.raises(BaselineError, match=f"^{re.escape(str(path))}: "):
            read_row_set(operand, baselines_dir=stored)


def test_results_with_an_impossible_figure_are_refused(stored: Path) -> None:
    data: Any = to_data(make_results(make_passed("pretrain-a")))
    data["cases"][0]["measurement"]["runs"][0]["metrics"]["mfu_pct"] = float("nan")
    (stored.parent / "results.json").write_text(json.dumps(data), encoding="utf-8")

    with pytest.raises(
        BaselineError, match=r"results\.json: .*runs\[0\]\.metrics\.mfu_pct is NaN; it must be a finite"
    ):
        read_row_set("results.json", baselines_dir=stored)


def test_published_rows_of_all_systems_are_those_of_each(tmp_path: Path) -> None:
    h100 = read_row_set("published:h100", baselines_dir=tmp_path)
    everything = read_published("", baselines_dir=tmp_path)

    assert {row.system for row in h100.rows} == {"h100"}
    assert RowKind.MEASURED not in {row.origin.kind for row in everything.rows}
    assert len(everything.rows) > len(h100.rows) > 100


def test_rows_that_are_no_baselines_come_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad = files.published_rows("h100").rows[:2]
    shipped = PublishedRows(
        rows=(good,), excluded=(ExcludedRow(row=replace(bad, variant="", notes=()), reason="it contradicts"),)
    )
    monkeypatch.setattr("pytest_nemoperf.pages.row_sources.published_rows", {"h100": shipped}.__getitem__)

    (row,) = read_published("h100", baselines_dir=tmp_path, is_excluded=True).rows

    assert (row.case, row.origin.note) == (bad.id, "it contradicts")


def test_systems_are_counted_with_their_rows(stored: Path) -> None:
    releases = list_releases(stored)

    counts = {each.system: each for each in count_systems(stored, releases=releases)}

    assert (counts["cpu"].baselines, counts["cpu"].released, counts["cpu"].published) == (2, 0, 0)
    assert (counts["h100"].baselines, counts["h100"].released, counts["h100"].title) == (0, 1, "DGX-H100")
    assert counts["h100"].published > 100


def test_rows_that_a_project_keeps_beside_its_baselines_are_published_too(stored: Path) -> None:
    shipped = files.published_rows("h100").rows[0]
    own = PublishedRows(rows=(replace(shipped, id="own1"), replace(shipped, id="own2", system="a100")))
    (stored / "published").mkdir()
    (stored / "published" / "ours.json").write_text(to_json(own), encoding="utf-8")

    cases = {
        system: [row.case for row in read_row_set(f"published:{system}", baselines_dir=stored).rows]
        for system in ("h100", "a100")
    }

    assert (cases["h100"][-1], cases["a100"]) == ("own1", ["own2"])
    counts = {each.system: each.published for each in count_systems(stored, releases=())}
    assert counts["h100"] == len(cases["h100"])
    assert counts["a100"] == 1


def test_a_broken_file_of_own_published_rows_is_named(stored: Path) -> None:
    (stored / "published").mkdir()
    (stored / "published" / "ours.json").write_text('{"rows": [{"id": 7}]}', encoding="utf-8")

    with pytest.raises(BaselineError, match=r"published/ours\.json: \$\.rows\[0\]"):
        read_row_set("published:h100", baselines_dir=stored)


def test_figures_of_a_self_test_are_no_rows(stored: Path) -> None:
    path = stored.parent / "results.json"
    path.write_text(to_json(make_results(make_passed("pretrain-a"), inject_pct=20.0)), encoding="utf-8")

    with pytest.raises(BaselineError, match=r"results\.json: is of a self-test \(--perf-inject\)"):
        read_row_set("results.json", baselines_dir=stored)


def test_a_baseline_of_a_workload_that_is_none_is_an_error_with_its_path(stored: Path) -> None:
    path = max((stored / "cpu").iterdir())
    data = json.loads(path.read_text(encoding="utf-8"))
    data["workload"]["layout"]["tp"] = 0
    path.write_text(json.dumps(data), encoding="utf-8")

    with pytest.raises(BaselineError, match=rf"^{re.escape(str(path))}: .*layout"):
        read_row_set("cpu", baselines_dir=stored)


def test_results_of_a_workload_that_is_none_are_an_error_with_their_path(stored: Path) -> None:
    case = make_case(make_plan(), 100.0)
    path = write_results(stored.parent / "results.json", case)
    data = json.loads(path.read_text(encoding="utf-8"))
    data["cases"][0]["measurement"]["workload"]["layout"]["tp"] = 0
    path.write_text(json.dumps(data), encoding="utf-8")

    with pytest.raises(BaselineError, match=r"^results\.json: .*layout"):
        read_row_set("results.json", baselines_dir=stored)


@pytest.mark.parametrize("text", ["fast", "1,234", "", "nan", "inf", "-5", "0"])
@pytest.mark.parametrize("place", ["rows", "excluded"])
def test_own_published_rows_with_a_figure_that_is_no_number_are_refused(stored: Path, text: str, place: str) -> None:
    row = replace(files.published_rows("h100").rows[0], printed={"tokens_per_sec_per_gpu": text})
    own = PublishedRows(rows=(row,))
    if place == "excluded":
        own = PublishedRows(rows=(), excluded=(ExcludedRow(row=row, reason="it contradicts"),))
    (stored / "published").mkdir()
    (stored / "published" / "h100.json").write_text(to_json(own), encoding="utf-8")

    with pytest.raises(BaselineError, match=r"published/h100\.json: .*\.printed\.tokens_per_sec_per_gpu is .*positive"):
        read_row_set("published:h100", baselines_dir=stored)
