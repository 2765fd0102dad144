from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pytest_nemoperf.baselines.files import baseline_path
from pytest_nemoperf.json_codec import to_json
from pytest_nemoperf.pages.releases import read_release, release_path
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.verdict.comparison import VerdictKind
from tests.builders import make_baseline, make_plan
from tests.results.row_builders import make_case, store_plan, write_results

BASELINES = Path("baselines")
ONE = make_plan(variant="one")
OTHER = make_plan(variant="other")


@pytest.fixture
def baselines(nemoperf: Any) -> Path:
    """Return the relative path of a folder with two baselines, in the working directory of the tests."""
    store_plan(BASELINES, ONE, 100.0, 100.1, 99.9)
    store_plan(BASELINES, OTHER, 200.0, 200.1, 199.9)
    return BASELINES


def release_of(name: str) -> Any:
    return read_release(release_path(BASELINES, name=name))


def store_later(plan: Plan, rate: float, **changes: Any) -> None:
    later = {"session": "2026-11-20T10:00:00Z", "git_commit": "f" * 40, "versions": {"torch": "2.14.0"}, **changes}
    store_plan(BASELINES, plan, rate, rate * 1.001, rate * 0.999, **later)


def test_a_release_holds_the_rows_of_all_baselines_with_their_provenance(nemoperf: Any, baselines: Path) -> None:
    code, out, err = nemoperf("release", "0.4")

    release = release_of("0.4")
    assert (code, err) == (0, "")
    assert out == (
        "release 0.4: 2 cases frozen in baselines/releases/0.4.json\n  by system: cpu 2\n  by framework: torch 2\n"
    )
    assert [row.case for row in release.rows] == [ONE.case, OTHER.case]
    assert release.rows[0].values["tokens_per_sec_per_gpu"] == (100.0, 100.1, 99.9)
    assert release.rows[0].origin.commit == "0123456789ab"
    assert release.rows[0].origin.source == f"baselines/cpu/{ONE.case}.json"
    assert release.rows[0].sessions == ("2026-11-01T10:00:00Z",) * 3
    assert release.previous == ""


def test_the_source_of_a_row_does_not_tell_the_folders_above_the_baselines(nemoperf: Any, baselines: Path) -> None:
    nemoperf("release", "0.4", "--baselines", str(baselines.absolute()))

    assert release_of("0.4").rows[0].origin.source == f"baselines/cpu/{ONE.case}.json"


def test_the_delta_is_from_the_newest_release_with_suspects(nemoperf: Any, baselines: Path) -> None:
    nemoperf("release", "0.4")
    store_later(ONE, 20.0)

    code, out, _ = nemoperf("release", "0.5")

    words = " ".join(out.split())
    assert code == 0
    assert release_of("0.5").previous == "0.4"
    assert "Release 0.5 against 0.4: 1 case slower, 1 case within noise." in words
    assert f"slower cpu {ONE.case} tokens/sec/GPU 100 -> 20, ratio 0.200 [0.0" in words
    assert "suspects: torch 2.13.0 to 2.14.0, commit 0123456789ab to ffffffffffff" in words


def test_a_release_that_is_there_stays_as_it_was(nemoperf: Any, baselines: Path) -> None:
    nemoperf("release", "0.4")
    before = release_path(BASELINES, name="0.4").read_bytes()
    store_later(ONE, 50.0)

    code, _, err = nemoperf("release", "0.4")

    assert code == 2
    assert "release 0.4 of 20" in err
    assert "is there already, and a release does not change; choose another name, or --replace" in err
    assert release_path(BASELINES, name="0.4").read_bytes() == before


def test_replacing_a_release_says_what_changes_and_keeps_its_previous_one(nemoperf: Any, baselines: Path) -> None:
    nemoperf("release", "0.4")
    nemoperf("release", "0.5")
    nemoperf("release", "0.6")
    store_later(ONE, 10.0)

    code, out, _ = nemoperf("release", "0.5", "--replace")

    assert code == 0
    assert "Release 0.5 against 0.5 as it was: 1 case slower" in out
    assert release_of("0.5").previous == "0.4"


def test_replacing_a_release_by_itself_changes_nothing(nemoperf: Any, baselines: Path) -> None:
    nemoperf("release", "0.4")

    _, out, _ = nemoperf("release", "0.4", "--replace")

    assert "release 0.4 holds the rows that it held" in out


