"""Time a training loop that runs in this process: ``for step in steps: ...``."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator

from pytest_nemoperf.errors import RecipeError, RecordError
from pytest_nemoperf.expected import Expected
from pytest_nemoperf.recipe import MIN_STEPS, MIN_WARMUP_STEPS
from pytest_nemoperf.records import StepRecord


class LoopStep:
    """One step of a measured loop; the body may leave its loss, gradient norm and tokens here.

    Attributes:
        index: Counted from 0, warm-up included.
    """

    def __init__(self, index: int) -> None:
        self.index = index
        self.loss: float | None = None
        self.grad_norm: float | None = None
        self.tokens: int | None = None

    def record(self, *, loss: float | None = None, grad_norm: float | None = None, tokens: int | None = None) -> None:
        """Leave what the step computed, at once or one after the other.

        A loss or norm that is not finite makes the case INVALID, and so do tokens other than tokens_per_step, unless
        lengths vary.

        Raises:
            RecordError: If tokens is no whole number above 0.
        """
        if tokens is not None and (type(tokens) is not int or tokens < 1):
            raise RecordError(f"step {self.index}: tokens={tokens!r} must be a whole number >= 1")
        self.loss = self.loss if loss is None else float(loss)
        self.grad_norm = self.grad_norm if grad_norm is None else float(grad_norm)
        self.tokens = self.tokens if tokens is None else tokens


class MeasuredLoop:
    """Iterates over warm-up and measured steps, and times the loop's body between them.

    Args:
        expected: How many steps, and what each is worth.
        synchronize: Waits until the device is idle, e.g. ``torch.cuda.synchronize``; called at both ends of a
            step. None where the body's work is done when it returns.
        inject_pct: Self-test delay of each step in percent of its own time.
    """

    def __init__(self, expected: Expected, *, synchronize: Callable[[], object] | None, inject_pct: float) -> None:
        _check(expected)
        self._expected = expected
        self._synchronize = synchronize or (lambda: None)
        self._inject_pct = inject_pct
        self.records: list[StepRecord] = []

    def __iter__(self) -> Iterator[LoopStep]:
        """Yield each step in turn; its time runs from here to the next request."""
        for index in range(self._expected.warmup_steps + self._expected.steps):
            step = LoopStep(index)
            self._synchronize()
            started = time.perf_counter()
            yield step
            self._synchronize()
            if self._inject_pct:
                time.sleep((time.perf_counter() - started) * self._inject_pct / 100.0)
            self.records.append(
                StepRecord(
                    step=index,
                    step_time_sec=time.perf_counter() - started,
                    tokens=self._tokens_of(step),
                    loss=step.loss,
                    grad_norm=step.grad_norm,
                )
            )

    def _tokens_of(self, step: LoopStep) -> int:
        if step.tokens is None and not self._expected.has_exact_tokens:
            raise RecordError(
                f"step {step.index} says nothing of its tokens; with has_varying_lengths=True each step, those of the "
                "warm-up too, must call step.record(tokens=...)"
            )
        return self._expected.tokens_per_step if step.tokens is None else step.tokens


def _check(expected: Expected) -> None:
    """Check what a test says of its loop.

    Raises:
        RecipeError: If a value can't be; the message names it.
    """
    for name in ("tokens_per_step", "num_gpus", "steps", "warmup_steps"):
        count = getattr(expected, name)
        if type(count) is not int or count < 1:
            raise RecipeError(f"{name}={count!r} of a measured loop must be a whole number >= 1")
    if expected.steps < MIN_STEPS or expected.warmup_steps < MIN_WARMUP_STEPS:
        raise RecipeError(
            f"steps={expected.steps}, warmup_steps={expected.warmup_steps}: a measured loop needs at least "
            f"{MIN_STEPS} measured and {MIN_WARMUP_STEPS} warm-up steps"
        )
    flops, convention = expected.flops_per_token, expected.flops_convention
    if flops is not None and not expected.has_exact_tokens:
        raise RecipeError(
            f"flops_per_token={flops!r} of a measured loop with has_varying_lengths=True: FLOPs per token grow with "
            "the length of a sequence; leave them out"
        )
    if flops is not None and (type(flops) not in (int, float) or not 0 < flops < math.inf):
        raise RecipeError(f"flops_per_token={flops!r} of a measured loop must be a finite number above 0")
    if convention is not None and type(convention) is not str:
        raise RecipeError(f"flops_convention={convention!r} of a measured loop must be a name")
    if convention is not None and flops is None:
        raise RecipeError(
            f"flops_convention={convention!r} without flops_per_token: there are no FLOPs to count; give both, or none"
        )
