from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_nemoperf.logs.context import LogContext
from pytest_nemoperf.logs.convert import records_of
from pytest_nemoperf.logs.formats import nemo_rl
from pytest_nemoperf.logs.reading import read_log
from pytest_nemoperf.logs.rows import LogRow
from pytest_nemoperf.records.step import StepRecord
from tests.logs.event_writer import write_events

CONTEXT = LogContext(
    num_gpus=8, tokens_per_step=40_000, seq_len=200, has_exact_tokens=False, is_rl=True, num_samples=200
)
TIMES = {
    "total_step_time": 10.0,
    "data_processing": 0.25,
    "prepare_for_generation/total": 1.0,
    "prepare_for_generation/transfer_and_update_weights": 0.75,
    "generation": 4.0,
    "reward_calculation": 0.125,
    "logprob_inference_prep": 0.125,
    "policy_and_reference_logprobs": 1.0,
    "get_logprobs/shard_data": 0.125,
    "advantage_calculation": 0.25,
    "training_prep": 0.25,
    "policy_training": 2.0,
    "policy_training/sharding_data": 0.5,
    "checkpointing": 0.5,
}
"""Sums of the timers of a step where the ranks take turns: labels with a slash lie within others."""
ASYNC_TIMES = {
    "total_step_time": 10.0,
    "exposed_generation": 3.0,
    "idle/buffer_starvation": 2.5,
    "policy_and_reference_logprobs": 1.0,
    "policy_training": 4.0,
    "idle/refit_bubble": 1.5,
    "weight_sync": 1.0,
    "idle/validation": 0.25,
}
METRICS = {
    "train/loss": 0.5,
    "train/grad_norm": 0.25,
    "train/reward": 0.75,
    "train/token_mult_prob_error": 1.0625,
    "train/total_num_tokens": 30_000.0,
    "train/mean_prompt_length": 49.99,
    "train/mean_gen_tokens_per_sample": 100.01,
    "train/truncation_rate": 0.25,
    "performance/samples_per_sec": 20.0,
    "performance/tokens_per_sec": 3000.0,
}


def scalars_of(times: Mapping[str, float], **changes: float) -> dict[str, float]:
    metrics = METRICS | {name.replace("__", "/"): value for name, value in changes.items()}
    return metrics | {f"timing/train/{name}": value for name, value in times.items()}


def record_of(folder: Path, scalars: Mapping[str, float], *, context: LogContext = CONTEXT) -> StepRecord:
    file = write_events(folder, [(1, 1.0, scalars)])
    (record,) = read_log([file], log_format="nemo_rl", context=context).records
    return record


def test_labels_that_lie_within_others_are_not_counted_twice(tmp_path: Path) -> None:
    record = record_of(tmp_path, scalars_of(TIMES))

    assert record.step_time_sec == 10
    assert record.phases == {
        "generation": 4,
        "reward": 0.125,
        "policy_logprobs": 1,
        "advantage": 0.25,
        "training": 2,
        "refit": 1,
        "other": 1.625,
    }


def test_waiting_for_responses_is_told_where_generation_runs_beside_training(tmp_path: Path) -> None:
    record = record_of(tmp_path, scalars_of(ASYNC_TIMES))

    assert record.phases == {"exposed_generation": 3, "policy_logprobs": 1, "training": 4, "refit": 1, "other": 1}
    assert record.rollout is not None
    assert record.rollout.generation_time_sec is None
    assert record.rollout.refit_time_sec == 1


def test_means_over_samples_become_totals(tmp_path: Path) -> None:
    rollout = record_of(tmp_path, scalars_of(TIMES)).rollout

    assert rollout is not None
    assert (rollout.num_samples, rollout.num_prompt_tokens, rollout.num_response_tokens) == (200, 9998, 20002)
    assert (rollout.num_truncated, rollout.reward_mean, rollout.generation_time_sec) == (50, 0.75, 4.0)
    assert (rollout.kl, rollout.staleness_steps, rollout.refit_bytes) == (None, None, None)


