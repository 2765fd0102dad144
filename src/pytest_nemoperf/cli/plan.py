"""``nemoperf plan``: a recipe from options or a file, resolved and priced."""

from __future__ import annotations

import argparse
import re
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

from pytest_nemoperf.baselines.files import find_baseline
from pytest_nemoperf.baselines.store import DEFAULT_FOLDER
from pytest_nemoperf.bounds import RUN_TOKENS, bound_problem
from pytest_nemoperf.cli.baselines_folder import baselines_dir
from pytest_nemoperf.cli.terminal import write
from pytest_nemoperf.errors import RecipeError, shorten
from pytest_nemoperf.flops.conventions import DEFAULT_CONVENTION
from pytest_nemoperf.frameworks.complete import complete_recipe
from pytest_nemoperf.frameworks.protocol import memory_rules_of
from pytest_nemoperf.frameworks.registered import RegisteredFrameworks, registered_frameworks
from pytest_nemoperf.json_codec import to_printed_json
from pytest_nemoperf.layouts.layout import TRAINING_KEYS
from pytest_nemoperf.pricing.price import price_plan
from pytest_nemoperf.published.baselines import published_baselines
from pytest_nemoperf.recipes.overrides import complete_layout
from pytest_nemoperf.recipes.recipe import Plan, Precision, Recipe, Recompute
from pytest_nemoperf.recipes.resolve import resolve
from pytest_nemoperf.recipes.systems import find_system
from pytest_nemoperf.report.terminal.plans import render_price

_REQUIRED = ("model", "gpus", "seq_len", "gbs")
_DEGREES = {
    "gpus": "ranks of the run",
    "tp": "tensor parallel degree",
    "pp": "pipeline parallel degree",
    "vp": "model chunks per pipeline rank",
    "cp": "context parallel degree",
    "ep": "expert parallel degree",
    "etp": "tensor parallel degree inside an expert",
    "dp_replicate": "data-parallel replicas (default: 1, or what is left where --dp-shard is given)",
    "dp_shard": "FSDP shards (default: the ranks that are left)",
}
_FLAGS = {
    "compiled": "blocks go through torch.compile",
    "balanced": "tokens go round the experts of a mixture, as published pages have it",
}
_TOKENS = re.compile(r"(\d+(?:\.\d*)?(?:[eE]\+?\d{1,2})?)([KMBT]?)", re.IGNORECASE)
_THOUSANDS = {"": 0, "K": 1, "M": 2, "B": 3, "T": 4}
_EPILOG = """\
examples:
  nemoperf plan --model llama3-8b --system h100 --gpus 8 --tp 2 \\
      --seq-len 8192 --gbs 128 --tokens 15T
  nemoperf plan --model llama3.1-405b --system gb200 --gpus 1024 --tp 8 --pp 8 \\
      --vp 2 --cp 2 --seq-len 8192 --gbs 512 --recompute selective
  nemoperf plan --model path/to/config.json --system b200 --gpus 8 \\
      --seq-len 4096 --gbs 64
  nemoperf plan --recipe recipe.json --system h100 --json

exit code:
  0 if there is a price, also of a plan that does not fit or can't run here
    (is_fitting and unsupported in the JSON say so)
  2 if an option is wrong, or the recipe breaks a rule
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options, its examples and exit codes."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    parser.add_argument("--recipe", type=Path, metavar="FILE", help="recipe as JSON, instead of the options below")
    parser.add_argument("--system", required=True, help="e.g. h100, cpu; its layout is taken from the recipe")
    parser.add_argument(
        "--model",
        help="catalog name, e.g. llama3-8b, or path of a config.json; with -twin at its end, a scaled-down twin",
    )
    parser.add_argument("--num-layers", type=int, metavar="N", help="layers to cut the model to (default: all)")
    parser.add_argument("--model-name", metavar="NAME", help="name of the model in the case (default: its own)")
    parser.add_argument("--seq-len", type=int, metavar="N", help="tokens per sequence")
    parser.add_argument("--gbs", type=int, metavar="N", help="global batch size, sequences per step")
    parser.add_argument("--mbs", type=int, metavar="N", help="micro batch size (default: 1)")
    for name, meaning in _DEGREES.items():
        parser.add_argument(_option(name), type=int, metavar="N", help=meaning)
    parser.add_argument(
        "--no-sequence-parallel",
        dest="sequence_parallel",
        action="store_const",
        const=False,
        help="keep whole activations between the blocks on every tp rank",
    )
    parser.add_argument(
        "--shard-optimizer",
        action="store_const",
        const=True,
        help="share out the optimizer's states among ranks with the same weights (ZeRO-1)",
    )
    parser.add_argument("--pp-schedule", metavar="NAME", help="1f1b (default) or zero_bubble")
    parser.add_argument("--cp-comm", metavar="NAME", help="all_gather (default) or a2a")
    parser.add_argument("--precision", help=f"{', '.join(Precision)} (default: {Precision.BF16})")
    parser.add_argument("--recompute", help=f"{', '.join(Recompute)} (default: {Recompute.NONE})")
    for name, meaning in _FLAGS.items():
        parser.add_argument(f"--{name}", dest=name, action="store_const", const=True, help=meaning)
    parser.add_argument("--framework", help="torch (default), or another name that nemoperf frameworks lists")
    parser.add_argument("--convention", metavar="NAME", help=f"how FLOPs are counted (default: {DEFAULT_CONVENTION})")
    parser.add_argument(
        "--tokens", metavar="N", help="tokens of a whole run, e.g. 1e12 or 15T, for its hours and GPU-hours"
    )
    parser.add_argument(
        "--baselines", type=Path, metavar="DIR", help=f"stored baselines (default: {DEFAULT_FOLDER}, if it is there)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print the plan of a recipe; return the exit code."""
    write(plan_text(arguments))
    return 0


