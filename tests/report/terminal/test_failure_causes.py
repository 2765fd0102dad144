from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_nemoperf.baselines.baseline import Anchor
from pytest_nemoperf.records.provenance import LogSource
from pytest_nemoperf.results.cases import CaseReport
from tests.builders import make_baseline, make_measurement, make_provenance
from tests.report.blocks import lines_of, section, table
from tests.report.builders import make_phased_run, make_regressed, make_report

SUSPECTS = "suspects: what may change speed"


def test_suspects_come_first_and_what_else_changed_in_one_quiet_line() -> None:
    now = make_provenance(git_commit="fedcba9876543210", versions={"python": "3.11.8", "torch": "2.14.0"})
    report = replace(make_regressed(), environment=now.environment())

    assert section(lines_of(report), heading=SUSPECTS) == [
        "  torch: 2.13.0 -> 2.14.0",
        "  also changed: commit: 0123456789ab -> fedcba987654; python: 3.11.7 -> 3.11.8",
    ]


def test_a_variable_that_the_baseline_did_not_have_is_a_suspect() -> None:
    report = make_regressed()
    report = replace(report, environment={**report.environment, "env.NCCL_ALGO": "Ring"})

    assert section(lines_of(report), heading=SUSPECTS) == ["  env.NCCL_ALGO: - -> Ring"]


def test_an_unchanged_environment_is_said_to_be_so() -> None:
    assert section(lines_of(make_regressed()), heading=SUSPECTS) == ["  none of what is watched differs"]


ONLY_STATED = "  a log does not tell versions and settings; only what was stated of both sides is compared"


def test_of_logs_only_what_is_known_of_both_sides_is_a_suspect() -> None:
    report = make_regressed()
    log = LogSource(path="a.log", log_format="megatron", date="2026-11-20", first_step=1, num_records=20, num_warmup=3)
    report = replace(report, result=replace(report.result, logs=(log,)), environment={"torch": "2.14.0"})

    shown = section(lines_of(report, width=100), heading=SUSPECTS)

    assert shown == ["  torch: 2.13.0 -> 2.14.0", ONLY_STATED]


def test_beside_a_baseline_of_logs_only_what_it_knows_is_a_suspect() -> None:
    report = make_regressed()
    assert report.baseline is not None
    origin = make_provenance(versions={"torch": "2.12.0"}, git_commit=None, device="", source="1 log (megatron): a.log")
    report = replace(report, baseline=replace(report.baseline, provenance=origin))

    lines = lines_of(report, width=100)

    assert section(lines, heading=SUSPECTS) == ["  torch: 2.12.0 -> 2.13.0", ONLY_STATED]
    assert "  read from 1 log (megatron): a.log" in lines


def test_the_loss_is_attributed_in_one_sentence_below_the_reasons() -> None:
    lines = lines_of(make_regressed())

    sentence = "the step is 20.00 ms slower: other +20.00 ms (100%)"
    assert lines.index(sentence) < lines.index("")


def with_busy_ranks(report: CaseReport, *, then: tuple[float, ...], now: tuple[float, ...]) -> CaseReport:
    """Return the report with so many seconds of each rank's own work."""
    assert report.baseline is not None
    measurement = report.result.measurement
    slow = tuple(replace(run, rank_busy_sec=now, hosts=("node-a", "node-b")) for run in measurement.runs)
    usual = tuple(replace(run, rank_busy_sec=then) for run in report.baseline.runs)
    result = replace(report.result, measurement=replace(measurement, runs=slow))
    return replace(report, result=result, baseline=replace(report.baseline, runs=usual))


@pytest.mark.parametrize(
    ("now", "text"),
    [
        (
            (0.08, 0.1),
            "rank 1 on host node-b worked 25% longer than the others, which wait for it (in 3 of 3 runs): "
            "the node, not the code",
        ),
        (
            (0.12, 0.128),
            "rank 1 on host node-b worked 7% longer than the others, which wait for it (in 3 of 3 runs); "
            "that is not all of the loss",
        ),
        ((0.1, 0.1), "no rank worked 5% longer than the others: the code, or all of the machine"),
    ],
    ids=["node", "node and code", "code"],
)
def test_the_block_says_whether_it_was_one_rank_or_all(now: tuple[float, float], text: str) -> None:
    report = with_busy_ranks(make_regressed(), then=(0.08, 0.08), now=now)

    assert text in lines_of(report, width=200)


