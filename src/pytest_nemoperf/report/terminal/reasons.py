"""Verdicts of a session with their reasons, each said once for all the cases that it is of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from pytest_nemoperf.errors import count_text
from pytest_nemoperf.recipes.overrides import CHANGED_SUFFIX
from pytest_nemoperf.report.alike import with_ranges, without_numbers
from pytest_nemoperf.report.cells import earlier_text
from pytest_nemoperf.report.console import indented, style_of, styled, unfolded
from pytest_nemoperf.report.terminal.case_table import name_lines
from pytest_nemoperf.results.cases import CaseResult, SessionResults
from pytest_nemoperf.verdict.comparison import LOCALLY_RECORDED, VerdictKind

if TYPE_CHECKING:
    from rich.console import RenderableType

_HINTS: Final[Mapping[VerdictKind, str]] = MappingProxyType(
    {
        VerdictKind.NO_BASELINE: "--update-baselines stores this session's runs",
        VerdictKind.NOT_COMPARABLE: "--update-baselines replaces what is stored",
        VerdictKind.INCONCLUSIVE: "its baseline stays as it is; --update-baselines --perf-accept-regression "
        "--perf-reason=TEXT replaces it",
        VerdictKind.IMPROVED: "the baseline is loose now; --update-baselines keeps the gain",
    }
)
_REPLAY_HINTS: Final[Mapping[VerdictKind, str]] = MappingProxyType(
    {
        VerdictKind.NO_BASELINE: "a replay stores nothing; --perf-baselines=DIR judges by the baselines of another "
        "folder",
    }
)
_WITHOUT_FIGURES: Final = LOCALLY_RECORDED | {VerdictKind.PASSED}
"""Verdicts whose reasons are remarks: those that differ in numbers alone are one."""
_INDENT: Final = 2


def reason_parts(results: SessionResults, *, names: Mapping[str, str], width: int) -> Iterator[RenderableType]:
    """Yield each verdict with its reasons, and the cases that share both; a failing case has its own report.

    Args:
        results: The session.
        names: Short names by case id.
        width: Columns of the terminal.
    """
    hints = _HINTS
    if results.against == "published":
        address = f"nemoperf show published:{results.system} lists the rows of this system"
        hints = MappingProxyType({VerdictKind.NO_BASELINE: address})
    elif results.replay_of:
        hints = _REPLAY_HINTS
    told = [case for case in results.cases if _has_reasons(case)]
    for kind in VerdictKind:
        own = [case for case in told if case.verdict.kind is kind]
        groups = _groups(own)
        hint = hints.get(kind, "") if any(map(_can_be_stored, own)) else ""
        if own:
            yield ""
        for cases in groups:
            ids = [case.verdict.case for case in cases]
            reasons = _merged(cases)
            if hint and len(groups) == 1:
                reasons.append(hint)
            yield from _group_parts(kind, [names[case] for case in ids], reasons=reasons, width=width)
        if hint and len(groups) > 1:
            yield indented(hint)


def _has_reasons(case: CaseResult) -> bool:
    is_plain = case.verdict.kind is VerdictKind.PASSED and not case.had_other_verdicts
    return not case.is_failure and bool(not is_plain or case.verdict.reasons or case.waiver_note)


def _can_be_stored(case: CaseResult) -> bool:
    is_real = not case.measurement.inject_pct and not case.verdict.case.endswith(CHANGED_SUFFIX)
    return is_real and not case.stored_path and case.ab is None


def _groups(cases: Sequence[CaseResult]) -> list[list[CaseResult]]:
    """Return the cases with the same reasons, of remarks those that differ in numbers too."""
    groups: dict[tuple[str, ...], list[CaseResult]] = {}
    for case in cases:
        key = _reasons_of(case)
        if case.verdict.kind in _WITHOUT_FIGURES:
            key = tuple(map(without_numbers, key))
        groups.setdefault(key, []).append(case)
    return list(groups.values())


def _merged(cases: Sequence[CaseResult]) -> list[str]:
    """Return the reasons of all cases, numbers that differ as a range: ``finds 21.9..25.3%``."""
    return [with_ranges(texts) for texts in zip(*map(_reasons_of, cases), strict=True)]


def _group_parts(
    kind: VerdictKind, names: Sequence[str], *, reasons: Sequence[str], width: int
) -> Iterator[RenderableType]:
    addresses = [reason for reason in reasons if reason.startswith("https://")]
    text = "; ".join(reason for reason in reasons if reason not in addresses)
    subject = names[0] if len(names) == 1 else f"({count_text(len(names), 'case')})"
    yield styled((kind.value, style_of(kind)), f" {subject}{': ' if text else ''}{text}")
    yield from map(unfolded, addresses)
    if len(names) > 1:
        yield from map(unfolded, name_lines(names, width=width - _INDENT))


def _reasons_of(case: CaseResult) -> tuple[str, ...]:
    reasons = list(filter(None, (case.waived, case.waiver_note, earlier_text(case))))
    reasons += case.verdict.reasons
    if case.accepted_reason:
        reasons.append(f"accepted: {case.accepted_reason}")
    return tuple(reasons)
