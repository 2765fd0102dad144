"""Plans run by the real GRPOTrainer, unmodified, on a CPU."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pytest_nemoperf.frameworks.trl import TRLFramework
from pytest_nemoperf.json_codec import to_json
from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.records.step import PLAN_FILE, StepRecord
from tests.builders import make_plan, make_rl, make_rl_plan
from tests.real_frameworks.runs import interpreter, native_output, run_plan

pytestmark = [pytest.mark.frameworks, pytest.mark.ranks]

_PHASES = {"generation", "reward", "reference_logprobs", "training", "other"}
_LOSS_PROGRAM = """
import torch
from pytest_nemoperf.native.train.data import SyntheticTokens
from pytest_nemoperf.trainers.run_plan import run_plan
from pytest_nemoperf.trainers.trl import make_model

plan = run_plan()
((tokens, labels),) = SyntheticTokens(plan, dp_rank=0, device=torch.device("cpu")).micro_batches(0)
logits = make_model(plan)(input_ids=tokens).logits
print(torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()).item())
"""


def plan_of(layout: Layout | None = None, *, rl: dict[str, Any] | None = None, **changes: Any) -> Plan:
    values: dict[str, Any] = {
        "framework": "trl",
        "layouts": {"cpu": layout or Layout(gpus=1)},
        "python": interpreter("trl"),
        "global_batch_size": 8,
        "micro_batch_size": 4,
        "steps": 4,
        "timeout_sec": 900,
        **changes,
    }
    return make_rl_plan(rl=make_rl(**(rl or {})), **values)


def records_of(plan: Plan, *, run_dir: Path) -> tuple[StepRecord, ...]:
    framework = TRLFramework()
    assert framework.unsupported(plan) is None
    return run_plan(plan, framework=framework, run_dir=run_dir).records


@pytest.mark.parametrize(
    "layout", [pytest.param(Layout(gpus=1), id="single"), pytest.param(Layout(gpus=2, dp_replicate=2), id="ddp2")]
)
def test_each_step_tells_tokens_rollouts_and_phases(layout: Layout, tmp_path: Path) -> None:
    plan = plan_of(layout)

    records = records_of(plan, run_dir=tmp_path / "run")

    assert [record.step for record in records] == list(range(plan.total_steps))
    for record in records:
        assert record.rollout is not None
        assert record.tokens == plan.tokens_per_step == 8 * (16 + 24)
        assert record.rollout.num_response_tokens == 8 * 24
        assert record.rollout.num_samples == 8
        assert set(record.phases) == _PHASES
        assert sum(record.phases.values()) == pytest.approx(record.step_time_sec)
        assert record.phases["generation"] > 0
        assert record.grad_norm is not None
        assert record.grad_norm > 0
    assert not (tmp_path / "run" / "model").exists()


def test_responses_may_end_sooner_and_prompts_may_be_shorter(tmp_path: Path) -> None:
    plan = plan_of(rl={"response_lengths": "sampled", "min_prompt_len": 12}, precision="bf16", recompute="full")

    records = records_of(plan, run_dir=tmp_path / "run")

    prompts = 2 * (12 + 13 + 14 + 15)
    for record in records:
        assert record.rollout is not None
        assert record.tokens == prompts + record.rollout.num_response_tokens


def test_several_updates_a_step_need_the_policy_s_own_logprobs(tmp_path: Path) -> None:
    records = records_of(plan_of(global_batch_size=4), run_dir=tmp_path / "run")

    assert len(records) == 6
    assert {frozenset(record.phases) for record in records} == {frozenset({*_PHASES, "policy_logprobs"})}
    assert {record.tokens for record in records} == {320}


def test_its_model_starts_from_the_native_engine_s_weights(tmp_path: Path) -> None:
    plan = make_plan(layouts={"cpu": Layout(gpus=1)}, global_batch_size=4, micro_batch_size=4, steps=4)
    ours = native_output(plan, run_dir=tmp_path / "native").records[0].loss
    run_dir = tmp_path / "theirs"
    run_dir.mkdir()
    (run_dir / PLAN_FILE).write_text(to_json(plan), encoding="utf-8")

    program = subprocess.run(
        [interpreter("trl"), "-c", _LOSS_PROGRAM],
        env={"NEMOPERF_RUN_DIR": str(run_dir)},
        capture_output=True,
        text=True,
        check=True,
    )

    assert json.loads(program.stdout.splitlines()[-1]) == pytest.approx(ours, rel=1e-6)
