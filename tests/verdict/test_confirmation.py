"""Verdicts on suspects that were compared side by side with the commit of their baseline."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_nemoperf.records.metrics import PEAK_MEMORY_GIB, TOKENS_PER_SEC_PER_GPU
from pytest_nemoperf.verdict.comparison import Comparison, VerdictKind, describe
from pytest_nemoperf.verdict.confirmation import (
    SideOutcome,
    confirmed,
    has_loss,
    is_left_to_stored_evidence,
    suspect_sides,
)
from pytest_nemoperf.verdict.judge import Verdict

NOTE = "the machine was restless"
NOTHING_PROVEN = VerdictKind.INCONCLUSIVE


def compared(delta_pct: float, *, kind: VerdictKind, **changes: object) -> Comparison:
    """Return a comparison of tokens/s with a tolerance of 3%."""
    values: dict[str, object] = {
        "metric": TOKENS_PER_SEC_PER_GPU.name,
        "baseline": 1000.0,
        "now": 1000.0 * (1.0 + delta_pct / 100.0),
        "delta_pct": delta_pct,
        "allowed_pct": 3.0,
        "kind": kind,
        "low_pct": delta_pct - 0.6,
        "high_pct": delta_pct + 0.6,
        "finds_pct": 4.2,
    }
    return Comparison(**{**values, **changes})  # type: ignore[arg-type]  # made of one mapping


def verdict_of(*comparisons: Comparison) -> Verdict:
    reasons = [describe(each) for each in comparisons]
    return Verdict(kind=comparisons[0].kind, case="case", comparisons=comparisons, reasons=(*reasons, NOTE))


def outcome_of(delta_pct: float, *, kind: VerdictKind, **changes: object) -> SideOutcome:
    """Return an outcome of four rounds."""
    values: dict[str, object] = {
        "anchor": "",
        "commit": "1a2b3c4",
        "recorded": "2026-11-22",
        "verdict": verdict_of(compared(delta_pct, kind=kind)),
        "num_rounds": 4,
    }
    return SideOutcome(**{**values, **changes})  # type: ignore[arg-type]  # made of one mapping


def test_a_loss_that_rounds_do_not_show_is_the_machine() -> None:
    stored = verdict_of(compared(-8.1, kind=VerdictKind.REGRESSED))

    verdict = confirmed(stored, outcome=outcome_of(-0.3, kind=VerdictKind.PASSED))

    assert verdict.kind is VerdictKind.PASSED
    assert verdict.comparisons[0].side_by_side_pct == -0.3
    assert verdict.reasons == (
        "tokens/sec/GPU: stored baseline -8.1%; side by side with 1a2b3c4, 4 rounds: -0.3% (-0.9 to +0.3): "
        "the machine is 8% slower than when it was recorded (2026-11-22)",
        NOTE,
    )


def test_a_loss_that_a_faster_machine_hid_is_found_by_rounds() -> None:
    stored = verdict_of(compared(-1.0, kind=NOTHING_PROVEN))

    verdict = confirmed(stored, outcome=outcome_of(-9.0, kind=VerdictKind.REGRESSED))

    assert verdict.kind is VerdictKind.REGRESSED
    assert "side by side with 1a2b3c4, 4 rounds: -9.0%" in verdict.reasons[0]
    assert "the machine is 9% faster than when it was recorded" in verdict.reasons[0]


def test_rounds_that_decide_nothing_leave_the_case_inconclusive() -> None:
    stored = verdict_of(compared(-8.0, kind=VerdictKind.REGRESSED))

    verdict = confirmed(stored, outcome=outcome_of(-3.5, kind=VerdictKind.INCONCLUSIVE))

    assert verdict.kind is VerdictKind.INCONCLUSIVE
    assert "tokens/sec/GPU is 3.5% below the baseline" in verdict.reasons[1]  # of the rounds


@pytest.mark.parametrize(
    ("stored", "kind"),
    [
        pytest.param(compared(-8.0, kind=VerdictKind.REGRESSED), VerdictKind.REGRESSED, id="beyond-days-and-noise"),
        pytest.param(compared(-8.0, kind=NOTHING_PROVEN), NOTHING_PROVEN, id="within-days-and-noise"),
        pytest.param(compared(-2.0, kind=NOTHING_PROVEN), VerdictKind.PASSED, id="no-loss-at-all"),
    ],
)
def test_what_came_with_another_environment_stands_as_the_stored_evidence_has_it(
    stored: Comparison, kind: VerdictKind
) -> None:
    outcome = outcome_of(-0.2, kind=VerdictKind.PASSED, differences=("torch 2.11 -> 2.12",))

    verdict = confirmed(verdict_of(stored), outcome=outcome)

    assert verdict.kind is kind
    assert "code -0.2%; the rest, " in verdict.reasons[0]
    assert "came with torch 2.11 -> 2.12 or with the machine" in verdict.reasons[0]
    assert any("perf_ab_setup" in reason for reason in verdict.reasons) is (kind is not VerdictKind.PASSED)


@pytest.mark.parametrize(
    ("stored", "fails_on_machine", "kind"),
    [
        pytest.param(compared(-8.0, kind=VerdictKind.REGRESSED), False, VerdictKind.INCONCLUSIVE, id="never-regressed"),
        pytest.param(compared(-8.0, kind=NOTHING_PROVEN), True, VerdictKind.REGRESSED, id="the-machine-is-guarded"),
        pytest.param(compared(-1.0, kind=NOTHING_PROVEN), False, VerdictKind.PASSED, id="nothing-lost"),
        pytest.param(
            compared(0.0, kind=VerdictKind.REGRESSED, slow_steps_loss_pct=30.0), False, NOTHING_PROVEN, id="slow-steps"
        ),
    ],
)
def test_equal_code_needs_no_rounds(stored: Comparison, *, fails_on_machine: bool, kind: VerdictKind) -> None:
    outcome = outcome_of(0.0, kind=VerdictKind.PASSED, verdict=None, is_same_code=True, yardstick="the machine moved")

    verdict = confirmed(verdict_of(stored), outcome=outcome, fails_on_machine=fails_on_machine)

    assert verdict.kind is kind
    if kind is not VerdictKind.PASSED:
        assert "the code is that of 2026-11-22 (1a2b3c4), and so are environment and recipe" in verdict.reasons[0]
        assert verdict.reasons[1:] == ("the machine moved", NOTE)


def test_what_can_not_be_compared_keeps_the_stored_evidence_and_says_why() -> None:
    stored = verdict_of(compared(-8.0, kind=VerdictKind.REGRESSED))
    outcome = outcome_of(0.0, kind=VerdictKind.PASSED, verdict=None, problem="the stored runs name no commit")

    verdict = confirmed(stored, outcome=outcome)

    assert verdict.kind is VerdictKind.REGRESSED
    assert verdict.reasons == (*stored.reasons, "not compared side by side: the stored runs name no commit")


def test_sides_that_compute_different_things_keep_the_stored_evidence() -> None:
    stored = verdict_of(compared(-8.0, kind=VerdictKind.REGRESSED))
    rounds = Verdict(kind=VerdictKind.INVALID, case="case", reasons=("loss 7 is not 6.5",))

    verdict = confirmed(stored, outcome=outcome_of(0.0, kind=VerdictKind.PASSED, verdict=rounds))

    assert verdict.kind is VerdictKind.REGRESSED
    assert verdict.reasons[-1] == "loss 7 is not 6.5"


def test_a_metric_that_was_no_suspect_is_regressed_where_rounds_show_it() -> None:
    memory = compared(0.0, kind=VerdictKind.PASSED, metric=PEAK_MEMORY_GIB.name, baseline=10.0, now=10.0)
    more = replace(memory, kind=VerdictKind.REGRESSED, delta_pct=9.0, now=10.9)
    rounds = verdict_of(compared(0.0, kind=VerdictKind.PASSED), more)
    outcome = outcome_of(0.0, kind=VerdictKind.PASSED, verdict=replace(rounds, kind=VerdictKind.REGRESSED))

    verdict = confirmed(verdict_of(compared(-5.0, kind=NOTHING_PROVEN), memory), outcome=outcome)

    assert [each.kind for each in verdict.comparisons] == [VerdictKind.PASSED, VerdictKind.REGRESSED]
    assert verdict.kind is VerdictKind.REGRESSED


def test_only_the_side_that_was_compared_is_cleared() -> None:
    stored = verdict_of(
        compared(-8.0, kind=VerdictKind.REGRESSED), compared(-9.0, kind=VerdictKind.REGRESSED, anchor="25.09")
    )

    verdict = confirmed(stored, outcome=outcome_of(-0.3, kind=VerdictKind.PASSED))

    assert suspect_sides(stored) == ["", "25.09"]
    assert suspect_sides(verdict) == ["25.09"]
    assert verdict.kind is VerdictKind.REGRESSED


@pytest.mark.parametrize(
    ("delta_pct", "kind", "is_loss"),
    [
        (-5.0, VerdictKind.INCONCLUSIVE, True),
        (-2.0, VerdictKind.INCONCLUSIVE, False),
        (-5.0, VerdictKind.PASSED, False),
    ],
)
def test_a_suspect_beyond_what_is_allowed_is_a_loss(delta_pct: float, kind: VerdictKind, *, is_loss: bool) -> None:
    assert has_loss(verdict_of(compared(delta_pct, kind=kind))) is is_loss


def test_memory_says_nothing_of_the_speed_of_the_machine() -> None:
    grown = compared(12.0, kind=VerdictKind.REGRESSED, metric=PEAK_MEMORY_GIB.name, baseline=10.0, now=11.2)
    rounds = verdict_of(replace(grown, kind=VerdictKind.PASSED, delta_pct=0.0, now=10.0))

    verdict = confirmed(verdict_of(grown), outcome=outcome_of(0.0, kind=VerdictKind.PASSED, verdict=rounds))

    assert verdict.kind is VerdictKind.PASSED
    assert "the machine" not in verdict.reasons[0]


def test_a_metric_that_rounds_do_not_have_keeps_its_gain_and_is_condemned_by_none() -> None:
    gain = compared(30.0, kind=VerdictKind.IMPROVED, metric="generation_tokens_per_sec_per_gpu")
    loss = replace(gain, kind=VerdictKind.REGRESSED, metric="training_tokens_per_sec_per_gpu")
    stored = verdict_of(compared(-8.0, kind=VerdictKind.REGRESSED), gain, loss)

    verdict = confirmed(stored, outcome=outcome_of(-8.0, kind=VerdictKind.REGRESSED))

    kinds = [each.kind for each in verdict.comparisons]
    assert kinds == [VerdictKind.REGRESSED, VerdictKind.IMPROVED, VerdictKind.INCONCLUSIVE]


def test_equal_code_in_another_environment_loses_to_the_environment_or_nothing() -> None:
    outcome = outcome_of(
        0.0, kind=VerdictKind.PASSED, verdict=None, is_same_code=True, differences=("torch 2.11 -> 2.12",)
    )

    slower = confirmed(verdict_of(compared(-8.0, kind=VerdictKind.REGRESSED)), outcome=outcome)
    alike = confirmed(verdict_of(compared(-1.0, kind=NOTHING_PROVEN)), outcome=outcome)

    assert slower.kind is VerdictKind.REGRESSED
    assert "so the loss came with torch 2.11 -> 2.12, or with the machine" in slower.reasons[0]
    assert alike.kind is VerdictKind.PASSED


@pytest.mark.parametrize(
    ("changes", "is_left"),
    [
        pytest.param({}, False, id="rounds-decided"),
        pytest.param({"differences": ("torch 2.11 -> 2.12",)}, True, id="another-environment"),
        pytest.param({"verdict": None, "problem": "it does not run"}, True, id="no-rounds"),
        pytest.param({"verdict": None, "is_same_code": True}, False, id="equal-code"),
        pytest.param(
            {"verdict": None, "is_same_code": True, "differences": ("driver 580 -> 590",)}, True, id="equal-code-else"
        ),
    ],
)
def test_without_rounds_that_decide_the_stored_runs_must_tell(changes: dict[str, object], *, is_left: bool) -> None:
    verdict = verdict_of(compared(-8.0, kind=NOTHING_PROVEN))

    assert is_left_to_stored_evidence(verdict, outcome=outcome_of(0.0, kind=VerdictKind.PASSED, **changes)) is is_left


def test_what_rounds_never_measure_is_left_to_the_stored_evidence() -> None:
    save = compared(40.0, kind=VerdictKind.REGRESSED, metric="checkpoint_save_sec", baseline=10.0, now=14.0)
    stored = verdict_of(compared(-8.1, kind=VerdictKind.REGRESSED), save)

    verdict = confirmed(stored, outcome=outcome_of(-0.3, kind=VerdictKind.PASSED))

    kinds = {each.metric: each.kind for each in verdict.comparisons}
    assert kinds["tokens_per_sec_per_gpu"] is VerdictKind.PASSED
    assert kinds["checkpoint_save_sec"] is VerdictKind.REGRESSED
    assert verdict.kind is VerdictKind.REGRESSED
