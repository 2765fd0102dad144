"""Console of TRL's GRPOTrainer and its like: a dict a step, its numbers rounded to four digits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from pytest_nemoperf.errors import RecordError
from pytest_nemoperf.logs.context import LogContext
from pytest_nemoperf.logs.formats.trl import ROLLOUT_FIELDS, add_responses
from pytest_nemoperf.logs.log_format import LogFormat, LogKind
from pytest_nemoperf.logs.merge import LoggedStep
from pytest_nemoperf.logs.preset import Preset

_FIRST_ROUNDED: Final = 10_000
"""Numbers of five digits are printed with four."""
_ROUNDING: Final = 5e-4
"""Share of a number by which four digits of it are off at most."""


def convert_steps(steps: Sequence[LoggedStep], context: LogContext) -> None:
    """Add the responses and tokens of each step.

    The tokens since the start are rounded, and the difference of two rounded totals would be off by more with every
    step. The mean over all steps is not: the prompts of a step are what it leaves beside the responses.

    Raises:
        RecordError: If the lines tell no time, some of them no tokens, or fewer tokens than responses have.
    """
    for step in steps:
        if "step_time_sec" not in step.values:
            raise RecordError(
                f"{step.where}: no step_time among what is printed: only TRL's trainers that generate print it; pass "
                "--report_to tensorboard and use log_format='trl', whose files tell the time of every step"
            )
    add_responses(steps, context)
    totals = _totals(steps)
    if len(totals) < 2 or totals[-1] < _FIRST_ROUNDED:  # noqa: PLR2004 (one step has no difference)
        return
    responses = [step.values.get("rollout.num_response_tokens", 0.0) for step in steps]
    growth = totals[-1] - totals[0]
    prompts = growth - sum(responses[1:])
    if prompts < -_ROUNDING * (totals[0] + totals[-1] + sum(responses[1:])):
        num_steps = len(steps) - 1
        of_responses = sum(responses[1:]) / num_steps
        raise RecordError(
            f"{steps[-1].subject('tokens_total')}: num_tokens, which counts prompts and responses, grows by "
            f"{growth:,.0f} in {num_steps} steps = {growth / num_steps:,.0f} a step, and the responses alone are "
            f"{of_responses:,.0f} a step (completions/mean_length x {context.num_samples} responses); "
            "let the recipe's prompts and generations a step be those of the run"
        )
    for step, num_responses in zip(steps, responses, strict=True):
        del step.values["tokens_total"]
        step.values["tokens"] = num_responses + max(0, round(prompts / (len(steps) - 1)))


def _totals(steps: Sequence[LoggedStep]) -> list[float]:
    """Return the tokens since the start by step; none if no line tells them.

    Raises:
        RecordError: If some lines tell them and others don't, or one is no finite number.
    """
    totals = []
    for step in steps:
        if "tokens_total" in step.values:
            total = step.values["tokens_total"]
            if not math.isfinite(total):
                raise RecordError(f"{step.subject('tokens_total')}: num_tokens={total:g} must be finite")
            totals.append(total)
    if totals and len(totals) < len(steps):
        without = next(step for step in steps if "tokens_total" not in step.values)
        raise RecordError(
            f"{without.where}: step {without.step}: no num_tokens, though other steps have it; a part of its line is "
            "missing, or another trainer printed it: let one trainer print into one log"
        )
    return totals


PRESET: Final = Preset(
    log_format=LogFormat(
        kind=LogKind.DICT,
        fields={
            "step_time_sec": "step_time",
            "tokens_total": "num_tokens",
            "loss": "loss",
            "grad_norm": "grad_norm",
            **ROLLOUT_FIELDS,
        },
    ),
    how="pass --logging_steps 1",
    convert_steps=convert_steps,
)
