"""Values the tests of the pure layers start from."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pytest_nemoperf.baselines.baseline import Baseline
from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.measure.measurement import Measurement, Run, measure_outputs
from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.recipes.recipe import Plan, Recipe
from pytest_nemoperf.recipes.resolve import resolve
from pytest_nemoperf.recipes.rl import RL
from pytest_nemoperf.recipes.systems import find_system
from pytest_nemoperf.records.metrics import JUDGED, Judged
from pytest_nemoperf.records.profile import Operator, Profile
from pytest_nemoperf.records.provenance import Provenance
from pytest_nemoperf.records.step import RolloutStats, RunOutput, StepRecord
from pytest_nemoperf.verdict.policy import VerdictPolicy

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


def make_rl(**changes: Any) -> RL:
    """Return 8 samples of 16 + 24 tokens."""
    values: dict[str, Any] = {
        "num_prompts_per_step": 4,
        "num_generations_per_prompt": 2,
        "prompt_len": 16,
        "max_response_len": 24,
    }
    return RL(**{**values, **changes})


def make_rl_plan(*, rl: RL | None = None, **changes: Any) -> Plan:
    return make_plan(rl=rl or make_rl(), **changes)


RL_PHASE_SHARES: Mapping[str, float] = {
    "generation": 0.5,
    "reward": 0.01,
    "policy_logprobs": 0.1,
    "reference_logprobs": 0.1,
    "advantage": 0.01,
    "training": 0.2,
    "refit": 0.07,
    "other": 0.01,
}


def make_rollout(plan: Plan, **changes: Any) -> RolloutStats:
    """Return what a step generates whose responses all reach their limit."""
    assert plan.rl is not None
    rl = plan.rl
    num_prompt_tokens = rl.num_generations_per_prompt * sum(map(rl.prompt_length, range(rl.num_prompts_per_step)))
    values: dict[str, Any] = {
        "num_samples": rl.num_samples,
        "num_prompt_tokens": num_prompt_tokens,
        "num_response_tokens": plan.tokens_per_step - num_prompt_tokens,
        "num_truncated": 0,
        "generation_time_sec": 0.05,
        "batch_fill_pct": 100.0,
        "imbalance_pct": 4.0,
        "staleness_steps": 0,
        "num_rounds": 1,
        "reward_mean": 0.25,
        "reward_std": 0.4,
        "token_mult_prob_error": 1.0001,
        "max_logprob_error": 0.001,
        "kl": 0.002,
        "refit_bytes": 2**20,
        "refit_time_sec": 0.007,
    }
    return RolloutStats(**{**values, **changes})


def make_rl_records(
    plan: Plan, *, step_time_sec: float = 0.1, rollout: Mapping[str, Any] | None = None, **changes: Any
) -> list[StepRecord]:
    """Return the records of a run of reinforcement learning; rollout changes what was generated."""
    stats = make_rollout(plan, **(rollout or {}))
    tokens = (stats.num_prompt_tokens or 0) + stats.num_response_tokens
    values: dict[str, Any] = {
        "tokens": tokens,
        "flops": plan.flops_per_token * tokens,
        "phases": {name: step_time_sec * share for name, share in RL_PHASE_SHARES.items()},
        "loss": 0.001,
        "rollout": stats,
    }
    return make_records(plan, step_time_sec=step_time_sec, **{**values, **changes})


def measure_records(
    plan: Plan, *, outputs: Sequence[Sequence[StepRecord]], environment: Mapping[str, str] | None = None
) -> Measurement:
    """Return the measurement of runs with these step records."""
    runs = [RunOutput(records=tuple(records), environment=environment or {}) for records in outputs]
    return measure_outputs(plan, outputs=runs)


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


def make_runs(rates: Sequence[float], *, sessions: Sequence[str] = ()) -> tuple[Run, ...]:
    """Return a run for each rate, of the session of the same place."""
    runs = []
    for number, rate in enumerate(rates):
        session = sessions[number] if sessions else ""
        runs.append(replace(make_run(rate), session=session))
    return tuple(runs)


def make_measurement(rates: Sequence[float] = (1000.0, 1000.0, 1000.0), **changes: Any) -> Measurement:
    values: dict[str, Any] = {
        "case": "pretrain-test",
        "system": "cpu",
        "workload": {"seq_len": 64, "layout": {"gpus": 2, "tp": 1, "dp_shard": 2}},
        "runs": tuple(make_run(rate) for rate in rates),
        "flops_per_token": FLOPS_PER_TOKEN,
        "flops_convention": "megatron-bridge",
    }
    return Measurement(**{**values, **changes})


def make_policy(*, tolerance_pct: float = 5.0, **changes: Any) -> VerdictPolicy:
    """Return a verdict policy whose noise is far below its tolerance with the runs of a test."""
    judged = [metric.name for metric in JUDGED if metric.judged is Judged.BY_DEFAULT]
    values: dict[str, Any] = {
        "tolerances": dict.fromkeys(judged, tolerance_pct),
        "run_noise_pct": 0.5,
        "session_noise_pct": 0.1,
        "round_noise_pct": 0.5,
        "memory_noise_pct": 0.2,
        "alpha": 0.002,
        "beta": 0.01,
        "max_runs": 5,
    }
    return VerdictPolicy(**{**values, **changes})


def git_in(root: Path, *arguments: str) -> str:
    """Run git in a folder as a test's author, and return what it prints."""
    identity = ("-c", "user.name=Test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false")
    command = ["git", "-C", str(root), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


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


def make_operators(**figures: tuple[float, float]) -> dict[str, Operator]:
    """Return operators by name from (calls, seconds) a step: ``mm=(4, 0.1)`` is ``aten::mm``."""
    return {
        f"aten::{name}": Operator(calls_per_step=calls, self_sec_per_step=seconds)
        for name, (calls, seconds) in figures.items()
    }


def make_profile(**changes: Any) -> Profile:
    measurement = make_measurement()
    values: dict[str, Any] = {
        "case": measurement.case,
        "system": measurement.system,
        "device": "cpu",
        "num_steps": 5,
        "num_ranks": 2,
        "step_time_sec": 0.1,
        "operators": make_operators(mm=(40, 0.05), add=(30, 0.02)),
        "machine": MACHINE,
        "workload": measurement.workload,
        "provenance": make_provenance(),
    }
    return Profile(**{**values, **changes})
