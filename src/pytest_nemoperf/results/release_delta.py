"""Delta of two releases: rows that are new, gone, faster or slower, and their suspects. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final

from pytest_nemoperf.json_codec import to_json_line
from pytest_nemoperf.records.fingerprint import ABSENT, Difference, Significance, compare_fingerprints
from pytest_nemoperf.records.metrics import METRICS, TOKENS_PER_SEC_PER_GPU, Direction
from pytest_nemoperf.results.row import Release, Row
from pytest_nemoperf.results.row_ratio import Ratio, main_metric, row_ratio

_COMMIT: Final = "commit"
_MAX_VALUE_LENGTH: Final = 60


class ChangeKind(StrEnum):
    """Direction of a change between two releases."""

    FASTER = "faster"
    SLOWER = "slower"
    SAME = "within noise"
    """The interval of the ratio holds 1."""
    UNSURE = "no interval"
    """The figures differ, and at least one of them is of a single run."""
    NOT_COMPARABLE = "not comparable"
    """One of the rows lacks the figure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowChange:
    """Row of a case that both releases have.

    Attributes:
        then: Row of the previous release.
        now: Row of the release.
        metric: Name of the metric that they are compared by.
        kind: Direction of the change.
        ratio: Median of now over that of then; None if there is none.
        suspects: What may have changed the speed and differs: the workload's settings, versions, clocks, container,
            and the commit.
    """

    then: Row
    now: Row
    metric: str
    kind: ChangeKind
    ratio: Ratio | None
    suspects: tuple[Difference, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseDelta:
    """Differences of a release from an earlier one; rows are matched by system and case.

    Attributes:
        name: Name of the release.
        previous: Name of the earlier one.
        changes: Cases of both, by system and case.
        new: Rows of the release alone.
        gone: Rows of the earlier one alone.
    """

    name: str
    previous: str
    changes: tuple[RowChange, ...]
    new: tuple[Row, ...]
    gone: tuple[Row, ...]

    def of_kind(self, kind: ChangeKind) -> list[RowChange]:
        """Return the changes of a kind."""
        return [change for change in self.changes if change.kind is kind]

    @property
    def is_empty(self) -> bool:
        """Both releases have the same rows, figures and provenance."""
        if self.new or self.gone:
            return False
        return all(_is_same_row(change.now, change.then) for change in self.changes)


def compare_releases(now: Release, *, then: Release) -> ReleaseDelta:
    """Return the differences of a release from an earlier one."""
    before = {_key(row): row for row in then.rows}
    after = {_key(row): row for row in now.rows}
    changes = []
    new = []
    for key, row in sorted(after.items()):
        if key in before:
            changes.append(row_change(row, then=before[key]))
        else:
            new.append(row)
    gone = [row for key, row in sorted(before.items()) if key not in after]
    return ReleaseDelta(name=now.name, previous=then.name, changes=tuple(changes), new=tuple(new), gone=tuple(gone))


def row_change(now: Row, *, then: Row) -> RowChange:
    """Return the change of a row from an earlier one of the same case."""
    metric = main_metric(then) or main_metric(now) or TOKENS_PER_SEC_PER_GPU
    ratio = row_ratio(now, then=then, metric=metric.name)
    return RowChange(
        then=then,
        now=now,
        metric=metric.name,
        kind=_kind(ratio, metric=metric.name),
        ratio=ratio,
        suspects=row_suspects(now, then=then),
    )


def row_suspects(now: Row, *, then: Row) -> tuple[Difference, ...]:
    """Return the differences that may have changed the speed between two rows: settings first, the commit last."""
    suspects = settings_differences(now, then=then)
    suspects += filter(_is_suspect, _environment_differences(now, then=then))
    return tuple(sorted(suspects, key=lambda each: each.name == _COMMIT))


def settings_differences(now: Row, *, then: Row) -> list[Difference]:
    """Return the workload's settings that differ, by key; none if a row does not hold its settings."""
    if not now.settings or not then.settings or now.settings == then.settings:
        return []
    before = dict(_flat(then.settings))
    after = dict(_flat(now.settings))
    differences = []
    for key in sorted({*before, *after}):
        was = before.get(key, "the default")  # stored workloads leave defaults out
        is_now = after.get(key, "the default")
        if was != is_now:
            differences.append(Difference(name=key, then=was, now=is_now, tier=Significance.KEY))
    return differences


def common_suspects(changes: Sequence[RowChange]) -> list[Difference]:
    """Return the suspects that several changes all share, to be told once."""
    if len(changes) <= 1:
        return []
    counts = Counter([_suspect_key(each) for change in changes for each in change.suspects])
    shared = []
    for each in changes[0].suspects:
        if counts[_suspect_key(each)] == len(changes):
            shared.append(each)
    return shared


def suspect_text(difference: Difference) -> str:
    """Return a difference as tables show it: ``torch 2.8.0 to 2.9.1``."""
    return f"{difference.name} {_shortened(difference.then)} to {_shortened(difference.now)}"


def _environment_differences(now: Row, *, then: Row) -> list[Difference]:
    """Return the differences of code and environment; none if a row does not tell its own, as published ones."""
    if not now.origin.versions or not then.origin.versions:
        return []
    return compare_fingerprints(_facts(then), now=_facts(now))


def _suspect_key(difference: Difference) -> tuple[str, str, str]:
    return (difference.name, difference.then, difference.now)


def _shortened(text: str) -> str:
    if text == ABSENT:
        return "none"
    if len(text) <= _MAX_VALUE_LENGTH:
        return text
    return f"{text[: _MAX_VALUE_LENGTH - 3]}..."


def _key(row: Row) -> tuple[str, str]:
    return (row.system, row.case)


def _kind(ratio: Ratio | None, *, metric: str) -> ChangeKind:
    if ratio is None:
        return ChangeKind.NOT_COMPARABLE
    if ratio.low is None:
        return ChangeKind.SAME if ratio.value == 1.0 else ChangeKind.UNSURE
    if not ratio.is_clear:
        return ChangeKind.SAME
    is_higher = ratio.value > 1.0
    if is_higher == (METRICS[metric].direction is Direction.HIGHER):
        return ChangeKind.FASTER
    return ChangeKind.SLOWER


def _facts(row: Row) -> dict[str, str]:
    """Return the row's environment as entries of a fingerprint, without those that it does not tell."""
    origin = row.origin
    named = {
        _COMMIT: origin.commit,
        "device": origin.device,
        "container": origin.container,
        "flops_convention": row.flops_convention,
    }
    known = {name: value for name, value in named.items() if value}
    return {**origin.versions, **known}


def _is_suspect(difference: Difference) -> bool:
    return difference.name == _COMMIT or difference.tier is not Significance.REST


def _is_same_row(one: Row, other: Row) -> bool:
    """Return whether two rows are the same but for the release that holds them."""
    return replace(one, origin=replace(one.origin, release="")) == replace(
        other, origin=replace(other.origin, release="")
    )


def _flat(settings: Mapping[str, Any], *, parents: str = "") -> Iterator[tuple[str, str]]:
    """Yield the settings by their keys, nested ones joined by dots, with their values as text."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, parents=f"{parents}{key}.")
        else:
            yield f"{parents}{key}", value if isinstance(value, str) else to_json_line(value).strip()
