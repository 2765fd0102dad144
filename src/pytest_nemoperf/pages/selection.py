"""Arguments of blocks: rows and tables that a block of a page asks for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from pytest_nemoperf.errors import PageError, RecipeError, did_you_mean
from pytest_nemoperf.pages.markers import Block
from pytest_nemoperf.recipes.recipe import Precision
from pytest_nemoperf.recipes.systems import find_system, system_catalog
from pytest_nemoperf.results.row import Row

NATIVE: Final = "torch"
"""Framework name of the native engine, which no block but ``native`` shows."""
RL: Final = "rl"
"""Value of ``workload`` for every algorithm of reinforcement learning."""
_TRAINED: Final = ("pretrain", "sft", "lora")
_WORKLOADS: Final = (*_TRAINED, RL, "grpo", "rloo", "dapo", "ppo", "swe")
_PRECISIONS: Final = ("fp8", *Precision)
_SHARED: Final = frozenset({"frameworks", "workload", "systems", "precisions"})
_SECTIONED: Final = frozenset({"sections"})
_RELEASED: Final = frozenset({"title", "level", "releases"})
ARGUMENTS: Final = {
    "metrics": _SHARED,
    "tables": _SHARED | _SECTIONED,
    "native": _SHARED | _SECTIONED,
    "releases": _SHARED | _SECTIONED | _RELEASED,
    "published": _SHARED | _SECTIONED | _RELEASED,
    "changes": _SHARED,
    "notes": _SHARED,
}
"""Arguments that each kind of block takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """Section of reinforcement learning: ``### GRPO Performance on-policy. Dataset: ...``.

    Attributes:
        algorithm: Name of the algorithm.
        staleness: Steps that generation may be behind; 0 on-policy.
        dataset: Name of the prompts' data; empty for any.
    """

    algorithm: str
    staleness: int
    dataset: str = ""

    def covers(self, other: Section) -> bool:
        """Return whether another section is the same one, with data that this one leaves open at most."""
        is_same = (self.algorithm, self.staleness) == (other.algorithm, other.staleness)
        return is_same and self.dataset in ("", other.dataset)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Rows and tables that a block shows.

    Attributes:
        frameworks: Names of frameworks; empty for all but the native engine.
        workload: ``pretrain``, ``sft``, ``lora``, ``rl`` for all algorithms, or one algorithm.
        systems: Systems in the order of their tables.
        precisions: Precisions of training of which a system without rows keeps an empty table.
        sections: Sections of reinforcement learning that are there without rows too.
        title: Heading of a release, before its name.
        level: Level of that heading.
        releases: Names of releases; empty for all.
    """

    frameworks: tuple[str, ...] = ()
    workload: str = "pretrain"
    systems: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ("BF16",)
    sections: tuple[Section, ...] = ()
    title: str = "Release"
    level: int = 3
    releases: tuple[str, ...] = ()

    @property
    def is_rl(self) -> bool:
        """Whether its rows are of reinforcement learning."""
        return self.workload not in _TRAINED

    def of(self, rows: Iterable[Row], *, is_native: bool = False) -> list[Row]:
        """Return the rows of these frameworks, workload and systems, those of the native engine apart."""
        found = []
        for row in rows:
            is_of_system = not self.systems or row.system in self.systems
            if is_of_system and self.has_workload(row) and self._has_framework(row.framework, is_native=is_native):
                found.append(row)
        return found

    def _has_framework(self, name: str, *, is_native: bool) -> bool:
        if is_native:
            return name == NATIVE
        return name != NATIVE and (not self.frameworks or name in self.frameworks)

    def has_workload(self, row: Row) -> bool:
        """Return whether a row is of the workload, on any system and of any framework."""
        return row.workload == self.workload or (self.workload == RL and row.rollouts is not None)


def parse_selection(block: Block, *, subject: str) -> Selection:
    """Return the selection that a block's arguments make.

    Raises:
        PageError: If kind, argument or value is unknown, with the line's number.
    """
    place = f"{subject}:{block.line}"
    known = ARGUMENTS.get(block.kind)
    if known is None:
        raise PageError(f"{place}: unknown kind of block {block.kind!r}; {did_you_mean(block.kind, ARGUMENTS)}")
    for name in block.arguments:
        if name not in known:
            raise PageError(f"{place}: unknown argument {name!r} of block {block.kind!r}; {did_you_mean(name, known)}")
    given = block.arguments
    workload = given.get("workload", "pretrain")
    if workload not in _WORKLOADS:
        raise PageError(f"{place}: unknown workload {workload!r}; {did_you_mean(workload, _WORKLOADS)}")
    systems = tuple(_words(given.get("systems", "")))
    for name in systems:
        try:
            find_system(name)
        except RecipeError as exc:
            raise PageError(f"{place}: systems: {exc}") from None
    is_rl = workload not in _TRAINED
    return Selection(
        frameworks=tuple(_words(given.get("frameworks", ""))),
        workload=workload,
        systems=systems,
        precisions=tuple(_precisions(given.get("precisions", "bf16"), place=place)),
        sections=tuple(_sections(given.get("sections", ""), workload=workload, place=place)),
        title=given.get("title", "Release"),
        level=_level(given.get("level", "2" if is_rl else "3"), place=place),
        releases=tuple(_words(given.get("releases", ""))),
    )


def system_order(selection: Selection, rows: Iterable[Row]) -> list[str]:
    """Return the systems of a block's tables: those it names, else those of the rows as the catalog has them."""
    if selection.systems:
        return list(selection.systems)
    present = {row.system for row in rows}
    ordered = [name for name in system_catalog() if name in present]
    return [*ordered, *sorted(present - set(ordered))]


def _words(text: str) -> Iterator[str]:
    for word in text.split(","):
        if word.strip():
            yield word.strip()


def _precisions(text: str, *, place: str) -> Iterator[str]:
    for word in _words(text):
        if word.lower() not in _PRECISIONS:
            raise PageError(f"{place}: unknown precision {word!r}; {did_you_mean(word, _PRECISIONS)}")
        yield word.upper()


def _sections(text: str, *, workload: str, place: str) -> Iterator[Section]:
    for word in _words(text):
        algorithm, _, rest = word.partition(":")
        staleness, _, dataset = rest.partition(":")
        if not algorithm or not (staleness or "0").isdecimal():
            raise PageError(
                f"{place}: sections: {word!r} is no section; write ALGORITHM[:STEPS_OFF[:DATASET]], e.g. grpo:1:gsm8k"
            )
        if workload not in (RL, algorithm.lower()):
            raise PageError(
                f"{place}: sections: {word!r} is of another workload than {workload!r}; write workload={RL}"
            )
        yield Section(algorithm=algorithm.lower(), staleness=int(staleness or "0"), dataset=dataset)


def _level(text: str, *, place: str) -> int:
    if text not in ("2", "3"):
        raise PageError(f"{place}: level={text!r} must be 2 or 3, the level of a release's heading")
    return int(text)
