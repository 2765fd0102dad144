"""Waivers: a known loss passes until a day or a release, and not below a floor. Pure; the day is an argument."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final

from packaging.version import Version

from pytest_nemoperf.errors import WaiverError, did_you_mean, plural, shorten, shown
from pytest_nemoperf.records.metrics import METRICS, Direction, Metric
from pytest_nemoperf.verdict.comparison import WITHOUT_LOSS, Comparison, VerdictKind
from pytest_nemoperf.verdict.judge import Verdict

_WAIVER_ARGUMENTS: Final = ("reason", "until", "floor")
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_NEARLY_DAY = re.compile(r"\d{4}[-/]\d{1,2}\b.*|\d{8}|\d{1,2}\.\d{1,2}\.\d{4}|\d{4}\.\d{2}\.\d{2}")
"""Days in other notations: ``31.12.2026`` is also a valid version, and that release would never come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiver:
    """Arguments of ``@pytest.mark.perf_waive``.

    Attributes:
        reason: Reason to accept the loss.
        until: Last day of the waiver, or the first release without it.
        floor_pct: Percent of the baseline that must still be reached; None for no limit.
    """

    reason: str
    until: date | Version
    floor_pct: float | None = None

    @property
    def arguments(self) -> dict[str, str | float]:
        """The marker's arguments, as plain data."""
        arguments: dict[str, str | float] = {"reason": self.reason, "until": str(self.until)}
        if self.floor_pct is not None:
            arguments["floor"] = self.floor_pct
        return arguments

    @property
    def text(self) -> str:
        """The waiver in a phrase: ``waived until 2026-12-31: reason``."""
        return f"waived until {_until_text(self.until)}: {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class WaiverEffect:
    """Effect of a waiver on a verdict.

    Attributes:
        waived: The waiver's phrase if it lets a loss pass; else empty.
        note: Advice about the waiver itself, e.g. to remove it; may be empty.
        is_expired: The waiver's time is over: the test fails with every verdict.
    """

    waived: str = ""
    note: str = ""
    is_expired: bool = False


def parse_waiver(arguments: Mapping[str, object], *, positional: Sequence[object] = (), subject: str) -> Waiver:
    """Return the waiver of a marker's arguments.

    Args:
        arguments: Keyword arguments.
        positional: Positional arguments; any is an error.
        subject: Test with the marker, for messages.

    Raises:
        WaiverError: If an argument is unknown, missing, or of another type.
    """
    if positional:
        raise WaiverError(
            f"{subject}: {positional[0]!r} has no name; write perf_waive(reason=..., until=..., floor=...)"
        )
    for name in arguments:
        if name not in _WAIVER_ARGUMENTS:
            raise WaiverError(f"{subject}: unknown argument {name!r}; {did_you_mean(name, _WAIVER_ARGUMENTS)}")
    reason = arguments.get("reason")
    if not isinstance(reason, str) or not reason.strip():
        raise WaiverError(f"{subject}: reason={reason!r} does not say why the loss is accepted; give a sentence")
    return Waiver(
        reason=" ".join(reason.split()),
        until=_parse_until(arguments.get("until"), subject=subject),
        floor_pct=_parse_floor(arguments.get("floor"), subject=subject),
    )


def check_release(waiver: Waiver, *, release: str, subject: str) -> None:
    """Check that the release under test is known if a waiver ends with one.

    Raises:
        WaiverError: If it is not set, or is no version.
    """
    if isinstance(waiver.until, Version):
        _release_under_test(waiver, release=release, subject=subject)


def apply_waiver(verdict: Verdict, *, waiver: Waiver | None, today: date, release: str) -> WaiverEffect:
    """Return the effect of a waiver on a verdict.

    Args:
        verdict: Verdict of the case.
        waiver: Waiver of its test; None for none.
        today: The day, UTC.
        release: Release under test; empty if not set.

    Raises:
        WaiverError: If the waiver ends with a release and the one under test is not known.
    """
    if waiver is None:
        return WaiverEffect()
    since = _expired_since(waiver, today=today, release=release, subject=verdict.case)
    if since:
        note = f"the waiver expired {since}: {waiver.reason}; {_after_expiry(verdict)}"
        return WaiverEffect(note=note, is_expired=True)
    until = _until_text(waiver.until)
    if verdict.kind in WITHOUT_LOSS:
        return WaiverEffect(note=f"the waiver until {until} is not needed, for nothing is lost now: remove perf_waive")
    if verdict.kind is not VerdictKind.REGRESSED:
        return WaiverEffect()
    problems = []
    for comparison in verdict.comparisons:
        if comparison.kind is VerdictKind.REGRESSED and not comparison.told_with:
            problem = _floor_problem(comparison, floor_pct=waiver.floor_pct)
            if problem:
                problems.append(problem)
    if problems:
        return WaiverEffect(note=f"the waiver until {until} does not cover it: {'; '.join(problems)}")
    return WaiverEffect(waived=waiver.text)