def plan_text(arguments: argparse.Namespace) -> str:
    """Return the output of ``nemoperf plan``.

    Raises:
        NemoPerfError: If the recipe can't be built, resolved or priced.
    """
    system = find_system(arguments.system)
    run_tokens = None
    if arguments.tokens is not None:
        run_tokens = _parse_tokens(arguments.tokens)
    if arguments.recipe:
        recipe = _read_recipe(arguments)
    else:
        recipe = _build_recipe(arguments)
    registered = registered_frameworks()
    framework = registered.frameworks.get(recipe.framework)
    completed = complete_recipe(recipe, framework=framework, system=system)
    plan = resolve(completed.recipe, system=system)
    plan = replace(plan, framework_config_digest=completed.digest)
    baseline = find_baseline(baselines_dir(arguments.baselines), system=system.name, case=plan.case)
    price = price_plan(
        plan,
        system=system,
        baseline=baseline,
        published=next(iter(published_baselines(plan)), None),
        run_tokens=run_tokens,
        unsupported=_unsupported(plan, registered=registered),
        rules=memory_rules_of(framework, plan=plan),
    )
    if arguments.json:
        return to_printed_json(price)
    return render_price(price, system_title=system.title)


def _parse_tokens(text: str) -> int:
    match = _TOKENS.fullmatch(text.strip().replace(",", ""))
    tokens = Decimal(0)
    if match is not None:
        tokens = Decimal(match[1]) * 1000 ** _THOUSANDS[match[2].upper()]
    if tokens < 1 or tokens != int(tokens):
        raise RecipeError(
            f"--tokens={shorten(text)} must be a whole number >= 1; write e.g. 1000000000000, 1e12 or 15T"
        )
    if problem := bound_problem(int(tokens), name="--tokens", bound=RUN_TOKENS):
        raise RecipeError(problem)
    return int(tokens)


def _unsupported(plan: Plan, *, registered: RegisteredFrameworks) -> str | None:
    """Return why the plan's framework can't run it here, or None; frameworks of hooks are known to pytest alone."""
    frameworks = registered.frameworks
    if plan.framework in frameworks:
        return frameworks[plan.framework].unsupported(plan)
    reasons = "".join(f"; {problem}" for problem in registered.problems)
    return (
        f"framework {plan.framework!r} is not known here; known: {', '.join(sorted(frameworks))}, and in a pytest "
        f"session those its plugins register; memory and traffic are the native engine's all the same{reasons}"
    )


def _read_recipe(arguments: argparse.Namespace) -> Recipe:
    from pytest_nemoperf.schema import read_contract  # noqa: PLC0415 (msgspec is slow to import)

    options = ("model", "num_layers", "model_name", "seq_len", "gbs", "mbs")
    formats = ("precision", "recompute", "framework", "convention")
    for name in (*options, *formats, *TRAINING_KEYS, *_FLAGS):
        if getattr(arguments, name) is not None:
            raise RecipeError(f"{_option(name)} with --recipe: the file says it already; use one or the other")
    return read_contract(Recipe, arguments.recipe, error=RecipeError)


def _build_recipe(arguments: argparse.Namespace) -> Recipe:
    missing = []
    for name in _REQUIRED:
        if getattr(arguments, name) is None:
            missing.append(_option(name))
    if missing:
        raise RecipeError(f"{', '.join(missing)} missing; give them, or a recipe with --recipe FILE")
    degrees = {}
    for name in TRAINING_KEYS:
        if getattr(arguments, name) is not None:
            degrees[name] = getattr(arguments, name)
    micro_batch_size = arguments.mbs
    if micro_batch_size is None:
        micro_batch_size = 1
    return Recipe(
        model=arguments.model,
        num_layers=arguments.num_layers,
        model_name=arguments.model_name or "",
        layouts={arguments.system: complete_layout(degrees)},
        seq_len=arguments.seq_len,
        global_batch_size=arguments.gbs,
        micro_batch_size=micro_batch_size,
        precision=arguments.precision or Precision.BF16,
        recompute=arguments.recompute or Recompute.NONE,
        is_compiled=bool(arguments.compiled),
        is_router_balanced=bool(arguments.balanced),
        framework=arguments.framework or "torch",
        flops_convention=arguments.convention or DEFAULT_CONVENTION,
    )


def _option(name: str) -> str:
    if name == "sequence_parallel":
        return "--no-sequence-parallel"
    return f"--{name.replace('_', '-')}"
