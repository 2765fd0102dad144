"""The names other people build on; a change here is a breaking change and needs a news fragment of that type."""

from __future__ import annotations

import pytest

from pytest_nemoperf import hookspecs, options
from tests.integration.conftest import Project

OPTIONS = [
    "--system",
    "--perf-runs",
    "--perf-max-runs",
    "--perf-tolerance",
    "--perf-fail-on",
    "--perf-timeout",
    "--perf-baselines",
    "--perf-output",
    "--update-baselines",
    "--perf-accept-regression",
    "--perf-reason",
    "--perf-update-new-only",
    "--perf-prune",
    "--perf-anchor",
    "--perf-ab",
    "--perf-ab-limit",
    "--perf-profile",
    "--perf-replay",
    "--perf-inject",
    "--perf-set",
    "--perf-dry-run",
]
INI_KEYS = [
    "perf_testpaths",
    "perf_runs",
    "perf_max_runs",
    "perf_alpha",
    "perf_beta",
    "perf_tolerance",
    "perf_fail_on",
    "perf_fail_on_unasked",
    "perf_require_verdict",
    "perf_baselines",
    "perf_machine",
    "perf_release",
    "perf_ab_paths",
    "perf_ab_setup",
]


class RecordingParser:
    """Takes what add_options registers."""

    def __init__(self) -> None:
        self.options: list[str] = []
        self.ini_keys: list[str] = []

    def getgroup(self, *_: object) -> RecordingParser:
        return self

    def addoption(self, name: str, **_: object) -> None:
        self.options.append(name)

    def addini(self, name: str, *_: object, **__: object) -> None:
        self.ini_keys.append(name)


def test_options_and_ini_keys_keep_their_names() -> None:
    parser = RecordingParser()

    options.add_options(parser)  # type: ignore[arg-type]  # takes what it needs of a pytest.Parser

    assert parser.options == OPTIONS
    assert parser.ini_keys == INI_KEYS


def test_hooks_keep_their_names() -> None:
    assert [name for name in vars(hookspecs) if name.startswith("pytest_")] == ["pytest_nemoperf_frameworks"]


def test_marker_and_fixture_are_listed(project: Project) -> None:
    project.pytester.runpytest_inprocess("--markers").stdout.fnmatch_lines(
        ["@pytest.mark.perf(tolerance=PCT*", "@pytest.mark.perf_waive(reason=TEXT, until=DAY_OR_RELEASE, floor=PCT)*"]
    )
    project.pytester.runpytest_inprocess("--fixtures").stdout.fnmatch_lines(["perf*plugin.py*"])


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_is_explained_in_the_help(project: Project, option: str) -> None:
    project.pytester.runpytest_inprocess("--help").stdout.fnmatch_lines([f"*{option}*"])
