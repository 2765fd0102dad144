"""Console of TRL's GRPOTrainer and its like: a dict a step, its numbers rounded to four digits."""

from __future__ import annotations

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


def convert_steps(steps: Sequence[LoggedStep], context: LogContext) -> None:
    """Add the responses and tokens of each step.

    The tokens since the start are rounded, and the difference of two rounded totals would be off by more with every
    step. The mean over all steps is not: the prompts of a step are what it leaves beside the responses.

    Raises:
        RecordError: If the lines tell no time.
    """
    for step in steps:
        if "step_time_sec" not in step.values:
            raise RecordError(
                f"{step.where}: no step_time among what is printed: only TRL's trainers that generate print it; pass "
                "--report_to tensorboard and use log_format='trl', whose files tell the time of every step"
            )
    add_responses(steps, context)
    totals = [step.values.get("tokens_total") for step in steps]
    last = totals[-1] if totals else None
    if last is None or totals[0] is None or last < _FIRST_ROUNDED or len(steps) == 1:
        return
    responses = [step.values.get("rollout.num_response_tokens", 0.0) for step in steps]
    prompts = (last - totals[0] - sum(responses[1:])) / (len(steps) - 1)
    for step, num_responses in zip(steps, responses, strict=True):
        del step.values["tokens_total"]
        step.values["tokens"] = num_responses + max(0, round(prompts))


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