@pytest.mark.parametrize(
    ("clocks", "busy", "text"),
    [
        ((1980.0,) * 4, (0.08, 0.08, 0.1, 0.1), "host node-b (ranks 2, 3) worked 25% longer than the others"),
        (
            (1980.0, 1980.0, 1980.0, 1584.0),
            (0.08,) * 4,
            "rank 3 on host node-b had 25% less of a GPU clock than the others",
        ),
    ],
    ids=["host", "clock"],
)
def test_the_block_names_a_whole_host_and_a_slow_clock(
    clocks: tuple[float, ...], busy: tuple[float, ...], text: str
) -> None:
    report = with_busy_ranks(make_regressed(), then=(0.08,) * 4, now=busy)
    measurement = report.result.measurement
    hosts = ("node-a", "node-a", "node-b", "node-b")
    runs = tuple(replace(run, hosts=hosts, sm_clock_mhz=clocks) for run in measurement.runs)
    report = replace(report, result=replace(report.result, measurement=replace(measurement, runs=runs)))

    assert any(line.startswith(text) for line in lines_of(report, width=200))


def test_all_alike_is_not_claimed_where_waiting_can_not_be_told_from_work() -> None:
    report = with_busy_ranks(make_regressed(), then=(0.08, 0.08), now=(0.1, 0.1))
    assert report.result.plan is not None
    on_gpus = replace(report.result.plan, device="cuda")

    lines = lines_of(replace(report, result=replace(report.result, plan=on_gpus)), width=200)

    assert not any("no rank worked" in line for line in lines)


def test_the_baseline_says_where_it_comes_from() -> None:
    assert section(lines_of(make_regressed()), heading="baseline") == [
        "  baselines/cpu/pretrain-test.json",
        "  3 runs of 2026-11-22T12:00:00Z, commit 0123456789ab: test",
    ]


def make_decayed() -> CaseReport:
    """Return the report of a case as fast as its baseline that lost 20 ms, by its second rank, since the anchor."""
    fast, slow = make_phased_run(), make_phased_run(other_sec=0.025, step_time_sec=0.12)
    anchor = Anchor(
        name="1.4",
        runs=(replace(fast, rank_busy_sec=(0.08, 0.08)),) * 5,
        provenance=make_provenance(date="2026-01-02T12:00:00Z", versions={"python": "3.11.7", "torch": "2.12.0"}),
    )
    now = (replace(slow, rank_busy_sec=(0.08, 0.1)),) * 3
    return make_report(make_measurement(runs=now), baseline=make_baseline(runs=now, anchor=anchor))


def test_a_loss_against_the_anchor_alone_is_explained_by_the_anchor() -> None:
    report = make_decayed()
    report = replace(report, environment={**report.environment, "env.NCCL_ALGO": "Ring"})

    lines = lines_of(report, width=200)

    assert "tokens/sec/GPU is 16.7% below the anchor 1.4 (833 against 1,000; allows 10%, finds 11.9%)" in lines
    assert "since the anchor 1.4, the step is 20.00 ms slower: other +20.00 ms (100%)" in lines
    assert any(line.startswith("rank 1 worked 25% longer than the others") for line in lines)
    other = table(section(lines, heading="where the step's time went"), key="phase")["other"]
    assert (other["anchor"], other["now"]) == ("5.00", "25.00")
    assert "spread (3 runs now, 5 in the anchor)" in lines
    assert section(lines, heading=f"{SUSPECTS} and changed since the anchor 1.4") == [
        "  torch: 2.12.0 -> 2.13.0",
        "  what was set where the steps of the anchor 1.4 ran was not kept",
    ]
    assert section(lines, heading="anchor 1.4") == [
        "  baselines/cpu/pretrain-test.json",
        "  5 runs of 2026-01-02T12:00:00Z, commit 0123456789ab: kept in that file beside the newest baseline",
    ]


def test_a_loss_against_both_is_explained_by_the_newest_baseline() -> None:
    anchor = Anchor(name="1.4", runs=(make_phased_run(),) * 5, provenance=make_provenance())
    regressed = make_regressed()
    assert regressed.baseline is not None

    measurement = replace(regressed.result.measurement, workload=regressed.baseline.workload)
    report = make_report(measurement, baseline=replace(regressed.baseline, anchor=anchor))

    lines = lines_of(report)
    assert "the step is 20.00 ms slower: other +20.00 ms (100%)" in lines
    assert "spread (3 runs now, 3 in the baseline)" in lines
