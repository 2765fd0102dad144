"""The worked examples of trainers with the lines added, run for real."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integrations.examples import make_model, run_example

pytestmark = pytest.mark.trainers


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    make_model(folder)
    return folder


@pytest.mark.parametrize("example", ["trainer", "lightning"])
def test_a_trainer_is_measured_from_inside(
    example: str, model: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_example(example, beside=model, pytester=pytester, monkeypatch=monkeypatch)

    assert run.problems == []
    assert len(run.records) == run.plan.total_steps
    assert all(record.loss is not None and record.loss > 5 for record in run.records)
    assert all(record.peak_memory_bytes for record in run.records)


def test_grpo_is_measured_from_inside_with_its_rollouts(
    model: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_example("trl_grpo", beside=model, pytester=pytester, monkeypatch=monkeypatch)

    assert run.problems == []
    assert len(run.records) == run.plan.total_steps
    for record in run.records:
        rollout = record.rollout
        assert rollout is not None
        assert record.tokens == 32 * 16 + rollout.num_response_tokens  # prompts of 16 tokens
        assert rollout.reward_mean is not None