def test_tokens_of_the_environment_leave_the_prompts_unknown(tmp_path: Path) -> None:
    record = record_of(tmp_path, scalars_of(TIMES, train__total_num_tokens=35_000.0))

    assert record.tokens == 35_000
    assert record.rollout is not None
    assert record.rollout.num_prompt_tokens is None
    assert record.rollout.num_response_tokens == 20_002


def test_dynamic_sampling_has_no_mean_of_the_responses_that_were_trained_on(tmp_path: Path) -> None:
    scalars = scalars_of(TIMES, train__dynamic_sampling_num_gen_batches=2.0, train__mean_gen_tokens_per_sample=77.0)

    rollout = record_of(tmp_path, scalars).rollout

    assert rollout is not None
    assert rollout.num_rounds == 2
    assert rollout.num_response_tokens == 30_000 - 9998
    assert rollout.num_truncated is None


def test_sums_over_updates_become_means(tmp_path: Path) -> None:
    scalars = scalars_of(TIMES, train__token_mult_prob_error=4.25)

    record = record_of(tmp_path, scalars, context=replace(CONTEXT, num_updates=4))

    assert (record.loss, record.grad_norm) == (0.125, 0.0625)
    assert record.rollout is not None
    assert record.rollout.token_mult_prob_error == 1.0625


def test_supervised_fine_tuning_has_neither_phases_of_generation_nor_rollouts(tmp_path: Path) -> None:
    scalars = {"train/loss": 2.0, "timing/train/total_step_time": 4.0, "timing/train/policy_training": 3.0}
    context = replace(CONTEXT, has_exact_tokens=True, is_rl=False, num_samples=0)

    record = record_of(tmp_path, scalars, context=context)

    assert (record.step_time_sec, record.tokens, record.loss) == (4, 40_000, 2)
    assert record.phases == {}
    assert record.rollout is None


def test_the_json_form_tells_the_same(tmp_path: Path) -> None:
    steps = [scalars_of(TIMES), scalars_of(TIMES, train__loss=0.375)]
    write_events(tmp_path / "events", [(step, step, scalars) for step, scalars in enumerate(steps, 1)])
    merged = {tag: {str(step): scalars[tag] for step, scalars in enumerate(steps, 1)} for tag in steps[0]}
    (tmp_path / "metrics.json").write_text(json.dumps(merged, indent=2))

    of_json = read_log([tmp_path / "metrics.json"], log_format="nemo_rl_json", context=CONTEXT)

    of_events = read_log([tmp_path / "events"], log_format="nemo_rl", context=CONTEXT)
    assert [record.loss for record in of_json.records] == [0.5, 0.375]
    for mine, other in zip(of_json.records, of_events.records, strict=True):
        assert mine.rollout is not None
        assert mine.phases == other.phases
        assert (mine.step, mine.step_time_sec, mine.tokens) == (other.step, other.step_time_sec, other.tokens)


_SECONDS = st.floats(0.001, 100)
_PARTS = [name for name in (*TIMES, *ASYNC_TIMES) if "/" not in name and name != "total_step_time"]


@given(
    parts=st.dictionaries(st.sampled_from(_PARTS), _SECONDS), training=_SECONDS, rest=_SECONDS, inner=st.floats(0, 1)
)
def test_phases_always_sum_to_the_step(parts: dict[str, float], training: float, rest: float, inner: float) -> None:
    parts |= {"policy_training": training}
    times = parts | {"total_step_time": math.fsum(parts.values()) + rest}
    for outer in parts:
        times[f"{outer}/inner"] = parts[outer] * inner
    quantity_of = {tag: quantity for quantity, tag in nemo_rl.FIELDS.items()}
    scalars = scalars_of(times, performance__tokens_per_sec=30_000 / times["total_step_time"])
    values = {quantity_of[tag]: value for tag, value in scalars.items() if tag in quantity_of}

    reading = records_of([LogRow(step=1, values=values, where="here")], context=CONTEXT, convert=nemo_rl.convert)

    (record,) = reading.records
    assert math.fsum(record.phases.values()) == pytest.approx(times["total_step_time"], rel=1e-9)
    assert record.phases["other"] >= rest * (1 - 1e-9)
