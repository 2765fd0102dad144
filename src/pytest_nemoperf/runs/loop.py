"""Timing of a training loop that runs in this process: ``for step in steps: ...``."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Final

from pytest_nemoperf.bounds import check_fields
from pytest_nemoperf.errors import RecipeError, RecordError
from pytest_nemoperf.measure.expected_records import ExpectedRecords
from pytest_nemoperf.measure.measurement import Run, measure_run
from pytest_nemoperf.measure.steady_state import settling_times
from pytest_nemoperf.measure.validity import record_problems
from pytest_nemoperf.recipes.recipe import MIN_STEPS, MIN_WARMUP_STEPS
from pytest_nemoperf.records.metrics import format_time
from pytest_nemoperf.records.step import RunOutput, StepRecord
from pytest_nemoperf.runs import clock
from pytest_nemoperf.runs.passes import Passes

_MIN_STEP_SEC: Final = 5e-6
"""An empty loop body takes 0.1 to 1 us, and a step.record of its loss as much again."""
_MAX_OUTSIDE_SEC: Final = 0.05
"""Time that may always follow a loop in its block, also after a very short loop."""


class LoopStep:
    """One step of a measured loop; its body may record loss, gradient norm and tokens here.

    Attributes:
        index: Counted from 0, warm-up included.
    """

    def __init__(self, index: int) -> None:
        self.index = index
        self.loss: float | None = None
        self.grad_norm: float | None = None
        self.tokens: int | None = None

    def record(self, *, loss: float | None = None, grad_norm: float | None = None, tokens: int | None = None) -> None:
        """Record figures of the step, in one call or several.

        A loss or norm that is not finite makes the case INVALID, and so do tokens other than tokens_per_step, unless
        lengths vary.

        Raises:
            RecordError: If tokens is no whole number above 0.
        """
        if tokens is not None and (type(tokens) is not int or tokens < 1):
            raise RecordError(f"step {self.index}: tokens={tokens!r} must be a whole number >= 1")
        if loss is not None:
            self.loss = float(loss)
        if grad_norm is not None:
            self.grad_norm = float(grad_norm)
        if tokens is not None:
            self.tokens = tokens


class MeasuredLoop:
    """Iterator over warm-up and measured steps that times the loop's body.

    The steps repeat from index 0 while their pass is too short to show a busy machine, or is not sound; see Passes.

    Args:
        expected: Number of steps, tokens and FLOPs.
        passes: Decides when there are enough passes.
        synchronize: Waits until the device is idle, e.g. ``torch.cuda.synchronize``; called at both ends of a
            step. None if the body's work is done when it returns.
        inject_pct: Self-test delay of each step in percent of its own time.
    """

    def __init__(
        self, expected: ExpectedRecords, *, passes: Passes, synchronize: Callable[[], object] | None, inject_pct: float
    ) -> None:
        _check(expected)
        self._expected = expected
        self._passes = passes
        self._synchronize = synchronize or (lambda: None)
        self._inject_pct = inject_pct
        self._units: list[list[list[StepRecord]]] = []  # by pass; a unit is all steps once, warm-up included
        self._unit: list[StepRecord] = []
        self._has_begun = False
        self._inside_sec = 0.0  # time in the loop's body
        self._outside_sec = 0.0  # time of the block after the loop
        self._left = 0.0  # clock at the last step's begin or the loop's end

    def __iter__(self) -> Iterator[LoopStep]:
        """Yield each step in turn; its time runs from here to the next request.

        Raises:
            RecipeError: On a second iteration.
        """
        if self._has_begun:
            raise RecipeError("the steps of a measured loop are gone through once; use a perf.measure for each loop")
        self._has_begun = True
        is_done = False
        while not is_done:
            self._unit = []
            yield from self._steps(self._unit)
            is_done = self._finish_unit()
        self._left = clock.now()

    def _steps(self, unit: list[StepRecord]) -> Iterator[LoopStep]:
        """Yield warm-up and measured steps once, and add their records."""
        for index in range(self._expected.warmup_steps + self._expected.steps):
            if index >= self._expected.warmup_steps:
                self._passes.poll()
            step = LoopStep(index)
            self._synchronize()
            self._left = started = clock.now()
            yield step
            self._synchronize()
            if self._inject_pct:
                clock.wait((clock.now() - started) * self._inject_pct / 100.0)
            duration = clock.now() - started
            self._inside_sec += duration
            unit.append(
                StepRecord(
                    step=index,
                    step_time_sec=duration,
                    tokens=self._tokens_of(step),
                    loss=step.loss,
                    grad_norm=step.grad_norm,
                )
            )

    def _tokens_of(self, step: LoopStep) -> int:
        if step.tokens is not None:
            return step.tokens
        if not self._expected.has_exact_tokens:
            raise RecordError(
                f"step {step.index} says nothing of its tokens; with has_varying_lengths=True each step, those of the "
                "warm-up too, must call step.record(tokens=...)"
            )
        return self._expected.tokens_per_step

    def _finish_unit(self) -> bool:
        """Keep a unit if it is complete, and return whether the loop ends."""
        unit = self._unit
        if record_problems(self._expected, records=unit):
            self._units.clear()  # result() reports the problems of this unit alone
            return True
        if len(self._units) == len(self._passes.finished):
            self._units.append([])
        self._units[-1].append(unit)
        measured = unit[self._expected.warmup_steps :]
        is_over = self._passes.end(settling_times(measured, has_exact_tokens=self._expected.has_exact_tokens))
        return is_over and self._passes.is_done()

    @property
    def has_units(self) -> bool:
        """Whether all steps were gone through at least once."""
        return bool(self._units)

    def end(self) -> None:
        """Record the end of the block around the loop: the time since the loop was left is outside of its steps."""
        if self._has_begun:
            self._outside_sec = clock.now() - self._left
        self._passes.close()

    def result(self) -> tuple[tuple[Run, ...], tuple[str, ...]]:
        """Return the run that counts, if any step was measured, and every reason not to judge it.

        A loop that was left early counts with its complete units.
        """
        self._passes.close()
        if not self._units:
            only = measure_run(self._expected, RunOutput(records=tuple(self._unit)))
            problems = tuple(f"run 1: {problem}" for problem in only.problems)
            if only.run is None:
                return (), problems
            return (only.run,), problems
        units = self._units[self._passes.counted]
        records = _joined(units, warmup_steps=self._expected.warmup_steps)
        expected = replace(self._expected, steps=len(records) - self._expected.warmup_steps)
        # The passes have checked for drift already, each unit alone if lengths vary.
        run = measure_run(expected, RunOutput(records=tuple(records))).run
        # Losses compare at the same step of training: the last of the first unit.
        first_time = measure_run(self._expected, RunOutput(records=tuple(self._units[0][0]))).run
        assert run is not None  # noqa: S101 (a unit has all its steps)
        assert first_time is not None  # noqa: S101 (as above)
        run = replace(
            run,
            last_step=first_time.last_step,
            loss=first_time.loss,
            grad_norm=first_time.grad_norm,
            drift_pct=self._passes.drift_pct,
        )
        return (run,), (*self._passes.problems, *self._misplaced_work(records))

    def _misplaced_work(self, records: Sequence[StepRecord]) -> list[str]:
        """Return signs that the work is done outside of the steps."""
        problems = []
        middle = statistics.median(record.step_time_sec for record in records[self._expected.warmup_steps :])
        if middle < _MIN_STEP_SEC:
            problems.append(
                f"a step takes {format_time(middle)}, the time of an empty loop body (under "
                f"{format_time(_MIN_STEP_SEC)}): do the work inside of the loop, which must not be a list of the "
                "steps; let one step do the work of many where it is as short as this"
            )
        if self._outside_sec > max(self._inside_sec, _MAX_OUTSIDE_SEC):
            problems.append(
                f"after the loop its block went on for {format_time(self._outside_sec)}, longer than all steps "
                f"together ({format_time(self._inside_sec)}): do the work inside of the loop, pass synchronize= "
                "where it ends later, and evaluate what it computed after the block"
            )
        return problems


def _joined(units: Sequence[Sequence[StepRecord]], *, warmup_steps: int) -> list[StepRecord]:
    """Return the steps of several units as one run: the first warm-up, then all measured steps, in order."""
    records = list(units[0][:warmup_steps])
    for unit in units:
        for record in unit[warmup_steps:]:
            records.append(replace(record, step=len(records)))
    return records


def _check(expected: ExpectedRecords) -> None:
    """Check a test's figures of its loop.

    Raises:
        RecipeError: If a value is impossible; the message names it.
    """
    check_fields(expected, of=" of a measured loop")
    if expected.tokens_per_step < 1:
        raise RecipeError("tokens_per_step=0 of a measured loop must be a whole number >= 1")
    if expected.steps < MIN_STEPS or expected.warmup_steps < MIN_WARMUP_STEPS:
        raise RecipeError(
            f"steps={expected.steps}, warmup_steps={expected.warmup_steps}: a measured loop needs at least "
            f"{MIN_STEPS} measured and {MIN_WARMUP_STEPS} warm-up steps"
        )
    flops = expected.flops_per_token
    convention = expected.flops_convention
    if flops is not None and not expected.has_exact_tokens:
        raise RecipeError(
            f"flops_per_token={flops!r} of a measured loop with has_varying_lengths=True: FLOPs per token grow with "
            "the length of a sequence; leave them out"
        )
    if flops == 0:
        raise RecipeError("flops_per_token=0 of a measured loop must be above 0; leave it out if it is not known")
    if convention is not None and flops is None:
        raise RecipeError(
            f"flops_convention={convention!r} without flops_per_token: there are no FLOPs to count; give both, or none"
        )
