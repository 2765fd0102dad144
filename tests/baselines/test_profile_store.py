"""Profiles beside the stored baselines."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_nemoperf.baselines.files import list_baselines
from pytest_nemoperf.baselines.profile_store import delete_profile, find_profile, profile_path, write_profile
from pytest_nemoperf.errors import RecordError
from tests.builders import make_profile


@pytest.fixture
def baseline(tmp_path: Path) -> Path:
    return tmp_path / "cpu" / "pretrain-test.json"


def test_a_stored_profile_is_found_as_it_was(baseline: Path) -> None:
    profile = make_profile()

    path = write_profile(baseline, profile=profile)

    assert path == baseline.parent / "profiles" / "pretrain-test.json"
    assert find_profile(baseline) == profile


def test_a_profile_is_no_baseline(baseline: Path) -> None:
    write_profile(baseline, profile=make_profile())

    assert list_baselines(baseline.parent.parent, system="cpu") == []


def test_without_a_file_there_is_no_profile(baseline: Path) -> None:
    assert find_profile(baseline) is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [("{", "not JSON"), ('{"case": "a"}', r"\$ lacks the key 'system'"), ("[]", "must be an object")],
    ids=["torn", "without keys", "a list"],
)
def test_a_profile_that_cannot_be_trusted_is_named(baseline: Path, text: str, problem: str) -> None:
    write_profile(baseline, profile=make_profile())
    profile_path(baseline).write_text(text)

    with pytest.raises(RecordError, match=f"profiles/pretrain-test.json: .*{problem}"):
        find_profile(baseline)


def test_a_folder_that_takes_no_profile_is_an_error_that_names_the_file(baseline: Path) -> None:
    profile_path(baseline).parent.parent.mkdir(parents=True)
    profile_path(baseline).parent.write_text("a file where the folder should be")

    with pytest.raises(RecordError, match=r"profiles/pretrain-test\.json: cannot be written"):
        write_profile(baseline, profile=make_profile())


def test_a_forgotten_profile_takes_its_empty_folder_along(baseline: Path) -> None:
    write_profile(baseline, profile=make_profile())

    delete_profile(baseline)
    delete_profile(baseline)

    assert list(baseline.parent.iterdir()) == []
