from __future__ import annotations

from dataclasses import replace
from datetime import date
from typing import Any

import pytest

from pytest_nemoperf.baselines.baseline import Anchor, Baseline
from pytest_nemoperf.lint.findings import Finding, lint_baseline, lint_loose, lint_profile, lint_suite
from pytest_nemoperf.measure.measurement import Run
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.records.profile import Profile
from pytest_nemoperf.results.dry_run import AskedCase, DryRun
from pytest_nemoperf.verdict.policy import VerdictPolicy
from tests.builders import (
    make_baseline,
    make_plan,
    make_policy,
    make_provenance,
    make_records,
    make_rl_plan,
    make_rl_records,
    measure_records,
)

TODAY = date(2026, 11, 23)
PATH = "baselines/cpu/case.json"
NO_COMMIT = make_provenance(git_commit=None)  # so no suspect can be compared with it side by side


def stored(plan: Plan, *, num_runs: int = 3, **changes: Any) -> Baseline:
    """Return the baseline that a sound session would store."""
    records = make_records if plan.rl is None else make_rl_records
    measurement = measure_records(plan, outputs=[records(plan)] * num_runs)
    values: dict[str, Any] = {
        "case": plan.case,
        "workload": measurement.workload,
        "runs": measurement.runs,
        "flops_per_token": measurement.flops_per_token,
        "flops_convention": measurement.flops_convention,
    }
    return make_baseline(**{**values, **changes})


def findings_of(baseline: Baseline, *, policy: VerdictPolicy | None = None, **changes: Any) -> list[Finding]:
    arguments = {"path": PATH, "policy": policy or make_policy(), "today": TODAY, "max_age_days": 180, **changes}
    return lint_baseline(baseline, **arguments)[0]


def with_run(baseline: Baseline, **changes: Any) -> Baseline:
    """Return a baseline with another last run."""
    return replace(baseline, runs=(*baseline.runs[:-1], replace(baseline.runs[-1], **changes)))


def with_rate(run: Run, *, factor: float) -> dict[str, float]:
    """Return metrics in which the rates are other than the step time says."""
    rates = ("tokens_per_sec_per_gpu", "tflops_per_sec_per_gpu")
    return {name: value * factor if name in rates else value for name, value in run.metrics.items()}


@pytest.mark.parametrize(
    "plan", [make_plan(), make_rl_plan(), make_plan(model="qwen3-30b-a3b-twin")], ids=["dense", "grpo", "moe"]
)
def test_what_a_session_stores_has_no_fault(plan: Plan) -> None:
    assert findings_of(stored(plan)) == []


def test_what_is_measured_once_a_session_is_held_to_one_launch() -> None:
    workload = {"workload": "benchmark", "test": "x"}
    call = make_baseline(workload=workload, flops_per_token=None, provenance=NO_COMMIT)
    launched = stored(make_plan(), provenance=NO_COMMIT)
    policy = make_policy(run_noise_pct=1.7)

    (tight,) = [each for each in findings_of(call, policy=policy) if each.rule == "tight"]

    assert "tokens/sec/GPU: 5% is allowed, 15.2% found with 3 runs" in tight.message
    assert "3 sessions recorded, " in tight.message
    assert "tight" not in [each.rule for each in findings_of(launched, policy=policy)]


def test_loops_and_calls_have_no_fault() -> None:
    loop = {"workload": "loop", "name": "x", "num_gpus": 2, "tokens_per_step": 128, "layout": "mine"}
    baseline = stored(make_plan(global_batch_size=2), workload=loop, flops_per_token=None, flops_convention=None)
    call = make_baseline(workload={"workload": "benchmark", "test": "x"}, flops_per_token=None)

    assert findings_of(baseline) == []
    assert findings_of(call) == []


