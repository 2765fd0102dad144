"""Frameworks that are known without pytest: the built-in ones, and those that packages name as entry points."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final

from pytest_nemoperf.errors import did_you_mean, error_line, shown
from pytest_nemoperf.frameworks.builtin import builtin_frameworks
from pytest_nemoperf.frameworks.protocol import Framework

GROUP: Final = "pytest_nemoperf.frameworks"
"""Group of entry points; each names a Framework's class, or a function that returns one Framework or several."""
BUILT_IN: Final = "built in"
_METHODS: Final = ("unsupported", "command", "read_output")


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredFrameworks:
    """Frameworks by name.

    Attributes:
        frameworks: Built-in ones, then those of entry points.
        origins: Where each comes from, by its name: BUILT_IN, or the distribution.
        problems: Entry points that give no framework, each with its distribution and the reason.
    """

    frameworks: Mapping[str, Framework]
    origins: Mapping[str, str]
    problems: tuple[str, ...] = ()

    def unknown(self, name: str) -> str:
        """Return the message on a name that is none of them, with the problems that may be the reason."""
        reasons = "".join(f"; {problem}" for problem in self.problems)
        return f"unknown framework {name!r}; {did_you_mean(name, self.frameworks)}{reasons}"


def registered_frameworks(added: Mapping[str, Framework] | None = None) -> RegisteredFrameworks:
    """Return the built-in frameworks and those of entry points; a broken entry point is a problem, not an error.

    Args:
        added: Further frameworks by name, as of pytest's hook; their names are taken before those of entry points.
    """
    frameworks = {**builtin_frameworks(), **(added or {})}
    origins = dict.fromkeys(frameworks, BUILT_IN)
    for name in added or {}:
        origins[name] = "a hook of this session"
    problems = []
    for entry in sorted(entry_points(group=GROUP), key=_place):
        place = f"entry point {entry.name} = {entry.value} of {_distribution(entry)}"
        try:
            found = list(_frameworks_of(entry))
        except (Exception, SystemExit) as error:  # whatever code of others raises must not stop a session
            problems.append(f"{place} gives no framework: {error_line(error)}; mend the package or uninstall it")
            continue
        for framework in found:
            if framework.name in frameworks:
                problems.append(
                    f"{place} names a framework {framework.name!r}, as does {_taken_by(origins[framework.name])}, "
                    "which stays; give it another name, or uninstall one of the two"
                )
                continue
            frameworks[framework.name] = framework
            origins[framework.name] = _distribution(entry)
    return RegisteredFrameworks(frameworks=frameworks, origins=origins, problems=tuple(problems))


def _frameworks_of(entry: EntryPoint) -> Iterator[Framework]:
    """Yield the frameworks of an entry point.

    Raises:
        TypeError: If an object is none.
        Exception: Whatever its code raises.
    """
    yield from checked_frameworks(entry.load()())


def checked_frameworks(made: object) -> Iterator[Framework]:
    """Yield the frameworks that code of others made: one, or some.

    Raises:
        TypeError: If an object is none.
    """
    items: Iterable[Any] = made if isinstance(made, Iterable) and not isinstance(made, (str, Mapping)) else (made,)
    for item in items:
        missing = [name for name in _METHODS if not callable(getattr(item, name, None))]
        name = getattr(item, "name", None)
        if not isinstance(name, str) or not name:
            missing.insert(0, "name")
        if missing:
            raise TypeError(f"{shown(item)} has no {', '.join(missing)}, which a Framework has")
        yield item


def _place(entry: EntryPoint) -> tuple[str, str]:
    return _distribution(entry), entry.name


def _distribution(entry: EntryPoint) -> str:
    """Return a distribution's name and version."""
    if entry.dist is None:
        return "an unknown distribution"
    return f"{entry.dist.name} {entry.dist.version}"


def _taken_by(origin: str) -> str:
    return "this plugin" if origin == BUILT_IN else origin
