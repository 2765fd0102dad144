"""``nemoperf``: what needs neither a GPU nor a test run."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from pytest_nemoperf.errors import BaselineError, NemoPerfError, RecipeError
from pytest_nemoperf.flops import (
    DEFAULT_CONVENTION,
    find_convention,
    flops_conventions,
    flops_terms,
)
from pytest_nemoperf.models import find_model
from pytest_nemoperf.plan import resolve
from pytest_nemoperf.recipe import Plan, Precision, Recipe
from pytest_nemoperf.records import from_data, to_data, to_json
from pytest_nemoperf.systems import find_system
from pytest_nemoperf.weights import num_parameters

_USAGE_EXIT = 2
_TRUTH = {"true": True, "false": False}
_EXAMPLES = """\
examples:
  nemoperf flops llama3-8b --seq-len 8192
  nemoperf plan --model llama3-8b --system h100 --seq-len 8192 --gbs 128 --mbs 1 \\
      --layout gpus=8,tp=2,dp_shard=4 --precision bf16
  nemoperf plan --recipe recipe.json --system h100 --json
  nemoperf lint baselines/
"""
_RECIPE_OPTIONS = ("model", "seq_len", "gbs", "layout")


class _Parser(argparse.ArgumentParser):
    """Reports what is wrong in one line; the usage is a ``--help`` away."""

    def error(self, message: str) -> NoReturn:
        self.exit(_USAGE_EXIT, f"nemoperf: error: {message}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: Arguments without the program's name; None takes this process's.

    Returns:
        Exit code: 0, 1 if ``lint`` found problems, 2 for a usage error.
    """
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except NemoPerfError as exc:
        print(f"nemoperf: error: {exc}", file=sys.stderr)
        return _USAGE_EXIT


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
    _add_convention(flops)
    flops.add_argument("--json", action="store_true", help="print JSON")
    flops.set_defaults(run=_flops)

    plan = commands.add_parser("plan", help="resolve a recipe for a system, without running it")
    plan.add_argument("--recipe", type=Path, metavar="FILE", help="recipe as JSON, instead of the options below")
    plan.add_argument("--system", required=True, help="e.g. h100, cpu; its layout is taken from the recipe")
    plan.add_argument("--model", help="catalog name, e.g. llama3-8b")
    plan.add_argument("--seq-len", type=int, metavar="N", help="tokens per sequence")
    plan.add_argument("--gbs", type=int, metavar="N", help="global batch size, sequences per step")
    plan.add_argument("--mbs", type=int, metavar="N", help="micro batch size (default: 1)")
    plan.add_argument("--layout", metavar="KEY=N,...", help="e.g. gpus=8,tp=2,dp_shard=4")
    plan.add_argument("--precision", help=f"{', '.join(Precision)} (default: {Precision.BF16})")
    plan.add_argument("--framework", help="who trains (default: torch)")
    _add_convention(plan)
    plan.add_argument("--json", action="store_true", help="print the plan as the ranks get it")
    plan.set_defaults(run=_plan)

    lint = commands.add_parser("lint", help="check stored baselines")
    lint.add_argument("folder", type=Path, nargs="?", default=Path("baselines"), help="default: baselines")
    lint.set_defaults(run=_lint)
    return parser


def _add_convention(parser: argparse.ArgumentParser) -> None:
    names = ", ".join(flops_conventions())
    parser.add_argument(
        "--convention", metavar="NAME", help=f"how FLOPs are counted: {names} (default: {DEFAULT_CONVENTION})"
    )


def _flops(arguments: argparse.Namespace) -> int:
    model = find_model(arguments.model)
    convention = find_convention(arguments.convention or DEFAULT_CONVENTION)
    answers = []
    for seq_len in _parse_seq_lens(arguments.seq_len):
        terms = flops_terms(model, seq_len=seq_len, convention=convention)
        answer = {
            "model": model.name,
            "seq_len": seq_len,
            "convention": convention.name,
            "flops_per_token": sum(terms.values()),
        }
        answers.append(answer | ({"terms": dict(terms)} if arguments.terms else {}))
    if arguments.json:
        print(json.dumps(answers[0] if len(answers) == 1 else answers, indent=2))
    else:
        print("".join(_flops_text(answer) for answer in answers), end="")
    return 0


def _parse_seq_lens(text: str) -> list[int]:
    try:
        return [int(item) for item in text.split(",")]
    except ValueError:
        raise RecipeError(f"--seq-len: {text!r} is not a number or a list of them; write e.g. 4096,8192") from None


def _flops_text(answer: Mapping[str, Any]) -> str:
    total = answer["flops_per_token"]
    terms: Mapping[str, float] = answer.get("terms", {})
    width = max((len(name) for name in terms), default=0)
    lines = [f"  {name:<{width}}  {term:<12.6g} {term / total:6.1%}" for name, term in terms.items()]
    head = f"{answer['model']} at seq_len {answer['seq_len']}: {total:.6g} FLOPs per token ({answer['convention']})"
    return "\n".join([head, *lines]) + "\n"


