"""Rows of several sources beside each other, matched by all columns but those of the compared axes. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cache
from itertools import chain
from types import MappingProxyType
from typing import Final

from pytest_nemoperf.errors import RecipeError
from pytest_nemoperf.flops.published import find_published_model
from pytest_nemoperf.json_codec import to_json_line
from pytest_nemoperf.published.precisions import unnamed_scaling
from pytest_nemoperf.recipes.other_framework import without_framework
from pytest_nemoperf.results.release_delta import settings_differences
from pytest_nemoperf.results.row import RolloutColumns, Row, RowKind

Facet = str | int | None
"""Value of a column that must be equal."""


class Axis(StrEnum):
    """Thing that the sources differ by on purpose."""

    SYSTEM = "system"
    FRAMEWORK = "framework"
    LAYOUT = "layout"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Rows of one recipe.

    Attributes:
        label: Name of what they share, of this line alone.
        rows: Row of each source; None for one that has none.
        differs: Settings that differ between the rows, beside the axes: ``recompute``, ``micro_batch_size 1 / 2``.
    """

    label: str
    rows: tuple[Row | None, ...]
    differs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SideBySide:
    """Sources beside each other.

    Attributes:
        names: Names of the sources.
        axes: Axes that they differ by on purpose; empty to compare the same cases.
        equal: Columns that are equal in the rows of a line.
        lines: Recipes that at least two of the sources have, in the order of the first source.
        unmatched: Rows of each source that no other one has.
        is_by_case: Rows of the same case are of one line, whatever else differs.
    """

    names: tuple[str, ...]
    axes: tuple[Axis, ...]
    equal: tuple[str, ...]
    lines: tuple[Line, ...]
    unmatched: tuple[tuple[Row, ...], ...]
    is_by_case: bool = True


def _rollout(row: Row, value_of: Callable[[RolloutColumns], Facet]) -> Facet:
    return None if row.rollouts is None else value_of(row.rollouts)


@cache
def _published_model(printed: str) -> str:
    """Return the catalog's name of a model as pages print it; other names in lower case."""
    try:
        return find_published_model(printed).name
    except RecipeError:
        return printed.lower()


def _model(row: Row) -> str:
    return row.model if row.origin.kind is RowKind.MEASURED else _published_model(row.model)


def _precision(row: Row) -> str:
    printed = _printed_precision(row)
    if printed == "FP8" and row.origin.kind is not RowKind.MEASURED:
        return unnamed_scaling(row.framework).replace("_", "-")
    if not printed and row.model:  # unknown ones are alike only in the same cell of one page, for two systems
        return f"of {row.origin.source} {row.origin.release} {row.origin.note}"
    return "MXFP8" if printed == "FP8-MX" else printed  # two names of one format, on pages of one project


def _printed_precision(row: Row) -> str:
    return row.precision.upper().replace("_", "-")


FACETS: Final[Mapping[str, Callable[[Row], Facet]]] = MappingProxyType(
    {
        "system": lambda row: row.system,
        "framework": lambda row: row.framework,
        "workload": lambda row: row.workload,
        "model": _model,
        "precision": _precision,
        "gpus": lambda row: row.gpus,
        "global_batch_size": lambda row: row.global_batch_size,
        "micro_batch_size": lambda row: row.micro_batch_size,
        "seq_len": lambda row: row.seq_len,
        "fsdp": lambda row: row.fsdp,
        "tp": lambda row: row.tp or 1,  # pages leave out degrees that are 1
        "pp": lambda row: row.pp or 1,
        "cp": lambda row: row.cp or 1,
        "vp": lambda row: row.vp or 1,
        "ep": lambda row: row.ep or 1,
        "max_staleness_steps": lambda row: _rollout(row, lambda each: each.max_staleness),
        "num_samples": lambda row: _rollout(row, lambda each: each.num_samples),
        "generation_tp": lambda row: _rollout(row, lambda each: each.tp),
        "generation_pp": lambda row: _rollout(row, lambda each: each.pp),
        "generation_dp": lambda row: _rollout(row, lambda each: each.dp),
        "generation_precision": lambda row: _rollout(row, lambda each: each.precision.upper()),
    }
)
"""Columns that rows are matched by."""

_WORDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "model": "{}",
        "precision": "{}",
        "gpus": "{} GPUs",
        "workload": "{}",
        "global_batch_size": "GBS {}",
        "micro_batch_size": "MBS {}",
        "seq_len": "seq {}",
        "tp": "TP{}",
        "pp": "PP{}",
        "cp": "CP{}",
        "vp": "VP{}",
        "ep": "EP{}",
    }
)
"""Columns as a label has them, degrees only if they are above 1."""
_LAYOUT: Final = frozenset({"fsdp", "tp", "pp", "cp", "vp", "ep", "generation_tp", "generation_pp", "generation_dp"})
_OF_AXIS: Final[Mapping[Axis, frozenset[str]]] = MappingProxyType(
    {
        Axis.SYSTEM: frozenset({"system"}),
        Axis.FRAMEWORK: frozenset({"framework"}),
        Axis.LAYOUT: _LAYOUT,
    }
)
_SETTINGS_OF_AXIS: Final[Mapping[Axis, frozenset[str]]] = MappingProxyType(
    {
        Axis.SYSTEM: frozenset(),
        Axis.FRAMEWORK: frozenset({"framework", "framework_options"}),
        Axis.LAYOUT: frozenset({"layout"}),
    }
)


def match_rows(
    sources: Sequence[tuple[str, Sequence[Row]]], *, is_by_layout: bool = False, equal: Sequence[str] = ()
) -> SideBySide:
    """Return the rows of sources beside each other.

    Rows are of one line if they are of the same case, or else if all columns are equal but those of the axes. Sources
    of a single system each, and not all of the same, are compared by system; so with frameworks. Of several rows of a
    source with equal columns, as of several releases of a page, the newest counts.

    Args:
        sources: Name and rows of each source.
        is_by_layout: The sources are of different layouts.
        equal: Columns that must be equal, in place of all; cases then do not count. Names of FACETS.
    """
    axes = tuple(_axes([rows for _, rows in sources], is_by_layout=is_by_layout))
    names = tuple(equal) or tuple(_equal_columns(sources, axes=axes))
    groups = list(_by_case(sources, axes=axes, names=names, is_by_case=not equal))
    is_strict = not equal and Axis.SYSTEM not in axes
    merged = _merge_equal(groups, num_sources=len(sources), names=names, is_strict=is_strict, axes=axes)
    order: dict[int, int] = {}
    for _, rows in sources:
        for row in rows:
            order.setdefault(id(row), len(order))
    merged.sort(key=lambda group: order[id(next(iter(group.values())))])
    lines = []
    unmatched: list[list[Row]] = [[] for _ in sources]
    has_systems = len({row.system for _, rows in sources for row in rows}) > 1 and Axis.SYSTEM not in axes
    for group in merged:
        if len(group) > 1:
            lines.append(_line(group, num_sources=len(sources), names=names, axes=axes, has_systems=has_systems))
        else:
            for number, row in group.items():
                unmatched[number].append(row)
    return SideBySide(
        names=tuple(name for name, _ in sources),
        axes=axes,
        equal=names,
        lines=tuple(_told_apart(lines)),
        unmatched=tuple(map(tuple, unmatched)),
        is_by_case=not equal,
    )


def recipe_label(row: Row, *, names: Container[str] = FACETS) -> str:
    """Return columns of a row in words, for rows without a case id that tells them: ``llama3-8b BF16 8 GPUs``.

    Args:
        row: The row.
        names: The columns, of FACETS.
    """
    if not row.model:
        return row.case
    words = []
    for name, word in _WORDS.items():
        value = getattr(row, name)
        if name in names and value not in (None, "") and not (name in _LAYOUT and value <= 1):
            words.append(word.format(value))
    return " ".join(words)


