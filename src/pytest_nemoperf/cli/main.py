"""The ``nemoperf`` command line; needs neither a GPU nor a test run."""

from __future__ import annotations

import argparse
import codecs
import io
import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

from pytest_nemoperf.cli.terminal import write, write_error
from pytest_nemoperf.errors import NO_MEMORY_LEFT, NemoPerfError, os_error_text
from pytest_nemoperf.visible import readable_text

_USAGE_EXIT = 2
_INTERRUPTED_EXIT = 130
_CLOSED_PIPE_EXIT = 141
_ANY_TEXT = "nemoperf-any-text"
_EXAMPLES = """\
examples:
  nemoperf flops llama3-8b --seq-len 8192
  nemoperf plan --model llama3-8b --system h100 --gpus 8 --tp 2 \\
      --seq-len 8192 --gbs 128
  nemoperf plan --model llama3.1-405b --system gb200 --gpus 1024 --tp 8 --pp 8 \\
      --vp 2 --cp 2 --seq-len 8192 --gbs 512 --recompute selective
  nemoperf plan --recipe recipe.json --system h100 --json
  nemoperf frameworks
  nemoperf judge --baseline baselines/h100/CASE.json \\
      .nemoperf/runs/SESSION/CASE
  nemoperf judge --log mon.log tue.log --log-format megatron --recipe recipe.json
  nemoperf record --log mon.log tue.log --log-format megatron --recipe recipe.json
  nemoperf lint --tests perf_tests baselines/
  nemoperf show --published h100 -k llama3
  nemoperf ceilings h100
  nemoperf release 0.4
  nemoperf compare release:0.4 h100
  nemoperf page nemo-rl --output docs/performance.md
  nemoperf page --check docs/performance.md
"""


_COMMANDS: Mapping[str, str] = MappingProxyType(
    {
        "flops": "model FLOPs per trained token, forward plus backward",
        "plan": "resolve and price a recipe for a system, without running it",
        "frameworks": "training frameworks that this machine can run",
        "judge": "judge stored runs or logs beside a baseline",
        "record": "make a baseline of stored runs or logs",
        "lint": "check stored baselines, without measuring anything",
        "show": "rows of baselines, results, releases and published pages as a table",
        "release": "freeze baselines under a release's name; the delta of two",
        "ceilings": "measured rates of kernels and collectives on a system's machines",
        "compare": "sessions, releases, systems, frameworks or layouts side by side",
        "page": "write, refresh or check a performance page",
    }
)
"""Summary of each command; the module of its name beside this one has its ``add_options`` and ``run``."""


class _Parser(argparse.ArgumentParser):
    """Reports errors in one line, without the usage."""

    def _print_message(self, message: str, file: Any = None) -> None:  # of help and errors
        if message:
            write(message, file=file or sys.stderr)

    def error(self, message: str) -> NoReturn:
        self.exit(_USAGE_EXIT, f"nemoperf: error: {message}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: Arguments without the program's name; None takes this process's.

    Returns:
        Exit code: 0, 1 if ``frameworks`` finds none that can run, ``lint`` found problems, ``page --check``
        differences, the verdict of ``judge`` fails, ``record`` refuses the runs or ``compare`` finds nothing to
        compare, 2 for a usage error or a file that can't be read or written, 130 if it was interrupted, 141 if its
        output is read no further.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    if sys.stdout is None:  # as of ``>&-``
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 (open until the process ends)
    _take_any_text()
    try:
        arguments = _parser(words).parse_args(_with_joined_sort(words))
        arguments.words = words
        code = int(arguments.run(arguments))
        sys.stdout.flush()
    except KeyboardInterrupt:
        write_error("nemoperf: interrupted")
        return _INTERRUPTED_EXIT
    except BrokenPipeError:  # as of ``| head``
        _drop_output()
        return _CLOSED_PIPE_EXIT
    except (NemoPerfError, OSError, MemoryError, RecursionError, UnicodeError) as exc:
        if isinstance(exc, OSError) and exc.filename is None:  # of standard output, as of ``> /dev/full``
            _drop_output()
        write_error(f"nemoperf: error: {_problem_of(exc)}")
        return _USAGE_EXIT
    return code


def _take_any_text() -> None:
    r"""Make the standard streams escape characters that their encoding lacks, e.g. as ``\xfc``, as under LC_ALL=C."""
    codecs.register_error(_ANY_TEXT, _escaped)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in {"strict", "surrogateescape"}:
            stream.reconfigure(errors=_ANY_TEXT)


def _escaped(error: UnicodeError) -> tuple[bytes, int]:
    """Return the escapes of characters that an encoding lacks, and the place to go on; see codecs.register_error."""
    assert isinstance(error, UnicodeEncodeError)  # noqa: S101 (streams are only written)
    text = readable_text(error.object[error.start : error.end])
    return text.encode(error.encoding, "backslashreplace"), error.end


def _problem_of(error: NemoPerfError | OSError | MemoryError | RecursionError | UnicodeError) -> str:
    """Return the reason why a command can't be carried out, with a remedy."""
    if isinstance(error, OSError):
        return os_error_text(error)
    if isinstance(error, MemoryError):
        return NO_MEMORY_LEFT
    if isinstance(error, RecursionError):
        return "a file or option is nested deeper than Python can follow; give a flatter one"
    if isinstance(error, UnicodeError) and not isinstance(error, NemoPerfError):
        return f"a text can't be encoded or decoded: {error}; use UTF-8, as with PYTHONUTF8=1"
    return str(error)


def _drop_output() -> None:
    """Give the rest of standard output to nobody: Python flushes it once more at its end, and would complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser(words: Sequence[str]) -> argparse.ArgumentParser:
    """Return the parser of these words: of commands that are not among them, without their options."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = _Parser(
        prog="nemoperf",
        description="Performance tests of LLM training: what needs neither a GPU nor a test run.",
        epilog=_EXAMPLES,
        formatter_class=raw,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, summary in _COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        if name in words:  # others would cost their imports
            module = import_module(f"pytest_nemoperf.cli.{name}")
            module.add_options(command)
            command.set_defaults(run=module.run)
    return parser


def _with_joined_sort(words: Sequence[str]) -> list[str]:
    """Return the words with a ``-COLUMN`` after ``--sort`` joined to it: argparse takes it for an option."""
    joined: list[str] = []
    for word in words:
        if joined and joined[-1] == "--sort" and word.startswith("-") and not word.startswith("--"):
            joined[-1] = f"--sort={word}"
        else:
            joined.append(word)
    return joined
