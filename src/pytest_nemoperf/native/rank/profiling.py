"""Profiles of measured steps by torch.profiler: time of each operator, and a trace for https://ui.perfetto.dev.

See https://docs.pytorch.org/docs/stable/profiler.html.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median

import torch
import torch.distributed as dist
from torch import profiler
from torch.autograd import DeviceType  # type: ignore[attr-defined]  # torch leaves it out of __all__
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, record_function

from pytest_nemoperf.json_codec import to_json
from pytest_nemoperf.native.phases import RankStep
from pytest_nemoperf.native.rank.output import write_atomic
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.records.profile import OUTSIDE, PROFILE_FILE, Operator, Profile, RankProfile, merge_ranks

_STEP_RANGE = "nemoperf::step"
_UNNAMED_KERNELS = "(kernels of no operator)"
_MAX_TRACES = 8  # as many as a node's ranks, usually of every kind; the traces of a thousand ranks would fill the disk
_USEC_PER_SEC = 1e6
_FSDP = "FSDP::"  # followed by the action and, after a space, the module


class StepProfiler:
    """Profiler of this rank's measured steps; it starts in the last warm-up step, as starting takes time.

    Args:
        plan: Plan of the run, with at least one warm-up step.
        device: Device of this rank.
    """

    def __init__(self, plan: Plan, *, device: torch.device) -> None:
        activities = [ProfilerActivity.CPU]
        if device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        self._plan = plan
        self._profiler = profiler.profile(
            activities=activities,
            schedule=profiler.schedule(wait=plan.warmup_steps - 1, warmup=1, active=plan.steps, repeat=1),
        )

    def run(self, run_step: Callable[[int], RankStep], number: int) -> RankStep:
        """Run a step; the profiler changes its state after it, before the barrier of the next step."""
        if number == 0:
            self._profiler.start()
        with record_function(_STEP_RANGE):
            step = run_step(number)
        self._profiler.step()
        return step

    def write(self, run_dir: Path, *, rank: int) -> None:
        """Write this rank's trace, and on rank 0 the profile of all ranks; all ranks must call it."""
        if rank < _MAX_TRACES:
            self._profiler.export_chrome_trace(str(run_dir / f"trace-rank{rank}.json.gz"))
        mine = _summarize(self._events(), device_type=self._plan.device)
        gathered: list[RankProfile] | None = None
        if rank == 0:
            gathered = [mine] * dist.get_world_size()  # filled by the collective
        dist.gather_object(mine, gathered)
        if gathered is None:
            return
        merged = merge_ranks(gathered)
        profile = Profile(
            case=self._plan.case,
            system=self._plan.system,
            device=self._plan.device,
            num_steps=self._plan.steps,
            num_ranks=len(gathered),
            step_time_sec=merged.step_time_sec,
            operators=merged.operators,
        )
        write_atomic(run_dir / PROFILE_FILE, to_json(profile))

    def _events(self) -> Sequence[FunctionEvent]:
        return self._profiler.events()  # type: ignore[no-untyped-call,no-any-return]  # torch leaves it untyped


def _summarize(events: Sequence[FunctionEvent], *, device_type: str) -> RankProfile:
    """Return the median time and calls of each operator over the steps; events between steps do not count.

    An operator's time is that of its own kernels on CUDA (as torch attributes kernels to the events that launched
    them), otherwise its own CPU time. The rest of a step, in which nothing of the kind ran, has a row of its own, so
    that the rows of a step are its time; kernels that run beside others, on other streams, count on top.
    """
    steps = [event for event in events if event.name == _STEP_RANGE and _is_on_cpu(event)]
    launchers = _launchers(events)
    by_step = [_summarize_step(step, events=events, launchers=launchers, device_type=device_type) for step in steps]
    unused = Operator(calls_per_step=0.0, self_sec_per_step=0.0)
    operators = {}
    for name in sorted(set().union(*by_step)):
        operator = _median([step.get(name, unused) for step in by_step])
        if operator.self_sec_per_step > 0:
            operators[name] = operator
    return RankProfile(step_time_sec=rounded(median(map(_usec, steps)) / _USEC_PER_SEC), operators=operators)


