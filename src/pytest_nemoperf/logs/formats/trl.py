"""Event files of TRL's trainers: those of Hugging Face's Trainer, and the responses of GRPO and its like."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import MappingProxyType
from typing import Final

from pytest_nemoperf.errors import RecordError
from pytest_nemoperf.logs.context import LogContext
from pytest_nemoperf.logs.formats import trainer
from pytest_nemoperf.logs.log_format import LogFormat, LogKind
from pytest_nemoperf.logs.merge import LoggedStep
from pytest_nemoperf.logs.preset import Preset

ROLLOUT_FIELDS: Final = MappingProxyType(
    {
        "rollout.reward_mean": "reward",
        "rollout.reward_std": "reward_std",
        "rollout.kl": "kl",
        "rollout.max_logprob_error": "sampling/sampling_logp_difference/max",
        "raw.mean_response_len": "completions/mean_length",
        "raw.truncated": "completions/clipped_ratio",
    }
)
"""Key by quantity; event files put ``train/`` before it."""


def add_responses(steps: Sequence[LoggedStep], context: LogContext) -> None:
    """Add totals over the samples of each step, of the means that are logged.

    Raises:
        RecordError: If some steps generated and others did not, or a mean is no finite number.
    """
    if not context.is_rl:
        return
    without = [step for step in steps if "raw.mean_response_len" not in step.values]
    if without and len(without) < len(steps):
        raise RecordError(
            f"{without[0].where}: step {without[0].step} generated nothing, and others did: their responses last for "
            "several optimizer updates, each a step in the log; let steps_per_generation equal "
            "gradient_accumulation_steps, and num_iterations be 1"
        )
    for step in steps:
        if without:
            continue
        step.values["rollout.num_samples"] = context.num_samples
        step.values["rollout.num_response_tokens"] = _total(step, "raw.mean_response_len", context=context)
        if "raw.truncated" in step.values:
            step.values["rollout.num_truncated"] = _total(step, "raw.truncated", context=context)


def _total(step: LoggedStep, name: str, *, context: LogContext) -> int:
    """Return the whole number that a mean over samples comes from."""
    mean = step.values[name]
    if not math.isfinite(mean):
        key = ROLLOUT_FIELDS[name]
        raise RecordError(
            f"{step.subject(name)}: {key}={mean:g} must be finite; the trainer's batch is empty or broken"
        )
    return round(mean * context.num_samples)


PRESET: Final = Preset(
    log_format=LogFormat(
        kind=LogKind.TENSORBOARD,
        fields={**trainer.FIELDS, **{name: f"train/{key}" for name, key in ROLLOUT_FIELDS.items()}},
    ),
    file=trainer.FILE,
    env=trainer.ENV,
    how=trainer.HOW,
    convert=trainer.convert,
    convert_steps=add_responses,
)
