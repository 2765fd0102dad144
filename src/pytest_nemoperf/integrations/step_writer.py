"""StepWriter: step records of a training loop, written from inside of it.

Only the standard library is imported, and of this package only this part: the environment of a training script need not
hold what pytest-nemoperf depends on.
"""

from __future__ import annotations

import json
import operator
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

from pytest_nemoperf.integrations.rank_device import (
    current_rank,
    device_mark,
    largest_memory_bytes,
    seconds_between,
    synchronize,
)

_PLAN_VARIABLE: Final = "NEMOPERF_PLAN"
_STEPS_VARIABLE: Final = "NEMOPERF_STEPS"
_PLAN_SCHEMA_VERSION: Final = 1
_PLAN_KEYS: Final = (
    "steps",
    "warmup_steps",
    "tokens_per_step",
    "global_batch_size",
    "layout",
    "device",
    "inject_pct",
    "has_varying_lengths",
)
"""Keys of the plan that are read here and in the callbacks."""
_OTHER: Final = "other"
_ROLLOUT_COUNTS: Final = (
    "num_response_tokens",
    "num_prompt_tokens",
    "num_samples",
    "num_truncated",
    "staleness_steps",
    "num_rounds",
    "refit_bytes",
)
_ROLLOUT_NUMBERS: Final = (
    "generation_time_sec",
    "batch_fill_pct",
    "imbalance_pct",
    "reward_mean",
    "reward_std",
    "token_mult_prob_error",
    "max_logprob_error",
    "kl",
    "refit_time_sec",
)
_ROLLOUT_TEXTS: Final = ("tokens_digest",)
ROLLOUT_KEYS: Final = (*_ROLLOUT_COUNTS, *_ROLLOUT_NUMBERS, *_ROLLOUT_TEXTS)
"""Figures that a step may record of its rollouts; docs/rl.md says what they mean."""

_T = TypeVar("_T")


class StepError(RuntimeError):
    """A step that can't be recorded as asked: a figure twice or impossible, no plan, a file in use."""


