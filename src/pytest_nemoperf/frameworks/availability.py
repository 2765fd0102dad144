"""Whether frameworks can run in their interpreters: versions asked for, then a real import under a time limit."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Final

from pytest_nemoperf.errors import LaunchError
from pytest_nemoperf.frameworks.protocol import Framework
from pytest_nemoperf.frameworks.requirements import (
    Installable,
    Requirement,
    required_versions,
    unmet_requirement,
    untested_version,
)

IMPORT_LIMIT_SEC: Final = 120.0
"""Import of a framework from a cold disk; NeMo Automodel takes 20 s from a warm one."""
_IMPORT: Final = "import importlib, sys; importlib.import_module(sys.argv[1])"
_NO_MODULE: Final = re.compile(r"ModuleNotFoundError: No module named '([\w.]+)'")
_MAX_ERROR: Final = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameworkStatus:
    """A framework and the interpreter that its runs use.

    Attributes:
        name: Name in recipes.
        origin: Distribution that brings it, or ``built in``.
        is_runnable: Its packages are there and can be imported; a plan may still be refused.
        distribution: Package of the framework; empty for one that needs none.
        version: Its installed version; empty if it is not installed.
        python: Interpreter.
        import_sec: Time that its import took; None if it was not tried.
        reason: Reason that it can't run, with the command that mends it; empty if it can.
        warning: Note on a version that is older or newer than tested; empty without one.
    """

    name: str
    origin: str
    is_runnable: bool
    distribution: str = ""
    version: str = ""
    python: str = ""
    import_sec: float | None = None
    reason: str = ""
    warning: str = ""


def framework_status(framework: Framework, *, origin: str, python: str, limit_sec: float) -> FrameworkStatus:
    """Return whether a framework can run; its module is really imported, so that half installed ones are found.

    Args:
        framework: The framework; one without a requirement runs anywhere.
        origin: Distribution that brings it.
        python: Interpreter of its runs; empty for this process's own.
        limit_sec: Time limit of the import.
    """
    shown = python or sys.executable
    if not isinstance(framework, Installable):
        return FrameworkStatus(name=framework.name, origin=origin, is_runnable=True, python=shown)
    requirement = framework.requirement
    version = ""
    import_sec = None
    reason = unmet_requirement(requirement, framework=framework.name, python=python)
    try:
        version = required_versions(requirement, python=python).get(requirement.distribution, "")
    except LaunchError as error:
        reason = str(error)
    if reason is None:
        started = time.monotonic()
        reason = import_problem(requirement, framework=framework.name, python=shown, limit_sec=limit_sec)
        import_sec = time.monotonic() - started
    return FrameworkStatus(
        name=framework.name,
        origin=origin,
        is_runnable=reason is None,
        distribution=requirement.distribution,
        version=version,
        python=shown,
        import_sec=import_sec,
        reason=reason or "",
        warning=untested_version(requirement, framework=framework.name, version=version) or "",
    )


def import_problem(requirement: Requirement, *, framework: str, python: str, limit_sec: float) -> str | None:
    """Return the reason that a framework's module can't be imported, with the command that mends it, or None.

    Args:
        requirement: Packages.
        framework: Name of the framework.
        python: Interpreter.
        limit_sec: Time limit.
    """
    subject = f"framework={framework!r} is half installed: import {requirement.module} in {python}"
    try:
        done = subprocess.run(  # noqa: S603 (the user's own interpreter)
            [python, "-c", _IMPORT, requirement.module],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=limit_sec,
            check=False,
            text=True,
            errors="replace",
        )
    except subprocess.TimeoutExpired:
        return (
            f"framework={framework!r}: import {requirement.module} in {python} takes more than {limit_sec:g} s; try it "
            "by hand, or give --timeout more"
        )
    except OSError as error:
        return f"framework={framework!r}: {python} can't be started: {error.strerror}; give a Python interpreter"
    if done.returncode == 0:
        return None
    last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1][:_MAX_ERROR]
    if done.returncode < 0:
        last = f"killed by signal {-done.returncode}"
    return f"{subject} ends with {last}; mend it with: {_remedy(requirement, python=python, error=last)}"


def _remedy(requirement: Requirement, *, python: str, error: str) -> str:
    """Return the command that mends an import; a missing module is installed alone, so that nothing else moves."""
    missing = _NO_MODULE.search(error)
    if missing is None:
        return requirement.install
    name = missing[1].partition(".")[0]
    if name == requirement.module.partition(".")[0]:  # pip takes what is registered for installed
        return f"{python} -m pip uninstall {requirement.distribution}, then: {requirement.install}"
    return f"{python} -m pip install {name.replace('_', '-')}"
