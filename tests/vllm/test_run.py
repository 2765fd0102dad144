"""Whole runs with responses of vLLM."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from pytest_nemoperf.layouts.layout import GenerationLayout, Layout
from pytest_nemoperf.records.step import StepRecord
from tests.native.engine import Engine
from tests.vllm.replica import NUM_SAMPLES, PROMPT_LEN, RESPONSE_LEN, vllm_plan

pytestmark = [pytest.mark.vllm, pytest.mark.ranks]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    engine = Engine(tmp_path_factory.mktemp("engine"))
    yield engine
    engine.launcher.close()


@pytest.mark.parametrize(
    ("layout", "staleness"),
    [
        pytest.param(Layout(gpus=2, dp_shard=2), 0, id="colocated"),
        pytest.param(Layout(gpus=1, generation=GenerationLayout(gpus=1, is_colocated=False)), 1, id="apart"),
    ],
)
def test_training_sees_the_log_probabilities_that_vllm_told(engine: Engine, layout: Layout, staleness: int) -> None:
    plan = vllm_plan(layouts={"cpu": layout}, max_staleness=staleness, learning_rate=1e-2)

    records: list[StepRecord] = engine.run(replace(plan, warmup_steps=2, steps=4))

    for number, record in enumerate(records):
        rollout = record.rollout
        assert rollout is not None
        assert record.tokens == NUM_SAMPLES * (PROMPT_LEN + RESPONSE_LEN)
        assert rollout.batch_fill_pct == pytest.approx(100)
        is_new = rollout.staleness_steps == 0
        assert is_new == (number == 0 or staleness == 0)
        # Control: log-probabilities under the weights of an earlier step differ.
        assert rollout.max_logprob_error is not None
        assert (rollout.max_logprob_error < 1e-4) == is_new
