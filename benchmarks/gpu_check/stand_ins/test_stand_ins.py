"""Stand-ins of a dry run on a CPU: small cases that take the same paths as the suite on one GPU."""

from typing import Any

import pytest

from pytest_nemoperf import RL, Layout, Recipe

ONE_RANK = {"cpu": Layout(gpus=1)}
# A CPU's launches scatter: no verdict of a dry run is about speed.
STAND_IN = pytest.mark.perf(tolerance=60)


def check_small(perf: Any, **recipe: Any) -> None:
    """Judge a case of a few steps."""
    values: dict[str, Any] = {
        "layouts": ONE_RANK,
        "seq_len": 64,
        "global_batch_size": 4,
        "micro_batch_size": 2,
        "precision": "fp32",
    }
    perf.check(Recipe(steps=6, warmup_steps=2, **(values | recipe)))


@STAND_IN
def test_dense(perf: Any) -> None:
    """Stand-in of the dense cases."""
    check_small(perf, model="llama-tiny")


@STAND_IN
def test_mixture(perf: Any) -> None:
    """Stand-in of the mixtures."""
    check_small(perf, model="qwen3-30b-a3b-twin", is_router_balanced=True)


@STAND_IN
def test_grpo(perf: Any) -> None:
    """Stand-in of reinforcement learning."""
    rl = RL(num_prompts_per_step=2, num_generations_per_prompt=2, prompt_len=16, max_response_len=16)
    check_small(perf, model="llama-tiny", seq_len=32, rl=rl)
