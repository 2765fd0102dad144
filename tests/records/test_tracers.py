from __future__ import annotations

import subprocess
import sys

import pytest

STARTS = {
    "settrace": ("import sys; sys.settrace(lambda *_: None)", "function of __main__ (sys.settrace)"),
    "setprofile": ("import cProfile; cProfile.Profile().enable()", "cProfile (sys."),
    "coverage": ("import coverage; coverage.Coverage(data_file=None).start()", "coverage (sys."),
    "tracemalloc": ("import tracemalloc; tracemalloc.start()", "tracemalloc"),
}
"""Statements that start a tracer, and a part of its name."""


@pytest.mark.parametrize("name", [*STARTS, "none"])
def test_an_active_tracer_is_found_by_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)  # of these tests
    start, expected = STARTS.get(name, ("", ""))
    program = f"{start}\nfrom pytest_nemoperf.records.tracers import active_tracers\nprint(list(active_tracers()))"

    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout

    assert expected in found
    assert (found == "[]\n") is (name == "none")
