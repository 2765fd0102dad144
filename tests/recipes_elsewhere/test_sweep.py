"""All recipe files of each framework: how many are read whole, what others are asked for, and that none crashes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Final

import pytest

from pytest_nemoperf.errors import NemoPerfError
from pytest_nemoperf.frameworks.builtin import builtin_frameworks
from pytest_nemoperf.frameworks.complete import complete_recipe
from pytest_nemoperf.frameworks.configs.python_recipes import SourceTree
from pytest_nemoperf.recipes.recipe import SCRIPT_MAY_RUN, Recipe
from pytest_nemoperf.recipes.resolve import resolve
from pytest_nemoperf.recipes.systems import find_system

pytestmark = pytest.mark.elsewhere

SYSTEMS: Final = (find_system("h100"), find_system("gb200"))
"""Nodes of eight GPUs, and of four."""
RANKS: Final = (None, *(2**power for power in range(11)), 24, 48, 72, 192, 256 * 3)
"""Numbers of ranks that are tried, since most files leave them to the launch."""
READ: Final = "read whole"
ASKED: Final = "asked by name"
ARITHMETIC: Final = "degrees and batch don't divide on any of the tried ranks"
OTHER: Final = "of another kind"
MIN_READ: Final = {"nemo_rl": 190, "automodel": 70, "megatron_lm": 200, "megatron_bridge": 440}


def targets_of(framework: str, *, checkout: Path) -> Iterator[str]:
    """Yield the recipe files of a checkout by the names that recipes give them."""
    if framework == "megatron_lm":
        yield from map(str, sorted(checkout.rglob("model_config.yaml")))
        yield from map(str, sorted((checkout / "examples").rglob("*.sh")))
    elif framework == "megatron_bridge":
        for package in ("recipes", "perf_recipes"):
            for path in sorted((checkout / "src/megatron/bridge" / package).rglob("*.py")):
                for function in SourceTree(checkout / "src").functions(path):
                    if function.endswith("_config") and not function.startswith("_") and "utils" not in path.parts:
                        yield f"{path}:{function}"
    else:
        yield from map(str, sorted(checkout.rglob("*.yaml")))


def outcome_of(framework: str, target: str) -> tuple[str, str]:
    """Return the outcome of a file, and the message of one that is not read."""
    message = ""
    for ranks, system in product(RANKS, SYSTEMS):
        gpus = {} if ranks is None else {system.name: ranks}
        options = {SCRIPT_MAY_RUN: True} if target.endswith(".sh") else {}
        recipe = Recipe(framework=framework, framework_config=target, framework_options=options, gpus=gpus)
        try:
            completed = complete_recipe(recipe, framework=builtin_frameworks()[framework], system=system)
            resolve(completed.recipe, system=system)
        except NemoPerfError as error:
            if " ranks, and the recipe says gpus=" in str(error):
                break  # the file says the ranks
            message = str(error)
        else:
            return READ, ""
        if not ("does not tell gpus" in message or " on gpus=" in message or f" on {system.name}: " in message):
            return (ASKED if "does not tell" in message else OTHER), message
    return ARITHMETIC, message


def asked_for(message: str) -> str:
    """Return the names that a message asks for."""
    return ", ".join(re.findall(r"(\w+)=", message.rpartition(": give ")[2].partition(" in the recipe")[0]))


@pytest.mark.parametrize("framework", list(MIN_READ))
def test_no_recipe_file_of_a_framework_crashes(framework: str, checkout_of: Callable[[str], Path]) -> None:
    outcomes: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    crashed = []
    for target in targets_of(framework, checkout=checkout_of(framework)):
        try:
            outcome, message = outcome_of(framework, target)
        except Exception as error:
            crashed.append(f"{target}: {type(error).__name__}: {error}")
            continue
        outcomes[outcome] += 1
        if outcome == ASKED:
            asked[asked_for(message)] += 1

    print(f"{framework}: {dict(outcomes.most_common())}, asked for: {dict(asked.most_common())}")
    assert crashed == []
    assert outcomes[READ] >= MIN_READ[framework]
