"""Values the tests of the pure layers start from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pytest_nemoperf.architecture import ModelConfig
from pytest_nemoperf.baseline import Baseline
from pytest_nemoperf.measure import Measurement, Run
from pytest_nemoperf.parallelism import Layout
from pytest_nemoperf.plan import resolve
from pytest_nemoperf.provenance import Provenance
from pytest_nemoperf.recipe import Plan, Recipe
from pytest_nemoperf.records import StepRecord
from pytest_nemoperf.systems import find_system

MACHINE: Mapping[str, str | int] = {"cpu": "Test CPU", "cores": 2}
FLOPS_PER_TOKEN = 1e9
ROUND_MODEL = ModelConfig(
    name="round",
    hidden_size=64,
    num_layers=4,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    ffn_hidden_size=128,
    vocab_size=128,
)


def make_recipe(**changes: Any) -> Recipe:
    values: dict[str, Any] = {
        "model": "llama-tiny",
        "layouts": {"cpu": Layout(gpus=2, dp_shard=2)},
        "seq_len": 64,
        "global_batch_size": 4,
        "precision": "fp32",
        "steps": 6,
        "warmup_steps": 2,
    }
    return Recipe(**{**values, **changes})


def make_plan(**changes: Any) -> Plan:
    return resolve(make_recipe(**changes), system=find_system("cpu"))


def make_records(
    plan: Plan, *, step_time_sec: float = 0.1, times: Sequence[float] = (), **changes: Any
) -> list[StepRecord]:
    durations = list(times) or [step_time_sec] * plan.total_steps
    records = []
    for step, duration in enumerate(durations):
        values: dict[str, Any] = {
            "step": step,
            "step_time_sec": duration,
            "tokens": plan.tokens_per_step,
            "phases": {"forward": duration * 0.25, "backward": duration * 0.75},
            "loss": 6.5,
            "grad_norm": 1.0,
            "peak_memory_bytes": 2**30,
            "rank_times_sec": (duration * 0.9, duration),
        }
        records.append(StepRecord(**{**values, **changes}))
    return records


def make_run(tokens_rate: float = 1000.0, *, memory_gib: float = 1.0, loss: float | None = 6.5) -> Run:
    return Run(
        metrics={
            "tokens_per_sec_per_gpu": tokens_rate,
            "tflops_per_sec_per_gpu": tokens_rate * FLOPS_PER_TOKEN / 1e12,
            "step_time_sec": 100.0 / tokens_rate,
            "peak_memory_gib": memory_gib,
        },
        phases={"forward": 25.0 / tokens_rate, "backward": 75.0 / tokens_rate},
        num_steps=10,
        last_step=12,
        step_time_mad_pct=1.0,
        loss=loss,
    )


def make_measurement(rates: Sequence[float] = (1000.0, 1000.0, 1000.0), **changes: Any) -> Measurement:
    values: dict[str, Any] = {
        "case": "pretrain-test",
        "system": "cpu",
        "workload": {"seq_len": 64, "layout": {"gpus": 2, "tp": 1}},
        "runs": tuple(make_run(rate) for rate in rates),
        "flops_per_token": FLOPS_PER_TOKEN,
        "flops_convention": "megatron-bridge",
    }
    return Measurement(**{**values, **changes})


def make_provenance(**changes: Any) -> Provenance:
    values: dict[str, Any] = {
        "date": "2026-11-22T12:00:00Z",
        "git_commit": "0123456789abcdef0123456789abcdef01234567",
        "git_dirty": False,
        "versions": {"python": "3.11.7", "torch": "2.13.0"},
        "device": "Test CPU",
        "command": "pytest -m perf",
    }
    return Provenance(**{**values, **changes})


def make_baseline(rates: Sequence[float] = (1000.0, 1000.0, 1000.0), **changes: Any) -> Baseline:
    measurement = make_measurement(rates)
    values: dict[str, Any] = {
        "case": measurement.case,
        "system": measurement.system,
        "machine": MACHINE,
        "workload": measurement.workload,
        "runs": measurement.runs,
        "provenance": make_provenance(),
        "reason": "test",
        "flops_per_token": measurement.flops_per_token,
        "flops_convention": measurement.flops_convention,
    }
    return Baseline(**{**values, **changes})
