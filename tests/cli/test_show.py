from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from pytest_nemoperf.json_codec import to_json
from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.pages.releases import release_path, write_release
from pytest_nemoperf.report.row_columns import COLUMNS
from tests.builders import make_plan
from tests.report.blocks import page_tables, table
from tests.report.builders import make_invalid, make_results
from tests.results.row_builders import make_release, make_row, store_plan


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with three baselines of cpu and a release."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    folder = tmp_path / "baselines"
    store_plan(folder, make_plan(), 1000.0, 1010.0)
    store_plan(folder, make_plan(layouts={"cpu": Layout(gpus=2, tp=2)}), 900.0)
    store_plan(folder, make_plan(precision="bf16"), 1500.0)
    write_release(release_path(folder, name="0.4"), release=make_release("0.4", make_row(), date="2026-11-02"))
    return tmp_path


def rows_of(out: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(out)))


def test_the_baselines_of_a_system_are_a_table(nemoperf: Any, project: Path) -> None:
    code, out, err = nemoperf("show", "cpu")

    shown = table(out.splitlines(), key="case")
    assert (code, err) == (0, "")
    assert out.startswith("baselines of cpu in baselines: 3 rows\n")
    assert [row["tokens/sec/GPU"] for row in shown.values()] == ["1,500", "1,005", "900"]
    assert [row["runs"] for row in shown.values()] == ["1", "2", "1"]


def test_without_an_operand_there_is_an_overview(nemoperf: Any, project: Path) -> None:
    code, out, _ = nemoperf("show")

    systems = table(out.splitlines(), key="system")
    assert code == 0
    assert (systems["cpu"]["baselines"], systems["h100"]["released"]) == ("3", "1")
    assert int(systems["h100"]["published"]) > 100
    assert "  0.4 of 2026-11-02: 1 row" in out.splitlines()


@pytest.mark.parametrize("form", ["csv", "json", "markdown"])
def test_the_overview_has_every_format(nemoperf: Any, project: Path, form: str) -> None:
    code, out, _ = nemoperf("show", "--format", form)

    assert code == 0
    if form == "json":
        data = json.loads(out)
        assert data["releases"] == [{"name": "0.4", "date": "2026-11-02", "rows": 1}]
        baselines = {each["system"]: str(each["baselines"]) for each in data["systems"]}
    elif form == "csv":
        baselines = {row["system"]: row["baselines"] for row in rows_of(out)}
    else:
        (shown,) = page_tables(out.splitlines())
        baselines = {row["system"]: row["baselines"] for row in shown}
    assert baselines["cpu"] == "3"


@pytest.mark.parametrize("operand", [("--published", "h100"), ("published:h100",), ("--published", "published:h100")])
def test_what_is_promised_of_a_system_is_listed(nemoperf: Any, project: Path, operand: tuple[str, ...]) -> None:
    code, out, _ = nemoperf("show", *operand, "--where", "model=LLAMA3_8B", "--where", "gpus=8", "--where", "case=pt*")

    assert code == 0
    assert re.match(r"published rows of h100: \d+ of \d+ rows\n", out)
    assert all(row["model"].lower() == "llama3_8b" for row in table(out.splitlines(), key="case").values())
    assert "published figures are one value each" not in out  # no column of spread, no word on it


@pytest.mark.parametrize("words", [["--sort=-tokens"], ["--sort", "-tokens"]])
def test_a_column_descends_with_a_minus_joined_to_the_option_or_not(
    nemoperf: Any, project: Path, words: list[str]
) -> None:
    code, out, _ = nemoperf("show", "cpu", "--columns", "tokens", "--format", "csv", *words)

    assert code == 0
    assert [float(row["tokens_per_sec_per_gpu"]) for row in rows_of(out)] == [1500.0, 1004.99, 900.0]


def test_rows_are_filtered_by_words_and_sorted(nemoperf: Any, project: Path) -> None:
    code, out, _ = nemoperf("show", "cpu", "-k", "not tp2", "--sort=tokens", "--format", "csv")

    assert code == 0
    assert [row["precision"] for row in rows_of(out)] == ["FP32", "BF16"]


def test_columns_are_those_that_are_named(nemoperf: Any, project: Path) -> None:
    code, out, _ = nemoperf("show", "cpu", "--columns", "layout,tokens,gbs", "--format", "csv", "--sort=-tokens")

    assert code == 0
    assert out == ("layout,tokens_per_sec_per_gpu,global_batch_size\nfsdp2,1500.0,4\nfsdp2,1004.99,4\ntp2,900.0,4\n")


def test_csv_has_all_columns_and_json_all_that_is_known(nemoperf: Any, project: Path) -> None:
    _, out, _ = nemoperf("show", "cpu", "--format", "csv")
    _, text, _ = nemoperf("show", "cpu", "--format", "json")

    data = json.loads(text)
    assert list(rows_of(out)[0]) == list(COLUMNS)
    assert (data["kind"], len(data["rows"])) == ("system", 3)
    assert data["rows"][0]["settings"]["seq_len"] == 64


def test_markdown_has_the_tables_of_the_pages(nemoperf: Any, project: Path) -> None:
    _, out, _ = nemoperf("show", "cpu", "--format", "markdown")

    assert [line for line in out.splitlines() if line.startswith("#")] == [
        "#### System: CPU. Precision: BF16",
        "#### System: CPU. Precision: FP32",
    ]
    assert [len(each) for each in page_tables(out.splitlines())] == [1, 2]


