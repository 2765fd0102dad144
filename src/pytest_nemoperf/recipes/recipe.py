"""Recipes, and the plans they are resolved to. Both have a JSON Schema and a version."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final, Literal

from pytest_nemoperf.bounds import check_fields
from pytest_nemoperf.errors import RecipeError, did_you_mean, enum_member, shown
from pytest_nemoperf.flops.conventions import DEFAULT_CONVENTION, find_convention
from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.logs.log_format import LogFormat
from pytest_nemoperf.logs.presets import check_preset_name
from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.models.catalog import find_model
from pytest_nemoperf.models.cut import cut_layers
from pytest_nemoperf.recipes.ab_turn import ABTurn
from pytest_nemoperf.recipes.recipe_fields import (
    argv_of,
    check_extra_metrics,
    check_placeholders,
    check_unstated,
    layouts_of,
    texts_of,
)
from pytest_nemoperf.recipes.rl import RL
from pytest_nemoperf.recipes.systems import find_system
from pytest_nemoperf.records.metrics import CHECKPOINT_METRICS, JUDGED

RECIPE_SCHEMA_VERSION: Final = 1
PLAN_SCHEMA_VERSION: Final = 1
MIN_WARMUP_STEPS = 2  # the first steps run up to 3x slower
MIN_STEPS = 4  # a median and a drift need as many

PRETRAIN: Final = "pretrain"
"""Workload of a recipe without reinforcement learning."""

SCRIPT_MAY_RUN: Final = "script_may_run"
"""Option of framework_options that lets a shell script run where it is read: no setting of the framework."""
CHECKOUT_OPTION: Final = "checkout"
"""Option of framework_options that names the folder of a framework's checkout: none either."""
PLACE_OPTIONS: Final = frozenset({SCRIPT_MAY_RUN, CHECKOUT_OPTION})
"""Options that are the same on no two machines, and so no part of a workload."""

RANK_VARIABLES: Final = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Variables of a rank and its rendezvous under torch.distributed; the launcher sets them for each rank."""
_RUN_VARIABLES = ("NEMOPERF_PLAN", "NEMOPERF_RUN_DIR", "NEMOPERF_STEPS")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


class Precision(StrEnum):
    """Number format of the matrix products; master weights and reductions are fp32.

    The 8-bit and 4-bit formats are transformer-engine's, named after its recipes; embedding, attention, norms, head and
    loss stay in bf16 under them.
    """

    FP32 = "fp32"
    BF16 = "bf16"
    FP8_DS = "fp8_ds"  # delayed scaling: a tensor's scale follows from its maxima in earlier steps
    FP8_CS = "fp8_cs"  # current scaling: from the tensor itself
    FP8_SC = "fp8_sc"  # subchannel scaling: a scale for each 128 elements, each 128 x 128 of weights
    MXFP8 = "mxfp8"  # a scale for each 32 elements
    NVFP4 = "nvfp4"  # 4 bits, a scale for each 16 elements

    @property
    def number_format(self) -> str:
        """Format of the multiplied numbers without their scaling: the key of a system's peaks."""
        return "fp8" if self in _EIGHT_BITS else self.value

    @property
    def needs_transformer_engine(self) -> bool:
        """Whether the matrix products are transformer-engine's."""
        return self not in {Precision.FP32, Precision.BF16}


