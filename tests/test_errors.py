from __future__ import annotations

import errno

import pytest

from pytest_nemoperf.errors import (
    LaunchError,
    NemoPerfError,
    RevisionError,
    count_text,
    did_you_mean,
    in_one_line,
    os_error_text,
)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        pytest.param(LaunchError("it timed out"), "it timed out", id="one line"),
        pytest.param(
            LaunchError("the command exited with 1; its log rank0.log ends with:\nloading\nout of memory\n"),
            "the command exited with 1; its log rank0.log ends with: ... out of memory",
            id="log",
        ),
        pytest.param(
            LaunchError("its log rank0.log ends with:\nno such file\nmeanwhile on this machine: it was throttled"),
            "its log rank0.log ends with: no such file",
            id="health",
        ),
        pytest.param(
            LaunchError("rank 0 of a failed: no memory\nTraceback\nits log: rank0.log"),
            "rank 0 of a failed: no memory",
            id="traceback",
        ),
        pytest.param(
            RevisionError("perf_ab_setup failed (exit code 1): bad compiler\nits output ends with:\nbad compiler"),
            "perf_ab_setup failed (exit code 1): bad compiler",
            id="set-up",
        ),
        pytest.param(NemoPerfError(), "NemoPerfError", id="no words"),
    ],
)
def test_an_error_in_one_line_has_its_cause(error: NemoPerfError, line: str) -> None:
    assert in_one_line(error) == line


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [
        (0, "case", "0 cases"),
        (1, "case", "1 case"),
        (12_000, "case", "12,000 cases"),
        (2, "launch", "2 launches"),
        (2, "loss", "2 losses"),
    ],
)
def test_a_noun_agrees_with_its_number(number: int, noun: str, text: str) -> None:
    assert count_text(number, noun) == text


@pytest.mark.parametrize(
    ("error", "text"),
    [
        pytest.param(
            OSError(errno.ENOSPC, "No space left on device"),
            "/here: No space left on device; free space on that disk",
            id="full disk",
        ),
        pytest.param(
            OSError(errno.EMFILE, "Too many open files", "/there"),
            "/there: Too many open files; raise the limit on open files, as with ulimit -n 1024",
            id="open files",
        ),
        pytest.param(OSError("odd"), "/here: odd", id="no number"),
    ],
)
def test_an_error_of_the_system_has_its_path_and_what_to_do(error: OSError, text: str) -> None:
    assert os_error_text(error, place="/here") == text


def test_thousands_of_known_words_are_not_all_listed() -> None:
    hint = did_you_mean("x", [f"column {number:05}" for number in range(20_000)])

    assert hint.startswith("known: column 00000, column 00001, ")
    assert hint.endswith(", column 00499 and 19,500 more")


def test_a_word_that_is_known_twice_is_listed_once() -> None:
    assert did_you_mean("x", ["", "", "loss"]) == "known: , loss"
