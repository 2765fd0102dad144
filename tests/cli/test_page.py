from __future__ import annotations

import errno
import os
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_nemoperf.baselines.files import baseline_path
from pytest_nemoperf.json_codec import to_json
from pytest_nemoperf.measure.measurement import workload_of
from pytest_nemoperf.pages.releases import release_path, write_release
from pytest_nemoperf.verdict.comparison import VerdictKind
from tests.builders import make_baseline, make_measurement, make_plan
from tests.pages.rendering import rendered
from tests.report.builders import make_report, make_results
from tests.results.row_builders import make_release, make_row

PAGE = """\
# Ours\r
\r
By hand: a | b.  \r
<!-- nemoperf:begin native systems=cpu -->\r
<!-- nemoperf:end -->\r
the end"""


def store(*, case: str = "pretrain-a", rate: float = 1000.0) -> Path:
    """Store a baseline of the native engine below the working directory."""
    path = baseline_path(Path("baselines"), system="cpu", case=case)
    path.parent.mkdir(parents=True, exist_ok=True)
    runs = make_baseline([rate] * 3).runs
    baseline = make_baseline(case=case, system="cpu", runs=runs, workload=workload_of(make_plan()))
    path.write_text(to_json(baseline), encoding="utf-8")
    return path


def write_page(text: str = PAGE, *, name: str = "page.md") -> Path:
    path = Path(name)
    path.write_bytes(text.encode())
    return path


def test_a_template_is_printed_filled(nemoperf: Any) -> None:
    code, out, err = nemoperf("page", "nemo-rl")

    assert (code, err) == (0, "")
    assert "## NeMo RL v0.4" in out
    assert "insert" not in out


def test_a_page_is_written_and_then_left_as_it_is(nemoperf: Any) -> None:
    written = nemoperf("page", "dfm", "--output", "docs/performance.md")
    again = nemoperf("page", "dfm", "--output", "docs/performance.md")

    assert written == (0, "docs/performance.md: 9 blocks written\n", "")
    assert again == (0, "docs/performance.md: 9 blocks, nothing has changed\n", "")


def test_the_text_of_a_page_survives_its_refreshing(nemoperf: Any) -> None:
    nemoperf("--help")
    store()
    path = write_page()

    code, out, _ = nemoperf("page", "--output", "page.md")

    text = path.read_bytes().decode()
    assert (code, out) == (0, "page.md: 1 block written\n")
    assert text.startswith("# Ours\r\n\r\nBy hand: a | b.  \r\n<!-- nemoperf:begin native systems=cpu -->\r\n\r\n####")
    assert text.endswith("\r\n<!-- nemoperf:end -->\r\nthe end")
    assert text.count("\n") == text.count("\r\n")
    assert rendered(text).tables[0][1][-2:] == ("1000", "1")


def test_a_template_of_ones_own_is_filled(nemoperf: Any) -> None:
    write_page(name="own.md")

    code, out, _ = nemoperf("page", "--template", "own.md", "--output", "page.md")

    assert (code, out) == (0, "page.md: 1 block written\n")
    assert Path("page.md").read_bytes().startswith(b"# Ours\r\n")
    assert Path("own.md").read_bytes() == PAGE.encode()


def test_check_passes_a_fresh_page_and_names_the_cells_of_a_stale_one(nemoperf: Any) -> None:
    store()
    write_page()
    nemoperf("page", "--output", "page.md")

    fresh = nemoperf("page", "--check", "page.md")
    before = Path("page.md").read_bytes()
    store(rate=1100.0)
    code, out, err = nemoperf("page", "--check", "page.md")

    assert fresh == (0, "1 block ok\n", "")
    assert (code, err) == (1, "")
    title = "page.md:4: native: System: CPU. Precision: FP32"
    name = "Tokens / sec / GPU"
    assert out.startswith(f"{title}: row 'llama-tiny': {name}: the page has '1000', the rows have '1100'\n")
    assert "if the rows are right: nemoperf page --output page.md" in out
    assert Path("page.md").read_bytes() == before


@pytest.mark.parametrize("words", [("dfm", "--check", "--output", "a.md"), ("--check", "a.md", "b.md")])
def test_check_takes_the_page_of_output_or_several_files(nemoperf: Any, words: tuple[str, ...]) -> None:
    nemoperf("--help")
    for name in ("a.md", "b.md"):
        write_page(name=name)

    code, out, _ = nemoperf("page", *words)

    assert code == 1
    checked = [word for word in words if word.endswith(".md")]
    assert list(dict.fromkeys(line.partition(":")[0] for line in out.splitlines() if ": native: " in line)) == checked