def _axes(sets: Sequence[Sequence[Row]], *, is_by_layout: bool) -> Iterator[Axis]:
    if _is_axis([{row.system for row in rows} for rows in sets]):
        yield Axis.SYSTEM
    kinds = {row.origin.kind is RowKind.MEASURED for rows in sets for row in rows}
    if len(kinds) > 1 or _is_axis([{row.framework for row in rows} for rows in sets]):
        yield Axis.FRAMEWORK  # beside a published row, whatever framework ran it
    if is_by_layout:
        yield Axis.LAYOUT


def _is_axis(values: Sequence[set[str]]) -> bool:
    """Return whether each source has a single value, and not all the same."""
    known = [each for each in values if each]
    return all(len(each) == 1 for each in known) and len(set[str]().union(*known)) > 1


def _equal_columns(sources: Sequence[tuple[str, Sequence[Row]]], *, axes: Sequence[Axis]) -> Iterator[str]:
    """Yield the columns that must be equal: all but those of the axes, and those that some pages leave out."""
    left_out = set[str]().union(*(_OF_AXIS[axis] for axis in axes))
    if any(row.origin.kind is not RowKind.MEASURED for _, rows in sources for row in rows):
        left_out |= {"fsdp", "generation_dp"}
    for name in FACETS:
        if name not in left_out:
            yield name


