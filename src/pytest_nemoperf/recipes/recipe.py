"""Recipes, and the plans they are resolved to. Both have a JSON Schema and a version."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final, Literal, TypeVar

from pytest_nemoperf.errors import RecipeError, check_flag, did_you_mean
from pytest_nemoperf.flops.conventions import DEFAULT_CONVENTION, find_convention
from pytest_nemoperf.layouts.layout import Layout, layout_of
from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.models.catalog import find_model
from pytest_nemoperf.recipes.ab_turn import ABTurn
from pytest_nemoperf.recipes.rl import RL
from pytest_nemoperf.recipes.systems import find_system
from pytest_nemoperf.records.metrics import JUDGED

RECIPE_SCHEMA_VERSION: Final = 1
PLAN_SCHEMA_VERSION: Final = 1
MIN_WARMUP_STEPS = 2  # the first steps run up to 3x slower
MIN_STEPS = 4  # a median and a drift need as many

PRETRAIN: Final = "pretrain"
"""Workload of a recipe without reinforcement learning."""

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_E = TypeVar("_E", bound=StrEnum)


class Precision(StrEnum):
    """Number format of the matrix products; master weights and reductions are fp32.

    The 8-bit and 4-bit formats are transformer-engine's, named after its recipes; embedding, attention, norms, head and
    loss stay in bf16 under them.
    """

    FP32 = "fp32"
    BF16 = "bf16"
    FP8_DS = "fp8_ds"  # delayed scaling: a tensor's scale follows from its maxima in earlier steps
    FP8_CS = "fp8_cs"  # current scaling: from the tensor itself
    MXFP8 = "mxfp8"  # a scale for each 32 elements
    NVFP4 = "nvfp4"  # 4 bits, a scale for each 16 elements

    @property
    def number_format(self) -> str:
        """Format of the multiplied numbers without their scaling: the key of a system's peaks."""
        return "fp8" if self in {Precision.FP8_DS, Precision.FP8_CS, Precision.MXFP8} else self.value

    @property
    def needs_transformer_engine(self) -> bool:
        """Whether the matrix products are transformer-engine's."""
        return self not in {Precision.FP32, Precision.BF16}