def _plan(arguments: argparse.Namespace) -> int:
    system = find_system(arguments.system)
    recipe = _read_recipe(arguments) if arguments.recipe else _build_recipe(arguments)
    plan = resolve(recipe, system=system)
    print(to_json(plan) if arguments.json else _plan_table(plan, title=system.title), end="")
    return 0


def _read_recipe(arguments: argparse.Namespace) -> Recipe:
    from pytest_nemoperf.schema import validate  # noqa: PLC0415 (jsonschema is slow to import)

    for name in (*_RECIPE_OPTIONS, "mbs", "precision", "framework", "convention"):
        if getattr(arguments, name) is not None:
            option = name.replace("_", "-")
            raise RecipeError(f"--{option} with --recipe: the file says it already; use one or the other")
    path: Path = arguments.recipe
    try:
        data = json.loads(path.read_bytes())
    except OSError as exc:
        raise RecipeError(f"{path}: cannot be read: {exc.strerror}") from None
    except ValueError as exc:
        raise RecipeError(f"{path}: not JSON: {exc}") from None
    validate(data, name="recipe", subject=str(path), error=RecipeError)
    return from_data(Recipe, data, subject=str(path), error=RecipeError)


def _build_recipe(arguments: argparse.Namespace) -> Recipe:
    missing = [name for name in _RECIPE_OPTIONS if getattr(arguments, name) is None]
    if missing:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in missing)
        raise RecipeError(f"{options} missing; give them, or a recipe with --recipe FILE")
    return Recipe(
        model=arguments.model,
        layouts={arguments.system: _parse_layout(arguments.layout)},
        seq_len=arguments.seq_len,
        global_batch_size=arguments.gbs,
        micro_batch_size=1 if arguments.mbs is None else arguments.mbs,
        precision=arguments.precision or Precision.BF16,
        framework=arguments.framework or "torch",
        flops_convention=arguments.convention or DEFAULT_CONVENTION,
    )


def _parse_layout(text: str) -> Any:
    """Return degrees by key; the recipe makes a Layout of them and names unknown keys."""
    degrees: dict[str, int] = {}
    for item in text.split(","):
        key, separator, value = (part.strip() for part in item.partition("="))
        if not separator or not (value.isdecimal() or value in _TRUTH):
            raise RecipeError(f"--layout: {item!r} is not KEY=NUMBER; write e.g. gpus=8,tp=2,dp_shard=4")
        if key in degrees:
            raise RecipeError(f"--layout: {key} is given twice; give each degree once")
        degrees[key] = _TRUTH[value] if value in _TRUTH else int(value)
    return degrees


def _plan_table(plan: Plan, *, title: str) -> str:
    layout = to_data(plan.layout)
    degrees = ", ".join(f"{key}={value}" for key, value in layout.items() if key == "gpus" or value != 1)
    peak = "unknown" if plan.peak_tflops is None else f"{plan.peak_tflops:g} TFLOP/s ({plan.precision}, dense)"
    rows = {
        "case": plan.case,
        "system": f"{plan.system} ({title})",
        "nodes": plan.num_nodes,
        "layout": degrees,
        "sequences per step": f"{plan.global_batch_size} (micro batches of {plan.micro_batch_size})",
        "grad accumulation": plan.grad_accum_steps,
        "tokens per step": f"{plan.tokens_per_step:,}",
        "parameters": f"{num_parameters(plan.model):,}",
        "FLOPs per token": f"{plan.flops_per_token:.6g} ({plan.flops_convention})",
        "peak of one GPU": peak,
        "steps": f"{plan.warmup_steps} warm-up + {plan.steps} measured",
        "time-out": f"{plan.timeout_sec:g} s",
    }
    width = max(len(name) for name in rows)
    return "".join(f"{name:<{width}}  {value}\n" for name, value in rows.items())


def _lint(arguments: argparse.Namespace) -> int:
    folder: Path = arguments.folder
    if not folder.is_dir():
        raise BaselineError(f"{folder}: no such folder; give the one that holds <system>/<case>.json")
    paths = sorted(folder.rglob("*.json"))
    problems = [problem for path in paths if (problem := _baseline_problem(path, folder=folder))]
    for problem in problems:
        print(problem)
    if problems:
        print(f"{len(problems)} of {len(paths)} baselines have problems")
        return 1
    print(f"{len(paths)} baselines ok" if paths else f"{folder}: no baselines in it")
    return 0


def _baseline_problem(path: Path, *, folder: Path) -> str | None:
    from pytest_nemoperf.baseline import read_baseline  # noqa: PLC0415 (the other commands don't need it)

    if len(path.relative_to(folder).parts) != 2:  # noqa: PLR2004 (system and case)
        return f"{path}: is not <system>/<case>.json under {folder}; move or delete it"
    try:
        baseline = read_baseline(path)
    except BaselineError as exc:
        return str(exc)
    try:
        find_system(baseline.system)
    except RecipeError as exc:
        return f"{path}: $.system: {exc}"
    return None
