"""Runs of plans by a training script of a framework's checkout: the checkout, the device, and names of options."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from pytest_nemoperf.frameworks.configs.checkout import find_checkout
from pytest_nemoperf.recipes.recipe import CHECKOUT_OPTION, Plan


def plan_checkout(plan: Plan, *, marker: str) -> Path | None:
    """Return the checkout that runs a plan: the one that the option names, else the working directory's, else None."""
    place = Path(str(plan.framework_options.get(CHECKOUT_OPTION, "")))
    return find_checkout(place.absolute() / marker, marker=marker)


def checkout_problems(plan: Plan, *, marker: str, url: str, devices: Collection[str]) -> Iterator[str]:
    """Yield the reasons that a checkout's script can't run a plan on this device or at all.

    Args:
        plan: Plan of a run.
        marker: File by which a checkout is known.
        url: Address of the repository.
        devices: Devices of plans that it runs on.
    """
    if plan.device not in devices:
        yield (
            f"framework={plan.framework!r} runs on {' or '.join(devices)}, and system={plan.system} is "
            f"device={plan.device}; give the recipe a layout for a system with GPUs, or use framework='torch' here"
        )
    if plan.inject_pct:
        yield (
            f"inject_pct={plan.inject_pct:g} delays steps from inside, and runs of framework={plan.framework!r} are "
            "measured by their log; leave --perf-inject out"
        )
    if plan_checkout(plan, marker=marker) is None:
        yield (
            f"framework={plan.framework!r} runs {marker} of its checkout, and the working directory lies in none; "
            f"clone {url}, install it with: uv sync, and run pytest there or give "
            f"framework_options={{{CHECKOUT_OPTION!r}: 'path/of/it'}}"
        )


def misplaced_options(options: Mapping[str, Any], *, names: Collection[str], owner: str) -> Iterator[str]:
    """Yield each option that a recipe of this kind has no use for.

    Args:
        options: The recipe's framework_options.
        names: Options of the other kind.
        owner: The recipes that have them, for the message.
    """
    for name in names:
        if name in options:
            yield f"framework_options has {name}, which is for recipes {owner}; leave it out"


def option_problems(options: Mapping[str, Any], *, said: Collection[str], run: Collection[str]) -> Iterator[str]:
    """Yield each option that says something else than the plan or the run.

    Args:
        options: The plan's framework_options.
        said: Names that the plan says.
        run: Names that each run sets.
    """
    for option in options:
        name = option.lstrip("+~")
        for each in (*said, *run):
            if name == each or name.startswith(f"{each}.") or each.startswith(f"{name}."):
                advice = "each run sets it itself" if each in run else "the recipe says it by fields of its own"
                yield f"framework_options has {option}, and {each} comes from the plan: {advice}; leave it out"
                break
