from __future__ import annotations

from dataclasses import replace

from pytest_nemoperf.report.resolution import loose_texts
from tests.report.builders import make_passed


def test_loose_tolerances_are_told_once_for_all_cases() -> None:
    (speed, *_) = make_passed().result.verdict.comparisons
    comparisons = [replace(speed, allowed_pct=20.0, resolution_pct=resolved) for resolved in (1.0, 2.5, 10.0)]

    assert loose_texts(comparisons) == ["tokens/sec/GPU 20%: 2 cases could hold 2.5%"]