def test_the_remedy_of_a_check_refreshes_stale_pages_from_the_same_rows(nemoperf: Any) -> None:
    nemoperf("--help")
    write_release(release_path(Path("b 2"), name="0.4"), release=make_release("0.4", make_row(framework="torch")))
    words = ("--baselines", "b 2", "--release", "0.4")
    for name in ("fresh.md", "stale.md"):
        write_page(name=name)
        nemoperf("page", "--output", name, *words)
    stale = Path("stale.md")
    stale.write_text(stale.read_text().replace("<!-- nemoperf:end", "By hand.\n<!-- nemoperf:end"))

    code, out, _ = nemoperf("page", "--check", "fresh.md", "stale.md", *words)

    assert code == 1
    remedy = out.splitlines()[-1].partition("if the rows are right: ")[2]
    assert remedy == "nemoperf page --baselines 'b 2' --release 0.4 --output stale.md"
    assert nemoperf(*shlex.split(remedy)[1:])[:2] == (0, "stale.md: 1 block written\n")
    assert nemoperf("page", "--check", "fresh.md", "stale.md", *words)[:2] == (0, "2 blocks ok\n")


def test_a_release_fills_the_tables_with_its_frozen_rows(nemoperf: Any) -> None:
    nemoperf("--help")
    row = make_row((4321.0,), framework="automodel")
    write_release(release_path(Path("baselines"), name="0.4"), release=make_release("0.4", row))
    write_page("<!-- nemoperf:begin tables systems=h100 -->\n<!-- nemoperf:end -->\n")

    code, out, _ = nemoperf("page", "--template", "page.md", "--release", "0.4")

    assert code == 0
    assert rendered(out).tables[0][1][-2:] == ("4321", "n/a")


def write_results(**changes: Any) -> None:
    """Write results of a session with the case pretrain-a, at 2,000 tokens/s."""
    report = make_report(make_measurement([2000.0], case="pretrain-a"))
    Path("results.json").write_text(to_json(make_results(report, **changes)), encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        pytest.param((), ["1000", "1500"], id="baselines alone"),
        pytest.param(("--results", "results.json"), ["2000"], id="results alone"),
        pytest.param(("--results", "."), ["2000"], id="folder of results"),
        pytest.param(("--results", "results.json", "--baselines", "baselines"), ["1500", "2000"], id="both"),
    ],
)
def test_results_stand_alone_or_in_place_of_the_baselines_of_their_cases(
    nemoperf: Any, words: tuple[str, ...], expected: list[str]
) -> None:
    nemoperf("--help")
    store()
    store(case="pretrain-b", rate=1500.0)
    write_results()
    write_page()

    code, out, _ = nemoperf("page", "--template", "page.md", *words)

    assert code == 0
    assert sorted(row[-2] for row in rendered(out).tables[0][1:]) == expected


def test_results_that_cannot_have_been_measured_are_refused(nemoperf: Any) -> None:
    nemoperf("--help")
    write_results()
    text = Path("results.json").read_text(encoding="utf-8")
    Path("results.json").write_text(text.replace('"step_time_sec": ', '"step_time_sec": -'), encoding="utf-8")

    code, _, err = nemoperf("page", "dfm", "--results", "results.json")

    assert code == 2
    assert "results.json: row 1 (pretrain-a)" in err
    assert err.endswith("; measure again\n")


def test_results_of_a_self_test_are_refused(nemoperf: Any) -> None:
    nemoperf("--help")
    write_results(inject_pct=20.0)

    code, _, err = nemoperf("page", "dfm", "--results", "results.json")

    assert code == 2
    assert "results.json: is of a self-test (--perf-inject): none of its figures is real" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param((), "no page to fill; give a template, dfm or nemo-rl", id="nothing"),
        pytest.param(("dmf",), "dmf: no such template; did you mean dfm?", id="template"),
        pytest.param(("page.md",), "page.md: is a file; to refresh its blocks give --output page.md", id="file"),
        pytest.param(("dfm", "nemo-rl"), "dfm nemo-rl: one page at a time", id="two"),
        pytest.param(("dfm", "--template", "page.md"), "a page has one template; drop one", id="both"),
        pytest.param(("--check",), "--check: no page to check", id="check of nothing"),
        pytest.param(
            ("--check", "page.md", "--template", "a.md"), "a check needs the page alone", id="check, template"
        ),
        pytest.param(("dfm", "--check"), "--check: no page to check", id="check of a template"),
        pytest.param(("--check", "none.md"), "none.md: cannot be read: No such file", id="missing"),
        pytest.param(("--check", "latin.md"), "latin.md: is not UTF-8", id="encoding"),
        pytest.param(("--check", "plain.md"), "plain.md: has no blocks to fill", id="no blocks"),
        pytest.param(("--check", "broken.md"), "broken.md:2: block 'tables' is not ended", id="marker"),
        pytest.param(
            ("dfm", "--release", "9"), "--release=9: no such release in baselines/releases (none)", id="release"
        ),
        pytest.param(
            ("dfm", "--release", "9", "--results", "r.json"),
            "--release=9 with --results: a release has its own rows",
            id="release and results",
        ),
        pytest.param(("dfm", "--release", "../9"), "release '../9': its name is that of its file", id="release's name"),
        pytest.param(("dfm", "--baselines", "none"), "--baselines=none: no such folder", id="baselines"),
        pytest.param(("dfm", "--results", "none.json"), "none.json: cannot be read: No such file", id="results"),
        pytest.param(("dfm", "--results", "page.md"), "page.md: not JSON", id="no results"),
        pytest.param(("dfm", "--output", "folder"), "folder: cannot be read: Is a directory", id="folder"),
    ],
)
def test_wrong_input_is_an_error_in_one_line(nemoperf: Any, words: tuple[str, ...], message: str) -> None:
    nemoperf("--help")
    write_page()
    write_page("# Plain\n", name="plain.md")
    write_page("a\n<!-- nemoperf:begin tables -->\n", name="broken.md")
    Path("latin.md").write_bytes(b"\xff\xfe")
    Path("folder").mkdir()

    code, out, err = nemoperf("page", *words)

    assert (code, out) == (2, "")
    assert err.startswith("nemoperf: error: ")
    assert message in err
    assert err.count("\n") == 1


