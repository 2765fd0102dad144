"""``nemoperf frameworks``: training frameworks that this machine can run, and the commands that install the others."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from pytest_nemoperf.cli.project_ini import find_ini_lines
from pytest_nemoperf.cli.terminal import PassingLine, write, write_error
from pytest_nemoperf.errors import PlanError, RecipeError, did_you_mean
from pytest_nemoperf.frameworks.availability import IMPORT_LIMIT_SEC, FrameworkStatus, framework_status
from pytest_nemoperf.frameworks.interpreter import ANY_FRAMEWORK, check_interpreter, parse_interpreters
from pytest_nemoperf.frameworks.registered import BUILT_IN, RegisteredFrameworks, registered_frameworks
from pytest_nemoperf.json_codec import to_printed_json
from pytest_nemoperf.recipes.rules import NATIVE
from pytest_nemoperf.report.console import align

_KEY: Final = "perf_python"
_EPILOG: Final = """\
examples:
  nemoperf frameworks
  nemoperf frameworks torch megatron --python megatron=~/mcore/bin/python
  nemoperf frameworks --json

Interpreters are those of perf_python in the project's ini file, unless --python
names another. Each framework is imported there.

exit code:
  0 if every framework that was named can run; without names, if one can
  1 if not, or if an entry point of a package gives no framework
  2 if an option or the ini file is wrong
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameworksReport:
    """Output of ``nemoperf frameworks --json``.

    Attributes:
        frameworks: Each with its interpreter.
        problems: Entry points that give no framework.
    """

    frameworks: Sequence[FrameworkStatus]
    problems: Sequence[str] = ()
    schema_version: Literal[1] = 1


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options, its examples and exit codes."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    parser.add_argument("names", nargs="*", metavar="NAME", help="frameworks (default: all)")
    parser.add_argument(
        "--python",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="interpreter of a framework, or PATH for all; may be repeated",
    )
    parser.add_argument(
        "--timeout",
        type=_seconds,
        default=IMPORT_LIMIT_SEC,
        metavar="SEC",
        help=f"time limit of an import (default: {IMPORT_LIMIT_SEC:g})",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print the frameworks and whether they can run; return the exit code.

    Raises:
        NemoPerfError: If a name or an interpreter is wrong.
    """
    registered = registered_frameworks()
    for name in arguments.names:
        if name not in registered.frameworks:
            raise RecipeError(registered.unknown(name))
    names = list(dict.fromkeys(arguments.names)) or list(registered.frameworks)
    pythons = _interpreters(arguments.python, known=registered.frameworks)
    statuses = list(_checked(registered, names=names, pythons=pythons, limit_sec=arguments.timeout))
    if arguments.json:
        write(to_printed_json(FrameworksReport(frameworks=statuses, problems=registered.problems)))
    else:
        write(_text(statuses, problems=registered.problems))
    runnable = [status.is_runnable for status in statuses]
    is_good = all(runnable) if arguments.names else any(runnable)
    return int(not is_good or bool(registered.problems))


def _interpreters(texts: Sequence[str], *, known: Mapping[str, object]) -> dict[str, str]:
    """Return paths of interpreters by framework: those of the ini file, those of the option over them.

    An ini file may be of several machines, and may name frameworks of a conftest.py: neither an interpreter that is not
    there nor an unknown name stops the others.
    """
    pythons: dict[str, str] = {}
    ini = find_ini_lines(_KEY, start=Path.cwd())
    if ini.path is not None:
        subject = f"{ini.path}: {_KEY}"
        for name, path in parse_interpreters(ini.lines, subject=subject).items():
            if name in (ANY_FRAMEWORK, *known):
                pythons[name] = str(ini.path.parent / Path(path).expanduser())
            else:
                write_error(
                    f"nemoperf: {subject} names {name!r}, which is not known here ({did_you_mean(name, known)}); leave "
                    "it if a conftest.py registers it"
                )
    for name, path in parse_interpreters(texts, subject="--python").items():
        if name not in (ANY_FRAMEWORK, *known):
            raise RecipeError(f"--python: unknown framework {name!r}; {did_you_mean(name, known)}")
        try:
            pythons[name] = check_interpreter(path, root=Path.cwd())
        except PlanError as error:
            raise RecipeError(f"--python: {error}") from None
    return pythons


def _checked(
    registered: RegisteredFrameworks, *, names: Sequence[str], pythons: Mapping[str, str], limit_sec: float
) -> Iterator[FrameworkStatus]:
    """Yield the status of each framework; a terminal shows the import that runs, for it may take a minute."""
    line = PassingLine()
    for name in names:
        python = pythons.get(name, pythons.get(ANY_FRAMEWORK, ""))
        if name == NATIVE:
            python = ""
        line.show(f"importing {name} in {python or sys.executable} ...")
        try:
            yield framework_status(
                registered.frameworks[name], origin=registered.origins[name], python=python, limit_sec=limit_sec
            )
        finally:
            line.erase()


def _text(statuses: Sequence[FrameworkStatus], *, problems: Sequence[str]) -> str:
    """Return a table of the frameworks, then reasons, warnings and problems."""
    rows = [["framework", "runs", "version", "import", "interpreter"]]
    notes = []
    for status in statuses:
        version = f"{status.distribution} {status.version}".strip() if status.version else "-"
        took = "-" if status.import_sec is None else f"{status.import_sec:.1f} s"
        name = status.name if status.origin == BUILT_IN else f"{status.name} ({status.origin})"
        rows.append([name, "yes" if status.is_runnable else "NO", version, took, status.python])
        for label, text in (("", status.reason), ("warning: ", status.warning)):
            if text:
                notes.append((status.name, f"{label}{text}"))
    lines = [line.rstrip() for line in align(rows, num_left=len(rows[0]))]
    for name, text in notes:
        lines += ["", f"{name}:", f"  {text}"]  # not folded: it holds a command to copy
    for problem in problems:
        lines += ["", f"problem: {problem}"]
    return "\n".join([*lines, ""])


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} must be positive seconds")
    return value
