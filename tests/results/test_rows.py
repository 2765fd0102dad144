from __future__ import annotations

from typing import Any

import pytest

from pytest_nemoperf.errors import BaselineError
from pytest_nemoperf.measure.measurement import workload_of
from pytest_nemoperf.results.rows import row_of_baseline
from tests.builders import make_baseline, make_plan, make_runs

WORKLOAD = workload_of(make_plan())


def test_a_row_tells_the_session_of_each_run() -> None:
    baseline = make_baseline(workload=WORKLOAD, runs=make_runs([1.0, 2.0], sessions=["2026-11-01", ""]))

    row = row_of_baseline(baseline, path="x.json")

    assert row.sessions == ("2026-11-01", baseline.provenance.date)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"framework": None}, r"\$\.workload\.framework is None; it must be a text"),
        ({"precision": 16}, r"\$\.workload\.precision is 16"),
        ({"global_batch_size": "4"}, r"\$\.workload\.global_batch_size is '4'; it must be a whole number"),
        ({"micro_batch_size": 0}, r"\$\.workload\.micro_batch_size is 0"),
        ({"seq_len": True}, r"\$\.workload\.seq_len is True"),
        ({"model": "llama"}, r"\$\.workload\.model has no name"),
        ({"framework_options": [1]}, r"\$\.workload\.framework_options must be a mapping"),
        ({"layout": 3}, "layout"),
        ({"rl": {}}, "rl"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_workload_that_is_none_is_an_error_in_a_sentence(changes: dict[str, Any], message: str) -> None:
    baseline = make_baseline(case="some-case", workload={**WORKLOAD, **changes})

    with pytest.raises(BaselineError, match=f"some-case.*{message}"):
        row_of_baseline(baseline, path="x.json")
