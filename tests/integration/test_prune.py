"""--update-baselines --perf-prune: delete stored cases that no perf test asks for, if the whole suite was seen."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_nemoperf.json_codec import to_json
from tests.builders import make_baseline
from tests.integration.conftest import CASE, PERF_TEST, Project, has_text

OTHER = """
@pytest.mark.perf
def test_other(perf):
    {body}
"""
TWICE = """for variant in ("a", "b"):
        perf.check(dataclasses.replace(RECIPE, variant=variant))"""


@pytest.fixture
def orphan(project: Project) -> Path:
    """Return the baseline of a case that no test asks for; its profile is stored beside it."""
    path = project.baseline.with_name("pretrain-gone.json")
    profile = path.parent / "profiles" / path.name
    profile.parent.mkdir(parents=True)
    path.write_text(to_json(make_baseline(case="pretrain-gone")))
    profile.write_text("{}")
    return path


def write_tests(project: Project, body: str) -> None:
    text = PERF_TEST.replace("import pathlib", "import dataclasses, pathlib")
    project.pytester.makepyfile(test_speed=text + OTHER.format(body=body))


def prune(project: Project, *args: str) -> pytest.RunResult:
    return project.run("--update-baselines", "--perf-prune", *args)


def test_a_case_that_no_test_asks_for_is_deleted_with_its_profile_and_listed(project: Project, orphan: Path) -> None:
    notes = orphan.with_name("notes.json")
    notes.write_text("{}")

    result = prune(project)

    assert not orphan.exists()
    assert not (orphan.parent / "profiles").exists()
    assert project.baseline.exists()
    assert notes.exists()
    deleted = ["baselines/cpu/pretrain-gone.json", "baselines/cpu/profiles/pretrain-gone.json"]
    result.stdout.fnmatch_lines(["*no perf test asks for them", *[f"  {path}" for path in deleted]])
    assert project.results()["pruned"]["deleted"] == deleted
    assert has_text(prune(project), "a perf test asks for every stored baseline")


@pytest.mark.parametrize(
    ("body", "args", "why"),
    [
        pytest.param("pass", ["-k", "not other"], "test_speed.py::test_other was left out", id="deselected"),
        pytest.param("pass", ["test_speed.py"], "test_speed.py is a part of the suite; give its folder", id="file"),
        pytest.param(
            "pytest.skip('no GPU')", [], "test_other skipped before its case was known", id="skipped for another reason"
        ),
        pytest.param("1 / 0", [], "test_other failed before its case was known", id="failed"),
        pytest.param(
            TWICE.replace("RECIPE,", "RECIPE, command=('false',),"),
            [],
            "test_other failed, and may ask for more cases after the first",
            id="failed in a loop",
        ),
    ],
)
def test_nothing_is_deleted_if_a_case_may_be_hidden(
    project: Project, orphan: Path, body: str, args: list[str], why: str
) -> None:
    write_tests(project, body)

    result = prune(project, *args)

    assert orphan.exists()
    assert has_text(result, why)


@pytest.fixture
def halves(project: Project, orphan: Path) -> Path:
    """Move the perf test into the folder ``a``; ``b`` has one that a session can leave out."""
    (project.root / "a").mkdir()
    (project.root / "b").mkdir()
    for name in ("test_speed.py", "steps.py", "speed.txt"):
        (project.root / name).rename(project.root / "a" / name)
    (project.root / "b" / "test_gone.py").write_text("import pytest\n\n@pytest.mark.perf\ndef test_gone(perf): 1 / 0\n")
    return orphan


@pytest.mark.parametrize(
    ("args", "addopts", "ini", "conftest"),
    [
        pytest.param(["a"], "", "", "", id="another folder as argument"),
        pytest.param([], "--ignore=b", "", "", id="ignored by the environment"),
        pytest.param([], "", "addopts = --ignore-glob=*gone*", "", id="ignored by the ini file"),
        pytest.param([], "", "testpaths = a", "", id="outside testpaths"),
        pytest.param([], "", "", "collect_ignore = ['b']", id="ignored by a conftest"),
    ],
)
def test_nothing_is_deleted_while_the_project_has_perf_tests_that_were_not_collected(
    project: Project,
    halves: Path,
    monkeypatch: pytest.MonkeyPatch,
    args: list[str],
    addopts: str,
    ini: str,
    conftest: str,
) -> None:
    monkeypatch.setenv("PYTEST_ADDOPTS", addopts)
    project.pytester.makeini(f"[pytest]\nperf_runs = 1\n{ini}\n")
    project.pytester.makeconftest(conftest)

    result = prune(project, *args)

    assert halves.exists()
    assert has_text(result, "b/test_gone.py may hold perf tests and was not collected")


def test_a_folder_that_holds_all_perf_tests_is_the_whole_suite(project: Project, halves: Path) -> None:
    (project.root / "b" / "test_gone.py").write_text("def test_plain(): '@pytest.mark.perf'\n")

    result = prune(project, "a")

    assert has_text(result, "baselines/cpu/pretrain-gone.json")
    assert not halves.exists()


def test_nothing_is_deleted_outside_the_root_directory(
    project: Project, orphan: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    shared = tmp_path_factory.mktemp("shared")
    (project.root / "baselines" / "cpu").rename(shared / "cpu")

    result = prune(project, f"--perf-baselines={shared}")

    assert (shared / "cpu" / orphan.name).exists()
    assert has_text(result, "lies outside the root directory")


@pytest.mark.parametrize(
    ("changes", "num_stored"),
    [
        pytest.param("layouts={'h100': Layout(gpus=1)}", 1, id="no layout"),
        pytest.param("variant='b', command=('false',)", 2, id="failed launch"),
    ],
)
def test_a_test_whose_case_is_known_hides_none(project: Project, orphan: Path, changes: str, num_stored: int) -> None:
    write_tests(project, f"perf.check(dataclasses.replace(RECIPE, {changes}))")
    mine = project.baseline.with_name(f"{CASE}-b.json")
    mine.write_text(orphan.read_text().replace("pretrain-gone", f"{CASE}-b"))

    result = prune(project)

    assert has_text(result, "pretrain-gone.json")
    assert not orphan.exists()
    assert len(list(mine.parent.glob("*.json"))) == num_stored


def test_nothing_is_deleted_from_a_session_started_in_a_subfolder(
    project: Project, orphan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("test_speed.py", "steps.py", "speed.txt"):
        folder = project.root / "gpu"
        folder.mkdir(exist_ok=True)
        (project.root / name).rename(folder / name)
    monkeypatch.chdir(project.root / "gpu")

    result = prune(project)

    assert orphan.exists()
    assert has_text(result, "gpu/ is a part of the suite; start in the root directory")
