from __future__ import annotations

from dataclasses import replace

from pytest_nemoperf.report.resolution import loose_texts, resolution_text
from tests.report.builders import make_passed


def test_loose_tolerances_are_told_once_for_all_cases() -> None:
    (speed, *_) = make_passed().result.verdict.comparisons
    comparisons = [replace(speed, allowed_pct=20.0, finds_pct=found) for found in (21.0, 22.5, 30.0)]

    assert loose_texts(comparisons) == [
        "tokens/sec/GPU allows 20%: 2 cases would find a loss 2.5% beyond any tolerance"
    ]


def test_what_is_allowed_and_found_stand_together() -> None:
    (speed, *_) = make_passed().result.verdict.comparisons

    assert resolution_text(speed) == "allows 10%, finds 12.4%"
    assert resolution_text(replace(speed, finds_pct=None)) == ""


def test_a_loss_just_beyond_the_tolerance_does_not_look_like_it() -> None:
    (speed, *_) = make_passed().result.verdict.comparisons

    assert resolution_text(replace(speed, finds_pct=10.2)) == "allows 10%, finds 10.2%"
