"""Options of plans beside the values of the frameworks' own recipes: of the layouts that published pages print."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from pytest_nemoperf.errors import NemoPerfError
from pytest_nemoperf.flops.published import find_published_model
from pytest_nemoperf.frameworks.builtin import builtin_frameworks
from pytest_nemoperf.frameworks.complete import complete_recipe
from pytest_nemoperf.frameworks.configs.bridge import load_bridge, read_bridge
from pytest_nemoperf.frameworks.configs.nemo_rl import load_nemo_rl
from pytest_nemoperf.frameworks.configs.python_recipes import SourceTree
from pytest_nemoperf.frameworks.configs.python_values import Opaque, Unknown
from pytest_nemoperf.frameworks.plans import megatron_bridge, nemo_rl
from pytest_nemoperf.published.recipes import BACKENDS
from pytest_nemoperf.published.row import PublishedRow
from pytest_nemoperf.recipes.overrides import complete_layout
from pytest_nemoperf.recipes.recipe import Plan, Recipe, Recompute
from pytest_nemoperf.recipes.resolve import resolve
from pytest_nemoperf.recipes.systems import find_system
from tests.published.rows import pretraining_rows, rl_rows

_FP8_WORDS: Final = {
    "BF16": ("bf16",),
    "FP8": ("fp8cs", "fp8sc", "fp8ds"),
    "FP8-CS": ("fp8cs",),
    "FP8-MX": ("fp8mx",),
    "MXFP8": ("fp8mx",),
    "NVFP4": ("nvfp4",),
}
"""Precisions in the names of recipes by the page's word; pages leave the scaling of FP8 on DGX-H100 open."""
UNSET: Final = object()
"""Value that a recipe does not set, nor is its default known here."""
_BRIDGE_DEFAULTS: Final[Mapping[str, Any]] = {
    "model.virtual_pipeline_model_parallel_size": None,
    "model.num_layers_in_first_pipeline_stage": None,
    "model.num_layers_in_last_pipeline_stage": None,
    "model.account_for_embedding_in_pipeline_split": False,
    "model.account_for_loss_in_pipeline_split": False,
    "model.pipeline_model_parallel_layout": None,
    "model.expert_model_parallel_size": 1,
    "model.recompute_granularity": None,
    "model.recompute_method": None,
    "model.recompute_num_layers": None,
    "model.recompute_modules": None,
    "model.moe_router_force_load_balancing": False,
    "model.cp_comm_type": None,
    "model.sequence_parallel": False,
    "ddp.use_megatron_fsdp": False,
    "ddp.data_parallel_sharding_strategy": "no_shard",
    "ddp.num_distributed_optimizer_instances": 1,
    "ddp.keep_fp8_transpose_cache": False,
    "tokenizer.use_tokenizer_vocab_size": False,
    "optimizer.clip_grad": 1.0,
}
"""Defaults of Megatron-Core's and Megatron-Bridge's dataclasses, for attributes that a recipe does not set."""


@dataclass(slots=True)
class Options:
    """Comparison of one framework's options.

    Attributes:
        rows: Published rows that have a recipe, by the recipe's name.
        left_out: Rows without, by reason.
        agree: Agreements by option.
        differ: Differences by option: ours and theirs.
        unset: Options that a recipe leaves to its library.
    """

    rows: list[tuple[str, str]] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    agree: Counter[str] = field(default_factory=Counter)
    differ: dict[str, Counter[tuple[str, str]]] = field(default_factory=dict)
    unset: Counter[str] = field(default_factory=Counter)

    def add(self, name: str, *, ours: Any, theirs: Any) -> None:
        """Count one option of one row."""
        if theirs is UNSET:
            self.unset[name] += 1
            return
        pair = (_plain(ours, name=name), _plain(theirs, name=name))
        if pair[0] == pair[1]:
            self.agree[name] += 1
        else:
            self.differ.setdefault(name, Counter())[pair] += 1

    def num_compared(self, name: str) -> int:
        """Return the rows whose recipe sets an option."""
        return self.agree[name] + sum(self.differ.get(name, Counter()).values())

    @property
    def names(self) -> list[str]:
        """Options that any recipe sets."""
        return sorted({*self.agree, *self.differ})

    def rendered(self, reasons: Mapping[str, str]) -> str:
        """Return the comparison as a table in Markdown, options that agree everywhere in one sentence."""
        lines = ["| Option | Agree | Ours, theirs | Reason |", "| ------ | ----- | ------------ | ------ |"]
        same = []
        num_agree = num_compared = 0
        for name in self.names:
            num_agree += self.agree[name]
            num_compared += self.num_compared(name)
            if name not in self.differ:
                same.append(f"`{name}`")
                continue
            pairs = []
            for (ours, theirs), count in self.differ[name].most_common(_SHOWN):
                pairs.append(f"`{ours}`, `{theirs}` ({count})")
            if len(self.differ[name]) > _SHOWN:
                pairs.append(f"{len(self.differ[name]) - _SHOWN} more")
            agree = f"{self.agree[name]} of {self.num_compared(name)}"
            lines.append(f"| `{name}` | {agree} | {'; '.join(pairs)} | {reasons[name]} |")
        printed = [name for name in self.names if name in PRINTED]
        of_pages = (
            f"Of the {len(printed)} options that pages print, {sum(map(self.agree.__getitem__, printed)):,} of "
            f"{sum(map(self.num_compared, printed)):,} values agree."
        )
        summary = (
            f"{num_agree:,} of {num_compared:,} option values agree, in {len(self.rows)} published rows that have one "
            f"of {len({recipe for _, recipe in self.rows})} recipes."
        )
        agreeing = f"These agree in every row: {', '.join(same)}."
        return "\n".join([f"{summary} {of_pages}", "", *lines, "", agreeing]) + "\n"


