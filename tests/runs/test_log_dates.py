from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_nemoperf.runs.log_dates import date_of_log

CHANGED = 1_700_000_000.0
CHANGED_TEXT = "2023-11-14T22:13:20+00:00"


def write(path: Path, text: str = "") -> Path:
    path.write_text(text)
    os.utime(path, (CHANGED, CHANGED))
    return path


@pytest.mark.parametrize(
    ("name", "text", "date"),
    [
        pytest.param("a.log", "begin\n [2026-11-16 08:00:15.1] step 1\n", "2026-11-16T08:00:15+00:00", id="a clock"),
        pytest.param("a.log", "step 1 took 3 s\n", CHANGED_TEXT, id="no clock"),
        pytest.param("a.log", "2999-01-01 00:00:00 step 1\n", CHANGED_TEXT, id="a clock that is wrong"),
        pytest.param("a.log", "", CHANGED_TEXT, id="empty"),
        pytest.param("events.out.tfevents.1763280000.node1.7.0", "", "2025-11-16T08:00:00+00:00", id="an event file"),
        pytest.param("events.out.tfevents.copy", "", CHANGED_TEXT, id="an event file renamed"),
    ],
)
def test_a_log_is_of_the_day_of_its_first_clock_or_else_of_its_last_change(
    tmp_path: Path, name: str, text: str, date: str
) -> None:
    assert date_of_log([write(tmp_path / name, text)]) == date


def test_the_first_of_several_files_that_has_a_clock_tells_the_day(tmp_path: Path) -> None:
    files = [write(tmp_path / "0.log", "no clock\n"), write(tmp_path / "1.log", "2026-11-16 08:00:15 step 1\n")]

    assert date_of_log(files) == "2026-11-16T08:00:15+00:00"


def test_a_file_that_is_no_text_has_the_day_of_its_last_change(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"\xff\xfe2\x000\x002\x006\x00")
    os.utime(path, (CHANGED, CHANGED))

    assert date_of_log([path]) == CHANGED_TEXT
