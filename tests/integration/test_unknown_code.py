"""A session in a checkout that git refuses to read, e.g. another user's in a container."""

from __future__ import annotations

import pytest

from pytest_nemoperf.baselines.files import read_baseline
from tests.builders import git_in
from tests.integration.conftest import Project

REASON = "detected dubious ownership in repository at"


def test_a_commit_that_git_refuses_to_read_is_stored_as_unknown_and_the_reason_is_said_once(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    git_in(project.root, "init", "--quiet")
    git_in(project.root, "add", ".")
    git_in(project.root, "commit", "--quiet", "--message=one")
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # by which git tests itself

    text = project.run("--update-baselines").stdout.str()

    assert "commit unknown" in text
    assert text.count(REASON) == 1
    origin = read_baseline(project.baseline).provenance
    assert (origin.git_commit, origin.git_dirty) == (None, None)
    assert REASON in project.results()["git_problem"]
    assert (project.latest / "results.md").read_text().count(REASON) == 1