PRINTED: Final = frozenset(
    {
        "dataset.seq_length",
        "ddp.use_megatron_fsdp",
        "model.context_parallel_size",
        "model.expert_model_parallel_size",
        "model.pipeline_model_parallel_size",
        "model.tensor_model_parallel_size",
        "model.virtual_pipeline_model_parallel_size",
        "train.global_batch_size",
        "train.micro_batch_size",
        "grpo.async_grpo.enabled",
        "policy.generation.vllm_cfg.pipeline_parallel_size",
        "policy.generation.vllm_cfg.tensor_parallel_size",
        "policy.max_total_sequence_length",
        "policy.megatron_cfg.context_parallel_size",
        "policy.megatron_cfg.expert_model_parallel_size",
        "policy.megatron_cfg.pipeline_model_parallel_size",
        "policy.megatron_cfg.tensor_model_parallel_size",
        "policy.train_global_batch_size",
    }
)
"""Options that columns of pages say; others' values are those of a framework's recipe, or ours."""
_SHOWN: Final = 2
"""Pairs of values shown of an option, the most frequent first."""


def _plain(value: Any, *, name: str) -> str:
    """Return a value as text, one for those that mean the same."""
    if name.endswith("pipeline_model_parallel_layout") and value is not None:
        value = _stages(value)
    elif name.endswith("mtp_num_layers"):
        value = value or None  # both turn it off
    elif isinstance(value, float) and value.is_integer():
        value = int(value)
    return "null" if value is None else str(value).replace("'", "")


def _stages(layout: Any) -> str:
    """Return the layers of each stage of a pipeline layout, as ``3 + 14*4 + 2``."""
    if isinstance(layout, str):
        layout = [list(stage) for stage in _expanded(layout).split("|")]
    counts = []
    for stage in layout:
        counts.append(sum(part in ("t", "decoder") for part in stage))
    parts = []
    for count, group in groupby(counts):
        times = len(list(group))
        parts.append(str(count) if times == 1 else f"{times}*{count}")
    return " + ".join(parts)


def _expanded(text: str) -> str:
    while True:
        expanded = re.sub(r"\(([^()]*)\)\*(\d+)", lambda match: match[1] * int(match[2]), text)
        expanded = re.sub(r"([a-zA-Z])\*(\d+)", lambda match: match[1] * int(match[2]), expanded)
        if expanded == text:
            return text
        text = expanded


def bridge_options(checkout: Path) -> Options:
    """Return the comparison of Megatron-Bridge's published pre-training layouts."""
    options = Options()
    for plan, target, row in _bridge_rows(checkout, left_out=options.left_out):
        options.rows.append((row.id, target.rpartition(":")[2]))
        read = read_bridge(Path(target), options={}).values
        config = load_bridge(Path(target), options={}).config
        for name, ours in (megatron_bridge.plan_overrides(plan) | megatron_bridge.own_overrides(plan)).items():
            if name == "mixed_precision":
                options.add(name, ours=plan.precision, theirs=read["precision"])
            else:
                options.add(name, ours=ours, theirs=_bridge_value(config, name))
    return options


