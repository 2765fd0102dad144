"""Case ids: the name of a recipe on a system, or of a benchmark test, and of its baseline file."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import PurePath

from pytest_nemoperf.errors import NoLayoutError, PlanError
from pytest_nemoperf.layouts.layout import GenerationLayout, Layout
from pytest_nemoperf.recipes.recipe import PLACE_OPTIONS, Precision, Recipe, Recompute
from pytest_nemoperf.recipes.rl import RL, usual_generation_precision
from pytest_nemoperf.recipes.systems import System

_MAX_CASE_ID_LENGTH = 200
"""File systems take names of 255 bytes; ``.json`` and the name of a temporary file need some of them."""

_MAX_NODEID_LENGTH = 160
_PLAIN_NODEID = re.compile(
    r"(?!-)([A-Za-z0-9_-]+/)*"  # folders
    r"[a-z0-9_][A-Za-z0-9_-]*\.py::"  # file
    r"([A-Z][A-Za-z0-9_]*::)*"  # classes
    r"[A-Za-z_][A-Za-z0-9_]*"  # function
    r"(\[([A-Za-z0-9_-]|\.(?=[0-9]))*[A-Za-z0-9_]\])?"  # parameters
)
"""Node ids that can be recovered from their case id, so that no two have the same.

A case id has dots between folders, file, classes and function, and a dash before parameters. The last dot not followed
by a digit precedes the function, whose name has no dash; capitalised names right before it are classes.
"""

_COMMON_STEMS = frozenset({"model_config", "config", "recipe", "arguments", "args"})
_MAX_WORD_LENGTH = 64
_MAX_CONFIG_PART_LENGTH = 80
"""Characters of the part that a framework's own recipe file and its options have in a case id."""
_MIN_CONFIG_PART_LENGTH = 20

_NODES_AND_GPUS = re.compile(r"\d+n\d+g")
_OPTIONAL_WORD = re.compile(
    r"recompute_(selective|full)|compiled|balanced|varlen|off\d+|replay|sampled|packed|vllm|gen_[a-z]+|"
    r"gen(fp32|bf16|fp8)"
)
_RECIPE_ID = re.compile(
    rf"[^-]+-(?P<model>.+?)-{_NODES_AND_GPUS.pattern}-(?:.+?-)?(?:{'|'.join(Precision)})-(?P<layout>.+?)-seq\d+-"
)


def case_id(recipe: Recipe, *, layout: Layout, num_nodes: int) -> str:
    """Return the name of a recipe with a layout: stable, readable, and safe as a file name.

    For example ``pretrain-llama3-8b-1n8g-torch-bf16-fsdp4tp2-seq8192-gbs128-mbs1``, and for reinforcement learning
    ``grpo-llama3-8b-1n8g-torch-bf16-fsdp8-gtp2gdp4-seq4096-gbs512-mbs1-p64g32-in128out2048``. The framework's own
    recipe file and its options follow the batch. Recipes that differ in anything the id shows have different ids:
    nodes, precision and sizes have fixed forms, which the names between them may not have.

    Raises:
        PlanError: If a name makes the id ambiguous or too long for a file.
    """
    for problem in _name_problems(recipe):
        raise PlanError(problem)
    parts = [
        recipe.workload,
        recipe.model_config.name,
        f"{num_nodes}n{layout.total_gpus // num_nodes}g",
        recipe.framework,
        recipe.precision,
        layout.label,
        f"seq{recipe.seq_len}",
        f"gbs{recipe.global_batch_size}",
        f"mbs{recipe.micro_batch_size}",
    ]
    if recipe.framework_config:
        parts.append(_config_part(recipe))
    if recipe.rl is not None:
        parts.extend(_rollout_parts(recipe.rl, training=recipe.precision))
    if recipe.recompute is not Recompute.NONE:
        parts.append(f"recompute_{recipe.recompute}")
    if recipe.is_compiled:
        parts.append("compiled")
    if recipe.is_router_balanced:
        parts.append("balanced")
    if recipe.has_varying_lengths:
        parts.append("varlen")
    if recipe.variant:
        parts.append(recipe.variant)
    case = "-".join(parts)
    if len(case) > _MAX_CASE_ID_LENGTH and recipe.framework_config:
        config = _config_part(recipe)
        room = len(config) - (len(case) - _MAX_CASE_ID_LENGTH)
        parts[parts.index(config)] = _shortened(config, length=max(room, _MIN_CONFIG_PART_LENGTH))
        case = "-".join(parts)
    if len(case) > _MAX_CASE_ID_LENGTH:
        raise PlanError(
            f"case id {case!r} has {len(case)} characters, a file name takes {_MAX_CASE_ID_LENGTH}; "
            "shorten the model's name or the variant"
        )
    return case


def benchmark_case_id(nodeid: str) -> str:
    """Return the case id of a benchmark test: its node id, safe as a file name.

    For example ``bench-perf_tests.test_kernels.test_gemm-bf16`` for ``perf_tests/test_kernels.py::test_gemm[bf16]``.
    A digest of the node id follows if that is too long or ambiguous, as for ``[C++]`` and ``[C#]``.
    """
    name = nodeid.replace(".py::", ".").replace("/", ".").replace("::", ".")
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-")
    if len(name) > _MAX_NODEID_LENGTH or not _PLAIN_NODEID.fullmatch(nodeid):
        name = f"{name[:_MAX_NODEID_LENGTH]}-{hashlib.sha256(nodeid.encode(errors='surrogateescape')).hexdigest()[:8]}"
    return f"bench-{name}"