def test_a_dry_run_writes_nothing(nemoperf: Any, baselines: Path) -> None:
    code, out, _ = nemoperf("release", "0.4", "--dry-run")

    assert code == 0
    assert "2 cases would be frozen in baselines/releases/0.4.json" in out
    assert not (BASELINES / "releases").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("../0.4",), "release '../0.4': its name is that of its file"),
        ((), "give one of NAME to freeze a release, --list, and --show NAME"),
        (("0.4", "--list"), "give one of NAME"),
        (("--list", "--format", "json"), "--format=json is of a delta, and --list shows none; use --show NAME"),
        (("--list", "--against", "0.3"), "--against with --list counts for nothing; drop it"),
        (("--list", "--system", "cpu"), "--system with --list counts for nothing"),
        (("--show", "0.3", "--replace"), "--replace with --show counts for nothing; drop it"),
        (("--show", "0.3", "--dry-run"), "--dry-run with --show counts for nothing"),
        (("--show", "0.3", "--results", "a.json"), "--results with --show counts for nothing"),
        (("0.4", "--against", "0.3"), "--against 0.3: no such release; there is none yet"),
        (("--show", "0.3"), "--show 0.3: no such release; there is none yet"),
        (("0.4", "--system", "cpus"), "--system=cpus: baselines has nothing of it; did you mean cpu?"),
        (("0.4", "--baselines", "nowhere"), "--baselines=nowhere: no such folder"),
        (("0.4", "--results", "none.json"), "none.json: "),
    ],
)
def test_wrong_input_is_told_in_a_sentence_and_writes_nothing(
    nemoperf: Any, baselines: Path, words: tuple[str, ...], message: str
) -> None:
    code, out, err = nemoperf("release", *words)

    assert (code, out) == (2, "")
    assert err.startswith(f"nemoperf: error: {message}")
    assert not (BASELINES / "releases").exists()


def test_an_empty_folder_makes_no_release(nemoperf: Any) -> None:
    BASELINES.mkdir()

    code, _, err = nemoperf("release", "0.4")

    assert code == 2
    assert "baselines: nothing to freeze; record baselines with pytest -m perf --update-baselines" in err


@pytest.mark.parametrize(
    "text", ["{", '{"case": 1}', None], ids=["half a file", "schema", "a workload without its keys"]
)
def test_a_baseline_that_cannot_be_read_stops_it(nemoperf: Any, baselines: Path, text: str | None) -> None:
    path = baseline_path(BASELINES, system="cpu", case="bad")
    if text is None:
        text = to_json(make_baseline(case="bad", workload={"layout": {"gpus": 1}}))
    path.write_text(text, encoding="utf-8")

    code, _, err = nemoperf("release", "0.4")

    assert code == 2
    assert "bad" in err
    assert not (BASELINES / "releases").exists()


def test_unclear_provenance_is_warned_of(nemoperf: Any, baselines: Path) -> None:
    store_plan(BASELINES, ONE, 100.0, git_dirty=True)
    store_plan(BASELINES, OTHER, 1.0, 1.0, 1.0, git_commit="f" * 40)
    third = make_plan(variant="third")
    store_plan(BASELINES, third, 1.0, 1.0, 1.0, git_commit=None, device="", versions={})

    _, out, _ = nemoperf("release", "0.4")

    words = " ".join(out.split())
    assert f"1 case measured on top of changes that are in no commit: {ONE.case}" in words
    assert "measured at 2 commits: 0123456789ab (1), ffffffffffff (1)" in words
    assert f"1 case without a commit: {third.case}" in words
    assert f"1 case without a device: {third.case}" in words
    assert f"1 case of fewer than 3 runs: {ONE.case}" in words


def test_a_release_may_be_made_of_results_instead(nemoperf: Any, baselines: Path) -> None:
    invalid = make_case(make_plan(variant="invalid"), 1.0, kind=VerdictKind.INVALID)
    regressed = make_case(make_plan(variant="regressed"), 90.0, kind=VerdictKind.REGRESSED)
    file = write_results(Path("out/results.json"), make_case(ONE, 100.0, 101.0), invalid, regressed)

    code, out, _ = nemoperf("release", "0.4", "--results", "out", "--baselines", str(baselines))

    words = " ".join(out.split())
    release = release_of("0.4")
    assert code == 0
    assert [row.case for row in release.rows] == [ONE.case, regressed.verdict.case]
    assert {row.origin.source for row in release.rows} == {str(file)}
    assert f"1 case INVALID, left out: {invalid.verdict.case}" in words
    assert f"1 case REGRESSED, frozen all the same: {regressed.verdict.case}" in words