class StepWriter:
    """Writer of the step records of a training loop; outside of a perf run it does nothing and costs nothing.

    Three lines measure a script, and may stay in it::

        from pytest_nemoperf.integrations import StepWriter

        steps = StepWriter()
        for batch in steps.over(loader):  # was: for batch in loader:
            loss = train(batch)
            steps.record(loss=loss)       # optional: lets a wrong loss be found

    A step lasts from the request for its batch to the end of the loop's body, device synchronised at both ends. So the
    time to load data counts, as with the native engine; work after ``steps.stop_clock()``, such as an evaluation, does
    not. The loop ends after as many steps as the plan has, warm-up included, on every rank; ``is_done`` then says so to
    loops around it. Where ``over`` does not fit, ``with steps.step():`` around a step does the same, and the loop ends
    with ``if steps.is_done: break``.

    Every rank of a distributed run makes a StepWriter, since every rank must end. Rank 0 alone writes, and the times
    are its own: a slower rank is seen only where rank 0 waits for it. The rank is that of torch.distributed, or else of
    RANK, SLURM_PROCID or MPI's variables. Processes that are forked, such as a DataLoader's workers, write nothing.

    A delay of the self-test ``--perf-inject`` is added to each step, on every rank.

    Raises:
        StepError: In a perf run whose plan can't be read.
    """

    def __init__(self) -> None:
        self._path = os.environ.get(_STEPS_VARIABLE, "")
        self._plan = _read_plan(os.environ.get(_PLAN_VARIABLE, "")) if self._path else {}
        self._pid = os.getpid()
        self._has_file = False
        self._num_stopped = 0
        self._step: _Step | None = None

    @property
    def is_active(self) -> bool:
        """Whether this process is part of a perf run, and not a worker forked from it."""
        return bool(self._plan) and os.getpid() == self._pid

    @property
    def is_done(self) -> bool:
        """Whether the plan's last step is over; never outside of a perf run."""
        return self.is_active and self._num_stopped >= self.total_steps

    @property
    def total_steps(self) -> int:
        """Steps of the plan, warm-up included; 0 outside of a perf run."""
        if not self._plan:
            return 0
        return int(self._plan["warmup_steps"] + self._plan["steps"])

    @property
    def plan(self) -> Mapping[str, Any]:
        """The plan as JSON has it; empty outside of a perf run."""
        return self._plan

    @property
    def has_open_step(self) -> bool:
        """Whether a step has begun and not ended."""
        return self._step is not None

    @property
    def is_stopped(self) -> bool:
        """Whether a step's clock has stopped, and its record is not written yet."""
        return self._step is not None and self._step.seconds is not None

    def over(self, batches: Iterable[_T], *, batches_per_step: int = 1) -> Iterator[_T]:
        """Yield batches, and record a step for each, or for as many as make one.

        The batches end, in a perf run, with the plan's last step. If they end sooner, the next loop over them, such as
        another epoch, goes on with the next step. A step that is left by an exception, by ``break``, or without all of
        its batches is not recorded.

        Args:
            batches: Anything that a loop goes over: a DataLoader, ``range(max_steps)``, ``itertools.count()``.
            batches_per_step: Batches between two optimizer updates, where gradients accumulate.

        Raises:
            StepError: If a step can't be recorded.
        """
        if batches_per_step < 1:
            raise StepError(f"batches_per_step={batches_per_step} must be >= 1")
        if not self.is_active:
            yield from batches
            return
        iterator: Iterator[_T] | None = None
        try:
            while not self.is_done:
                self.begin_step()
                if iterator is None:
                    iterator = iter(batches)  # may start workers, which is part of loading data
                for _ in range(batches_per_step):
                    try:
                        batch = next(iterator)
                    except StopIteration:
                        return
                    yield batch
                self.end_step()
        finally:
            self.cancel_step()

    @contextmanager
    def step(self) -> Iterator[StepWriter]:
        """Record the block as one step, unless an exception leaves it; after the plan's last step it does nothing.

        Yields:
            This writer: ``with steps.step() as step: step.record(...)``.

        Raises:
            StepError: If the step can't be recorded.
        """
        self.begin_step()
        try:
            yield self
            self.end_step()
        finally:
            self.cancel_step()

    def begin_step(self) -> None:
        """Synchronise the device and start the clock; for callbacks, a loop takes ``over`` or ``step``.

        Raises:
            StepError: If a step is open.
        """
        if not self.is_active or self.is_done:
            return
        if self._step is not None:
            raise StepError(f"step {self._step.index} has not ended; call end_step() before the next begins")
        self._step = _Step(self._num_stopped)
        synchronize()
        self._step.started = time.perf_counter()

    def stop_clock(self) -> None:
        """Synchronise the device and stop the clock: further work of the step does not count.

        Figures may still be recorded. Without an open step, or if it has stopped, this does nothing.

        Raises:
            StepError: If a phase is open.
        """
        step = self._step
        if step is None or step.seconds is not None or not self.is_active:
            return
        if step.open_phase:
            raise StepError(
                f"step {step.index}: the clock stops inside of phase {step.open_phase!r}, which would be longer than "
                "its step; end the phase first"
            )
        synchronize()
        delay_pct = float(self._plan["inject_pct"])
        if delay_pct:
            time.sleep((time.perf_counter() - step.started) * delay_pct / 100)
        step.seconds = time.perf_counter() - step.started
        self._num_stopped += 1

    def record(
        self,
        *,
        loss: Any = None,
        grad_norm: Any = None,
        tokens: Any = None,
        flops: Any = None,
        rollout: Mapping[str, Any] | None = None,
    ) -> None:
        """Record figures of the open step, in one call or several.

        Each may be a number or a tensor of one element: it is read when the clock has stopped, so that the device does
        not wait for it within the step.

        Args:
            loss: Mean loss over the step's tokens.
            grad_norm: Norm of the gradient before clipping.
            tokens: Tokens of the step over all ranks; the plan's if left out. Needed where lengths vary.
            flops: Model FLOPs of the step over all ranks.
            rollout: Figures of the step's rollouts; ``num_response_tokens`` is needed in reinforcement learning, the
                others of ROLLOUT_KEYS are optional.

        Raises:
            StepError: If a figure was recorded already, a key of rollout is unknown, or no step is open.
        """
        if not self.is_active:
            return
        step = self._step
        if step is None:
            if self.is_done:
                return
            raise StepError("record() outside of a step; call it within the loop over steps.over(...) or steps.step()")
        named = {"loss": loss, "grad_norm": grad_norm, "tokens": tokens, "flops": flops}
        for name, value in named.items():
            if value is not None:
                step.keep(name, value)
        for name, value in (rollout or {}).items():
            if name not in ROLLOUT_KEYS:
                raise StepError(f"rollout has an unknown key {name!r}; known: {', '.join(ROLLOUT_KEYS)}")
            step.keep(f"rollout.{name}", value)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time of the block as a phase of the step; outside of a step it does nothing.

        The device is not synchronised for it: on a GPU the time is that between two events on the current stream. A
        phase may come several times in a step; time in none of them is ``other``.

        Args:
            name: ``data``, ``forward``, ``backward``, ``optimizer`` ... of docs/metrics.md, or one of your own.

        Raises:
            StepError: If another phase is open: of nested phases, time would count twice.
        """
        step = self._step
        if step is None or step.seconds is not None or not self.is_active:
            yield
            return
        if step.open_phase:
            raise StepError(
                f"step {step.index}: phase {name!r} inside of {step.open_phase!r}; time would count in both, end one "
                "before the other begins"
            )
        step.open_phase = name
        start = device_mark()
        try:
            yield
        finally:
            step.marks.append((name, start, device_mark()))
            step.open_phase = ""

    def end_step(self) -> None:
        """Stop the clock if it runs, and write the record; for callbacks, a loop takes ``over`` or ``step``.

        Raises:
            StepError: If a figure is missing or impossible, no step is open, or another process writes the file.
        """
        if not self.is_active:
            return
        if self._step is None:
            if self.is_done:
                return
            raise StepError("end_step() without begin_step(); a step ends once")
        self.stop_clock()
        step, self._step = self._step, None
        if current_rank() == 0:
            self._write(self._record_of(step))

    def cancel_step(self) -> None:
        """Forget the open step, if there is one; it is not recorded, and the next has its number."""
        step = self._step
        if step is not None and step.seconds is not None:
            self._num_stopped -= 1
        self._step = None

    def _record_of(self, step: _Step) -> dict[str, Any]:
        assert step.seconds is not None  # noqa: S101 (end_step has stopped the clock)
        record: dict[str, Any] = {
            "step": step.index,
            "step_time_sec": step.seconds,
            "tokens": self._tokens_of(step),
        }
        for name in ("loss", "grad_norm", "flops"):
            if name in step.figures:
                record[name] = step.number(name)
        if step.marks:
            record["phases"] = step.phases()
        peak = largest_memory_bytes(self._plan["device"])
        if peak is not None:
            record["peak_memory_bytes"] = peak
        rollout = step.rollout()
        if self._plan.get("rl") is not None and "num_response_tokens" not in rollout:
            raise StepError(
                f"step {step.index} says nothing of what was generated; in reinforcement learning each step, those of "
                "the warm-up too, needs record(rollout={'num_response_tokens': ...})"
            )
        if rollout:
            record["rollout"] = rollout
        return record

    def _tokens_of(self, step: _Step) -> int:
        if "tokens" in step.figures:
            return step.count("tokens", minimum=1)
        rl = self._plan.get("rl") or {}
        if self._plan["has_varying_lengths"] or rl.get("response_lengths") == "sampled":
            raise StepError(
                f"step {step.index} says nothing of its tokens; where lengths vary each step, those of the warm-up "
                "too, needs record(tokens=...)"
            )
        return int(self._plan["tokens_per_step"])

    def _write(self, record: Mapping[str, Any]) -> None:
        mode = "ab" if self._has_file else "xb"
        try:
            with Path(self._path).open(mode, buffering=0) as file:  # a line is one write: whole or not there
                file.write(json.dumps(record).encode() + b"\n")
        except FileExistsError:
            raise StepError(
                f"{self._path} is there already: another StepWriter of this run writes it; make one in the script, or "
                "let its ranks know their numbers by RANK, as torchrun does"
            ) from None
        except OSError as error:
            raise StepError(f"{_STEPS_VARIABLE}={self._path} can't be written: {error}") from None
        self._has_file = True


class _Step:
    """The open step: its clock, its phases, and its figures.

    Args:
        index: Number of the step, from 0.
    """

    def __init__(self, index: int) -> None:
        self.index = index
        self.started = 0.0
        self.seconds: float | None = None  # until the clock has stopped
        self.figures: dict[str, Any] = {}
        self.marks: list[tuple[str, Any, Any]] = []
        self.open_phase = ""

    def keep(self, name: str, value: Any) -> None:
        """Keep a figure until the clock has stopped.

        Raises:
            StepError: If it was recorded already.
        """
        if name in self.figures:
            raise StepError(
                f"step {self.index}: {name} was recorded already ({self.figures[name]}); record it once a step, of all "
                "its batches together"
            )
        if hasattr(value, "detach"):
            value = value.detach()  # keeps no graph
        self.figures[name] = value

    def number(self, name: str) -> float:
        """Return a figure as a number; it may be NaN, which the judge finds.

        Raises:
            StepError: If it is none.
        """
        value = self.figures[name]
        try:
            return float(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise StepError(
                f"step {self.index}: {name}={value!r} must be a number, or a tensor of one element: {error}"
            ) from None

    def count(self, name: str, *, minimum: int) -> int:
        """Return a figure as a whole number.

        Raises:
            StepError: If it is none, or too small.
        """
        value = self.figures[name]
        try:
            number = operator.index(value)
        except (TypeError, RuntimeError):
            number = minimum - 1
        if number < minimum:
            raise StepError(f"step {self.index}: {name}={value!r} must be a whole number >= {minimum}")
        return number

    def phases(self) -> dict[str, float]:
        """Return seconds by phase; they sum to the step's."""
        assert self.seconds is not None  # noqa: S101 (as in _record_of)
        phases: dict[str, float] = {}
        for name, start, end in self.marks:
            phases[name] = phases.get(name, 0.0) + seconds_between(start, end)
        rest = self.seconds - sum(phases.values())
        phases[_OTHER] = phases.get(_OTHER, 0.0) + max(0.0, rest)  # CUDA rounds the times between events
        return phases

    def rollout(self) -> dict[str, Any]:
        """Return the figures of the rollouts by key."""
        rollout: dict[str, Any] = {}
        for name in self.figures:
            key = name.removeprefix("rollout.")
            if key == name:
                continue
            if key in _ROLLOUT_COUNTS:
                rollout[key] = self.count(name, minimum=0)
            elif key in _ROLLOUT_NUMBERS:
                rollout[key] = self.number(name)
            else:
                rollout[key] = str(self.figures[name])
        return rollout


def _read_plan(path: str) -> dict[str, Any]:
    """Return the plan of a perf run.

    Raises:
        StepError: If the file is missing, can't be read or is of another version.
    """
    if not path:
        raise StepError(
            f"{_STEPS_VARIABLE} is set without {_PLAN_VARIABLE}; a perf run sets both, so hand both on to the script"
        )
    try:
        plan = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise StepError(f"the plan of {_PLAN_VARIABLE}={path} can't be read: {error}") from None
    version = plan.get("schema_version") if isinstance(plan, dict) else None
    if version != _PLAN_SCHEMA_VERSION:
        raise StepError(
            f"the plan {path} has schema_version {version}, this StepWriter reads {_PLAN_SCHEMA_VERSION}; install the "
            "same pytest-nemoperf for the script as for pytest"
        )
    for key in _PLAN_KEYS:
        if key not in plan:
            raise StepError(f"{path} has no {key!r}, so it is no plan; {_PLAN_VARIABLE} must name the run's plan.json")
    return dict(plan)
