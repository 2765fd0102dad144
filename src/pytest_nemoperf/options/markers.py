"""Arguments of the markers ``perf`` and ``perf_waive``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pytest

from pytest_nemoperf.bounds import RUNS, bound_problem
from pytest_nemoperf.errors import RecipeError, WaiverError, did_you_mean, shown
from pytest_nemoperf.recipes.recipe import check_tolerances
from pytest_nemoperf.verdict.policy import check_one_of_each
from pytest_nemoperf.verdict.waivers import Waiver, parse_waiver

_ARGUMENTS = ("tolerance", "tolerances", "find", "finds", "runs")


@dataclass(frozen=True, slots=True, kw_only=True)
class PerfMark:
    """Arguments of a test's markers.

    Attributes:
        nodeid: The test.
        tolerances: Allowed worsening in percent by metric, or ``all``.
        finds: Worsening that must be found, in percent by metric, or ``all``.
        runs: Launches that make a baseline, as the marker has them; None for the session's.
        waiver: Known loss that the test lets pass; None for none.
    """

    nodeid: str
    tolerances: Mapping[str, float]
    finds: Mapping[str, float]
    runs: object
    waiver: Waiver | None

    @property
    def num_runs(self) -> int | None:
        """Launches that make a baseline; None for the session's.

        Raises:
            RecipeError: If the marker has no whole number above 0.
        """
        if self.runs is None:
            return None
        if type(self.runs) is not int or self.runs < 1:
            raise RecipeError(f"marker perf of {self.nodeid}: runs={shown(self.runs)} must be a whole number >= 1")
        if problem := bound_problem(self.runs, name="runs", bound=RUNS):
            raise RecipeError(f"marker perf of {self.nodeid}: {problem}")
        return self.runs


def is_perf(item: pytest.Item) -> bool:
    """Return whether a test is marked ``perf``."""
    return item.get_closest_marker("perf") is not None


def perf_mark(item: pytest.Item) -> PerfMark:
    """Return the arguments of a test's markers.

    Raises:
        RecipeError: If an argument of ``perf`` is unknown or impossible.
        WaiverError: If those of ``perf_waive`` make no waiver.
    """
    marker = item.get_closest_marker("perf")
    runs = marker.kwargs.get("runs") if marker else None
    tolerances, finds = _terms(item)
    return PerfMark(nodeid=item.nodeid, tolerances=tolerances, finds=finds, runs=runs, waiver=waiver_of(item))


def waiver_of(item: pytest.Item) -> Waiver | None:
    """Return the waiver of a test's nearest ``@pytest.mark.perf_waive``, or None.

    Raises:
        WaiverError: If its arguments make no waiver, or the test is no perf test.
    """
    marker = item.get_closest_marker("perf_waive")
    if marker is None:
        return None
    if not is_perf(item):
        raise WaiverError(f"{item.nodeid} is marked perf_waive, but is no perf test; add @pytest.mark.perf, or drop it")
    return parse_waiver(marker.kwargs, positional=marker.args, subject=f"marker perf_waive of {item.nodeid}")


def _terms(item: pytest.Item) -> tuple[dict[str, float], dict[str, float]]:
    """Return the terms of ``@pytest.mark.perf(tolerance=3, tolerances={...}, find=4, finds={...})``, in percent.

    Returns:
        Tolerances and losses to be found, by metric or ``all``; the nearest marker wins.

    Raises:
        RecipeError: If an argument is unknown, a percentage is impossible, or a metric has both.
    """
    tolerances: dict[str, float] = {}
    finds: dict[str, float] = {}
    subject = f"marker perf of {item.nodeid}"
    for marker in reversed(list(item.iter_markers("perf"))):
        for name in marker.kwargs:
            if name not in _ARGUMENTS:
                hint = did_you_mean(name, _ARGUMENTS)
                raise RecipeError(f"marker perf of {item.nodeid}: unknown argument {name!r}; {hint}")
        own: dict[str, dict[str, float]] = {}
        for one, many in (("tolerance", "tolerances"), ("find", "finds")):
            layer: dict[str, float] = {}
            if one in marker.kwargs:
                layer["all"] = marker.kwargs[one]
            further = marker.kwargs.get(many, {})
            if not isinstance(further, Mapping):
                raise RecipeError(
                    f"{subject}: {many}={shown(further)} must be a dict of percentages by metric, or write {one}=3"
                )
            layer.update(further)
            check_tolerances(layer, subject=subject)
            own[one] = layer
        check_one_of_each(own["tolerance"], finds=own["find"], subject=subject)
        tolerances = {**_without(tolerances, replaced=own["find"]), **own["tolerance"]}
        finds = {**_without(finds, replaced=own["tolerance"]), **own["find"]}
    return tolerances, finds


def _without(layer: Mapping[str, float], *, replaced: Mapping[str, float]) -> dict[str, float]:
    """Return a layer of a farther marker without the metrics that a nearer one holds to the other kind of limit."""
    if "all" in replaced:
        return {}
    return {name: percent for name, percent in layer.items() if name not in replaced}
