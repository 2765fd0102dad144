"""Figures of launches beside their steps, in words."""

from __future__ import annotations

from dataclasses import replace

from pytest_nemoperf.measure.measurement import Run
from pytest_nemoperf.report.launch_figures import launch_figures, unknown_figures
from pytest_nemoperf.report.terminal.failure import render_failure
from pytest_nemoperf.report.terminal.summary import render_summary
from tests.builders import make_measurement, make_run
from tests.report.builders import make_report, make_results

FIGURES = {
    "joules_per_token": 0.125,
    "tokens_per_joule": 8.0,
    "time_to_first_step_sec": 12.5,
    "compile_time_sec": 6.25,
    "checkpoint_save_sec": 6.0,
    "checkpoint_async_save_sec": 1.5,
    "checkpoint_async_total_sec": 8.0,
    "checkpoint_load_sec": 4.0,
    "checkpoint_gib": 12.0,
    "checkpoint_save_gib_per_sec": 2.0,
    "checkpoint_load_gib_per_sec": 3.0,
}
NO_ENERGY = {"joules_per_token": "no permission", "tokens_per_joule": "no permission"}


def run_with(figures: dict[str, float] | None = None, *, unknown: dict[str, str] | None = None) -> Run:
    run = make_run()
    return replace(run, metrics={**run.metrics, **(figures or {})}, unknown=unknown or {})


def test_figures_that_follow_stand_behind_the_ones_that_they_follow_from() -> None:
    assert launch_figures([run_with(FIGURES)]) == [
        "energy 0.125 J/token (8 tokens/J)",
        "time to first step 12.5 s",
        "compile time 6.25 s",
        "checkpoint save 6 s (2 GiB/s)",
        "wait for an async checkpoint save 1.5 s (8 s until it was saved)",
        "checkpoint load 4 s (3 GiB/s)",
        "checkpoint size 12 GiB",
    ]


def test_a_reason_is_said_once_and_only_while_no_run_knows_the_figure() -> None:
    unknown = run_with(unknown=NO_ENERGY)

    assert unknown_figures([unknown, unknown]) == ["energy n/a: no permission"]
    assert unknown_figures([unknown, run_with(FIGURES)]) == []


def test_the_summary_has_the_figures_of_each_case_and_a_reason_once_for_all() -> None:
    report = make_report(make_measurement(runs=(run_with({"time_to_first_step_sec": 12.5}, unknown=NO_ENERGY),)))
    other = make_report(make_measurement(case="pretrain-other", runs=(run_with(unknown=NO_ENERGY),)))
    reports = [report, other]
    results = make_results(*reports)

    text = render_summary(results, reports=reports, width=100, color=False)

    section = text.partition("\nenergy, start-up and checkpoints\n")[2]
    assert "time to first step 12.5 s" in section
    assert text.count("energy n/a: no permission") == 1


def test_energy_that_nobody_asked_for_and_is_not_known_makes_no_section() -> None:
    report = make_report(make_measurement(runs=(run_with(unknown=NO_ENERGY),)))

    text = render_summary(make_results(report), reports=[report], width=100, color=False)

    assert "energy" not in text


def test_a_failing_case_shows_what_its_launches_took() -> None:
    report = make_report(make_measurement(runs=(run_with(FIGURES),)))

    text = render_failure(report, width=100, color=False)

    assert "checkpoint save 6 s (2 GiB/s)" in text