def bridge_plans(checkout: Path) -> list[tuple[Plan, str, Mapping[str, Any]]]:
    """Return the plan of each published layout, the recipe that it runs, and the options on top of it."""
    found: list[tuple[Plan, str, Mapping[str, Any]]] = []
    for plan, _, _ in _bridge_rows(checkout, left_out=Counter()):
        options = megatron_bridge.plan_overrides(plan) | megatron_bridge.own_overrides(plan)
        named = {f"++{name}": value for name, value in options.items()}
        found.append((plan, megatron_bridge.base_recipe(plan.model), named))
    return found


def bridge_recomputation(checkout: Path) -> dict[str, str]:
    """Return the recomputation of Megatron-Bridge's benchmark recipes, by published row."""
    return {row.id: str(plan.recompute) for plan, _, row in _bridge_rows(checkout, left_out=Counter())}


def nemo_rl_recomputation(checkout: Path) -> dict[str, str]:
    """Return the recomputation of NeMo RL's recipes, by published row of their training backend."""
    found = {}
    for plan, _, row in _rl_rows(checkout, left_out=Counter()):
        if row.rollouts is not None and BACKENDS[row.rollouts.backend] == nemo_rl.backend_of(plan):
            found[row.id] = str(plan.recompute)
    return found


def _bridge_rows(checkout: Path, *, left_out: Counter[str]) -> Iterator[tuple[Plan, str, PublishedRow]]:
    """Yield the plan of each row that has a benchmark recipe, the recipe, and the row; count the others."""
    functions = _bridge_functions(checkout)
    for row in pretraining_rows():
        if "Megatron-Bridge" not in row.source:
            continue
        target = _bridge_target(row, functions=functions)
        if target.startswith("no "):
            left_out[target] += 1
            continue
        try:
            plan = _pretraining_plan(row, read=read_bridge(Path(target), options={}).values)
        except NemoPerfError as error:
            left_out[f"no plan: {error}"] += 1
            continue
        yield plan, target, row


def _bridge_functions(checkout: Path) -> dict[str, Path]:
    root = checkout / "src"
    functions = {}
    for path in sorted((root / "megatron/bridge/perf_recipes").rglob("*.py")):
        for function in SourceTree(root).functions(path):
            functions[function] = path
    return functions


def _bridge_target(row: PublishedRow, *, functions: Mapping[str, Path]) -> str:
    """Return the recipe of a row, or the reason that there is none."""
    words = _FP8_WORDS.get(row.precision)
    if words is None:
        return "no precision on the page"
    if "tokendrop" in row.model:
        return "no recipe that drops tokens"
    try:
        model = find_published_model(row.model).name
    except NemoPerfError:
        return "no catalog model"
    if model not in megatron_bridge.LIBRARY:
        return "no recipe in the library"
    stem = megatron_bridge.LIBRARY[model].removesuffix("_config")
    for word in words:
        function = f"{stem}_{row.gpus}gpu_{row.system}_{word}_config"
        if function in functions:
            return f"{functions[function]}:{function}"
    return "no recipe for as many GPUs, system and precision"


def _pretraining_plan(row: PublishedRow, *, read: Mapping[str, Any]) -> Plan:
    """Return the plan of a row; what the page does not print is the recipe's: recomputation, scaling of FP8."""
    model = find_published_model(row.model)
    names = ("gpus", "tp", "pp", "cp", "vp", "ep")
    degrees = {name: getattr(row, name) for name in names if getattr(row, name)}
    if degrees.get("pp", 1) == 1:
        degrees.pop("vp", None)
    layout = complete_layout(degrees)
    if not row.fsdp:
        layout = replace(layout, dp_shard=1, dp_replicate=layout.dp)
        layout = replace(layout, shard_optimizer=layout.dp_replicate * layout.cp > 1)
    system = find_system(row.system)
    recipe = Recipe(
        model=model,
        layouts={system.name: layout},
        seq_len=row.seq_len or 0,
        global_batch_size=row.global_batch_size or 0,
        micro_batch_size=row.micro_batch_size or 1,
        precision=read["precision"],
        recompute=read.get("recompute", Recompute.NONE),
        is_router_balanced=model.moe is not None,
        framework="megatron_bridge",
    )
    return resolve(recipe, system=system)


def _bridge_value(config: Opaque, name: str) -> Any:
    node: Any = config
    keys = name.split(".")
    for key in keys:
        if not isinstance(node, Opaque):
            return UNSET
        node = node.get(key)
        if isinstance(node, Opaque) and node.made_by == key:  # read before it was set
            node = None
    if isinstance(node, (Opaque, Unknown)):
        return UNSET
    if node is None and not _is_set(config, keys):
        return _BRIDGE_DEFAULTS.get(name, UNSET)
    return node