def _parse_until(value: object, *, subject: str) -> date | Version:
    if isinstance(value, str) and _DAY.fullmatch(value):
        try:
            return date.fromisoformat(value)
        except ValueError as exc:
            raise WaiverError(f"{subject}: until={value!r} is no day ({exc}); write e.g. 2026-12-31") from None
    if not isinstance(value, str) or _NEARLY_DAY.fullmatch(value):
        raise WaiverError(f"{subject}: until={value!r} must be a day such as '2026-12-31' or a release such as '1.4'")
    try:
        return Version(value)
    except ValueError:  # InvalidVersion, or a number of thousands of digits
        raise WaiverError(
            f"{subject}: until={shown(value)} is neither a day such as '2026-12-31' nor a release such as '1.4'"
        ) from None


def _parse_floor(value: object, *, subject: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 100:  # noqa: PLR2004 (percent)
        raise WaiverError(
            f"{subject}: floor={value!r} must be a percentage of the baseline above 0 and below 100; "
            "90 lets a loss of up to 10% pass"
        )
    return float(value)


def _expired_since(waiver: Waiver, *, today: date, release: str, subject: str) -> str:
    """Return the end of an expired waiver as a phrase, ``on 2026-12-31 (2 days ago)``; empty while it holds."""
    if isinstance(waiver.until, Version):
        now = _release_under_test(waiver, release=release, subject=subject)
        if now < waiver.until:
            return ""
        return f"with release {waiver.until} (perf_release is {now})"
    days = (today - waiver.until).days
    if days <= 0:
        return ""
    return f"on {waiver.until} ({days} {plural('day', number=days)} ago)"


def _release_under_test(waiver: Waiver, *, release: str, subject: str) -> Version:
    if not release:
        raise WaiverError(
            f"{subject}: perf_waive(until='{waiver.until}') ends with a release, and ini perf_release, the release "
            "under test, is not set; set it, or give a day such as 2026-12-31"
        )
    try:
        return Version(release)
    except ValueError:  # as above
        raise WaiverError(f"ini perf_release = {shorten(release)} is no version; write e.g. 1.4 or 1.4.0rc1") from None


def _after_expiry(verdict: Verdict) -> str:
    if verdict.kind in WITHOUT_LOSS:
        return "nothing is lost now: remove perf_waive"
    return "mend the loss and remove perf_waive, accept the loss with --perf-accept-regression, or give a new until"


def _floor_problem(comparison: Comparison, *, floor_pct: float | None) -> str:
    """Return a sentence if a metric is below the floor; one that should be low may grow to 100 / floor."""
    metric = METRICS[comparison.metric]
    reached = 100.0 * comparison.now / comparison.baseline
    if metric.direction is Direction.LOWER:
        reached = 100.0 * comparison.baseline / comparison.now
    if comparison.slow_steps_loss_pct is not None:  # the medians did not lose it
        reached = min(reached, _reached_pct(comparison.slow_steps_loss_pct, metric=metric))
    if floor_pct is None or reached >= floor_pct or math.isclose(reached, floor_pct):
        return ""
    return f"{metric.label} reaches {reached:.1f}% of {comparison.reference}, the floor is {floor_pct:g}%"


def _reached_pct(loss_pct: float, *, metric: Metric) -> float:
    """Return the part of the baseline that is reached with a loss, percent."""
    if metric.direction is Direction.LOWER:
        return 1e4 / (100.0 + loss_pct)
    return 100.0 - loss_pct


def _until_text(until: date | Version) -> str:
    if isinstance(until, Version):
        return f"release {until}"
    return until.isoformat()
