"""Frame of a stage's program: arguments, findings that are always written, exit status."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from types import FrameType

from gpu_check.findings import Findings
from pytest_nemoperf.process.orphans import die_with_parent

ROOT = Path(__file__).parents[3]


class Exit(IntEnum):
    """Exit status of a program."""

    PASSED = 0
    FAILED = 1
    NOT_HERE = 4
    NOT_JUDGED = 5
    INTERRUPTED = 130


class NotHereError(Exception):
    """The machine lacks what the stage needs; the text says what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """Arguments of a program.

    Attributes:
        folder: Folder of the stage.
        system: Name of the system that was found.
        tests: Node ids of its perf tests.
        options: Further options of its pytest sessions.
    """

    folder: Path
    system: str
    tests: Sequence[str] = ()
    options: Sequence[str] = ()

    @property
    def is_cpu(self) -> bool:
        """Stand-ins run in place of a GPU's cases."""
        return self.system == "cpu"

    @property
    def check_folder(self) -> Path:
        """Folder of the whole check."""
        return self.folder.parent


def run_program(examine: Callable[[Context, Findings], None]) -> int:
    """Run a stage's examination, write its findings whatever ends it, and return the exit status."""
    context = _context()
    findings = Findings()
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs start with it ignored
    die_with_parent(signal.SIGTERM, parent_pid=os.getppid())
    try:
        examine(context, findings)
    except NotHereError as error:
        findings.unjudged.append(str(error))
        return Exit.NOT_HERE
    except KeyboardInterrupt:
        findings.remarks.append("ended before all of it was done")
        return Exit.INTERRUPTED
    except Exception as error:  # whatever it is, the summary must say it
        traceback.print_exc()
        findings.problems.append(f"the program of the stage failed, see log.txt: {type(error).__name__}: {error}")
    finally:
        findings.write(context.folder)
    for problem in findings.problems:
        print(f"problem: {problem}", flush=True)
    if findings.problems:
        return Exit.FAILED
    return Exit.NOT_JUDGED if findings.unjudged else Exit.PASSED


def _context() -> Context:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--system", required=True)
    parser.add_argument("--test", action="append", default=[])
    parser.add_argument("--option", action="append", default=[])
    options = parser.parse_args(sys.argv[1:])
    return Context(folder=options.folder, system=options.system, tests=options.test, options=options.option)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
