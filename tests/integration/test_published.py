"""The fixture published_recipe: tests of published rows, where somebody asks for them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from pytest_nemoperf.json_codec import to_json
from pytest_nemoperf.published import files, suite
from pytest_nemoperf.published.suite import published_recipes
from tests.builders import make_baseline
from tests.integration.conftest import Project, has_text

TEST = """
import pytest

@pytest.mark.perf
def test_published(perf, published_recipe):
    perf.check(published_recipe)
"""
PRICED = ("-m", "perf", "--system=h100", "--perf-dry-run")
NAME = "llama3-8b-h100-25.11-fp8_cs-pt0281"
CASE = "pretrain-llama3-8b-1n8g-megatron_bridge-fp8_cs-fsdp8-seq8192-gbs128-mbs1-recompute_full-pub.25.11.pt0281"


@pytest.fixture
def published(project: Project) -> Project:
    """The project with a folder that holds a test of published rows."""
    folder = project.pytester.path / "published"
    folder.mkdir()
    (folder / "test_published.py").write_text(TEST, encoding="utf-8")
    return project


def test_a_suite_that_does_not_ask_for_published_rows_collects_none(published: Project) -> None:
    result = published.pytester.runpytest_inprocess(*PRICED)

    result.assert_outcomes(skipped=1)  # the project's own case has no layout for h100
    assert not has_text(result, "pub.")
    assert not has_text(result, "taken out of the collected tests")
    assert has_text(
        result,
        "perf: tests of published rows left out (published/test_published.py::test_published); name their folder, or "
        "give --perf-against=published",
    )


@pytest.mark.parametrize("place", ["published", "published/test_published.py"])
def test_naming_the_folder_or_the_file_makes_a_test_of_each_row(published: Project, place: str) -> None:
    result = published.pytester.runpytest_inprocess(*PRICED, "--collect-only", "-q", place)

    number = len(published_recipes("h100"))
    result.stdout.fnmatch_lines(
        [f"published/test_published.py::test_published[[]{NAME}[]]", f"{number} tests collected*"]
    )
    assert number > 200


def test_the_folder_above_is_the_suite_and_does_not_ask(published: Project) -> None:
    result = published.pytester.runpytest_inprocess(*PRICED, "--collect-only", "-q", ".")

    assert not has_text(result, "test_published[")


def test_against_published_asks_for_them(published: Project) -> None:
    result = published.pytester.runpytest_inprocess(
        *PRICED, "--perf-against=published", "--collect-only", "-q", "-k", "pt0281"
    )

    result.stdout.fnmatch_lines([f"published/test_published.py::test_published[[]{NAME}[]]"])


def test_a_selected_row_is_priced(published: Project) -> None:
    result = published.pytester.runpytest_inprocess(*PRICED, "-v", "published", "-k", "pt0281 or rl095")

    result.assert_outcomes(skipped=2, deselected=len(published_recipes("h100")) - 2)
    assert has_text(result, CASE)
    assert has_text(result, "1157 tokens a sample, 101 of them prompt")


def test_on_a_system_without_rows_nothing_is_left_out_and_baselines_are_pruned(published: Project) -> None:
    orphan = published.baseline.with_name("pretrain-gone.json")
    orphan.parent.mkdir(parents=True)
    orphan.write_text(to_json(make_baseline(case="pretrain-gone")), encoding="utf-8")

    result = published.run("--update-baselines", "--perf-prune")

    result.assert_outcomes(passed=1)
    assert not orphan.exists()


def test_baselines_of_published_rows_are_not_pruned_by_a_suite_that_left_them_out(published: Project) -> None:
    orphan = published.baseline.with_name("pretrain-gone.json")
    kept = published.baseline.with_name(f"{CASE}.json")
    orphan.parent.mkdir(parents=True)
    for path in (orphan, kept):
        path.write_text(to_json(make_baseline(case=path.stem)), encoding="utf-8")

    published.run("--update-baselines", "--perf-prune")

    assert not orphan.exists()
    assert kept.exists()


def test_a_system_without_rows_says_so_where_they_are_asked_for(published: Project) -> None:
    result = published.pytester.runpytest_inprocess("-m", "perf", "--system=cpu", "published", "-rs")

    result.assert_outcomes(skipped=1)
    assert has_text(result, "no published row of cpu has a recipe")


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A file of rows that breaks its schema, in place of the package's for h100."""
    path = tmp_path / "catalog" / "published" / "h100.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"schema_version": 1, "rows": [{"id": 7}]}', encoding="utf-8")
    monkeypatch.setattr(files, "resources", SimpleNamespace(files=lambda _package: tmp_path))
    files.published_rows.cache_clear()
    suite.published_recipes.cache_clear()
    yield path
    files.published_rows.cache_clear()
    suite.published_recipes.cache_clear()


def test_a_broken_file_of_rows_is_an_error_of_collection_without_a_traceback(published: Project, broken: Path) -> None:
    result = published.pytester.runpytest_inprocess(*PRICED, "published")

    result.assert_outcomes(errors=1)
    assert has_text(result, f"{broken}: $.rows[0].id is 7; it must be a text")
    assert not has_text(result, "published_recipes(")


@pytest.mark.usefixtures("broken")
def test_a_suite_that_left_published_rows_out_needs_no_file_of_them(published: Project) -> None:
    result = published.pytester.runpytest_inprocess(*PRICED, "--collect-only")

    assert has_text(result, "tests of published rows left out")
    assert not has_text(result, "INTERNALERROR")


def test_a_plain_run_deselects_the_test(published: Project) -> None:
    result = published.pytester.runpytest_inprocess("published")

    result.assert_outcomes(deselected=1)


def test_the_fixture_needs_a_perf_session(project: Project) -> None:
    project.pytester.makepyfile(test_plain="def test_plain(published_recipe):\n    pass\n")

    result = project.pytester.runpytest_inprocess("test_plain.py")

    assert has_text(result, "is a perf test; mark it perf, and run it with -m perf")


def test_this_projects_own_tests_of_published_rows_are_the_documented_ones() -> None:
    root = Path(__file__).parents[2]
    page = (root / "docs" / "published.md").read_text(encoding="utf-8")
    own = (root / "perf_tests" / "published" / "test_published.py").read_text(encoding="utf-8")

    _, test = TEST.split("\n\n")
    assert TEST.strip() in page
    assert own.endswith(test)


def test_on_a_system_without_rows_the_tests_are_said_to_be_left_out_for_that(published: Project) -> None:
    result = published.run()

    assert has_text(
        result,
        "perf: tests of published rows left out (published/test_published.py::test_published): no row is of system cpu",
    )