def test_a_corrupt_baseline_is_named_and_the_page_stays(nemoperf: Any) -> None:
    store().write_text("{", encoding="utf-8")
    path = write_page()

    code, _, err = nemoperf("page", "--output", "page.md")

    assert code == 2
    assert "baselines/cpu/pretrain-a.json: not JSON: " in err
    assert path.read_bytes() == PAGE.encode()


def test_a_full_disk_leaves_the_old_page(nemoperf: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_page()

    def refuse(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "page.md")

    monkeypatch.setattr(os, "fsync", refuse)
    code, _, err = nemoperf("page", "--output", "page.md")

    assert code == 2
    assert "page.md: cannot be written: No space left on device; what was there before is untouched" in err
    assert path.read_bytes() == PAGE.encode()
    assert [each.name for each in Path().iterdir() if "page" in each.name] == ["page.md"]


def test_the_hook_checks_pages_by_a_command_that_there_is(nemoperf: Any) -> None:
    hooks = (Path(__file__).parents[2] / ".pre-commit-hooks.yaml").read_text(encoding="utf-8")
    entry = next(line.partition("entry: ")[2] for line in hooks.splitlines() if "entry: " in line)
    program, *words = entry.split()

    code, _, err = nemoperf(*words, "docs/performance.md")

    assert program == "nemoperf"
    assert (code, err) == (
        2,
        "nemoperf: error: docs/performance.md: cannot be read: No such file or directory\n",
    )


def test_cases_of_a_session_that_give_no_row_are_named(nemoperf: Any) -> None:
    nemoperf("--help")
    write_page()
    measurement = make_measurement([2000.0], case="pretrain-a")
    verdict = replace(make_report(measurement).result.verdict, kind=VerdictKind.INVALID)
    report = make_report(measurement, verdict=verdict)
    Path("results.json").write_text(to_json(make_results(report)), encoding="utf-8")

    code, _, err = nemoperf("page", "--output", "page.md", "--results", "results.json")

    assert code == 0
    assert err == "nemoperf: warning: results.json: 1 case INVALID, left out: pretrain-a\n"


@pytest.mark.parametrize("words", [("--output", "page.md"), ("--check", "page.md")])
def test_measured_rows_that_no_block_shows_are_named(nemoperf: Any, words: tuple[str, ...]) -> None:
    nemoperf("--help")
    store()
    store(case="pretrain-b")
    write_page("<!-- nemoperf:begin tables systems=h100 -->\n<!-- nemoperf:end -->\n")

    _, _, err = nemoperf("page", *words)

    assert err == (
        "nemoperf: warning: page.md: no block shows 2 measured rows of torch on cpu; a block for them begins with "
        "<!-- nemoperf:begin native workload=pretrain systems=cpu -->\n"
    )


def test_rows_of_another_workload_belong_to_another_page(nemoperf: Any) -> None:
    nemoperf("--help")
    store()
    write_page("<!-- nemoperf:begin tables workload=rl systems=h100 -->\n<!-- nemoperf:end -->\n")

    assert nemoperf("page", "--output", "page.md") == (0, "page.md: 1 block written\n", "")


def test_check_names_the_command_for_the_pages_that_differ_with_its_own_rows(nemoperf: Any) -> None:
    nemoperf("--help")
    write_release(release_path(Path("baselines"), name="0.4"), release=make_release("0.4", make_row()))
    for name in ("fresh.md", "stale.md"):
        write_page(name=name)
    nemoperf("page", "--release", "0.4", "--output", "fresh.md")

    _, out, _ = nemoperf("page", "--release", "0.4", "--check", "fresh.md", "stale.md")

    assert out.endswith("; if the rows are right: nemoperf page --release 0.4 --output stale.md\n")


def test_a_template_beside_a_page_that_is_there_is_said_not_to_be_used(nemoperf: Any) -> None:
    nemoperf("--help")
    write_page()
    write_page("<!-- nemoperf:begin notes -->\n<!-- nemoperf:end -->\n", name="own.md")

    code, out, err = nemoperf("page", "--template", "own.md", "--output", "page.md")

    assert (code, out) == (0, "page.md: 1 block written\n")
    assert err == "nemoperf: warning: page.md is there: its own blocks are filled, and --template=own.md is not used\n"
