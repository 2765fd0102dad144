"""The benchmark of the yardstick, on recordings that are made up."""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmark_module(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module, which is no part of a package."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    spec = importlib.util.spec_from_file_location("yardstick_benchmark", BENCHMARKS / "verdicts" / "yardstick.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    yield module
    sys.modules.pop("tables", None)


def recording(*, copies_foretell: bool) -> dict[str, Any]:
    """Return twelve sessions of a machine with two speeds, of which the copy knows or does not."""
    sessions = []
    for number in range(12):
        speed = 1.3 if number % 3 == 0 else 1.0
        launches = []
        for launch in range(4):
            noise = 1 + 0.01 * ((number + 3 * launch) % 4)
            factor = noise * (speed if copies_foretell else 1.0)
            rank = {"matmul_sec": 1e-3 * factor, "copy_sec": 2e-3 * factor, "all_reduce_sec": 3e-3 * factor}
            launches.append({"steps": [9.0, 0.1 * speed, 0.1 * speed], "before": [rank, rank], "after": [rank, rank]})
        sessions.append({"time": 700.0 * number, "launches": launches})
    return {"case": "made-up", "warmup_steps": 1, "sessions": sessions}


def answers(text: str, answer: str) -> list[str]:
    """Return the counts of an answer: of equal code, and of slower code."""
    row = next(line for line in text.splitlines() if line.startswith(f"| {answer} "))
    return [cell.strip() for cell in row.strip("|").split("|")][1:]


def test_a_yardstick_that_follows_the_step_leaves_little_and_names_the_machine(benchmark_module: Any) -> None:
    text = benchmark_module.render(recording(copies_foretell=True))

    assert "12 sessions, 48 launches of equal code" in text
    row = next(line for line in text.splitlines() if "mean of the parts" in line and "session to session" in line)
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert float(cells[2]) > 0.98
    assert float(cells[5].rstrip("%")) < 0.2 * float(cells[4].rstrip("%"))
    assert answers(text, "the machine moved") == ["32 of 32 (100%)", "0 of 34 (0%)"]
    assert answers(text, "it did not move by as much") == ["0 of 32 (0%)", "34 of 34 (100%)"]


def test_one_that_does_not_leaves_all_of_the_scatter_and_blames_the_code(benchmark_module: Any) -> None:
    text = benchmark_module.render(recording(copies_foretell=False))

    assert answers(text, "it did not move by as much") == ["32 of 32 (100%)", "34 of 34 (100%)"]


def test_figures_that_never_change_foretell_nothing(benchmark_module: Any) -> None:
    result = benchmark_module.foretelling([0.1, -0.1], by=[0.0, 0.0])

    assert math.isnan(result.correlation)
    assert result.left == result.scatter == pytest.approx(0.1)
