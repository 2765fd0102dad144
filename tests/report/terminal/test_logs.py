from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_nemoperf.records.provenance import LogSource
from tests.report.blocks import lines_of, section
from tests.report.builders import make_regressed

LOG = LogSource(
    path="jobs/a.log", log_format="megatron", date="2026-11-20T08:00:00", first_step=1, num_records=20, num_warmup=3
)
UNKNOWN = "  health: not known, for a log does not tell clocks, heat or other load"


@pytest.mark.parametrize(
    ("logs", "lines"),
    [
        pytest.param((LOG,), ["  jobs/a.log: 17 steps after 3 of warm-up, 2026-11-20", UNKNOWN], id="one"),
        pytest.param(
            (replace(LOG, steps_per_record=10, num_warmup=1),),
            ["  jobs/a.log: 19 records of 10 steps each after 1 of warm-up, 2026-11-20", UNKNOWN],
            id="means",
        ),
        pytest.param(
            (replace(LOG, first_step=501, has_health=True),),
            ["  jobs/a.log: 17 steps after 3 of warm-up from step 501, 2026-11-20"],
            id="continued, with a health report",
        ),
        pytest.param(
            (LOG, replace(LOG, path="b.log", has_health=True)),
            [
                "  jobs/a.log: 17 steps after 3 of warm-up, 2026-11-20",
                "  b.log: 17 steps after 3 of warm-up, 2026-11-20",
                "  health: not known of log 1",
            ],
            id="one of two with a health report",
        ),
    ],
)
def test_the_logs_of_a_case_are_listed_with_what_they_do_not_tell(
    logs: tuple[LogSource, ...], lines: list[str]
) -> None:
    report = make_regressed()
    report = replace(report, result=replace(report.result, logs=logs))

    assert section(lines_of(report), heading="read from logs, not measured by a session (megatron)") == lines


def test_runs_of_a_session_name_no_logs() -> None:
    assert not any("read from" in line for line in lines_of(make_regressed()))