def test_details_tell_all_of_a_row(nemoperf: Any, project: Path) -> None:
    _, out, _ = nemoperf("show", "cpu", "--where", "precision=bf16", "--details")

    assert "  tokens/sec/GPU: 1,500" in out
    assert "  command: pytest -m perf" in out


def test_a_file_takes_the_output_whole(nemoperf: Any, project: Path) -> None:
    code, out, _ = nemoperf("show", "cpu", "--format", "csv", "--output", "rows.csv")

    assert (code, out) == (0, "rows.csv: 3 rows\n")
    assert len(rows_of(Path("rows.csv").read_text(encoding="utf-8"))) == 3
    assert sorted(path.name for path in project.iterdir()) == ["baselines", "rows.csv"]


def test_a_file_that_can_t_be_written_is_an_error(nemoperf: Any, project: Path) -> None:
    code, out, err = nemoperf("show", "cpu", "--output", "baselines")

    assert (code, out) == (2, "")
    assert err == "nemoperf: error: --output=baselines: cannot be written: Is a directory\n"


def test_a_system_without_baselines_says_what_would_fill_it(nemoperf: Any, project: Path) -> None:
    code, out, err = nemoperf("show", "h100")

    assert (code, out) == (0, "baselines of h100 in baselines: 0 rows\n")
    assert "pytest -m perf --system=h100 --update-baselines" in err
    assert "nemoperf show --published h100" in err


def test_a_session_without_valid_cases_says_where_the_reasons_are(nemoperf: Any, project: Path) -> None:
    path = project / "latest" / "results.json"
    path.parent.mkdir()
    path.write_text(to_json(make_results(make_invalid())), encoding="utf-8")

    code, out, err = nemoperf("show", "latest")

    assert (code, out) == (0, "latest/results.json, CPU: 0 rows\n")
    assert err == "no case of this session is valid: results.md beside it says why\n"


def test_a_system_of_which_nothing_is_published_says_so(nemoperf: Any, project: Path) -> None:
    code, out, err = nemoperf("show", "--published", "cpu")

    assert (code, out) == (0, "published rows of cpu: 0 rows\n")
    assert "published" in err


def test_rows_that_are_no_baselines_are_listed_with_the_reason(nemoperf: Any, project: Path) -> None:
    code, out, _ = nemoperf("show", "--published", "--excluded")
    _, text, _ = nemoperf("show", "--published", "--excluded", "--format", "csv")
    _, page, _ = nemoperf("show", "--published", "--excluded", "--format", "markdown")

    reasons = [row["note"] for row in rows_of(text)]
    (shown,) = page_tables(page.splitlines())
    assert code == 0
    assert out.startswith("published rows of all systems that are no baselines: ")
    assert reasons
    assert all(reasons)
    assert len(shown) == len(reasons)
    assert all(row["note"] not in ("", "n/a") for row in shown)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["h10"], "h10: neither a file or folder nor a release, system, framework or layout; did you mean"),
        (["cpu", "--where", "gpu=2"], "--where: unknown column 'gpu'; did you mean gpus"),
        (["cpu", "--where", "gpus"], "--where: 'gpus' is no condition"),
        (["cpu", "--sort", "speed"], "--sort: unknown column 'speed'"),
        (["cpu", "--columns", "case,x"], "--columns: unknown column 'x'"),
        (["cpu", "--columns", ""], "--columns: unknown column ''"),
        (["cpu", "--sort", ""], "--sort: unknown column ''"),
        (["--sort", ""], "--sort without OPERAND: there are no rows to choose from"),
        (["cpu", "-k", "tp2 not"], "-k 'tp2 not': a word must follow 'not'"),
        (["cpu", "--excluded"], "--excluded only counts with --published"),
        (["cpu", "--details", "--format", "csv"], "--details with --format=csv"),
        (["cpu", "--columns", "case", "--format", "json"], "--columns with --format=json, which has whole rows"),
        (["cpu", "--columns", "case", "--details"], "--columns with --details, which has whole rows"),
        (["--where", "gpus=2"], "--where without OPERAND: there are no rows to choose from"),
        (["-k", "x"], "-k without OPERAND"),
        (["--published", "release:0.4"], "unknown system 'release:0.4'"),
        (["cpu", "--baselines", "nowhere"], "--baselines=nowhere: no such folder"),
        (["cpu", "--format", "yaml"], "invalid choice: 'yaml'"),
    ],
    ids=" ".join,
)
def test_a_wrong_option_is_one_line_and_exits_2(nemoperf: Any, project: Path, argv: list[str], message: str) -> None:
    code, out, err = nemoperf("show", *argv)

    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert message in err


def test_a_broken_baseline_is_named_and_nothing_is_shown(nemoperf: Any, project: Path) -> None:
    (project / "baselines" / "cpu" / "x.json").write_text("{}", encoding="utf-8")

    code, out, err = nemoperf("show", "cpu")

    assert (code, out) == (2, "")
    assert err.startswith("nemoperf: error: baselines/cpu/x.json: ")


def test_help_names_every_column_within_80_columns(nemoperf: Any) -> None:
    _, out, _ = nemoperf("show", "--help")

    assert all(re.search(rf"\b{name}\b", out) for name in COLUMNS)
    assert max(map(len, out.partition("examples:")[2].splitlines())) <= 80
