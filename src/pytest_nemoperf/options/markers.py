"""Arguments of the markers ``perf`` and ``perf_waive``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pytest

from pytest_nemoperf.errors import RecipeError, WaiverError, did_you_mean
from pytest_nemoperf.recipes.recipe import check_tolerances
from pytest_nemoperf.verdict.waivers import Waiver, parse_waiver

_ARGUMENTS = ("tolerance", "tolerances", "runs")


@dataclass(frozen=True, slots=True, kw_only=True)
class PerfMark:
    """Arguments of a test's markers.

    Attributes:
        nodeid: The test.
        tolerances: Allowed worsening in percent by metric, or ``all``.
        runs: Launches that make a baseline, as the marker has them; None for the session's.
        waiver: Known loss that the test lets pass; None for none.
    """

    nodeid: str
    tolerances: Mapping[str, float]
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
            raise RecipeError(f"marker perf of {self.nodeid}: runs={self.runs!r} must be a whole number >= 1")
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
    return PerfMark(nodeid=item.nodeid, tolerances=_tolerances(item), runs=runs, waiver=waiver_of(item))


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


def _tolerances(item: pytest.Item) -> dict[str, float]:
    """Return the tolerances of ``@pytest.mark.perf(tolerance=3, tolerances={...})``, percent; the nearest marker wins.

    Raises:
        RecipeError: If an argument is unknown, or a tolerance impossible.
    """
    layers: dict[str, float] = {}
    for marker in reversed(list(item.iter_markers("perf"))):
        for name in marker.kwargs:
            if name not in _ARGUMENTS:
                hint = did_you_mean(name, _ARGUMENTS)
                raise RecipeError(f"marker perf of {item.nodeid}: unknown argument {name!r}; {hint}")
        if "tolerance" in marker.kwargs:
            layers["all"] = marker.kwargs["tolerance"]
        layers |= marker.kwargs.get("tolerances", {})
    check_tolerances(layers, subject=f"marker perf of {item.nodeid}")
    return layers
