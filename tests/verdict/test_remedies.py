from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_nemoperf.baselines.baseline import Baseline
from pytest_nemoperf.verdict.comparison import VerdictKind
from pytest_nemoperf.verdict.judge import judge
from pytest_nemoperf.verdict.policy import VerdictPolicy
from pytest_nemoperf.verdict.updates import plan_update
from tests.builders import MACHINE, make_baseline, make_measurement, make_policy, make_runs

NOISY = make_policy(tolerance_pct=2.0, run_noise_pct=1.0, session_noise_pct=0.0)
DAYS = make_policy(tolerance_pct=1.0, session_noise_pct=5.0)
OLD = replace(make_baseline(), runs=make_runs((1000.0, 1010.0, 990.0, 1005.0, 995.0), sessions=("2026-11-01",) * 5))


def texts(rates: tuple[float, ...], *, baseline: Baseline, policy: VerdictPolicy) -> str:
    """Return all that a verdict and an update say."""
    measurement = make_measurement(rates)
    verdict = judge(measurement, baseline=baseline, machine=MACHINE, policy=policy)
    new = make_baseline(rates)
    decision = plan_update(verdict, old=baseline, new=new, policy=policy, runs=5, is_accepted=False, is_new_only=False)
    return "; ".join([verdict.kind, *verdict.reasons, decision.why])


@pytest.mark.parametrize(
    ("rates", "policy", "given", "session"),
    [
        pytest.param(
            (900.0, 900.0),
            make_policy(),
            "stored only with --accept-regression --reason=TEXT",
            "stored only with --perf-accept-regression --perf-reason=TEXT",
            id="a loss",
        ),
        pytest.param((1000.0,), make_policy(), "give as many", "launch as many with --perf-runs=5", id="fewer runs"),
        pytest.param(
            (985.0, 985.0),
            NOISY,
            "runs would do: nemoperf record with ",
            "runs would do: --update-baselines --perf-runs=",
            id="too much noise",
        ),
        pytest.param(
            (985.0, 985.0),
            DAYS,
            "would do: add other days (nemoperf record --add-session), or raise the tolerance",
            "would do: add other days (--update-baselines --perf-add-session), compare side by side (--perf-ab), or",
            id="days differ",
        ),
        pytest.param(
            (949.0, 949.0),
            make_policy(run_noise_pct=1.0),
            "undecided with 2 runs: 95% interval",
            "undecided after 2 of 5 launches: 95% interval",
            id="undecided",
        ),
    ],
)
def test_texts_name_the_options_of_what_the_runs_were_given_to(
    rates: tuple[float, ...], policy: VerdictPolicy, given: str, session: str
) -> None:
    of_session = texts(rates, baseline=OLD, policy=policy)
    of_command = texts(rates, baseline=OLD, policy=replace(policy, has_given_runs=True))

    assert session in of_session
    assert given in of_command
    assert "--perf-" not in of_command


def test_one_run_that_was_given_is_never_regressed_and_says_so() -> None:
    policy = make_policy(has_given_runs=True)

    text = texts((850.0,), baseline=OLD, policy=policy)

    assert text.startswith(VerdictKind.INCONCLUSIVE)
    assert "add further runs, for one alone is never REGRESSED" in text


def test_a_session_of_few_launches_is_told_of_more_of_them_where_these_would_do() -> None:
    rates = (1000.0, 1006.0, 994.0, 1003.0, 997.0)
    baseline = replace(make_baseline(), runs=make_runs(rates, sessions=("2026-11-01",) * 5))
    policy = make_policy(tolerance_pct=2.0, run_noise_pct=1.0, session_noise_pct=0.0)

    few = texts((990.0, 990.0), baseline=baseline, policy=replace(policy, max_runs=2))
    usual = texts((990.0, 990.0), baseline=baseline, policy=policy)

    assert "judge by up to " in few
    assert "--perf-max-runs=" in few
    assert "--perf-max-runs=" not in usual


def test_what_few_launches_leave_undecided_more_may_decide() -> None:
    policy = make_policy(run_noise_pct=1.0)

    few = texts((949.0, 949.0), baseline=OLD, policy=replace(policy, max_runs=2))
    given = texts((949.0, 949.0), baseline=OLD, policy=replace(policy, max_runs=2, has_given_runs=True))

    assert "undecided after 2 of 2 launches: " in few
    assert "; judge by up to 5 launches (--perf-max-runs=5)" in few
    assert "--perf-" not in given
