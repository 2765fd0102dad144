"""Packages that a framework needs in the interpreter of its runs, and the reason when they are not all there."""

from __future__ import annotations

import importlib.metadata
import shlex
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Final, Protocol, runtime_checkable

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from pytest_nemoperf.errors import LaunchError
from pytest_nemoperf.frameworks.interpreter import versions_in
from pytest_nemoperf.frameworks.protocol import Framework
from pytest_nemoperf.machine.identity import DISTRIBUTIONS

PLUGIN: Final = "pytest-nemoperf"
_TE: Final = "transformer-engine"
_TE_TORCH: Final = "transformer-engine-torch"


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """Packages of a framework.

    Attributes:
        distribution: The framework's own, as pip calls it; its version is recorded if it is one of DISTRIBUTIONS, or in
            the ``environment`` of RunOutput.
        module: Module whose import shows that it works.
        install: Command that installs it, for a shell.
        tested: Its versions that our tests ran with, oldest first.
        beside: Distributions that it needs but does not ask for, or asks for too broadly, each with the versions that
            work, e.g. ``{"triton": "==3.6.0"}``, and without any for ``""``.
        uses_transformer_engine: It imports transformer-engine if that is installed.
        runs_plugin: Runs of plans import this plugin in the framework's interpreter.
    """

    distribution: str
    module: str
    install: str
    tested: tuple[str, ...] = ()
    beside: Mapping[str, str] = field(default_factory=dict)
    uses_transformer_engine: bool = False
    runs_plugin: bool = False


@runtime_checkable
class Installable(Framework, Protocol):
    """Framework that is a package in an interpreter, apart from pytest's or the same."""

    @property
    def requirement(self) -> Requirement:
        """Packages that its runs need."""
        ...


@cache
def installed_versions(python: str, *, also: tuple[str, ...] = ()) -> Mapping[str, str]:
    """Return versions by distribution in an interpreter, of those in DISTRIBUTIONS; asked once in a session.

    Args:
        python: Path of the interpreter; empty for this process's own.
        also: Distributions to look up beside them.

    Raises:
        LaunchError: If it does not answer.
    """
    found = versions_in(python, env={}, also=also) if also else versions_in(python, env={})
    if found:
        return found
    for name in (*DISTRIBUTIONS, *also):
        with suppress(importlib.metadata.PackageNotFoundError):
            version: str | None = importlib.metadata.version(name)
            if version:  # none in what an interrupted installation leaves
                found[name] = version
    return found


def required_versions(requirement: Requirement, *, python: str) -> Mapping[str, str]:
    """Return installed_versions, with those of a requirement that are not in DISTRIBUTIONS.

    Raises:
        LaunchError: If the interpreter does not answer.
    """
    named = (requirement.distribution, *requirement.beside)
    further = tuple(name for name in named if name not in DISTRIBUTIONS)
    return installed_versions(python, also=further) if further else installed_versions(python)


def unmet_requirement(requirement: Requirement, *, framework: str, python: str) -> str | None:
    """Return the reason that a framework's packages are not all there, with the command that mends it, or None.

    Only versions are looked up, nothing is imported.

    Args:
        requirement: Packages.
        framework: Name of the framework.
        python: Interpreter of the run; empty for this process's own.
    """
    try:
        versions = required_versions(requirement, python=python)
    except LaunchError as error:
        return str(error)
    pip = f"{shlex.quote(python or sys.executable)} -m pip install"
    place = python or f"{sys.executable}, pytest's own interpreter"
    if requirement.distribution not in versions:
        return (
            f"framework={framework!r} needs {requirement.distribution}, which is not installed in {place}; install it "
            f"with: {requirement.install}, or name the interpreter that has it in python= or ini perf_python"
        )
    for name, allowed in requirement.beside.items():
        version = versions.get(name)
        if version is None or not SpecifierSet(allowed).contains(version, prereleases=True):
            has = f"has {name} {version}" if version else f"has no {name}"
            return (
                f"framework={framework!r} is half installed: {requirement.distribution} needs {name}{allowed}, "
                f"and {place} {has}; mend it with: {pip} --no-deps '{name}{allowed}'"
            )
    engine = versions.get(_TE, "")
    # A container's own build has a local version, and no distribution for the torch part.
    if requirement.uses_transformer_engine and engine and "+" not in engine and _TE_TORCH not in versions:
        return (
            f"framework={framework!r} is half installed: {_TE} {engine} is the meta package alone, whose import fails, "
            f"and {place} has no {_TE_TORCH}; mend it with: {pip} --no-build-isolation "
            f"'{_TE}[pytorch]=={engine}', or uninstall {_TE}"
        )
    own = importlib.metadata.version(PLUGIN)
    if requirement.runs_plugin and versions.get(PLUGIN) != own:
        has = f"has {PLUGIN} {versions[PLUGIN]}" if PLUGIN in versions else f"has no {PLUGIN}"
        return (
            f"framework={framework!r} runs a program of this plugin in its interpreter, which needs {PLUGIN} {own} as "
            f"here, and {place} {has}; install it with: {pip} {PLUGIN}=={own}"
        )
    return None


def untested_version(requirement: Requirement, *, framework: str, version: str) -> str | None:
    """Return a note on a version that is older or newer than those our tests ran with, or None.

    Args:
        requirement: Packages.
        framework: Name of the framework.
        version: Installed version of the framework's own distribution; empty if it is not known.
    """
    if not requirement.tested or not version:
        return None
    try:
        installed = Version(Version(version).public)
    except ValueError:  # InvalidVersion, or a number of thousands of digits
        return None
    oldest, newest = requirement.tested[0], requirement.tested[-1]
    relation = ""
    if installed < Version(oldest):
        relation = f"older than {oldest}, the oldest"
    elif installed > Version(newest):
        relation = f"newer than {newest}, the newest"
    if not relation:
        return None
    return (
        f"{requirement.distribution} {version} is {relation} that framework={framework!r} is tested with: its numbers "
        "may mean something else"
    )
