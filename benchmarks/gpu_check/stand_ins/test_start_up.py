"""Start, compilation and checkpoints of a 1B case on one GPU, and of a stand-in on a CPU."""

from typing import Any

import pytest

from pytest_nemoperf import Layout, Recipe

LAUNCH = ("time_to_first_step_sec", "checkpoint_save_sec", "checkpoint_async_save_sec", "checkpoint_load_sec")
ONE_GPU = dict.fromkeys(("a100", "h100", "h200", "b200", "b300", "gb200", "gb300"), Layout(gpus=1))


@pytest.mark.perf
@pytest.mark.parametrize(
    ("is_compiled", "metrics"),
    [
        pytest.param(False, LAUNCH, id="eager"),
        pytest.param(True, ("time_to_first_step_sec", "compile_time_sec"), id="compiled"),
    ],
)
def test_llama3_2_1b(perf: Any, is_compiled: bool, metrics: tuple[str, ...]) -> None:  # noqa: FBT001 (parametrized)
    """Few steps: what is asked for happens before and after them."""
    perf.check(
        Recipe(
            model="llama3.2-1b",
            layouts=ONE_GPU,
            seq_len=2048,
            global_batch_size=2,
            micro_batch_size=2,
            is_compiled=is_compiled,
            steps=6,
            warmup_steps=2,
            extra_metrics=metrics,
        )
    )


@pytest.mark.perf(tolerance=60)
def test_stand_in(perf: Any) -> None:
    """Stand-in of a dry run."""
    perf.check(
        Recipe(
            model="llama-tiny",
            layouts={"cpu": Layout(gpus=1)},
            seq_len=64,
            global_batch_size=4,
            micro_batch_size=2,
            precision="fp32",  # type: ignore[arg-type]  # texts are taken, as users write them
            steps=6,
            warmup_steps=2,
            extra_metrics=LAUNCH,
        )
    )
