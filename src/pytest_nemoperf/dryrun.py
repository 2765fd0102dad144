"""What a dry run found, as its JSON file holds it and as the terminal shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from pytest_nemoperf.comparison import VerdictPolicy
from pytest_nemoperf.pricing import Price
from pytest_nemoperf.results import NotRun

DRY_RUN_SCHEMA_VERSION: Final = 1
DRY_RUN_FILE: Final = "dry_run.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class PricedCase:
    """One case that would run.

    Attributes:
        nodeid: The test that asks for it.
        price: Its plan and what that costs.
    """

    nodeid: str
    price: Price


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedCase:
    """One case that a test asks for, with a plan or without.

    Attributes:
        case: Case id.
        nodeid: The test.
        tolerances: Allowed worsening in percent by judged metric, as it would be judged.
    """

    case: str
    nodeid: str
    tolerances: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRun:
    """Everything a dry run has to say.

    Attributes:
        system: System name.
        system_title: As pages print it.
        cases: Priced cases in the order of their tests.
        not_priced: Perf tests without a price, and why.
        changes: What --perf-set said; empty if nothing.
        asked: Every case the tests ask for: priced ones, loops and benchmark tests.
        gaps: Why they may ask for more; nothing if the whole suite was seen.
        systems: Names of the systems that a recipe has a layout for.
        policy: Tolerances and error rates, before recipes' and markers' tolerances.
    """

    system: str
    system_title: str
    cases: tuple[PricedCase, ...]
    not_priced: tuple[NotRun, ...] = ()
    changes: str = ""
    asked: tuple[AskedCase, ...] = ()
    gaps: tuple[str, ...] = ()
    systems: tuple[str, ...] = ()
    policy: VerdictPolicy | None = None
    schema_version: Literal[1] = DRY_RUN_SCHEMA_VERSION
