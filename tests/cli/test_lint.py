from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from pytest_nemoperf.baselines.files import baseline_path
from pytest_nemoperf.json_codec import to_json
from tests.builders import make_baseline, make_plan
from tests.results.row_builders import store_plan

PERF_TESTS = """
import pytest
from pytest_nemoperf import Layout, Recipe

@pytest.mark.perf(tolerance=0.1)
@pytest.mark.parametrize("model", ["llama-tiny", "llama3-8b"])
def test_recipe(perf, model):
    perf.check(Recipe(model=model, layouts={"cpu": Layout(gpus=1), "h100": Layout(gpus=8, dp_shard=8)}, seq_len=64,
                      global_batch_size=8, precision="bf16"))
"""


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)


@pytest.fixture
def baselines(tmp_path: Path) -> Path:
    """Return the relative path of a folder with two sound baselines, in the working directory of the tests."""
    for case in ("pretrain-a", "pretrain-b"):
        store(tmp_path / "baselines", case=case)
    return Path("baselines")


def store(root: Path, *, case: str, system: str = "cpu", **changes: Any) -> Path:
    path = baseline_path(root, system=system, case=case)
    path.parent.mkdir(parents=True, exist_ok=True)
    values = {"case": case, "system": system, "runs": make_baseline([1000.0] * 5).runs, **changes}
    path.write_text(to_json(make_baseline(**values)), encoding="utf-8")
    return path


def lint_args(*words: str) -> tuple[str, ...]:
    """Return the arguments of a call that accepts tolerances and age of sound files."""
    return ("lint", "--tolerance=20", "--tolerance=peak_memory_gib=5", "--max-age=100000", *words)


def test_sound_baselines_are_counted(nemoperf: Any, baselines: Path) -> None:
    assert nemoperf(*lint_args()) == (0, "2 files ok\n", "")


@pytest.mark.parametrize(("words", "expected"), [((), 0), (("--strict",), 1)], ids=["lenient", "strict"])
def test_an_empty_folder_is_warned_of(nemoperf: Any, tmp_path: Path, words: tuple[str, ...], expected: int) -> None:
    nemoperf("--help")
    (tmp_path / "baselines").mkdir()

    code, out, _ = nemoperf("lint", *words)

    assert code == expected
    assert "warning: no baseline is in it, so nothing was checked" in out
    assert "1 warning in 0 files" in out


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        pytest.param("cpu/pretrain-a.json", {"text": "{"}, "not JSON: ", id="half a file"),
        pytest.param("cpu/pretrain-a.json", {"device": 1}, "$.provenance.device is 1; it must be a text", id="schema"),
        pytest.param("cpu/other.json", {}, "holds case 'pretrain-a' of system 'cpu'; ", id="file name"),
        pytest.param("h100/pretrain-a.json", {}, "holds case 'pretrain-a' of system 'cpu'; ", id="folder name"),
        pytest.param(
            "h101/pretrain-a.json", {"system": "h101"}, "$.system: unknown system 'h101'; did you", id="system"
        ),
        pytest.param("pretrain-a.json", {}, "is not <system>/<case>.json under baselines", id="no folder"),
        pytest.param(
            "cpu/old/pretrain-a.json", {}, "is not <system>/<case>.json under baselines", id="a folder too many"
        ),
        pytest.param("cpu/profiles/pretrain-a.json", {}, "has no baseline baselines/cpu/pretrain-a.json", id="profile"),
        pytest.param("cpu/profiles/pretrain-b.json", {}, "$", id="a profile that is none"),
    ],
)
def test_each_problem_is_a_line_below_its_file(
    nemoperf: Any, baselines: Path, tmp_path: Path, name: str, changes: dict[str, Any], message: str
) -> None:
    source = baseline_path(tmp_path / baselines, system="cpu", case="pretrain-a")
    data = json.loads(source.read_text(encoding="utf-8"))
    source.unlink()
    data["system"] = changes.get("system", data["system"])
    data["provenance"]["device"] = changes.get("device", "Test CPU")
    path = tmp_path / baselines / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(changes.get("text", json.dumps(data)), encoding="utf-8")

    code, out, err = nemoperf(*lint_args())

    assert (code, err) == (1, "")
    assert out.startswith(f"baselines/{name}\n  error: {message}")
    assert out.endswith("\n\n1 error in 2 files\n")
    assert out.count("error: ") == 1


def test_warnings_fail_only_on_request(nemoperf: Any, baselines: Path, tmp_path: Path) -> None:
    store(tmp_path / baselines, case="pretrain-a", reason="")

    loose, strict = nemoperf(*lint_args()), nemoperf(*lint_args("--strict"))

    assert (loose[0], strict[0]) == (0, 1)
    assert loose[1].endswith("--perf-reason)\n\n1 warning in 2 files\n")


