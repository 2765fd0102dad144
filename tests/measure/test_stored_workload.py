from __future__ import annotations

from typing import Any

import pytest

from pytest_nemoperf.errors import RecordError
from pytest_nemoperf.measure.measurement import workload_of
from pytest_nemoperf.measure.stored_workload import check_workload
from tests.builders import make_plan, make_rl_plan

PLANNED = workload_of(make_plan())


@pytest.mark.parametrize("workload", [PLANNED, workload_of(make_rl_plan())], ids=["pretrain", "rl"])
def test_the_workload_of_a_plan_passes(workload: dict[str, Any]) -> None:
    check_workload(workload, place="$.workload")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"framework": None}, r"\$\.workload\.framework is null; it must be a text"),
        ({"precision": 16}, r"\$\.workload\.precision is 16; it must be a text"),
        ({"global_batch_size": "4"}, r'\$\.workload\.global_batch_size is "4"; it must be a whole number'),
        ({"micro_batch_size": 0}, r"\$\.workload\.micro_batch_size is 0; it must be a whole number >= 1"),
        ({"seq_len": True}, r"\$\.workload\.seq_len is true; it must be a whole number"),
        ({"seq_len": {}}, r"\$\.workload\.seq_len is {}; it must be a whole number"),
        ({"seq_len": 2**60}, r"\$\.workload\.seq_len is .*; it must be a whole number <= "),
        ({"model": "llama"}, r'\$\.workload\.model is "llama"; it must be an object'),
        ({"model": {**PLANNED["model"], "num_layers": 0}}, r"\$\.workload\.model: .*num_layers=0"),
        ({"framework_options": [1]}, r"\$\.workload\.framework_options is \[1\]; it must be an object"),
        ({"layout": 3}, r"\$\.workload\.layout is 3; it must be an object"),
        ({"layout": {"gpus": 2}}, r"\$\.workload\.layout: gpus=2 but dp_replicate"),
        ({"layout": {"gpus": 1, "tp": None}}, r"\$\.workload\.layout\.tp is null; it must be a whole number"),
        ({"rl": {}}, r"\$\.workload\.rl lacks the key 'num_prompts_per_step'"),
        ({"workload": ["pretrain"]}, r'\$\.workload\.workload is \["pretrain"\]; it must be a text'),
        ({"has_varying_lengths": "no"}, r'\$\.workload\.has_varying_lengths is "no"; it must be true or false'),
    ],
)
def test_a_value_that_is_computed_with_is_checked(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecordError, match=f"^{message}"):
        check_workload({**PLANNED, **changes}, place="$.workload")


@pytest.mark.parametrize(
    ("workload", "message"),
    [
        ({"workload": "loop", "num_gpus": 0}, r"\$\.workload\.num_gpus is 0; it must be a whole number >= 1"),
        ({"workload": "loop", "tokens_per_step": "8"}, r'\$\.workload\.tokens_per_step is "8"'),
        ({"workload": "benchmark", "test": 1}, r"\$\.workload\.test is 1; it must be a text"),
    ],
    ids=["gpus", "tokens", "test"],
)
def test_the_plugins_own_keys_of_loops_and_benchmark_tests_are_checked(workload: dict[str, Any], message: str) -> None:
    with pytest.raises(RecordError, match=f"^{message}"):
        check_workload(workload, place="$.workload")


def test_the_keys_that_a_loops_test_adds_may_hold_anything() -> None:
    workload = {"workload": "loop", "num_gpus": 1, "tokens_per_step": 8, "layout": "mine", "seq_len": [1, "x"]}

    check_workload(workload, place="$.workload")
