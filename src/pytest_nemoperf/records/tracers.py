"""Tracers, profilers and debuggers active in this process; their overhead would be measured."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Iterator, Sequence
from typing import Any, Final

TRACERS: Final = "tracers"
"""Key of a rank's active tracers in its environment."""
_NUM_MONITORING_TOOLS = 6
"""Tool ids of sys.monitoring (PEP 669, https://peps.python.org/pep-0669/)."""


def active_tracers() -> tuple[str, ...]:
    """Return a name for each tracer of this thread, e.g. ``coverage (sys.settrace)``; empty if there is none."""
    return tuple(_names())


def tracer_problems(tracers: Sequence[str]) -> list[str]:
    """Return a problem if a tracer was active, since its own time was measured too."""
    if not tracers:
        return []
    remedy = "run without it"
    if any("coverage" in name for name in tracers):
        remedy = "run without it (--no-cov, or without coverage run)"
    verb = "was" if len(tracers) == 1 else "were"
    return [
        f"{' and '.join(tracers)} {verb} active in the process that was timed (allowed: none), which makes Python code "
        f"several times slower; {remedy}"
    ]


def _names() -> Iterator[str]:
    for place, tool in (("sys.settrace", sys.gettrace()), ("sys.setprofile", sys.getprofile())):
        if tool is not None:
            yield f"{_package_of(tool)} ({place})"
    monitoring = getattr(sys, "monitoring", None)  # since Python 3.12
    if monitoring is not None:
        for number in range(_NUM_MONITORING_TOOLS):
            name = monitoring.get_tool(number)
            if name is not None:
                yield f"{name} (sys.monitoring)"
    if tracemalloc.is_tracing():
        yield "tracemalloc"


def _package_of(tool: Any) -> str:
    """Return the package a tracer comes from, or its type's name if a script defines it."""
    module = getattr(tool, "__module__", None) or type(tool).__module__  # tracers written in C have no __module__
    package = str(module).partition(".")[0]
    if package == "__main__":
        return f"{type(tool).__name__} of __main__"
    return package
