"""Results of a dry run, as its JSON file holds them and the terminal shows them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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
        """GPU-hours of its launches' steps, warm-up included; None without an estimate of the step time."""
        if self.price.expected is None:
            return None
        plan = self.price.plan
        num_steps = plan.total_steps * self.num_launches
        return num_steps * self.price.expected.step_time_sec * plan.layout.total_gpus / _SEC_PER_HOUR


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteCost:
    """GPU-hours of a suite's steps; of its start-up times nothing is known.

    Attributes:
        gpu_hours: Sum over the cases with an estimate: warm-up and measured steps x launches x step time x GPUs.
        num_stored: Cases with a step time from a stored baseline.
        num_published: Cases with one from a published row.
        num_unknown: Cases without one, which the sum leaves out.
    """

    gpu_hours: Amount
    num_stored: Count
    num_published: Count
    num_unknown: Count

    @property
    def num_known(self) -> int:
        """Cases that the sum is of."""
        return self.num_stored + self.num_published


def suite_cost(cases: Sequence[PricedCase]) -> SuiteCost:
    """Return the GPU-hours of the cases of a suite."""
    hours = []
    num_stored = num_published = 0
    for case in cases:
        if case.gpu_hours is None or case.price.expected is None:
            continue
        hours.append(case.gpu_hours)
        if case.price.expected.published:
            num_published += 1
        else:
            num_stored += 1
    return SuiteCost(
        gpu_hours=math.fsum(hours),
        num_stored=num_stored,
        num_published=num_published,
        num_unknown=len(cases) - len(hours),
    )


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
        cost: GPU-hours of the priced cases; None without any.
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