@pytest.mark.parametrize("plan", [make_plan(), make_rl_plan()], ids=["pretrain", "grpo"])
def test_a_rate_that_contradicts_the_step_time_is_an_error(plan: Plan) -> None:
    baseline = stored(plan)
    wrong = with_run(baseline, metrics=with_rate(baseline.runs[-1], factor=1.1))

    (finding,) = (each for each in findings_of(wrong) if each.rule == "arithmetic")

    assert finding.level == "error"
    assert finding.message.startswith("$.runs[2]: tokens_per_sec_per_gpu=")
    assert "is not tokens / (step time x GPUs) = " in finding.message


def test_phases_that_do_not_make_the_step_are_an_error() -> None:
    baseline = with_run(stored(make_plan()), phases={"forward": 0.03, "backward": 0.05})

    (finding,) = findings_of(baseline)

    assert finding.message == "$.runs[2]: the phases sum to 0.08 s, the step takes 0.1 s (allowed 10% apart)"


def test_flops_that_are_counted_otherwise_now_are_an_error() -> None:
    baseline = stored(make_plan())

    (finding,) = findings_of(replace(baseline, flops_per_token=1e6))

    assert finding.message.startswith("$.flops_per_token is 1e+06, and megatron-bridge counts ")


def test_a_workload_that_can_not_be_is_an_error() -> None:
    baseline = stored(make_plan())
    workload = {key: value for key, value in baseline.workload.items() if key != "seq_len"}

    (finding,) = findings_of(replace(baseline, workload=workload))

    assert finding.message == "$.workload: lacks 'seq_len'; record the case again"


@pytest.mark.parametrize(
    ("changes", "rule", "level", "message"),
    [
        ({"date": "2026-05-01T00:00:00Z"}, "stale", "warning", "is 206 days old (--max-age 180): record it again"),
        ({"date": "2027-05-01T00:00:00Z"}, "date", "error", "lies in the future"),
        ({"date": "yesterday"}, "date", "error", "'yesterday' is no date"),
        ({"date": "0001-01-01T00:00:00+14:00"}, "date", "error", "'0001-01-01T00:00:00+14:00' is no date"),
        ({"git_dirty": True}, "dirty", "warning", "recorded from changes on top of 0123456789abcdef"),
        ({"git_commit": None}, "dirty", "warning", "recorded outside of a git repository"),
        ({"git_commit": None, "git_dirty": True}, "dirty", "warning", "before its first commit"),
        ({"git_commit": None, "git_dirty": None}, "dirty", "warning", "git could not tell the commit"),
        ({"git_dirty": None}, "dirty", "warning", "git could not tell whether files had changed"),
        (
            {"git_commit": None, "git_dirty": None, "source": "1 log (megatron): a.log"},
            "dirty",
            "warning",
            "read from logs, which don't tell their code; state its commit (nemoperf record --commit)",
        ),
    ],
)
def test_a_doubtful_origin_is_pointed_out(changes: dict[str, Any], rule: str, level: str, message: str) -> None:
    (finding,) = findings_of(stored(make_plan(), provenance=make_provenance(**changes)))

    assert (finding.rule, finding.level) == (rule, level)
    assert message in finding.message


def test_logs_with_a_stated_commit_tell_all_that_they_can() -> None:
    origin = make_provenance(git_dirty=None, source="1 log (megatron): a.log")

    assert findings_of(stored(make_plan(), provenance=origin)) == []


def test_a_reason_that_says_nothing_is_pointed_out() -> None:
    (finding,) = findings_of(stored(make_plan(), reason=" "))

    assert finding.rule == "reason"


def test_too_few_runs_are_pointed_out() -> None:
    (finding,) = findings_of(stored(make_plan(), num_runs=2))

    assert finding.message == "2 runs: too few to show the noise between launches; record 3 or more"


def test_a_case_that_finds_far_more_than_it_allows_is_a_warning_with_the_runs_that_would_do() -> None:
    baseline = stored(make_plan(), provenance=NO_COMMIT)

    _, finding = findings_of(baseline, policy=make_policy(tolerance_pct=2.0, run_noise_pct=2.0))

    assert (finding.level, finding.rule) == ("warning", "tight")
    assert finding.message == (
        "tokens/sec/GPU: 2% is allowed, 10.9% found with 3 runs, and a case passes only where 5.88% is ruled out; "
        "15 runs would do: --update-baselines --perf-runs=15"
    )