def _launchers(events: Sequence[FunctionEvent]) -> dict[int, FunctionEvent]:
    """Return the events that launched kernels, by correlation id.

    The profiler's remarks on its own overhead on the CPU ("Command Buffer Full", "Activity Buffer Request", "Lazy
    Function Loading" ...; libkineto/src/cupti_strings.cpp) have the id of the operator inside which they were made, and
    torch lists that operator's kernels as theirs as well: https://github.com/pytorch/pytorch/pull/193392. The
    operator is the event that encloses them.
    """
    launchers: dict[int, FunctionEvent] = {}
    for event in events:
        if _is_on_cpu(event) and event.kernels:
            known = launchers.setdefault(event.id, event)
            if _usec(event) > _usec(known):
                launchers[event.id] = event
    return launchers


def _summarize_step(
    step: FunctionEvent,
    *,
    events: Sequence[FunctionEvent],
    launchers: Mapping[int, FunctionEvent],
    device_type: str,
) -> dict[str, Operator]:
    """Return time and calls of each operator in one step."""
    start, end = _span(step)
    operators = []  # events on the CPU
    kernels = []  # on the device, without the copies of CPU ranges there
    for event in events:
        if not start <= event.time_range.start < end:
            continue
        if _is_on_cpu(event):
            if not _is_frame(event):
                operators.append(event)
        elif not event.is_user_annotation:
            kernels.append(event)
    calls: Counter[str] = Counter()
    usec: defaultdict[str, float] = defaultdict(float)
    working = operators
    own_usec = _self_cpu_usec
    if device_type == "cuda":
        working = kernels
        own_usec = _kernels_usec
    for event in operators:
        if event.kernels and launchers[event.id] is not event:
            continue  # a remark
        calls[_name(event)] += 1
        usec[_name(event)] += own_usec(event)
    if device_type == "cuda":
        usec[_UNNAMED_KERNELS] = max(0.0, sum(map(_usec, kernels)) - sum(usec.values()))
    usec[OUTSIDE[device_type]] = max(0.0, end - start - _covered_usec(map(_span, working)))
    return {
        name: Operator(calls_per_step=calls[name], self_sec_per_step=taken / _USEC_PER_SEC)
        for name, taken in usec.items()
    }


def _median(steps: Sequence[Operator]) -> Operator:
    calls = median(step.calls_per_step for step in steps)
    sec = median(step.self_sec_per_step for step in steps)
    return Operator(calls_per_step=calls, self_sec_per_step=rounded(sec))


def _covered_usec(spans: Iterable[tuple[float, float]]) -> float:
    """Return the time that at least one of these spans covers."""
    covered = 0.0
    reached = float("-inf")
    for start, end in sorted(spans):
        covered += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return covered


def rounded(value: float) -> float:
    """Return a number in four significant digits: stored profiles are read as diffs."""
    return float(f"{value:.4g}")


def _name(event: FunctionEvent) -> str:
    """Return the name of an event, without the module in those of FSDP."""
    name = str(event.name)
    if name.startswith(_FSDP):
        return name.partition(" ")[0]
    return name


def _is_on_cpu(event: FunctionEvent) -> bool:
    return bool(event.device_type == DeviceType.CPU)


def _is_frame(event: FunctionEvent) -> bool:
    return event.name == _STEP_RANGE or event.name.startswith("ProfilerStep")


def _self_cpu_usec(event: FunctionEvent) -> float:
    """Return the event's own time; all of its time if it ends on another thread, as collectives do."""
    if event.is_async:
        return _usec(event)
    return float(event.self_cpu_time_total)


def _kernels_usec(event: FunctionEvent) -> float:
    """Return the time of the kernels that this event itself launched.

    A range of the CPU has a copy of the same name on the device's time line, which torch lists as one of its kernels.
    """
    return float(sum(kernel.duration for kernel in event.kernels if kernel.name != event.name))


def _usec(event: FunctionEvent) -> float:
    return float(event.time_range.end - event.time_range.start)


def _span(event: FunctionEvent) -> tuple[float, float]:
    return float(event.time_range.start), float(event.time_range.end)
