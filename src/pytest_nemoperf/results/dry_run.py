"""Results of a dry run, as its JSON file holds them and the terminal shows them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from pytest_nemoperf.pricing.price import Price
from pytest_nemoperf.records.figures import Amount, Count, Size
from pytest_nemoperf.results.cases import NotRun
from pytest_nemoperf.verdict.policy import VerdictPolicy, check_limits

_SCHEMA_VERSION: Final = 1
_SEC_PER_HOUR: Final = 3600
DRY_RUN_FILE: Final = "dry_run.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class PricedCase:
    """One case that would run.

    Attributes:
        nodeid: Test that asks for it.
        price: Plan and its cost.
        num_launches: Launches that make its baseline; 1, the least for a verdict, where cases are judged by pages.
    """

    nodeid: str
    price: Price
    num_launches: Size = 1

    @property
    def gpu_hours(self) -> float | None:
        """GPU-hours of its launches' steps, warm-up included; None without a step time."""
        step_times = self._step_times
        if step_times is None:
            return None
        _, step_time, _ = step_times
        plan = self.price.plan
        num_steps = plan.total_steps * self.num_launches
        return num_steps * step_time * plan.layout.total_gpus / _SEC_PER_HOUR

    @property
    def launch_sec(self) -> tuple[float, float, float] | None:
        """Least, expected and most seconds of one launch, with the time to start if it is known; None as above."""
        step_times = self._step_times
        if step_times is None:
            return None
        startup = self.price.startup_sec or 0.0
        low, expected, high = [startup + self.price.plan.total_steps * step_time for step_time in step_times]
        return low, expected, high

    @property
    def _step_times(self) -> tuple[float, float, float] | None:
        """Least, expected and most seconds of a step: all the same for one of a baseline or a page."""
        expected = self.price.expected
        if expected is not None:
            return expected.step_time_sec, expected.step_time_sec, expected.step_time_sec
        estimated = self.price.estimated
        if estimated is not None:
            return estimated.low_sec, estimated.step_time_sec, estimated.high_sec
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchTime:
    """Wall time of one launch of each case that takes as many GPUs, one after another, start-up included.

    Attributes:
        gpus: GPUs, or processes on a CPU, of each case.
        num_cases: Cases.
        low_sec: Seconds with each estimated step at the fast end of its range.
        sec: Seconds.
        high_sec: With each at the slow end.
    """

    gpus: Size
    num_cases: Size
    low_sec: Amount
    sec: Amount
    high_sec: Amount


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteCost:
    """GPU-hours of a suite's steps, and the wall time of one launch of each case.

    Attributes:
        gpu_hours: Sum over the cases with a stored or published step time: warm-up and measured steps x launches x step
            time x GPUs.
        num_stored: Cases with a step time from a stored baseline.
        num_published: Cases with one from a published row.
        num_unknown: Cases without any, which the sums leave out.
        estimated_gpu_hours: The same sum over the cases with an estimated step time.
        num_estimated: Cases with one.
        launches: Wall time of one launch of each case, by GPUs; cases that do not fit are left out.
    """

    gpu_hours: Amount
    num_stored: Count
    num_published: Count
    num_unknown: Count
    estimated_gpu_hours: Amount = 0.0
    num_estimated: Count = 0
    launches: tuple[LaunchTime, ...] = ()

    @property
    def num_known(self) -> int:
        """Cases that the sums are of."""
        return self.num_stored + self.num_published + self.num_estimated


def suite_cost(cases: Sequence[PricedCase]) -> SuiteCost:
    """Return the GPU-hours and launch times of the cases of a suite."""
    known = []
    estimated = []
    num_published = 0
    for case in cases:
        if case.gpu_hours is None:
            continue
        if case.price.expected is None:
            estimated.append(case.gpu_hours)
            continue
        known.append(case.gpu_hours)
        if case.price.expected.published:
            num_published += 1
    return SuiteCost(
        gpu_hours=math.fsum(known),
        num_stored=len(known) - num_published,
        num_published=num_published,
        num_unknown=len(cases) - len(known) - len(estimated),
        estimated_gpu_hours=math.fsum(estimated),
        num_estimated=len(estimated),
        launches=tuple(_launch_times(cases)),
    )


def _launch_times(cases: Iterable[PricedCase]) -> Iterable[LaunchTime]:
    by_gpus: dict[int, list[tuple[float, float, float]]] = {}
    for case in cases:
        if case.launch_sec is not None and case.price.is_fitting is not False:
            by_gpus.setdefault(case.price.plan.layout.total_gpus, []).append(case.launch_sec)
    for gpus, seconds in sorted(by_gpus.items()):
        low, expected, high = map(math.fsum, zip(*seconds, strict=True))
        yield LaunchTime(gpus=gpus, num_cases=len(seconds), low_sec=low, sec=expected, high_sec=high)


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedCase:
    """One case that a test asks for, with or without a plan.

    Attributes:
        case: Case id.
        nodeid: The test.
        tolerances: Allowed worsening in percent by judged metric.
        finds: Worsening that must be found, in percent by judged metric.

    Raises:
        RecipeError: If one of these is impossible.
    """

    case: str
    nodeid: str
    tolerances: Mapping[str, float]
    finds: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_limits(self.tolerances, finds=self.finds)


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRun:
    """The dry run file.

    Attributes:
        system: System name.
        system_title: Title on pages.
        cases: Priced cases in the order of their tests.
        not_priced: Perf tests without a price, with the reason.
        changes: Value of --perf-set; empty if none.
        asked: Every case the tests ask for: priced ones, loops and benchmark tests.
        gaps: Reasons why they may ask for more; empty if the whole suite was seen.
        systems: Names of the systems that a recipe has a layout for.
        cost: GPU-hours and launch times of the priced cases; None without any.
        terms: Tolerances and error rates, before recipes' and markers' tolerances.
        noise: Noise that the project states in place of the catalog's, as in the ini key ``perf_noise``.
    """

    system: str
    system_title: str
    cases: tuple[PricedCase, ...]
    not_priced: tuple[NotRun, ...] = ()
    changes: str = ""
    asked: tuple[AskedCase, ...] = ()
    gaps: tuple[str, ...] = ()
    systems: tuple[str, ...] = ()
    cost: SuiteCost | None = None
    terms: VerdictPolicy | None = None
    noise: tuple[str, ...] = ()
    schema_version: Literal[1] = _SCHEMA_VERSION
