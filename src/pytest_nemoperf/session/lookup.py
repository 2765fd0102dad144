"""Lookup of the baseline that a case is judged by: stored runs, or a matching row of a published page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pytest_nemoperf.baselines.store import BaselineStore, StoredBaseline
from pytest_nemoperf.options.settings import Against
from pytest_nemoperf.published.baselines import published_baselines, why_unpublished
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.records.machine_key import num_gpus_of


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineLookup:
    """Baselines of a session.

    Attributes:
        store: Stored baselines of the session's system.
        against: Figures that cases are judged by.
        machine_of: Key of this machine for a case of so many GPUs.
    """

    store: BaselineStore
    against: Against
    machine_of: Callable[[int], Mapping[str, str | int]]

    def find(
        self,
        case: str,
        *,
        workload: Mapping[str, Any],
        plan: Plan | None,
        machine: Mapping[str, str | int] | None = None,
    ) -> StoredBaseline:
        """Return the baseline of a case, or none and the reason.

        Args:
            case: Case id.
            workload: Workload of its runs.
            plan: Their plan; None for a loop or benchmark of the test process, of which no page prints anything.
            machine: Key of the machine they were on; None for this one.

        Raises:
            BaselineError: If an existing file can't be trusted.
        """
        if self.against == "published":
            return _published(plan)
        store = self.store
        if machine is None:
            machine = self.machine_of(num_gpus_of(workload))
        else:
            store = replace(store, machine=machine)
        return store.find(case, workload=workload, machine=machine)


def _published(plan: Plan | None) -> StoredBaseline:
    if plan is None:
        return StoredBaseline(baseline=None, path="", why_none="no published row is of a loop or a benchmark test")
    baseline = next(iter(published_baselines(plan)), None)
    if baseline is None or baseline.published is None:
        return StoredBaseline(baseline=None, path="", why_none=why_unpublished(plan))
    return StoredBaseline(baseline=baseline, path=baseline.published.place, is_comparable=True)