def test_results_without_a_valid_case_make_no_release(nemoperf: Any, baselines: Path) -> None:
    file = write_results(Path("a.json"), make_case(ONE, 1.0, kind=VerdictKind.INVALID))

    code, _, err = nemoperf("release", "0.4", "--results", str(file))

    assert code == 2
    assert f"a.json: nothing to freeze (a.json: 1 case INVALID, left out: {ONE.case}); run their tests again" in err


def test_two_results_with_one_case_are_refused(nemoperf: Any, baselines: Path) -> None:
    one = write_results(Path("a.json"), make_case(ONE, 1.0))
    other = write_results(Path("b.json"), make_case(ONE, 2.0))

    code, _, err = nemoperf("release", "0.4", "--results", str(one), str(other))

    assert code == 2
    assert f"b.json: case {ONE.case} of cpu is in a.json too" in err


def test_a_self_test_is_no_release(nemoperf: Any, baselines: Path) -> None:
    file = write_results(Path("a.json"), make_case(ONE, 1.0), inject_pct=10.0)

    code, _, err = nemoperf("release", "0.4", "--results", str(file))

    assert code == 2
    assert "a.json: is of a self-test (--perf-inject): none of its figures is real" in err


def test_releases_are_listed_with_the_newest_last(nemoperf: Any, baselines: Path) -> None:
    empty = nemoperf("release", "--list")
    nemoperf("release", "0.10")
    nemoperf("release", "0.9.1")

    _, out, _ = nemoperf("release", "--list")

    first, second = out.splitlines()
    assert empty == (0, "no release in baselines\n", "")
    assert first.startswith("0.10 20")
    assert first.endswith("2 cases (cpu 2)")
    assert second.startswith("0.9.1 20")
    assert second.endswith("2 cases (cpu 2), after 0.10")


@pytest.mark.parametrize("form", ["markdown", "json"])
def test_another_format_is_alone_on_standard_output(nemoperf: Any, baselines: Path, form: str) -> None:
    nemoperf("release", "0.4")
    store_later(ONE, 10.0)

    _, out, err = nemoperf("release", "0.5", "--format", form)

    assert "2 cases frozen" in err
    if form == "json":
        assert [change["kind"] for change in json.loads(out)["changes"]] == ["slower", "within noise"]
    else:
        assert out.startswith("Release 0.5 against 0.4: 1 case slower, 1 case within noise.\n\n| System |")


def test_an_older_release_may_be_shown_and_compared_with(nemoperf: Any, baselines: Path) -> None:
    for name in ("0.3", "0.4", "0.5"):
        nemoperf("release", name)

    _, out, _ = nemoperf("release", "--show", "0.5", "--against", "0.3", "--all")

    assert "Release 0.5 against 0.3: 2 cases within noise." in out
    assert OTHER.case in out


def test_a_release_is_shown_also_if_the_previous_one_is_gone(nemoperf: Any, baselines: Path) -> None:
    nemoperf("release", "0.4")
    nemoperf("release", "0.5")
    release_path(BASELINES, name="0.4").unlink()

    code, out, err = nemoperf("release", "--show", "0.5")

    assert (code, err) == (0, "")
    assert "release 0.4, the previous one, is not there; --against names another" in out


def test_what_a_row_holds_cannot_write_to_the_terminal(nemoperf: Any, baselines: Path) -> None:
    nemoperf("release", "0.4")
    store_later(ONE, 10.0, versions={"torch": "\x1b[31mred\x1b]0;title\x07"})

    _, out, _ = nemoperf("release", "0.5")

    assert "torch 2.13.0 to red" in " ".join(out.split())
    assert "\x1b" not in out
    assert "\x07" not in out


def _release(folder: str, name: str) -> int:
    os.chdir(folder)
    from pytest_nemoperf.cli.main import main

    return main(["release", name])


def test_of_two_commands_for_one_name_one_is_refused(baselines: Path, tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        codes = pool.starmap(_release, [(str(tmp_path), "0.4")] * 2)

    assert sorted(codes) == [0, 2]
    assert len(release_of("0.4").rows) == 2


def test_an_interrupt_at_any_time_leaves_a_whole_file_or_none(baselines: Path, tmp_path: Path) -> None:
    for number in range(40):
        store_plan(BASELINES, make_plan(variant=f"v{number}"), 1.0, 1.0, 1.0)
    code = "import sys; from pytest_nemoperf.cli.main import main; sys.exit(main(['release', '0.4']))"
    command = [sys.executable, "-c", code]
    for delay in (0.3, 0.6, 0.9):
        process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        process.communicate()

        path = tmp_path / "baselines" / "releases" / "0.4.json"
        if path.exists():
            assert len(read_release(path).rows) == 42
            path.unlink()
