"""Plans run by the real torchtitan on a CPU; shims/torchtitan_cpu.py says which parts of it are replaced there."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_nemoperf.frameworks.logged import context_of
from pytest_nemoperf.json_codec import to_json
from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.logs.log_format import WALL_TIME, LogFormat, LogKind
from pytest_nemoperf.logs.presets import find_preset
from pytest_nemoperf.logs.reading import find_log_files, read_log
from pytest_nemoperf.models.catalog import find_model
from pytest_nemoperf.models.twins import twin_of
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.records.step import PLAN_FILE
from tests.builders import make_plan
from tests.real_frameworks.on_cpu import TorchtitanOnCPU
from tests.real_frameworks.runs import interpreter, native_output, run_plan

pytestmark = [pytest.mark.frameworks, pytest.mark.ranks]

_FP32 = 1e-6
_BF16 = 2e-3
"""The two round at different places: experts, norms and the rotation."""


def plan_of(layout: Layout | None = None, **changes: Any) -> Plan:
    values: dict[str, Any] = {
        "framework": "torchtitan_cpu",
        "layouts": {"cpu": layout or Layout(gpus=1)},
        "python": interpreter("torchtitan"),
        "steps": 4,
        "timeout_sec": 900,
        "env": {"OMP_NUM_THREADS": "1"},  # its ranks would take every core each
        **changes,
    }
    return make_plan(**values)


def assert_same_training(plan: Plan, *, tmp_path: Path, rel: float = _FP32) -> None:
    ours = native_output(plan, run_dir=tmp_path / "native").records

    theirs = run_plan(plan, framework=TorchtitanOnCPU(), run_dir=tmp_path / "theirs").records

    assert [record.step for record in theirs] == list(range(plan.total_steps))
    assert [record.tokens for record in theirs] == [record.tokens for record in ours]
    assert [record.loss for record in theirs] == pytest.approx([record.loss for record in ours], rel=rel)
    assert [record.grad_norm for record in theirs] == pytest.approx([record.grad_norm for record in ours], rel=rel)


@pytest.mark.parametrize(
    "layout",
    [
        pytest.param(Layout(gpus=1), id="single"),
        pytest.param(Layout(gpus=2, dp_shard=2), id="fsdp2"),
        pytest.param(Layout(gpus=2, dp_replicate=2), id="ddp2"),
        pytest.param(Layout(gpus=2, tp=2), id="tp2"),
        pytest.param(Layout(gpus=2, tp=2, sequence_parallel=False), id="tp2nosp"),
        pytest.param(Layout(gpus=2, pp=2), id="pp2"),
    ],
)
def test_it_trains_the_native_engine_s_model_in_every_layout(layout: Layout, tmp_path: Path) -> None:
    assert_same_training(plan_of(layout), tmp_path=tmp_path)


@pytest.mark.parametrize("name", ["qwen3-0.6b", "qwen2.5-1.5b", "llama3.2-1b"])
def test_it_trains_the_small_twin_of_a_family(name: str, tmp_path: Path) -> None:
    assert_same_training(plan_of(model=twin_of(find_model(name))), tmp_path=tmp_path)


@pytest.mark.parametrize(
    "layout", [pytest.param(Layout(gpus=1), id="single"), pytest.param(Layout(gpus=2, dp_shard=2, ep=2), id="fsdp2ep2")]
)
def test_a_mixture_of_experts_trains_alike_within_bf16(layout: Layout, tmp_path: Path) -> None:
    plan = plan_of(layout, model=twin_of(find_model("qwen3-30b-a3b")), precision="bf16")

    assert_same_training(plan, tmp_path=tmp_path, rel=_BF16)


@pytest.mark.parametrize("recompute", ["selective", "full"])
def test_activations_that_are_computed_again_change_nothing(recompute: str, tmp_path: Path) -> None:
    assert_same_training(plan_of(recompute=recompute), tmp_path=tmp_path)


def test_compiled_blocks_train_alike(tmp_path: Path) -> None:
    assert_same_training(plan_of(is_compiled=True), tmp_path=tmp_path)


def test_another_seed_is_another_training(tmp_path: Path) -> None:
    plan = plan_of()
    ours = native_output(replace(plan, seed=plan.seed + 1), run_dir=tmp_path / "native").records

    theirs = run_plan(plan, framework=TorchtitanOnCPU(), run_dir=tmp_path / "theirs").records

    assert theirs[0].loss != pytest.approx(ours[0].loss, rel=_FP32)


def test_its_times_fit_another_clock_and_its_rates_follow_from_them(tmp_path: Path) -> None:
    layout = Layout(gpus=2, tp=2)
    plan = plan_of(layout)
    records = run_plan(plan, framework=TorchtitanOnCPU(), run_dir=tmp_path / "run").records
    clock = LogFormat(
        kind=LogKind.TENSORBOARD, fields={"end_time_sec": WALL_TIME, "loss": "loss_metrics/global_avg_loss"}
    )
    rates = LogFormat(kind=LogKind.TENSORBOARD, fields={"tokens_per_sec_per_gpu": "throughput(tps)"})

    read = []
    for log_format in (clock, rates):
        files = find_log_files(find_preset("torchtitan_events").file, run_dir=tmp_path / "run", cwd=tmp_path)
        context = context_of(plan, log_format=log_format)
        read.append(read_log(files, log_format=log_format, context=context, num_old_bytes=dict.fromkeys(files, 0)))

    clocked, rated = [reading.records for reading in read]
    for record, by_clock, by_rate in zip(records[1:], clocked[1:], rated[1:], strict=True):
        assert record.step_time_sec == pytest.approx(by_rate.step_time_sec, rel=1e-5)
        assert record.step_time_sec <= by_clock.step_time_sec + 1e-3  # theirs leaves out what logging takes


def test_an_environment_that_is_whole_is_taken() -> None:
    assert TorchtitanOnCPU().unsupported(plan_of()) is None


_HOST_PROGRAM = """
from unittest import mock
from pytest_nemoperf.trainers import torchtitan as trainer

tokens, labels = mock.MagicMock(), mock.MagicMock()
of_device = mock.Mock()
of_device.micro_batches.return_value = [(tokens, labels)]
with mock.patch.object(trainer, "SyntheticTokens", return_value=of_device):
    loader = trainer.PlanTokens(trainer.PlanTokens.Config(), dp_rank=0, seq_len=8, local_batch_size=1)
batch, following = next(iter(loader))
print(batch["input"] is tokens.cpu(), following is labels[..., 0].contiguous().cpu())
"""


def test_its_batches_lie_on_the_host_as_its_loop_counts_their_labels_there(tmp_path: Path) -> None:
    plan = plan_of()
    (tmp_path / PLAN_FILE).write_text(to_json(plan), encoding="utf-8")

    told = subprocess.run(
        [plan.python, "-c", _HOST_PROGRAM],
        env={**os.environ, "NEMOPERF_RUN_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )

    assert told.stdout.split() == ["True", "True"]