_EIGHT_BITS = frozenset({Precision.FP8_DS, Precision.FP8_CS, Precision.FP8_SC, Precision.MXFP8})


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
        num_layers: Layers to cut the model to, the proxy for one that does not fit; None for all of them. The model is
            then called ``<name>-<N>layers``, see models.cut.
        layouts: Layout by system name; systems without one skip the recipe.
        seq_len: Tokens per sequence; with ``rl``, the most of prompt and response (T-Max Sequence Length).
        global_batch_size: Sequences per optimizer update, over all ranks; without ``rl`` that is a step.
        micro_batch_size: Sequences per forward pass of one data-parallel rank.
        precision: ``fp32``, ``bf16``, ``fp8_ds``, ``fp8_cs``, ``fp8_sc``, ``mxfp8`` or ``nvfp4``.
        rl: Reinforcement learning; None for pre-training.
        framework: ``torch`` (the native engine), ``command`` (any program), or another name that the command
            ``nemoperf frameworks`` lists or a hook registers.
        framework_config: Path of the framework's own recipe, which runs as it is but for its steps and its logging.
            Model, layout, batch and precision are read from it; the recipe gives only what it leaves open.
        framework_options: Settings of the framework that a recipe has no word for, by the framework's own name. For a
            shell script ``script_may_run`` must be true, since it is read by running it up to its launch.
        gpus: With framework_config: ranks by system name, where the file does not say what they are; layouts follow.
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
        timeout_sec: Wall-clock limit of one run; None derives it from FLOPs, or from the step
            times of earlier runs on the same machine.
        command: For framework ``command``: argv of a process that trains. ``{run_dir}`` in it stands for the directory
            of the run, ``{total_steps}`` for the number of its steps.
        is_command_per_rank: The command is started once per rank, with RANK, WORLD_SIZE and the like; otherwise it is
            started once, without them, and starts its ranks itself.
        log_format: Name of the preset that reads the command's log, or a LogFormat; empty for a command that writes
            StepRecords.
        log_file: Pattern of its files, relative to the command's directory, or beginning with ``{run_dir}``; empty for
            those of the preset, else the command's own output.
        python: Interpreter that ``python`` in the command means; empty for perf_python, else pytest's own PATH.
        env: Extra environment of the ranks.
        notes: Remarks shown with the case, as the source of its layout or figures of a draft; nothing is judged by
            them.
        unstated: Settings that the recipe's source does not state, ``recompute`` and ``shard_optimizer``: the recipe
            runs with its own value, and its price is a range over the setting's values.
        extra_metrics: Metrics of a launch that are measured only where they are asked for: ``time_to_first_step_sec``,
            ``compile_time_sec``, ``checkpoint_save_sec``, ``checkpoint_async_save_sec`` and ``checkpoint_load_sec``.
            They are no part of the workload, so that asking for more leaves a baseline comparable.

    Raises:
        RecipeError: If a value breaks a rule; the message names it.
    """

    model: str | ModelConfig = ""
    layouts: Mapping[str, Layout] = field(default_factory=dict)
    seq_len: int = 0
    global_batch_size: int = 0
    micro_batch_size: int = 1
    precision: Precision = Precision.BF16
    rl: RL | None = None
    framework: str = "torch"
    framework_config: str = ""
    framework_options: Mapping[str, Any] = field(default_factory=dict)
    gpus: Mapping[str, int] = field(default_factory=dict)
    recompute: Recompute = Recompute.NONE
    is_compiled: bool = False
    is_router_balanced: bool = False
    has_varying_lengths: bool = False
    num_layers: int | None = None
    model_name: str = ""
    variant: str = ""
    steps: int = 10
    warmup_steps: int = 3
    seed: int = 1234
    flops_convention: str = DEFAULT_CONVENTION
    tolerances: Mapping[str, float] = field(default_factory=dict)
    timeout_sec: float | None = None
    command: tuple[str, ...] = ()
    is_command_per_rank: bool = False
    log_format: str | LogFormat = ""
    log_file: str = ""
    python: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    unstated: tuple[str, ...] = ()
    extra_metrics: tuple[str, ...] = ()
    schema_version: Literal[1] = RECIPE_SCHEMA_VERSION

    def __post_init__(self) -> None:
        object.__setattr__(self, "precision", enum_member(Precision, self.precision, subject="precision"))
        object.__setattr__(self, "recompute", enum_member(Recompute, self.recompute, subject="recompute"))
        object.__setattr__(self, "layouts", layouts_of(self.layouts))
        object.__setattr__(self, "command", argv_of(self.command))
        for name, example in (
            ("notes", "('measured on a draft',)"),
            ("unstated", "('recompute',)"),
            ("extra_metrics", "('time_to_first_step_sec',)"),
        ):
            object.__setattr__(self, name, texts_of(getattr(self, name), subject=name, example=example))
        if not self.framework_config:
            self._check_completeness()
        elif self.num_layers is not None:
            raise RecipeError(
                f"num_layers={self.num_layers} with framework_config, whose file says the model that runs; cut the "
                "model there, or by framework_options"
            )
        self._check_required_counts()
        check_fields(self)
        check_unstated(self.unstated)
        check_extra_metrics(self.extra_metrics)
        check_placeholders(self.command)
        for system in self.gpus:
            find_system(system)
        self._check_names()
        self._check_steps()
        self._check_texts()
        self._check_variables()
        check_tolerances(self.tolerances, subject="tolerances")
        find_convention(self.flops_convention)
        if (self.framework == "command") != bool(self.command):
            raise RecipeError(
                f"framework={shown(self.framework)} with command={shown(list(self.command))}; "
                "framework='command' and an argv in command belong together"
            )
        if self.framework_options:
            from pytest_nemoperf.json_codec import plain_mapping  # noqa: PLC0415 (tests that name recipes load no codec)

            options = plain_mapping(self.framework_options, subject="framework_options")
            object.__setattr__(self, "framework_options", options)
        self._check_log()

    def _check_completeness(self) -> None:
        gpus: object = self.gpus
        if isinstance(gpus, Mapping) and gpus:
            raise RecipeError(
                f"gpus={shown(dict(gpus))} without framework_config, which is where the degrees would come from; "
                "give layouts"
            )
        if not self.layouts:
            raise RecipeError("layouts={} names no system; give at least one, e.g. {'cpu': Layout(gpus=1)}")
        if not self.model:
            raise RecipeError("model is missing; give it, or framework_config with a file that says it")

    def _check_variables(self) -> None:
        """Check that no variable is set that the launcher sets."""
        for name, value in self.env.items():
            if name in _RUN_VARIABLES:
                raise RecipeError(
                    f"env: {name}={value!r}: each run sets this variable to files of its own; leave it out"
                )
            if name not in RANK_VARIABLES:
                continue
            if self.framework == "torch":
                raise RecipeError(
                    f"env: {name}={value!r} clashes with the launcher, which sets {name} for each rank; leave it out"
                )
            if self.is_command_per_rank:
                raise RecipeError(
                    f"env: {name}={value!r} clashes with the launcher, which sets {name} for each rank of a command "
                    "with is_command_per_rank=True; leave one of the two out"
                )

    def _check_log(self) -> None:
        if isinstance(self.log_format, str) and self.log_format:
            check_preset_name(self.log_format)
        if self.log_file and not self.log_format:
            raise RecipeError(f"log_file={shown(self.log_file)} without log_format; name the format of the log")
        if self.framework == "torch" and (self.log_format or self.python or self.is_command_per_rank):
            raise RecipeError(
                "log_format, python and is_command_per_rank are for commands, and framework='torch' is the native "
                "engine; leave them out, or use framework='command'"
            )

    def _check_names(self) -> None:
        names = [("framework", self.framework), ("variant", self.variant), ("algorithm", self.workload)]
        if self.model:
            names.insert(0, ("model name", self.model_config.name))
        for subject, name in names:
            if not is_safe_name(name) and (name or subject != "variant"):
                raise RecipeError(
                    f"{subject} {shown(name)} is part of the case id and so of a file name; "
                    "use lower-case letters, digits, '.', '_' and '-', beginning with a letter or digit"
                )

    def _check_required_counts(self) -> None:
        """Check counts that were left out: those of sequences, unless the framework's own recipe says them."""
        for name in ("seq_len", "global_batch_size"):
            count = getattr(self, name)
            if type(count) is int and count < 1 and not (count == 0 and self.framework_config):
                hint = "; give it, or framework_config with a file that says it" if count == 0 else ""
                raise RecipeError(f"{name}={shown(count)} must be a whole number >= 1{hint}")

    def _check_steps(self) -> None:
        if self.warmup_steps < MIN_WARMUP_STEPS:
            raise RecipeError(
                f"warmup_steps={self.warmup_steps} must be >= {MIN_WARMUP_STEPS}; "
                "the first steps allocate and tune, and are up to 3x slower"
            )
        if self.steps < MIN_STEPS:
            raise RecipeError(f"steps={self.steps} must be >= {MIN_STEPS}; fewer show neither median nor drift")

    def _check_texts(self) -> None:
        """Check texts that the operating system gets: none takes a NUL character."""
        texts = {f"command[{at}]": word for at, word in enumerate(self.command)}
        for name in ("framework_config", "log_file", "python"):
            texts[name] = getattr(self, name)
        for name, value in self.env.items():
            texts[f"env[{name!r}]"] = value
            if not name or "=" in name or "\0" in name:
                raise RecipeError(f"env: {shown(name)} is no name of an environment variable")
        for name, text in texts.items():
            if "\0" in text:
                raise RecipeError(f"{name}={shown(text)} has a NUL character, which ends a text for other programs")

    @property
    def workload(self) -> str:
        """``pretrain``, or the name of the reinforcement learning algorithm."""
        return PRETRAIN if self.rl is None else self.rl.algorithm_config.name

    @property
    def model_config(self) -> ModelConfig:
        """The architecture, looked up if ``model`` is a name and cut to num_layers; called ``model_name`` if given."""
        model = self.model
        if not isinstance(model, ModelConfig):
            model = find_model(model)
        if self.num_layers is not None:
            model = cut_layers(model, num_layers=self.num_layers)
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
        framework_config: Path of the framework's own recipe; empty for none.
        framework_config_digest: Hash of its content without steps and logging, in hexadecimal.
        framework_options: Settings of the framework by its own names.
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
        timeout_basis: Words that say where the limit comes from.
        inject_pct: Self-test: delay of each step in percent; 0 for a real run.
        is_profiled: The measured steps run under the profiler; such a run is never part of a measurement.
        command: Framework ``command``: the argv.
        is_command_per_rank: The command is started once per rank.
        log_format: Preset or format of the command's log; empty for step records.
        log_file: Pattern of its files.
        python: Interpreter that ``python`` in the command means; empty for that of PATH.
        env: Extra environment of the ranks.
        rl: Reinforcement learning, with the algorithm's values; None for pre-training.
        turn: Turns of the run in a comparison with another version of the code; None for any other run.
        notes: Remarks shown with the case.
        unstated: Settings that the recipe's source does not state; the price is a range over them.
        extra_metrics: Metrics of a launch that the recipe asks for.
        checkpoint_dir: Folder in which a launch saves its checkpoint: in a planned case the one that is given, in
            ``plan.json`` the run's own folder inside it. Empty if no checkpoint is asked for.

    Raises:
        RecipeError: If a value is of another type, or beyond its bounds.
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
    timeout_basis: str = ""
    recompute: Recompute = Recompute.NONE
    is_compiled: bool = False
    is_router_balanced: bool = False
    has_varying_lengths: bool = False
    inject_pct: float = 0.0
    is_profiled: bool = False
    framework_config: str = ""
    framework_config_digest: str = ""
    framework_options: Mapping[str, Any] = field(default_factory=dict)
    command: tuple[str, ...] = ()
    is_command_per_rank: bool = False
    log_format: str | LogFormat = ""
    log_file: str = ""
    python: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    rl: RL | None = None
    turn: ABTurn | None = None
    notes: tuple[str, ...] = ()
    unstated: tuple[str, ...] = ()
    extra_metrics: tuple[str, ...] = ()
    checkpoint_dir: str = ""
    schema_version: Literal[1] = PLAN_SCHEMA_VERSION

    def __post_init__(self) -> None:
        check_fields(self, subject="plan: ")
        for name in ("seq_len", "global_batch_size"):
            if not getattr(self, name):
                raise RecipeError(f"plan: {name}=0 must be a whole number >= 1")
        check_unstated(self.unstated)
        check_extra_metrics(self.extra_metrics)

    @property
    def total_steps(self) -> int:
        """Warm-up and measured steps together."""
        return self.warmup_steps + self.steps

    @property
    def generation_precision(self) -> str:
        """Number format of generation; empty for a workload without it."""
        return "" if self.rl is None else self.rl.precision_of_generation(self.precision)

    @property
    def has_checkpoint(self) -> bool:
        """The ranks save or load a checkpoint after their steps."""
        return any(metric.name in self.extra_metrics for metric in CHECKPOINT_METRICS)

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
    if not isinstance(tolerances, Mapping):
        raise RecipeError(f"{subject}: {shown(tolerances)} must be percentages by metric; write e.g. {{'all': 3}}")
    for name, percent in tolerances.items():
        if name not in names:
            raise RecipeError(f"{subject}: {shown(name)} is not a judged metric; {did_you_mean(name, names)}")
        if type(percent) not in (int, float) or not 0 < percent < 100:  # noqa: PLR2004 (percent)
            raise RecipeError(f"{subject}: {name}={shown(percent)} must be a percentage above 0 and below 100")