def _is_set(config: Opaque, keys: Sequence[str]) -> bool:
    node: Any = config
    for key in keys[:-1]:
        node = node.get(key)
    return isinstance(node, Opaque) and any(keys[-1] in each.values for each in node.chain())


def nemo_rl_options(checkout: Path) -> Options:
    """Return the comparison of NeMo RL's published layouts."""
    options = Options()
    for plan, path, row in _rl_rows(checkout, left_out=options.left_out):
        options.rows.append((row.id, path.stem))
        theirs, _, _ = load_nemo_rl(path, options={}, env={})
        for name, ours in _rl_overrides(plan).items():
            options.add(name, ours=ours, theirs=_yaml_value(theirs.data, name))
    return options


def nemo_rl_plans(checkout: Path) -> list[tuple[Plan, str, Mapping[str, Any]]]:
    """Return the plan of each published layout, the base file that it runs, and the options on top of it."""
    base = str(checkout / nemo_rl.BACKENDS["megatron"])
    found: list[tuple[Plan, str, Mapping[str, Any]]] = []
    for plan, _, _ in _rl_rows(checkout, left_out=Counter()):
        found.append((plan, base, {f"+{name}": value for name, value in _rl_overrides(plan).items()}))
    return found


def _rl_overrides(plan: Plan) -> dict[str, Any]:
    assert plan.rl is not None
    return nemo_rl.plan_overrides(plan, rl=plan.rl) | nemo_rl.own_overrides(plan, rl=plan.rl)


def _rl_rows(checkout: Path, *, left_out: Counter[str]) -> Iterator[tuple[Plan, Path, PublishedRow]]:
    """Yield the plan of each row that has a recipe file, the file, and the row; count the others."""
    folder = checkout / "examples/configs/recipes/llm/performance"
    framework = builtin_frameworks()["nemo_rl"]
    for row in rl_rows():
        if row.task == "swe":
            left_out["no recipe of agents"] += 1
            continue
        path = folder / f"{_rl_recipe_name(row)}.yaml"
        if not path.is_file():
            left_out["no recipe for as many GPUs, system, staleness and precision"] += 1
            continue
        model = find_published_model(row.model)
        system = find_system(row.system)
        recipe = Recipe(framework="nemo_rl", framework_config=str(path), model=_rl_model(row))
        read = complete_recipe(recipe, framework=framework, system=system).recipe
        try:
            plan = _rl_plan(row, read=replace(read, model=model))
        except NemoPerfError as error:
            left_out[f"no plan: {error}"] += 1
            continue
        yield plan, path, row


def _yaml_value(node: Any, name: str) -> Any:
    for key in name.split("."):
        if not isinstance(node, Mapping) or key not in node:
            return UNSET
        node = node[key]
    return node


def _rl_model(row: PublishedRow) -> Any:
    """Return the model for recipes that leave the checkpoint to a guide; empty for those that name it."""
    model = find_published_model(row.model)
    return replace(model, mtp_num_layers=0) if model.name == "deepseek-v3" else ""


def _rl_recipe_name(row: PublishedRow) -> str:
    per_node = find_system(row.system).gpus_per_node
    model = find_published_model(row.model).name
    stem = {"llama3.1-8b": "llama3.1-8b-instruct", "qwen3-30b-a3b": "qwen3-30ba3b", "qwen3-235b-a22b": "qwen3-235b"}
    name = f"{row.task}-{stem.get(model, model)}-{row.gpus // (per_node or 1)}n{per_node}g"
    if "FP8" in row.precision:
        name += "-fp8"
    if row.rollouts is not None and row.rollouts.max_staleness:
        name += "-async-1off"
    return name


def _rl_plan(row: PublishedRow, *, read: Recipe) -> Plan:
    """Return the plan of a row; what the page does not print is the recipe's."""
    system = find_system(row.system)
    layout = read.layouts[system.name]
    generation = layout.generation
    assert generation is not None
    assert row.rollouts is not None
    generation = replace(generation, tp=row.rollouts.tp, pp=row.rollouts.pp)
    degrees = {"gpus": layout.gpus, "tp": row.tp, "pp": row.pp, "cp": row.cp, "ep": row.ep}
    layout = complete_layout(degrees)
    layout = replace(layout, dp_shard=1, dp_replicate=layout.dp, generation=generation)
    layout = replace(layout, shard_optimizer=layout.dp_replicate * layout.cp > 1)
    recipe = replace(
        read,
        framework_config="",
        layouts={system.name: layout},
        global_batch_size=row.global_batch_size or 0,
        seq_len=row.seq_len or 0,
    )
    return resolve(recipe, system=system)
