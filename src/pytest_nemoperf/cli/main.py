"""The ``nemoperf`` command line; needs neither a GPU nor a test run."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from pytest_nemoperf.cli.compare import add_compare_command, compare_rows
from pytest_nemoperf.cli.frameworks import add_frameworks_command, show_frameworks
from pytest_nemoperf.cli.judge import add_judge_command, judge_runs
from pytest_nemoperf.cli.lint import add_lint_command, run_lint
from pytest_nemoperf.cli.plan import add_plan_command, plan_text
from pytest_nemoperf.cli.record import add_record_command, record_runs
from pytest_nemoperf.cli.release import add_release_command, run_release
from pytest_nemoperf.cli.show import add_show_command, show_rows
from pytest_nemoperf.errors import NemoPerfError, RecipeError
from pytest_nemoperf.flops.conventions import DEFAULT_CONVENTION, find_convention, flops_conventions
from pytest_nemoperf.flops.count import flops_terms
from pytest_nemoperf.models.catalog import find_model
from pytest_nemoperf.report.escape import visible_text

_USAGE_EXIT = 2
_INTERRUPTED_EXIT = 130
_CLOSED_PIPE_EXIT = 141
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
  nemoperf release 0.4
  nemoperf compare release:0.4 h100
"""


class _Parser(argparse.ArgumentParser):
    """Reports errors in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(_USAGE_EXIT, f"nemoperf: error: {message}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: Arguments without the program's name; None takes this process's.

    Returns:
        Exit code: 0, 1 if ``frameworks`` finds none that can run, ``lint`` found problems, the verdict of ``judge``
        fails, ``record`` refuses the runs or ``compare`` finds nothing to compare, 2 for a usage error or a file that
        can't be read or written, 130 if it was interrupted, 141 if its output is read no further.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    arguments = _parser().parse_args(words)
    arguments.words = words
    try:
        code = int(arguments.run(arguments))
        sys.stdout.flush()
    except NemoPerfError as exc:
        print(f"nemoperf: error: {visible_text(str(exc))}", file=sys.stderr)
        return _USAGE_EXIT
    except KeyboardInterrupt:
        print("nemoperf: interrupted", file=sys.stderr)
        return _INTERRUPTED_EXIT
    except BrokenPipeError:  # as of ``| head``; Python would flush once more at its end, and complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _CLOSED_PIPE_EXIT
    except OSError as exc:
        subject = f"{exc.filename}: " if exc.filename else ""
        print(f"nemoperf: error: {subject}{exc.strerror or exc}", file=sys.stderr)
        return _USAGE_EXIT
    return code


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = _Parser(
        prog="nemoperf",
        description="Performance tests of LLM training: what needs neither a GPU nor a test run.",
        epilog=_EXAMPLES,
        formatter_class=raw,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    flops = commands.add_parser("flops", help="model FLOPs per trained token, forward plus backward")
    flops.add_argument("model", metavar="MODEL", help="catalog name, e.g. llama3-8b, or path of a config.json")
    flops.add_argument("--seq-len", required=True, metavar="N,...", help="tokens per sequence; one answer for each")
    flops.add_argument("--terms", action="store_true", help="also each term of the sum")
    names = ", ".join(flops_conventions())
    flops.add_argument(
        "--convention", metavar="NAME", help=f"how FLOPs are counted: {names} (default: {DEFAULT_CONVENTION})"
    )
    flops.add_argument("--json", action="store_true", help="print JSON")
    flops.set_defaults(run=_flops)

    plan = commands.add_parser("plan", help="resolve and price a recipe for a system, without running it")
    add_plan_command(plan)
    plan.set_defaults(run=_plan)

    frameworks = commands.add_parser("frameworks", help="training frameworks that this machine can run")
    add_frameworks_command(frameworks)
    frameworks.set_defaults(run=show_frameworks)

    judging = commands.add_parser("judge", help="judge stored runs or logs beside a baseline")
    add_judge_command(judging)
    judging.set_defaults(run=judge_runs)

    recording = commands.add_parser("record", help="make a baseline of stored runs or logs")
    add_record_command(recording)
    recording.set_defaults(run=record_runs)

    lint = commands.add_parser("lint", help="check stored baselines, without measuring anything")
    add_lint_command(lint)
    lint.set_defaults(run=run_lint)

    show = commands.add_parser("show", help="rows of baselines, results, releases and published pages as a table")
    add_show_command(show)
    show.set_defaults(run=show_rows)

    releasing = commands.add_parser("release", help="freeze baselines under a release's name; the delta of two")
    add_release_command(releasing)
    releasing.set_defaults(run=run_release)

    compare = commands.add_parser("compare", help="sessions, releases, systems, frameworks or layouts side by side")
    add_compare_command(compare)
    compare.set_defaults(run=compare_rows)
    return parser


def _flops(arguments: argparse.Namespace) -> int:
    model = find_model(arguments.model)
    convention = find_convention(arguments.convention or DEFAULT_CONVENTION)
    answers = []
    for seq_len in _parse_seq_lens(arguments.seq_len):
        terms = flops_terms(model, seq_len=seq_len, convention=convention)
        answer: dict[str, Any] = {
            "model": model.name,
            "seq_len": seq_len,
            "convention": convention.name,
            "flops_per_token": sum(terms.values()),
        }
        if arguments.terms:
            answer["terms"] = dict(terms)
        answers.append(answer)
    if not arguments.json:
        for answer in answers:
            print(_flops_text(answer), end="")
    elif len(answers) == 1:
        print(json.dumps(answers[0], indent=2))
    else:
        print(json.dumps(answers, indent=2))
    return 0


def _parse_seq_lens(text: str) -> list[int]:
    try:
        return [int(item) for item in text.split(",")]
    except ValueError:
        raise RecipeError(f"--seq-len: {text!r} is not a number or a list of them; write e.g. 4096,8192") from None


def _flops_text(answer: Mapping[str, Any]) -> str:
    total = answer["flops_per_token"]
    terms: Mapping[str, float] = answer.get("terms", {})
    text = f"{answer['model']} at seq_len {answer['seq_len']}: {total:.6g} FLOPs per token ({answer['convention']})\n"
    width = max(map(len, terms), default=0)
    for name, term in terms.items():
        text += f"  {name:<{width}}  {term:<12.6g} {term / total:6.1%}\n"
    return text


def _plan(arguments: argparse.Namespace) -> int:
    print(plan_text(arguments), end="")
    return 0
