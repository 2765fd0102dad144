"""NeMo RL's own timer, logger and formulas beside our figures of the same steps."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from pytest_nemoperf.logs.context import LogContext
from pytest_nemoperf.logs.reading import find_log_files, read_log
from tests.trainers.nemo_rl_writers import ASYNC, COLOCATED, NUM_GENERATIONS, NUM_GPUS, NUM_PROMPTS, write_run

pytestmark = pytest.mark.trainers

CONTEXT = LogContext(
    num_gpus=NUM_GPUS,
    tokens_per_step=NUM_PROMPTS * NUM_GENERATIONS * 250,
    seq_len=250,
    has_exact_tokens=False,
    is_rl=True,
    num_samples=NUM_PROMPTS * NUM_GENERATIONS,
)


def loops() -> list[Any]:
    """Return the loops at hand: NeMo RL is in no package, so NEMO_RL names a checkout of it."""
    if "NEMO_RL" not in os.environ:
        return []
    source = Path(os.environ["NEMO_RL"])
    return [
        pytest.param(source, COLOCATED, NUM_GPUS, id="colocated"),
        pytest.param(source, ASYNC, NUM_GPUS // 2, id="async"),
    ]


def rates(written: Any, *, num_training_gpus: int, record: Any) -> list[tuple[float, float]]:
    """Return their rates with ours."""
    pairs = [
        ("tokens_per_sec_per_gpu", record.step_time_sec * NUM_GPUS),
        ("policy_training_tokens_per_sec_per_gpu", record.phases["training"] * num_training_gpus),
        (
            "policy_and_reference_logprobs_tokens_per_sec_per_gpu",
            record.phases["policy_logprobs"] * num_training_gpus,
        ),
    ]
    if record.rollout.generation_time_sec is not None:
        pairs.append(("generation_tokens_per_sec_per_gpu", record.rollout.generation_time_sec * NUM_GPUS))
    return [(written.performance[name], record.tokens / gpu_time) for name, gpu_time in pairs]


if loops():

    @pytest.mark.parametrize(("source", "times", "num_training_gpus"), loops())
    def test_our_rates_are_those_that_nemo_rl_computes(
        source: Path, times: Mapping[str, Sequence[float]], num_training_gpus: int, tmp_path: Path
    ) -> None:
        written = write_run(source, tmp_path, times=times)

        files = find_log_files(str(written.folder), run_dir=tmp_path, cwd=tmp_path)
        records = read_log(files, log_format="nemo_rl", context=CONTEXT).records

        assert len(records) == 5
        for theirs, ours in rates(written, num_training_gpus=num_training_gpus, record=records[-1]):
            assert ours == pytest.approx(theirs, rel=1e-6)  # event files have float32
        rollout = records[-1].rollout
        assert rollout is not None
        assert rollout.num_response_tokens == written.num_response_tokens
        assert rollout.num_prompt_tokens == written.num_prompt_tokens
        assert math.fsum(records[-1].phases.values()) == pytest.approx(records[-1].step_time_sec)
        assert records == read_log([written.json_file], log_format="nemo_rl_json", context=CONTEXT).records
