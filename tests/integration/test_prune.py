"""--update-baselines --perf-prune: stored cases that no perf test asks for go, if the whole suite was seen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pytest_nemoperf.jsontext import to_json
from tests.builders import make_baseline
from tests.integration.conftest import CASE, PERF_TEST, Project

OTHER = """
@pytest.mark.perf
def test_other(perf):
    {body}
"""
TWICE = """for variant in ("a", "b"):
        perf.check(dataclasses.replace(RECIPE, variant=variant))"""


@pytest.fixture
def orphan(project: Project) -> Path:
    """Return the file of a case that a test asked for once; its profile lies beside it."""
    path = project.baseline.with_name("pretrain-gone.json")
    profile = path.parent / "profiles" / path.name
    profile.parent.mkdir(parents=True)
    path.write_text(to_json(make_baseline(case="pretrain-gone")))
    profile.write_text("{}")
    return path


def write_tests(project: Project, body: str) -> None:
    text = PERF_TEST.replace("import pathlib", "import dataclasses, pathlib")
    project.pytester.makepyfile(test_speed=text + OTHER.format(body=body))


def prune(project: Project, *args: str) -> str:
    return project.run("--update-baselines", "--perf-prune", *args).stdout.str()


def test_what_no_test_asks_for_is_deleted_with_its_profile_and_listed(project: Project, orphan: Path) -> None:
    notes = orphan.with_name("notes.json")
    notes.write_text("{}")

    text = prune(project)

    assert not orphan.exists()
    assert not (orphan.parent / "profiles").exists()
    assert project.baseline.exists()
    assert notes.exists()
    assert "no perf test asks for them\n  baselines/cpu/pretrain-gone.json\n  baselines/cpu/profiles/" in text
    results = json.loads((project.root / ".nemoperf" / "latest" / "results.json").read_text())
    assert results["pruned"]["deleted"][0] == "baselines/cpu/pretrain-gone.json"
    assert "a perf test asks for every stored baseline" in prune(project)


@pytest.mark.parametrize(
    ("body", "args", "why"),
    [
        pytest.param("pass", ["-k", "not other"], "test_speed.py::test_other was left out", id="deselected"),
        pytest.param("pass", ["test_speed.py"], "test_speed.py is a part of the suite; give its folder", id="file"),
        pytest.param("pass", ["--ignore=gpu"], "--ignore=gpu leaves files out", id="ignored"),
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
def test_nothing_is_deleted_where_a_case_may_be_hidden(
    project: Project, orphan: Path, body: str, args: list[str], why: str
) -> None:
    write_tests(project, body)

    text = prune(project, *args)

    assert orphan.exists()
    assert why in text


@pytest.mark.parametrize(
    "body",
    [
        pytest.param("perf.check(dataclasses.replace(RECIPE, layouts={'h100': Layout(gpus=1)}))", id="no layout"),
        pytest.param("perf.check(dataclasses.replace(RECIPE, variant='b', command=('false',)))", id="failed launch"),
    ],
)
def test_a_test_whose_case_is_known_hides_none(project: Project, orphan: Path, body: str) -> None:
    write_tests(project, body)
    mine = project.baseline.with_name(f"{CASE}-b.json")
    mine.write_text(orphan.read_text().replace("pretrain-gone", f"{CASE}-b"))

    text = prune(project)

    assert "pretrain-gone.json" in text
    assert not orphan.exists()
    assert mine.exists() == ("failed" in text)


def test_nothing_is_deleted_from_a_session_started_in_a_subfolder(
    project: Project, orphan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("test_speed.py", "steps.py", "speed.txt"):
        folder = project.root / "gpu"
        folder.mkdir(exist_ok=True)
        (project.root / name).rename(folder / name)
    monkeypatch.chdir(project.root / "gpu")

    text = prune(project)

    assert orphan.exists()
    assert "gpu/ is a part of the suite; start in the root directory" in text
