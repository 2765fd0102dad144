"""Event files of NeMo RL: sums of its timers and metrics by step, from the driver."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from pytest_nemoperf.logs.context import LogContext
from pytest_nemoperf.logs.log_format import LogFormat, LogKind
from pytest_nemoperf.logs.merge import LoggedStep
from pytest_nemoperf.logs.preset import Preset

_PHASES: Final = MappingProxyType(
    {
        "phase.generation_sec": ("generation",),
        "phase.exposed_generation_sec": ("exposed_generation",),
        "phase.reward_sec": ("reward_calculation",),
        "phase.policy_logprobs_sec": ("policy_and_reference_logprobs",),
        "phase.reference_logprobs_sec": ("teacher_logprob_inference",),
        "phase.values_sec": ("value_inference",),
        "phase.advantage_sec": ("advantage_calculation",),
        "phase.training_sec": ("policy_training", "value_training"),
    }
)
"""Timers by phase: none of these lies within another. Those left out lie within one of them, or count as ``other``."""
_REFITS: Final = ("weight_sync", "prepare_for_generation/total", "prepare_for_generation")
"""Timers of a refit; the first that is there counts, as in NeMo RL's own rates."""
_TIMER: Final = "raw.timing/"
_OF_RL: Final = ("phase.", "rollout.")

_timers = [*(timer for timers in _PHASES.values() for timer in timers), *_REFITS]
FIELDS: Final = MappingProxyType(
    {
        "step_time_sec": "timing/train/total_step_time",
        "tokens": "train/total_num_tokens",
        "tokens_per_sec": "performance/tokens_per_sec",
        "loss": "train/loss",
        "grad_norm": "train/grad_norm",
        "rollout.reward_mean": "train/reward",
        "rollout.token_mult_prob_error": "train/token_mult_prob_error",
        "rollout.num_rounds": "train/dynamic_sampling_num_gen_batches",
        "raw.samples_per_sec": "performance/samples_per_sec",
        "raw.mean_prompt_len": "train/mean_prompt_length",
        "raw.mean_response_len": "train/mean_gen_tokens_per_sample",
        "raw.truncated": "train/truncation_rate",
        **{f"{_TIMER}{timer}": f"timing/train/{timer}" for timer in _timers},
    }
)
"""Tag or metric by quantity."""


def convert(values: Mapping[str, float]) -> dict[str, float]:
    """Return a step's quantities: phases that don't overlap, and totals over its samples."""
    ours = dict(values)
    for phase, timers in _PHASES.items():
        found = [values[_TIMER + timer] for timer in timers if _TIMER + timer in values]
        if found:
            ours[phase] = sum(found)
    refits = [values[_TIMER + timer] for timer in _REFITS if _TIMER + timer in values]
    if refits:
        ours["phase.refit_sec"] = ours["rollout.refit_time_sec"] = refits[0]
    if "phase.generation_sec" in ours:
        ours["rollout.generation_time_sec"] = ours["phase.generation_sec"]
    if "raw.samples_per_sec" in values and "step_time_sec" in values:
        ours |= _rollout(values, num_samples=round(values["raw.samples_per_sec"] * values["step_time_sec"]))
    return ours


def _rollout(values: Mapping[str, float], *, num_samples: int) -> dict[str, float]:
    """Return totals over the samples that were trained on, of the means that are logged."""
    totals: dict[str, float] = {"rollout.num_samples": num_samples}
    prompts = _total(values, "raw.mean_prompt_len", num_samples=num_samples)
    responses = _total(values, "raw.mean_response_len", num_samples=num_samples)
    tokens = values.get("tokens")
    if "rollout.num_rounds" in values:
        # With dynamic sampling, the means of the rollouts are those of the last round alone.
        responses = None if tokens is None or prompts is None else tokens - prompts
    elif "raw.truncated" in values:
        totals["rollout.num_truncated"] = values["raw.truncated"] * num_samples
    if responses is not None:
        totals["rollout.num_response_tokens"] = responses
        if prompts is not None and prompts + responses == tokens:
            totals["rollout.num_prompt_tokens"] = prompts
    return totals


def _total(values: Mapping[str, float], name: str, *, num_samples: int) -> float | None:
    """Return the whole number that a mean over samples comes from; the mean has the seven digits of a float32."""
    mean = values.get(name)
    return None if mean is None else float(round(mean * num_samples))


def convert_steps(steps: Sequence[LoggedStep], context: LogContext) -> None:
    """Divide sums over a step's updates by their number; drop phases of workloads without generation."""
    for step in steps:
        if not context.is_rl:
            step.values = {name: value for name, value in step.values.items() if not name.startswith(_OF_RL)}
        for name in ("loss", "grad_norm", "rollout.token_mult_prob_error"):
            if name in step.values:
                step.values[name] /= context.num_updates


PRESET: Final = Preset(
    log_format=LogFormat(kind=LogKind.TENSORBOARD, fields=FIELDS),
    file="{run_dir}/nemo_rl",
    how="pass logger.tensorboard_enabled=true logger.log_dir={run_dir}/nemo_rl, or name its folder in log_file",
    convert=convert,
    convert_steps=convert_steps,
)