def _newest_first(rows: Sequence[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: row.origin.date, reverse=True)


def _by_case(
    sources: Sequence[tuple[str, Sequence[Row]]], *, axes: Sequence[Axis], names: Sequence[str], is_by_case: bool
) -> Iterator[dict[int, Row]]:
    """Yield the rows of each case by the number of their source; a second row of a source is a group of its own."""
    groups: dict[tuple[object, ...], dict[int, Row]] = {}
    others = []
    for number, (_, rows) in enumerate(sources):
        for row in _newest_first(rows):
            key = _case_key(row, axes=axes, names=names, is_by_case=is_by_case)
            if key is None or number in groups.setdefault(key, {}):
                others.append({number: row})
            else:
                groups[key][number] = row
    yield from groups.values()
    yield from others


def _case_key(row: Row, *, axes: Sequence[Axis], names: Sequence[str], is_by_case: bool) -> tuple[object, ...] | None:
    """Return the values that are equal in rows of one case; None if cases do not count.

    The id of a published row is of that row alone, so that page, release and columns stand for a case.
    """
    system = "" if Axis.SYSTEM in axes else row.system
    if row.origin.kind is not RowKind.MEASURED:
        return (system, row.origin.source, row.origin.release, *_key(row, names))
    if not is_by_case:
        return None
    return (system, without_framework(row.case) if Axis.FRAMEWORK in axes else row.case)


def _merge_equal(
    groups: Sequence[dict[int, Row]],
    *,
    num_sources: int,
    names: Sequence[str],
    is_strict: bool,
    axes: Sequence[Axis],
) -> list[dict[int, Row]]:
    """Return groups with those joined that are of other sources and have equal columns.

    Args:
        groups: Rows by the number of their source.
        num_sources: Sources; a group with a row of each takes no more.
        names: Columns that must be equal.
        is_strict: Settings that no column shows must be equal too, where both rows hold theirs.
        axes: Axes of which settings may differ.
    """
    merged: list[dict[int, Row]] = []
    with_settings: dict[tuple[Facet, ...], list[dict[int, Row]]] = defaultdict(list)
    with_any: dict[tuple[Facet, ...], list[dict[int, Row]]] = defaultdict(list)
    for group in sorted(groups, key=len, reverse=True):
        row = next(iter(group.values()))
        if len(group) == num_sources or not row.model:  # calls have no columns: only their case tells
            merged.append(dict(group))
            continue
        key = _key(row, names)
        settings = _settings_text(row, axes=axes) if is_strict else ""
        candidates: Iterable[dict[int, Row]] = with_any[key]
        if settings:
            candidates = chain(with_settings[(*key, settings)], with_settings[(*key, "")])
        for candidate in candidates:
            if candidate.keys().isdisjoint(group):
                candidate.update(group)
                break
        else:
            joined = dict(group)
            merged.append(joined)
            with_settings[(*key, settings)].append(joined)
            with_any[key].append(joined)
    return merged


def _settings_text(row: Row, *, axes: Sequence[Axis]) -> str:
    """Return the settings of a row but for those of the axes, as one text; empty if it does not hold them."""
    left_out = set[str]().union(*(_SETTINGS_OF_AXIS[axis] for axis in axes))
    kept = {key: value for key, value in sorted(row.settings.items()) if key not in left_out}
    return to_json_line(kept) if kept else ""


def _key(row: Row, names: Sequence[str]) -> tuple[Facet, ...]:
    return tuple([FACETS[name](row) for name in names])


def _hidden_differences(one: Row, other: Row, *, axes: Sequence[Axis]) -> list[str]:
    """Return the settings that differ, but for those of the axes."""
    left_out = set[str]().union(*(_SETTINGS_OF_AXIS[axis] for axis in axes))
    names = []
    for difference in settings_differences(other, then=one):
        if difference.name.partition(".")[0] not in left_out:
            names.append(difference.name)
    return names


def _line(
    group: Mapping[int, Row], *, num_sources: int, names: Sequence[str], axes: Sequence[Axis], has_systems: bool
) -> Line:
    first, *others = [group[number] for number in sorted(group)]
    differs: dict[str, None] = {}
    told = set()
    left_out = set[str]().union(*(_OF_AXIS[axis] for axis in axes))
    for name, value_of in FACETS.items():
        values = dict.fromkeys(map(value_of, (first, *others)))
        if name not in names and name not in left_out and len(values) > 1:
            shown = ["unknown" if value is None else str(value) for value in values]
            differs[f"{name} {' / '.join(shown)}"] = None
            told |= {name, f"layout.{name}"}
    printed = dict.fromkeys(map(_printed_precision, (first, *others)))
    if len(printed) > 1 and "precision" in names:
        differs[f"precision {' / '.join(printed)}"] = None
    releases = {row.origin.release: None for row in (first, *others) if row.origin.kind is not RowKind.MEASURED}
    if len(releases) > 1:
        differs[f"release {' / '.join(releases)}"] = None
    for other in others:
        for name in _hidden_differences(first, other, axes=axes):
            if name not in told:
                differs[name] = None
    label = _label([first, *others], names=names, axes=axes)
    if has_systems and "system" in names:
        label = f"{first.system} {label}"
    rows = tuple([group.get(number) for number in range(num_sources)])
    return Line(label=label, rows=rows, differs=tuple(differs))


def _told_apart(lines: Sequence[Line]) -> Iterator[Line]:
    """Yield the lines; those that have one label get the case of their first row behind it."""
    counts = Counter([line.label for line in lines])
    for line in lines:
        if counts[line.label] == 1:
            yield line
            continue
        first = next(row for row in line.rows if row is not None)
        yield replace(line, label=f"{line.label}, {first.case}")


def _label(rows: Sequence[Row], *, names: Sequence[str], axes: Sequence[Axis]) -> str:
    cases = {row.case for row in rows}
    if len(cases) == 1 and rows[0].origin.kind is RowKind.MEASURED:
        return rows[0].case
    bare = {without_framework(case) for case in cases}
    if len(bare) == 1 and Axis.FRAMEWORK in axes:
        return bare.pop()
    measured = [row for row in rows if row.origin.kind is RowKind.MEASURED]
    label = recipe_label((measured or rows)[0], names=names)
    releases = {row.origin.release for row in rows}
    if not measured and len(releases) == 1 and "" not in releases:
        label += f" ({releases.pop()})"
    return label
