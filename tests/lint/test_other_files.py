from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pytest_nemoperf.json_codec import to_json
from pytest_nemoperf.lint.other_files import lint_published, lint_release
from pytest_nemoperf.published.files import published_rows
from tests.results.row_builders import make_release, make_row


def store_release(root: Path, *, stem: str = "0.4", rows: tuple[Any, ...] = (make_row(),), **changes: Any) -> Path:
    path = root / "releases" / f"{stem}.json"
    path.parent.mkdir(exist_ok=True)
    name = changes.pop("name", stem)
    path.write_text(to_json(make_release(name, *rows, **changes)), encoding="utf-8")
    return path


def test_a_sound_release_has_no_findings(tmp_path: Path) -> None:
    store_release(tmp_path, stem="0.3")

    assert lint_release(store_release(tmp_path, previous="0.3")) == []


@pytest.mark.parametrize(
    ("changes", "rule", "message"),
    [
        pytest.param({"name": "0.5"}, "file", "holds release '0.5'; file and release must be named alike", id="name"),
        pytest.param({"stem": "a b"}, "file", "its name is that of its file", id="no name"),
        pytest.param({"date": "today"}, "date", "$.date: 'today' is no day; write e.g. 2026-12-31", id="date"),
        pytest.param({"rows": (make_row((0.0,)),)}, "arithmetic", "only positive figures", id="figure"),
        pytest.param({"rows": (make_row(), make_row())}, "arithmetic", "is there 2 times", id="twice"),
        pytest.param({"rows": (make_row(system="h101"),)}, "system", "unknown system 'h101'", id="system"),
        pytest.param({"previous": "a" * 5000}, "release", "is not there; restore its file", id="a name no file has"),
        pytest.param({"previous": "0.1"}, "release", "release '0.1' is not there; restore its file", id="previous"),
    ],
)
def test_each_fault_of_a_release_is_an_error(tmp_path: Path, changes: dict[str, Any], rule: str, message: str) -> None:
    path = store_release(tmp_path, **changes)

    (finding,) = lint_release(path)

    assert (finding.path, finding.level, finding.rule) == (str(path), "error", rule)
    assert message in finding.message


def test_a_release_that_cannot_be_read_is_one_error(tmp_path: Path) -> None:
    path = tmp_path / "0.4.json"
    path.write_text("{", encoding="utf-8")

    (finding,) = lint_release(path)

    assert finding.message.startswith("not JSON: ")


def store_published(root: Path, changes: dict[str, Any], *, stem: str = "b300", repeat: int = 1) -> Path:
    row = json.loads(to_json(published_rows("b300").rows[0]))
    path = root / f"{stem}.json"
    data = {"rows": [{**row, **changes}] * repeat, "schema_version": 1}
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def test_sound_published_rows_have_no_findings(tmp_path: Path) -> None:
    assert lint_published(store_published(tmp_path, {})) == []


@pytest.mark.parametrize(
    ("changes", "rule", "message"),
    [
        pytest.param(
            {"system": "h100"}, "system", "$.rows[0].system is 'h100'; the file holds the rows of 'b300'", id="system"
        ),
        pytest.param({"printed": {"mfu_pct": "nan"}}, "arithmetic", "$.rows[0].printed.mfu_pct is 'nan'", id="NaN"),
        pytest.param({"printed": {"mfu_pct": "4x"}}, "arithmetic", "must be a positive number", id="no number"),
        pytest.param({"gpus": "8"}, "file", '$.rows[0].gpus is "8"; it must be a whole number', id="schema"),
    ],
)
def test_each_fault_of_a_published_row_is_an_error(
    tmp_path: Path, changes: dict[str, Any], rule: str, message: str
) -> None:
    (finding,) = lint_published(store_published(tmp_path, changes))

    assert (finding.level, finding.rule) == ("error", rule)
    assert message in finding.message


def test_an_id_names_one_row(tmp_path: Path) -> None:
    (finding,) = lint_published(store_published(tmp_path, {}, repeat=2))

    assert "is there 2 times; an id names one row" in finding.message