def test_findings_as_json_are_counted_and_named(nemoperf: Any, baselines: Path, tmp_path: Path) -> None:
    store(tmp_path / baselines, case="pretrain-a", reason="")

    report = json.loads(nemoperf(*lint_args("--json"))[1])

    assert (report["num_files"], report["num_errors"], report["num_warnings"]) == (2, 0, 1)
    (finding,) = report["findings"]
    assert (finding["path"], finding["level"], finding["rule"]) == (
        "baselines/cpu/pretrain-a.json",
        "warning",
        "reason",
    )


def test_github_gets_annotations_of_files_in_the_repository(nemoperf: Any, baselines: Path, tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    store(tmp_path / baselines, case="pretrain-a", reason="")

    out = nemoperf(*lint_args("--github"))[1]

    (annotation,) = (line for line in out.splitlines() if line.startswith("::"))
    assert annotation.startswith(
        "::warning file=baselines/cpu/pretrain-a.json,title=nemoperf lint%3A reason::$.reason is empty: say why"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["no/such/folder"], "no/such/folder: no such folder; give the one"),
        (["--tolerance=speed=5"], "--tolerance: 'speed' is not a judged metric; known: all,"),
        (["--tolerance=few"], "--tolerance='few' is not [METRIC=]PCT; write e.g. 5%"),
    ],
)
def test_what_can_not_be_done_exits_2(nemoperf: Any, baselines: Path, words: list[str], message: str) -> None:
    code, out, err = nemoperf("lint", *words)

    assert (code, out) == (2, "")
    assert err.startswith(f"nemoperf: error: {message}")


def test_the_tests_say_what_is_orphaned_missing_and_too_tight(nemoperf: Any, baselines: Path, tmp_path: Path) -> None:
    (tmp_path / "perf_tests").mkdir()
    (tmp_path / "perf_tests" / "test_recipes.py").write_text(PERF_TESTS)
    asked = "pretrain-llama-tiny-1n1g-torch-bf16-single-seq64-gbs8-mbs1"
    store(tmp_path / baselines, case=asked)

    code, out, err = nemoperf(*lint_args("--tests", "perf_tests"))

    assert (code, err) == (1, "")
    assert out.count("error: no perf test asks for it") == 2
    assert f"{asked}.json\n  warning: tokens/sec/GPU: 0.1% is allowed, " in out
    assert "no baseline of pretrain-llama3-8b-1n1g-torch-bf16-single-seq64-gbs8-mbs1, which perf_tests/test_rec" in out
    assert "baselines\n  warning: recipes have layouts for h100, and nothing is stored there" in out


def test_tests_that_can_not_be_collected_are_shown(
    nemoperf: Any, baselines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest_stub = tmp_path / "python"
    pytest_stub.write_text("#!/bin/sh\necho No module named x\nexit 2\n")
    pytest_stub.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(pytest_stub))

    code, _, err = nemoperf(*lint_args("--tests", "perf_tests"))

    assert code == 2
    assert err.endswith("--tests perf_tests: a dry run on cpu ended with 2; mend that first:\nNo module named x\n")


def test_an_age_below_zero_is_refused(nemoperf: Any, baselines: Path) -> None:
    code, _, err = nemoperf("lint", "--max-age=-1")

    assert code == 2
    assert "--max-age: -1 must be a whole number of days >= 0" in err


def test_releases_and_published_rows_are_checked_as_such(nemoperf: Any, baselines: Path, tmp_path: Path) -> None:
    store_plan(Path("other"), make_plan(), 1.0, 1.0, 1.0)
    nemoperf("release", "0.4", "--baselines", "other")
    (baselines / "releases").mkdir()
    shutil.copy("other/releases/0.4.json", baselines / "releases" / "0.5.json")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "h100.json").write_text('{"rows": 1}', encoding="utf-8")
    (baselines / "published").symlink_to(elsewhere)

    code, out, _ = nemoperf(*lint_args())

    assert code == 1
    assert "baselines/releases/0.5.json\n  error: holds release '0.4'; file and release must be named alike\n" in out
    assert "baselines/published/h100.json\n  error: $.rows is 1; it must be a list\n" in out
    assert "2 errors in 4 files" in out


def test_releases_are_no_system_of_the_tests(nemoperf: Any, tmp_path: Path) -> None:
    store_plan(Path("baselines"), make_plan(), 1.0, 1.0, 1.0)
    nemoperf("release", "0.4")
    shutil.rmtree("baselines/cpu")

    code, out, _ = nemoperf(*lint_args())

    assert code == 0
    assert "warning: no baseline is in it, so only releases and published rows were checked" in out