def test_a_loss_to_be_found_that_the_noise_hides_is_a_warning() -> None:
    baseline = stored(make_plan(), provenance=NO_COMMIT)

    _, finding = findings_of(baseline, policy=make_policy(finds={"tokens_per_sec_per_gpu": 1.0}))

    assert (finding.level, finding.rule) == ("warning", "tight")
    assert finding.message.startswith("tokens/sec/GPU: 1% is to be found, and with 3 runs it is 2.4% at best")


def test_a_phase_that_is_too_noisy_for_the_steps_tolerance_decides_nothing_unless_it_is_named() -> None:
    baseline = stored(make_rl_plan(), num_runs=5, provenance=NO_COMMIT)
    runs = []
    for run, factor in zip(baseline.runs, (0.6, 0.8, 1.0, 1.2, 1.4), strict=True):
        rate = run.metrics["generation_tokens_per_sec_per_gpu"] * factor
        runs.append(replace(run, metrics={**run.metrics, "generation_tokens_per_sec_per_gpu": rate}))
    noisy = replace(baseline, runs=tuple(runs))
    policy = make_policy()
    named = replace(policy, tolerances={**policy.tolerances, "generation_tokens_per_sec_per_gpu": 5.0})

    (following,) = [each for each in findings_of(noisy, policy=policy) if each.rule == "tight"]
    (asked,) = [each for each in findings_of(noisy, policy=named) if each.rule == "tight"]

    assert following.message.endswith("generation decides nothing")
    assert "decides nothing" not in asked.message


@pytest.mark.parametrize(("round_noise_pct", "is_tight"), [(0.5, False), (2.0, True)])
def test_a_case_whose_commit_can_run_beside_this_one_is_held_to_what_rounds_find(
    round_noise_pct: float,
    is_tight: bool,  # noqa: FBT001 (a parameter of pytest)
) -> None:
    policy = make_policy(tolerance_pct=2.0, session_noise_pct=15.0, round_noise_pct=round_noise_pct)

    messages = [each.message for each in findings_of(stored(make_plan()), policy=policy)]

    assert bool(messages) is is_tight
    for message in messages:
        assert "with 8 rounds side by side, and a case passes only where 5.88% is ruled out" in message


def test_loose_tolerances_are_one_warning_a_system_and_metric() -> None:
    policy = make_policy(tolerance_pct=20.0)
    _, loose = lint_baseline(stored(make_plan()), path=PATH, policy=policy, today=TODAY, max_age_days=180)

    speed, memory = lint_loose([*loose, *loose], folder="baselines/cpu")

    assert [each.metric for each in loose] == ["tokens_per_sec_per_gpu", "peak_memory_gib"]
    assert (speed.path, speed.level, speed.rule) == ("baselines/cpu", "warning", "loose")
    assert (
        speed.message == "tokens/sec/GPU allows 20%, and 2 cases would find a loss 1.3% beyond any tolerance; lower it"
    )
    assert memory.message.startswith("peak memory allows 20%, and 2 cases would find ")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"metrics": {"tokens_per_sec_per_gpu": 99.0, "step_time_sec": 0.1}},
            "the anchor '1.0' is of another workload: ",
        ),
        ({"loss": 7.0}, "the anchor '1.0' is of another workload: loss 7 at step 7, 6.5 in the newest runs"),
    ],
)
def test_an_anchor_of_another_workload_is_an_error(changes: dict[str, Any], message: str) -> None:
    baseline = stored(make_plan())
    runs = tuple(replace(run, **changes) for run in baseline.runs)
    anchor = Anchor(name="1.0", runs=runs, provenance=make_provenance())

    (finding,) = findings_of(replace(baseline, anchor=anchor))

    assert (finding.rule, finding.level) == ("anchor", "error")
    assert finding.message.startswith(message)