def model_and_layout(case: str) -> tuple[str, str] | None:
    """Return the model and the layout that a recipe's case id names: ``llama3-8b`` and ``fsdp4tp2``.

    The framework may be left out of the id. None for an id that is not a recipe's, as a benchmark test's.
    """
    named = _RECIPE_ID.match(case)
    return None if named is None else (named["model"], named["layout"])


def find_layout(recipe: Recipe, *, system: System) -> Layout:
    """Return the recipe's layout for a system; in reinforcement learning always with a generation layout.

    Raises:
        NoLayoutError: If the recipe has no layout for the system.
    """
    if system.name not in recipe.layouts:
        raise NoLayoutError(
            f"{recipe.model_config.name} has no layout for system {system.name}; "
            f"it has layouts for {', '.join(sorted(recipe.layouts))}"
        )
    layout = recipe.layouts[system.name]
    if recipe.rl is None or layout.generation is not None:
        return layout
    return replace(layout, generation=GenerationLayout(gpus=layout.gpus))


def count_nodes(layout: Layout, *, system: System) -> int:
    """Return the nodes a layout fills.

    Raises:
        PlanError: If it does not fill them.
    """
    per_node = system.gpus_per_node
    gpus = layout.total_gpus
    if per_node is None or gpus <= per_node:
        return 1
    if gpus % per_node:
        whole = gpus // per_node * per_node
        raise PlanError(
            f"gpus={gpus} fill {gpus}/{per_node} = {gpus / per_node:g} nodes, for "
            f"{system.title} has {per_node} GPUs a node; use {whole} or {whole + per_node} GPUs"
        )
    return gpus // per_node


def _rollout_parts(rl: RL, *, training: Precision) -> Iterator[str]:
    yield f"p{rl.num_prompts_per_step}g{rl.num_generations_per_prompt}"
    yield f"in{rl.prompt_len}out{rl.max_response_len}"
    if rl.max_staleness:
        yield f"off{rl.max_staleness}"
    if not isinstance(rl.response_lengths, str):
        yield "replay"
    elif rl.response_lengths != "fixed":
        yield rl.response_lengths
    if rl.is_packed:
        yield "packed"
    if rl.generator == "vllm":
        yield rl.generator
    elif rl.generator != "native":
        yield f"gen_{rl.generator}"
    precision = rl.precision_of_generation(training)
    if precision != usual_generation_precision(training):
        yield f"gen{precision}"


def _config_part(recipe: Recipe) -> str:
    """Return the part of a framework's own recipe file and the options on top of it, without a dash.

    For example ``grpo_llama.overlap_grad_reduce.dispatcher_deepep``; options become a digest if that is too long.
    """
    name = _config_name(recipe.framework_config)
    words = []
    options = {key: value for key, value in recipe.framework_options.items() if key not in PLACE_OPTIONS}
    for key, value in sorted(options.items()):
        words.append(_option_word(key, value))
    part = ".".join([name, *words])
    is_readable = "" not in words and len(set(words)) == len(words) and len(part) <= _MAX_CONFIG_PART_LENGTH
    if words and not is_readable:
        text = json.dumps(options, sort_keys=True)
        part = f"{name}.{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return part


def _config_name(path: str) -> str:
    """Return the name of a file, or of its function: folder's for a file that is named like all of its kind."""
    file, _, function = path.rpartition(":")
    place = PurePath(file or path)
    name = function if file and function.isidentifier() else PurePath(path).stem
    if name in _COMMON_STEMS and place.parent.name:
        name = place.parent.name
    word = _short_word(name) or "config"
    return f"config_{word}" if _OPTIONAL_WORD.fullmatch(word) else word  # which in a case id means a setting


def _option_word(key: str, value: object) -> str:
    """Return an option as a word; empty if no word of letters, digits and underscores tells its value."""
    word = _short_word(key.rpartition(".")[2])
    if value is True:
        return word
    if value is False:
        return f"no_{word}"
    text = str(value)
    if _short_word(text) != text and value is not None:
        return ""
    return f"{word}_{text.lower()}"


def _short_word(text: str) -> str:
    """Return a text as a part of a case id: lower case, other characters replaced, a digest behind a long one."""
    word = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
    if len(word) > _MAX_WORD_LENGTH:
        word = _shortened(word, length=_MAX_WORD_LENGTH)
    return word


def _shortened(word: str, *, length: int) -> str:
    """Return the beginning of a word and its digest, of that length together."""
    digest = hashlib.sha256(word.encode()).hexdigest()[:8]
    return f"{word[: length - len(digest) - 1]}_{digest}"


def _name_problems(recipe: Recipe) -> Iterator[str]:
    """Yield the names that look like another part of the id."""
    model = recipe.model_config.name
    framework = recipe.framework
    for part in model.split("-"):
        if _NODES_AND_GPUS.fullmatch(part):
            yield (
                f"model name {model!r} has the part {part!r}, which in a case id means nodes and GPUs; rename the model"
            )
    for part in framework.split("-"):
        if part in set(Precision):
            yield (
                f"framework name {framework!r} has the part {part!r}, which in a case id means precision; "
                "rename the framework"
            )
    first, _, _ = recipe.variant.partition("-")
    if _OPTIONAL_WORD.fullmatch(first):
        yield (
            f"variant {recipe.variant!r} begins with {first!r}, which in a case id means a setting; "
            "begin it with another word"
        )
