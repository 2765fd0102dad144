from __future__ import annotations

import pytest

from pytest_nemoperf.errors import BaselineError
from pytest_nemoperf.measure.measurement import workload_of
from pytest_nemoperf.results.rows import layout_label, row_of_baseline
from tests.builders import make_baseline, make_plan, make_runs

WORKLOAD = workload_of(make_plan())


def test_a_row_tells_the_session_of_each_run() -> None:
    baseline = make_baseline(workload=WORKLOAD, runs=make_runs([1.0, 2.0], sessions=["2026-11-01", ""]))

    row = row_of_baseline(baseline, path="x.json")

    assert row.sessions == ("2026-11-01", baseline.provenance.date)


@pytest.mark.parametrize("key", ["framework", "precision", "global_batch_size", "micro_batch_size", "seq_len", "model"])
def test_a_workload_without_a_key_that_a_row_shows_is_an_error_in_a_sentence(key: str) -> None:
    workload = {name: value for name, value in WORKLOAD.items() if name != key}
    baseline = make_baseline(case="some-case", workload=workload)

    with pytest.raises(BaselineError, match=rf"x\.json: some-case: \$\.workload lacks the key '{key}'; record"):
        row_of_baseline(baseline, path="x.json")


def test_a_loop_may_have_a_layout_of_its_own() -> None:
    workload = {"workload": "loop", "name": "x", "num_gpus": 2, "tokens_per_step": 8, "layout": "mine"}
    row = row_of_baseline(make_baseline(case="loop-x", workload=workload), path="x.json")

    assert row.workload == "loop"
    assert layout_label(row) == ""
