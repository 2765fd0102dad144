"""Runs the measured steps of a plan under torch.profiler: what each operator takes, and a trace that Perfetto opens.

See https://docs.pytorch.org/docs/stable/profiler.html; the trace is for https://ui.perfetto.dev.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median

import torch
import torch.distributed as dist
from torch.autograd import DeviceType  # type: ignore[attr-defined]  # torch leaves it out of __all__
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function, schedule

from pytest_nemoperf.jsontext import to_json
from pytest_nemoperf.native.output import write_atomic
from pytest_nemoperf.native.phases import RankStep
from pytest_nemoperf.profiles import OUTSIDE, PROFILE_FILE, Operator, Profile, RankProfile, merge_ranks
from pytest_nemoperf.recipe import Plan

STEP_RANGE = "nemoperf::step"
UNNAMED_KERNELS = "(kernels of no operator)"
_MAX_TRACES = 8  # a node's ranks: one of each kind, as a rule, and no flood of files from a thousand
_USEC_PER_SEC = 1e6
_FSDP = "FSDP::"  # followed by what it does and, after a space, to which module


class StepProfiler:
    """Profiles the measured steps of this rank; the last of the warm-up starts the profiler, which takes time.

    Args:
        plan: What is run; has at least one warm-up step.
        device: Of this rank.
    """

    def __init__(self, plan: Plan, *, device: torch.device) -> None:
        activities = [ProfilerActivity.CPU]
        if device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        self._plan = plan
        self._profiler = profile(
            activities=activities,
            schedule=schedule(wait=plan.warmup_steps - 1, warmup=1, active=plan.steps, repeat=1),
        )

    def run(self, run_step: Callable[[int], RankStep], *, number: int) -> RankStep:
        """Run a step; the profiler changes its state after it, before the ranks meet for the next."""
        if number == 0:
            self._profiler.start()
        with record_function(STEP_RANGE):
            step = run_step(number)
        self._profiler.step()
        return step

    def write(self, run_dir: Path, *, rank: int) -> None:
        """Write this rank's trace, and on rank 0 the profile of all ranks; all ranks must call it."""
        if rank < _MAX_TRACES:
            self._profiler.export_chrome_trace(str(run_dir / f"trace-rank{rank}.json.gz"))
        mine = summarize(self._events(), device_type=self._plan.device)
        ranks: list[RankProfile | None] | None = [None] * dist.get_world_size() if rank == 0 else None
        dist.gather_object(mine, ranks)
        if ranks is not None:
            merged = merge_ranks([each for each in ranks if each is not None])
            found = Profile(
                case=self._plan.case,
                system=self._plan.system,
                device=self._plan.device,
                num_steps=self._plan.steps,
                num_ranks=len(ranks),
                step_time_sec=merged.step_time_sec,
                operators=merged.operators,
            )
            write_atomic(run_dir / PROFILE_FILE, to_json(found))

    def _events(self) -> Sequence[FunctionEvent]:
        return self._profiler.events()  # type: ignore[no-untyped-call,no-any-return]  # torch leaves it untyped


def summarize(events: Sequence[FunctionEvent], *, device_type: str) -> RankProfile:
    """Return what the operators took of a step, medians over the steps; what ran between steps does not count.

    Operators have the time of their own kernels on CUDA (as torch attributes kernels to what launched them), else
    their own CPU time. What is left of a step, when nothing of the kind ran, has a row of its own.
    """
    steps = [event for event in events if event.name == STEP_RANGE and _is_on_cpu(event)]
    seen = [_summarize_step(step, events=events, device_type=device_type) for step in steps]
    names = sorted({name for step in seen for name in step})
    nothing = Operator(calls_per_step=0.0, self_sec_per_step=0.0)
    operators = {name: _median([step.get(name, nothing) for step in seen]) for name in names}
    return RankProfile(
        step_time_sec=rounded(median(map(_usec, steps)) / _USEC_PER_SEC),
        operators={name: operator for name, operator in operators.items() if operator.self_sec_per_step > 0},
    )


def _summarize_step(step: FunctionEvent, *, events: Sequence[FunctionEvent], device_type: str) -> dict[str, Operator]:
    start, end = _span(step)
    inside = [event for event in events if start <= event.time_range.start < end]
    named = [event for event in inside if _is_on_cpu(event) and not _is_frame(event)]
    kernels = [event for event in inside if not _is_on_cpu(event) and not event.is_user_annotation]  # no shadows
    is_cuda = device_type == "cuda"
    calls = Counter(map(_name, named))
    usec: defaultdict[str, float] = defaultdict(float)
    for event in named:
        usec[_name(event)] += _kernels_usec(event) if is_cuda else _self_cpu_usec(event)
    if is_cuda:
        usec[UNNAMED_KERNELS] = max(0.0, sum(map(_usec, kernels)) - sum(usec.values()))
    usec[OUTSIDE[device_type]] = max(0.0, end - start - covered_usec(map(_span, kernels if is_cuda else named)))
    return {
        name: Operator(calls_per_step=calls[name], self_sec_per_step=taken / _USEC_PER_SEC)
        for name, taken in usec.items()
    }


def _median(steps: Sequence[Operator]) -> Operator:
    return Operator(
        calls_per_step=median(step.calls_per_step for step in steps),
        self_sec_per_step=rounded(median(step.self_sec_per_step for step in steps)),
    )


def covered_usec(spans: Iterable[tuple[float, float]]) -> float:
    """Return the time that at least one of these spans covers."""
    covered, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        covered += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return covered


def rounded(value: float) -> float:
    """Return a number in four significant digits: stored profiles are read as diffs."""
    return float(f"{value:.4g}")


def _name(event: FunctionEvent) -> str:
    name = str(event.name)
    return name.partition(" ")[0] if name.startswith(_FSDP) else name


def _is_on_cpu(event: FunctionEvent) -> bool:
    return bool(event.device_type == DeviceType.CPU)


def _is_frame(event: FunctionEvent) -> bool:
    return event.name == STEP_RANGE or event.name.startswith("ProfilerStep")


def _self_cpu_usec(event: FunctionEvent) -> float:
    """Own time; of what begins on one thread and ends on another, such as a collective, all of it."""
    return _usec(event) if event.is_async else float(event.self_cpu_time_total)


def _kernels_usec(event: FunctionEvent) -> float:
    """Time of the kernels that this event itself launched.

    A range of the CPU casts a shadow of its name on the device's time line, which torch lists as one of its kernels.
    """
    return float(sum(kernel.duration for kernel in event.kernels if kernel.name != event.name))


def _usec(event: FunctionEvent) -> float:
    return float(event.time_range.end - event.time_range.start)


def _span(event: FunctionEvent) -> tuple[float, float]:
    return float(event.time_range.start), float(event.time_range.end)
