"""Targets of what users and frameworks write: recipes, models, pages, frameworks' own recipes, ini files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import Final

from pytest_nemoperf.cli.project_ini import find_ini_lines
from pytest_nemoperf.errors import RecipeError
from pytest_nemoperf.flops.conventions import DEFAULT_CONVENTION, find_convention
from pytest_nemoperf.flops.count import num_flops_per_token
from pytest_nemoperf.frameworks.configs.automodel import read_automodel
from pytest_nemoperf.frameworks.configs.bridge import read_bridge
from pytest_nemoperf.frameworks.configs.megatron import read_megatron
from pytest_nemoperf.frameworks.configs.nemo_rl import read_nemo_rl
from pytest_nemoperf.frameworks.interpreter import parse_interpreters
from pytest_nemoperf.models.huggingface.read import read_config
from pytest_nemoperf.models.weights import num_active_parameters, num_parameters
from pytest_nemoperf.pages.blocks import fill_page
from pytest_nemoperf.pages.check import page_differences
from pytest_nemoperf.pages.markers import Page, parse_page
from pytest_nemoperf.pages.sources import read_page_rows
from pytest_nemoperf.pages.templates import read_page_text
from pytest_nemoperf.recipes.recipe import Recipe
from pytest_nemoperf.recipes.resolve import resolve
from pytest_nemoperf.recipes.systems import find_system
from pytest_nemoperf.schema import read_contract
from tests.builders import make_recipe, make_rl_plan
from tests.frameworks import automodel_files, bridge_files, megatron_files, nemo_rl_files
from tests.fuzz import mutate
from tests.fuzz.contracts import PAGE, changed_json, make_stored, written
from tests.fuzz.target import Mutate, Target, Use, command

_DATA: Final = Path(__file__).parents[1] / "data" / "hf"
_TREE_SHARE: Final = 0.7


def changed_text(hostile: mutate.Hostile) -> Mutate:
    """Return the mutation of text with pieces of its kind."""
    return lambda raw, random: mutate.mutated_text(raw, random=random, hostile=hostile)


def _changed_yaml(raw: bytes, random: Random) -> bytes:
    """Change a tree, which is written as JSON and so YAML too, or the text."""
    if random.random() < _TREE_SHARE and raw.startswith(b"{"):
        return changed_json(raw, random)
    return mutate.mutated_text(raw, random=random, hostile=mutate.YAML)


def recipe_file(root: Path) -> Target:
    """A recipe for ``nemoperf plan`` and the logs of other jobs."""
    path = root / "recipe.json"
    h100 = {
        "model": "llama3-8b",
        "layouts": {"h100": {"gpus": 8, "tp": 2, "dp_shard": 4}},
        "seq_len": 8192,
        "global_batch_size": 128,
    }
    rl = make_rl_plan()
    seeds = [
        json.dumps(h100).encode(),
        written(make_recipe(layouts={"h100": make_recipe().layouts["cpu"]})),
        written(make_recipe(layouts={"h100": rl.layout}, rl=rl.rl)),
        json.dumps({**h100, "framework": "command", "command": ["python", "train.py"], "env": {"A": "1"}}).encode(),
    ]
    plan = partial(command, "plan", "--recipe", path, "--system", "h100")
    return Target(
        path=path,
        seeds=seeds,
        mutate=changed_json,
        read=partial(read_contract, Recipe, path, error=RecipeError),
        checks=[partial(resolve, system=find_system("h100"))],
        uses=[plan(), plan("--json")],
    )


def model_file(root: Path) -> Target:
    """A Hugging Face config of a model."""
    path = root / "config.json"
    seeds = [each.read_bytes() for each in sorted(_DATA.glob("*/config.json"))]
    plan = ("plan", "--model", path, "--system", "h100", "--gpus", "8", "--seq-len", "4096", "--gbs", "64")
    uses = [command(*plan), command(*plan, "--tp", "2"), command("flops", path, "--seq-len", "4096")]
    flops = partial(num_flops_per_token, seq_len=4096, convention=find_convention(DEFAULT_CONVENTION))
    return Target(
        path=path,
        seeds=seeds,
        mutate=changed_json,
        read=partial(read_config, path),
        checks=[num_parameters, num_active_parameters, flops],
        uses=uses,
    )


def page_file(root: Path) -> Target:
    """A performance page with blocks that are filled."""
    make_stored(root)
    path = root / "page.md"
    template = Path(mutate.__file__).parents[2] / "src" / "pytest_nemoperf" / "pages" / "templates"
    seeds = [
        PAGE.encode(),
        PAGE.replace("\n", "\r\n").encode(),
        *[each.read_bytes() for each in template.glob("*.md")],
    ]
    given = ("--baselines", root / "baselines")
    uses = [
        command("page", "--check", path, *given),
        command("page", "--template", path, "--output", root / "out.md", *given),
    ]
    every = read_page_rows(root / "baselines", results=(), has_baselines=True)
    few = every.published[:1] + tuple(row for row in every.published if row.workload == "rl")[:1]
    rows = replace(every, published=few, releases=every.releases[:1], excluded=every.excluded[:1])

    def fill(page: Page) -> str:
        renewed = fill_page(page, rows=rows, subject=str(path))
        page_differences(page, renewed=renewed, subject=str(path))
        return ""

    return Target(
        path=path,
        seeds=seeds,
        mutate=changed_text(mutate.PAGE),
        read=lambda: parse_page(read_page_text(path), subject=str(path)),
        checks=[fill],
        uses=uses,
        period=500,
    )


def _framework_recipe(root: Path, name: str, *, framework: str, gpus: int = 8) -> list[Use]:
    recipe = {"framework": framework, "framework_config": str(root / name), "gpus": {"h100": gpus}}
    (root / "recipe-of-it.json").write_text(json.dumps(recipe))
    plan = ("plan", "--recipe", root / "recipe-of-it.json", "--system", "h100")
    return [command(*plan), command(*plan, "--json")]


def nemo_rl_file(root: Path) -> Target:
    """A recipe of NeMo RL."""
    path = root / "recipe.yaml"
    megatron = nemo_rl_files.write_file(root / "m.yaml", nemo_rl_files.GRPO, nemo_rl_files.MEGATRON).read_bytes()
    seeds = [json.dumps(nemo_rl_files.GRPO).encode(), json.dumps(nemo_rl_files.SFT).encode(), megatron]
    return Target(
        path=path,
        seeds=[*seeds, b"a: &a [1]\nb: *a\npolicy:\n  model_name: ${oc.env:HOME}\ngrpo:\n  x: ${mul:2,3}\n"],
        mutate=_changed_yaml,
        read=lambda: read_nemo_rl(path, options={}, env={}),
        uses=_framework_recipe(root, "recipe.yaml", framework="nemo_rl", gpus=16),
    )


def automodel_file(root: Path) -> Target:
    """A recipe of NeMo AutoModel."""
    path = root / "recipe.yaml"
    return Target(
        path=path,
        seeds=[json.dumps(automodel_files.TRAINING).encode(), json.dumps(automodel_files.BENCHMARK).encode()],
        mutate=_changed_yaml,
        read=lambda: read_automodel(path, options={}),
        uses=_framework_recipe(root, "recipe.yaml", framework="automodel"),
    )


def megatron_yaml_file(root: Path) -> Target:
    """A YAML file of Megatron-LM's arguments."""
    path = root / "args.yaml"
    return Target(
        path=path,
        seeds=[megatron_files.YAML.encode()],
        mutate=changed_text(mutate.YAML),
        read=lambda: read_megatron(path, options={}, env={}),
        uses=_framework_recipe(root, "args.yaml", framework="megatron_lm"),
    )