def test_an_anchor_without_a_name_is_an_error() -> None:
    baseline = stored(make_plan())
    anchor = Anchor(name=" ", runs=baseline.runs, provenance=baseline.provenance)

    (finding,) = findings_of(replace(baseline, anchor=anchor))

    assert (finding.rule, finding.level) == ("anchor", "error")
    assert finding.message == "$.anchor.name is empty: name the release, or delete the anchor"


def test_an_anchor_that_is_newer_than_what_it_anchors_is_an_error() -> None:
    baseline = stored(make_plan())
    anchor = Anchor(name="1.0", runs=baseline.runs, provenance=make_provenance(date="2026-11-23T12:00:00Z"))

    (finding,) = findings_of(replace(baseline, anchor=anchor))

    assert "is newer than the runs of 2026-11-22" in finding.message


def make_profile(baseline: Baseline, **changes: Any) -> Profile:
    values: dict[str, Any] = {"case": baseline.case, "system": baseline.system, "machine": baseline.machine}
    values |= {"device": "cpu", "num_steps": 3, "num_ranks": 1, "step_time_sec": 0.1, "operators": {}}
    return Profile(**{**values, "workload": baseline.workload, **changes})


@pytest.mark.parametrize(
    ("changes", "levels"), [({}, []), ({"case": "other"}, ["error"]), ({"machine": {"cpu": "other"}}, ["warning"])]
)
def test_a_profile_belongs_to_its_baseline(changes: dict[str, Any], levels: list[str]) -> None:
    baseline = stored(make_plan())

    findings = lint_profile(make_profile(baseline, **changes), baseline=baseline, path=PATH)

    assert [finding.level for finding in findings] == levels


def make_dry_run(*cases: str, gaps: tuple[str, ...] = ()) -> DryRun:
    asked = tuple(
        AskedCase(case=case, nodeid=f"test_x.py::test_{case}", tolerances={"tokens_per_sec_per_gpu": 5.0})
        for case in cases
    )
    return DryRun(system="cpu", system_title="CPU", cases=(), asked=asked, gaps=gaps)


def test_files_no_test_asks_for_are_errors_and_cases_without_a_file_warnings() -> None:
    orphan, missing = lint_suite(make_dry_run("a", "b"), paths={"a": "cpu/a.json", "old": "cpu/old.json"}, folder="cpu")

    assert (orphan.path, orphan.level, orphan.rule) == ("cpu/old.json", "error", "orphan")
    assert (missing.path, missing.level, missing.rule) == ("cpu", "warning", "missing")
    assert "no baseline of b, which test_x.py::test_b asks for" in missing.message


def test_a_recipes_file_in_another_framework_is_asked_for() -> None:
    cases = [f"pretrain-tiny-1n1g-{name}-fp32-single-seq64-gbs4-mbs1" for name in ("torch", "megatron")]
    paths = {case: f"cpu/{case}.json" for case in cases}

    assert lint_suite(make_dry_run(cases[0]), paths=paths, folder="cpu") == []


def test_where_not_every_test_was_seen_an_orphan_is_not_certain() -> None:
    findings = lint_suite(make_dry_run("a", gaps=("test_y was skipped",)), paths={"a": "a", "old": "old"}, folder="cpu")

    assert [(finding.level, finding.rule) for finding in findings] == [("warning", "unseen"), ("warning", "orphan")]


def test_an_anchor_below_the_noise_floor_is_pointed_out() -> None:
    baseline = stored(make_plan())
    anchored = replace(baseline, anchor=Anchor(name="1.4", runs=baseline.runs[:1], provenance=baseline.provenance))

    messages = [each.message for each in findings_of(anchored, policy=make_policy(run_noise_pct=4.0))]

    (message,) = (each for each in messages if each.startswith("the anchor '1.4' decides nothing of tokens/sec"))
    assert "it allows 5% and finds 32.7%, with too much noise for 1 anchor run: 4% between launches" in message
    assert "--perf-anchor=RELEASE" in message