class Recompute(StrEnum):
    """Activations that are computed again in backward instead of kept."""

    NONE = "none"
    SELECTIVE = "selective"
    FULL = "full"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A workload, and the layout of each system it can run on.

    Attributes:
        model: Catalog name, path of a Hugging Face ``config.json``, or a ModelConfig.
        layouts: Layout by system name; systems without one skip the recipe.
        seq_len: Tokens per sequence; with ``rl``, the most of prompt and response (T-Max Sequence Length).
        global_batch_size: Sequences per optimizer update, over all ranks; without ``rl`` that is a step.
        micro_batch_size: Sequences per forward pass of one data-parallel rank.
        precision: ``fp32``, ``bf16``, ``fp8_ds``, ``fp8_cs``, ``mxfp8`` or ``nvfp4``.
        rl: Reinforcement learning; None for pre-training.
        framework: ``torch`` (native), ``command``, or one a plugin registers.
        recompute: Activations computed again in backward instead of kept: ``none``, ``selective`` (the attention
            core), ``full`` (all but each block's input).
        is_compiled: Blocks go through torch.compile.
        is_router_balanced: Tokens are assigned to the experts in turn instead of being routed, as on published pages of
            mixtures of experts. A token's expert depends on its position in its rank's micro-batch, so layouts with
            micro-batches that don't divide among the experts train differently.
        has_varying_lengths: The tokens of a step differ, because its sequences have any length up to seq_len. Not for
            the native engine, nor with ``rl``, which has its own response_lengths.
        model_name: Name of the model in case id and tables; empty for its own.
        variant: Suffix of the case id, for recipes that have the same id otherwise.
        steps: Measured steps per run.
        warmup_steps: Steps before them, not measured.
        seed: Seed of weights and synthetic tokens.
        flops_convention: Name of the FLOPs convention, see docs/metrics.md.
        tolerances: Allowed worsening in percent by metric name; ``all`` for every metric that is judged by default.
        timeout_sec: Wall-clock limit of one run; None derives it from the number of steps.
        command: For framework ``command``: argv of a process that writes StepRecords.
        env: Extra environment of the ranks.

    Raises:
        RecipeError: If a value breaks a rule; the message names it.
    """

    model: str | ModelConfig
    layouts: Mapping[str, Layout]
    seq_len: int
    global_batch_size: int
    micro_batch_size: int = 1
    precision: Precision = Precision.BF16
    rl: RL | None = None
    framework: str = "torch"
    recompute: Recompute = Recompute.NONE
    is_compiled: bool = False
    is_router_balanced: bool = False
    has_varying_lengths: bool = False
    model_name: str = ""
    variant: str = ""
    steps: int = 10
    warmup_steps: int = 3
    seed: int = 1234
    flops_convention: str = DEFAULT_CONVENTION
    tolerances: Mapping[str, float] = field(default_factory=dict)
    timeout_sec: float | None = None
    command: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    schema_version: Literal[1] = RECIPE_SCHEMA_VERSION

    def __post_init__(self) -> None:
        object.__setattr__(self, "precision", _enum_member(Precision, self.precision, subject="precision"))
        object.__setattr__(self, "recompute", _enum_member(Recompute, self.recompute, subject="recompute"))
        layouts = {name: layout_of(value, system=name) for name, value in self.layouts.items()}
        object.__setattr__(self, "layouts", layouts)
        object.__setattr__(self, "command", _argv(self.command, subject="command"))
        if self.rl is not None and not isinstance(self.rl, RL):
            raise RecipeError(f"rl={self.rl!r} must be an RL, or None for pre-training")
        if not self.layouts:
            raise RecipeError("layouts={} names no system; give at least one, e.g. {'cpu': Layout(gpus=1)}")
        for system in self.layouts:
            find_system(system)
        self._check_names()
        self._check_counts()
        for name in ("is_compiled", "is_router_balanced", "has_varying_lengths"):
            check_flag(getattr(self, name), subject=name)
        if type(self.seed) is not int:
            raise RecipeError(f"seed={self.seed!r} must be a whole number")
        _check_env(self.env)
        check_tolerances(self.tolerances, subject="tolerances")
        find_convention(self.flops_convention)
        limit = self.timeout_sec
        if limit is not None and (type(limit) not in (int, float) or not 0 < limit < math.inf):
            raise RecipeError(f"timeout_sec={limit!r} must be positive, finite seconds")
        if (self.framework == "command") != bool(self.command):
            raise RecipeError(
                f"framework={self.framework!r} with command={list(self.command)}; "
                "framework='command' and an argv in command belong together"
            )

    def _check_names(self) -> None:
        model = self.model_config
        for subject, name in (
            ("model name", model.name),
            ("framework", self.framework),
            ("variant", self.variant),
            ("algorithm", self.workload),
        ):
            if not is_safe_name(name) and (name or subject != "variant"):
                raise RecipeError(
                    f"{subject} {name!r} is part of the case id and so of a file name; "
                    "use lower-case letters, digits, '.', '_' and '-', beginning with a letter or digit"
                )

    def _check_counts(self) -> None:
        for name in ("seq_len", "global_batch_size", "micro_batch_size", "steps", "warmup_steps"):
            count = getattr(self, name)
            if type(count) is not int or count < 1:
                raise RecipeError(f"{name}={count!r} must be a whole number >= 1")
        if self.warmup_steps < MIN_WARMUP_STEPS:
            raise RecipeError(
                f"warmup_steps={self.warmup_steps} must be >= {MIN_WARMUP_STEPS}; "
                "the first steps allocate and tune, and are up to 3x slower"
            )
        if self.steps < MIN_STEPS:
            raise RecipeError(f"steps={self.steps} must be >= {MIN_STEPS}; fewer show neither median nor drift")

    @property
    def workload(self) -> str:
        """``pretrain``, or the name of the reinforcement learning algorithm."""
        return PRETRAIN if self.rl is None else self.rl.algorithm_config.name

    @property
    def model_config(self) -> ModelConfig:
        """The architecture, looked up if ``model`` is a name; called ``model_name`` if that is given."""
        model = self.model
        if not isinstance(model, ModelConfig):
            model = find_model(model)
        if self.model_name:
            model = replace(model, name=self.model_name)
        return model


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A recipe resolved for one system; the ranks read it from ``plan.json``.

    Attributes:
        case: Case id; names the baseline file.
        workload: ``pretrain``, or the name of the reinforcement learning algorithm.
        system: System name.
        device: ``cuda`` or ``cpu``.
        framework: Name of the framework that trains.
        model: Architecture.
        precision: Number format of the matrix products.
        seq_len: Tokens per sequence; with ``rl``, the most of prompt and response.
        global_batch_size: Sequences per optimizer update.
        micro_batch_size: Sequences per forward pass of one data-parallel rank.
        grad_accum_steps: Forward passes per optimizer update of one data-parallel rank; packing makes them fewer.
        layout: Parallel degrees.
        recompute: Activations computed again in backward.
        is_compiled: Blocks go through torch.compile.
        is_router_balanced: Tokens are assigned to the experts in turn.
        has_varying_lengths: Sequences have any length up to seq_len, so that the tokens of a step differ.
        num_nodes: Nodes the layout fills.
        steps: Measured steps.
        warmup_steps: Steps before them.
        seed: Seed of weights and synthetic tokens.
        tokens_per_step: Tokens all ranks process in one step; the upper limit if lengths vary or those of responses
            are not pinned.
        flops_per_token: Model FLOPs per token, of those tokens.
        flops_convention: Name of their convention.
        peak_tflops: Dense peak of one GPU in this precision, TFLOP/s; None if unknown, then there is no MFU.
        timeout_sec: Wall-clock limit of one run.
        inject_pct: Self-test: delay of each step in percent; 0 for a real run.
        is_profiled: The measured steps run under the profiler; such a run is never part of a measurement.
        command: Framework ``command``: the argv.
        env: Extra environment of the ranks.
        rl: Reinforcement learning, with the algorithm's values; None for pre-training.
        turn: Turns of the run in a comparison with another version of the code; None for any other run.
    """

    case: str
    workload: str
    system: str
    device: Literal["cuda", "cpu"]
    framework: str
    model: ModelConfig
    precision: Precision
    seq_len: int
    global_batch_size: int
    micro_batch_size: int
    grad_accum_steps: int
    layout: Layout
    num_nodes: int
    steps: int
    warmup_steps: int
    seed: int
    tokens_per_step: int
    flops_per_token: float
    flops_convention: str
    peak_tflops: float | None
    timeout_sec: float
    recompute: Recompute = Recompute.NONE
    is_compiled: bool = False
    is_router_balanced: bool = False
    has_varying_lengths: bool = False
    inject_pct: float = 0.0
    is_profiled: bool = False
    command: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    rl: RL | None = None
    turn: ABTurn | None = None
    schema_version: Literal[1] = PLAN_SCHEMA_VERSION

    @property
    def total_steps(self) -> int:
        """Warm-up and measured steps together."""
        return self.warmup_steps + self.steps

    @property
    def num_updates(self) -> int:
        """Optimizer updates of a step."""
        return 1 if self.rl is None else self.rl.num_samples // self.global_batch_size


def is_safe_name(name: object) -> bool:
    """Whether a name may be part of a case id, and so of a file name."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def check_tolerances(tolerances: Mapping[str, float], *, subject: str) -> None:
    """Check allowed worsenings in percent by metric name.

    Raises:
        RecipeError: If a metric is not judged, or a percentage is not within (0, 100).
    """
    names = {metric.name for metric in JUDGED} | {"all"}
    for name, percent in tolerances.items():
        if name not in names:
            raise RecipeError(f"{subject}: {name!r} is not a judged metric; {did_you_mean(name, names)}")
        if type(percent) not in (int, float) or not 0 < percent < 100:  # noqa: PLR2004 (percent)
            raise RecipeError(f"{subject}: {name}={percent!r} must be a percentage above 0 and below 100")


def _argv(values: Sequence[str], *, subject: str) -> tuple[str, ...]:
    if isinstance(values, str):
        raise RecipeError(f"{subject}={values!r} must be a list of words; write e.g. ('python', 'train.py')")
    for at, value in enumerate(values):
        if type(value) is not str:
            raise RecipeError(f"{subject}[{at}]={value!r} must be a text; write str(...)")
    return tuple(values)


def _check_env(env: Mapping[str, str]) -> None:
    if not isinstance(env, Mapping):
        raise RecipeError(f"env={env!r} must be a mapping of texts to texts")
    for name, value in env.items():
        if type(name) is not str or type(value) is not str:
            raise RecipeError(f"env: {name!r}={value!r} must be texts, as every environment variable; write str(...)")


def _enum_member(kind: type[_E], value: str, *, subject: str) -> _E:
    try:
        return kind(value)
    except ValueError:
        raise RecipeError(f"unknown {subject} {value!r}; {did_you_mean(str(value), list(kind))}") from None