def megatron_words_file(root: Path) -> Target:
    """A command line of Megatron-LM."""
    path = root / "args.txt"
    words = [line.strip().replace(": true", "").replace(": ", " ") for line in megatron_files.YAML.splitlines()]
    text = "torchrun --nproc-per-node 8 pretrain_gpt.py " + " ".join(word for word in words if word.startswith("--"))
    return Target(
        path=path,
        seeds=[text.encode(), text.replace(" --", " \\\n  --").encode()],
        mutate=changed_text(mutate.WORDS),
        read=lambda: read_megatron(path, options={}, env={}),
        uses=_framework_recipe(root, "args.txt", framework="megatron_lm"),
    )


def python_file(root: Path) -> Target:
    """A Python recipe of Megatron Bridge."""
    bridge_files.make_checkout(root)
    path = root / bridge_files.RECIPES
    benchmarks = root / bridge_files.BENCHMARKS
    name = f"{path}:tiny_pretrain_config"
    return Target(
        path=path,
        seeds=[
            path.read_bytes(),
            benchmarks.read_bytes() + b"\n\ntiny_pretrain_config = tiny_pretrain_16gpu_h100_fp8cs_config\n",
        ],
        mutate=changed_text(mutate.PYTHON),
        read=lambda: read_bridge(Path(name), options={}),
        uses=_framework_recipe(root, f"{bridge_files.RECIPES}:tiny_pretrain_config", framework="megatron_bridge"),
    )


def ini_file(root: Path, *, name: str, seed: str) -> Target:
    """The ini file of a user's project, of which options are looked up."""
    folder = root / "project"
    folder.mkdir()

    def read() -> None:
        found = find_ini_lines("perf_python", start=folder)
        parse_interpreters(found.lines, subject="ini")

    return Target(path=folder / name, seeds=[seed.encode()], mutate=changed_text(mutate.INI), read=read)


SOURCES: Final[Mapping[str, Callable[[Path], Target]]] = MappingProxyType(
    {
        "recipe": recipe_file,
        "model": model_file,
        "page": page_file,
        "nemo_rl": nemo_rl_file,
        "automodel": automodel_file,
        "megatron yaml": megatron_yaml_file,
        "megatron words": megatron_words_file,
        "python recipe": python_file,
        "pyproject": partial(
            ini_file, name="pyproject.toml", seed="[tool.pytest.ini_options]\nperf_python = ['nemo_rl=/x']\n"
        ),
        "pytest.ini": partial(
            ini_file, name="pytest.ini", seed="[pytest]\nperf_python =\n  nemo_rl=/x\n  megatron=~/y\n"
        ),
    }
)
"""Targets of what users and frameworks write, by name."""
