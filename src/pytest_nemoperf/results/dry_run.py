"""Results of a dry run, as its JSON file holds them and the terminal shows them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from pytest_nemoperf.pricing.price import Price
from pytest_nemoperf.results.cases import NotRun
from pytest_nemoperf.verdict.policy import VerdictPolicy

_SCHEMA_VERSION: Final = 1
DRY_RUN_FILE: Final = "dry_run.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class PricedCase:
    """One case that would run.

    Attributes:
        nodeid: Test that asks for it.
        price: Plan and its cost.
    """

    nodeid: str
    price: Price


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedCase:
    """One case that a test asks for, with or without a plan.

    Attributes:
        case: Case id.
        nodeid: The test.
        tolerances: Allowed worsening in percent by judged metric.
        finds: Worsening that must be found, in percent by judged metric.
    """

    case: str
    nodeid: str
    tolerances: Mapping[str, float]
    finds: Mapping[str, float] = field(default_factory=dict)


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
        terms: Tolerances and error rates, before recipes' and markers' tolerances.
    """

    system: str
    system_title: str
    cases: tuple[PricedCase, ...]
    not_priced: tuple[NotRun, ...] = ()
    changes: str = ""
    asked: tuple[AskedCase, ...] = ()
    gaps: tuple[str, ...] = ()
    systems: tuple[str, ...] = ()
    terms: VerdictPolicy | None = None
    schema_version: Literal[1] = _SCHEMA_VERSION
