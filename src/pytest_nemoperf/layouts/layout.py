"""Layouts: the parallel degrees of one run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, Literal

from pytest_nemoperf.bounds import check_fields
from pytest_nemoperf.errors import RecipeError, did_you_mean, shown

LAYOUT_CHOICES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"pp_schedule": ("1f1b", "zero_bubble"), "cp_comm": ("all_gather", "a2a")}
)
"""Attributes of a Layout that are words, each with its possible values."""
LAYOUT_FLAGS = frozenset({"sequence_parallel", "shard_optimizer"})
"""Attributes of a Layout that are true or false."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationLayout:
    """Parallel degrees of response generation in reinforcement learning.

    Attributes:
        gpus: Ranks that generate; each group of tp*pp of them is a replica with its own samples.
        tp: Tensor parallel degree of a replica (G-TP of the pages).
        pp: Pipeline parallel degree of a replica (G-PP).
        is_colocated: Generation and training take turns on the same ranks; otherwise each has ranks of its own.

    Raises:
        RecipeError: If a degree is not positive, or the degrees don't fit together.
    """

    gpus: int
    tp: int = 1
    pp: int = 1
    is_colocated: bool = True

    def __post_init__(self) -> None:
        check_fields(self, of=" of a generation layout")
        if self.gpus % (self.tp * self.pp):
            raise RecipeError(
                f"generation gpus={self.gpus} are not a multiple of tp*pp ({self.tp}*{self.pp}={self.tp * self.pp}), "
                "the ranks of one replica; change gpus, tp or pp"
            )

    @property
    def dp(self) -> int:
        """Replicas; each generates samples of its own (G-DP)."""
        return self.gpus // (self.tp * self.pp)

    @property
    def replica(self) -> Layout:
        """One replica as a training layout of its ranks: tp cuts dense weights and, as etp, each expert."""
        return Layout(gpus=self.tp * self.pp, tp=self.tp, pp=self.pp, etp=self.tp)

    @property
    def label(self) -> str:
        """Short name for case ids, e.g. ``gtp2gdp4``, ``gdp2apart`` for ranks of its own."""
        axes = [("gtp", self.tp), ("gpp", self.pp), ("gdp", self.dp)]
        label = _degrees_label(axes) or "gsingle"
        if not self.is_colocated:
            label += "apart"
        return label


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Parallel degrees of one run, checked when it is made.

    Attributes:
        gpus: Ranks that train; one per GPU (one process each on CPU).
        tp: Tensor parallel degree.
        pp: Pipeline parallel degree.
        vp: Model chunks per pipeline rank (virtual pipeline).
        cp: Context parallel degree.
        ep: Expert parallel degree; shares the dp_shard x cp x tp ranks (dp_replicate x cp x tp without FSDP).
        etp: Tensor parallel degree inside an expert; shares them as well.
        dp_replicate: Data-parallel replicas (DDP, or the outer axis of HSDP).
        dp_shard: FSDP shards.
        shard_optimizer: Ranks with the same weights share out the optimizer's states among them, and gather the
            weights after each update: ZeRO-1 (https://arxiv.org/abs/1910.02054), Megatron's distributed optimizer.
            Needs copies of weights, by dp_replicate or cp; FSDP shards the states anyway.
        sequence_parallel: Shard activations over the tp axis between the blocks; without effect at tp=1.
        pp_schedule: Order of forward and backward passes on pipeline ranks: ``1f1b`` (interleaved at vp > 1), or
            ``zero_bubble``, which computes weights' gradients in otherwise idle time and needs pp > 1.
        cp_comm: Exchange of context parallel attention: ``all_gather`` of keys and values, or
            ``a2a`` between sequence and heads (Ulysses), which needs cp > 1.
        generation: Reinforcement learning: the ranks that generate; None for the training ranks, each a replica.

    Raises:
        RecipeError: If a degree is not positive, or the degrees don't fit together.

    References:
        Degrees and their product follow Narayanan et al. 2021, https://arxiv.org/abs/2104.04473,
        and torchtitan's ParallelDims for the split of data parallelism.
    """

    gpus: int
    tp: int = 1
    pp: int = 1
    vp: int = 1
    cp: int = 1
    ep: int = 1
    etp: int = 1
    dp_replicate: int = 1
    dp_shard: int = 1
    shard_optimizer: bool = False
    sequence_parallel: bool = True
    pp_schedule: Literal["1f1b", "zero_bubble"] = "1f1b"
    cp_comm: Literal["all_gather", "a2a"] = "all_gather"
    generation: GenerationLayout | None = None

    def __post_init__(self) -> None:
        for name, words in LAYOUT_CHOICES.items():
            word = getattr(self, name)
            if word not in words:
                raise RecipeError(f"unknown {name} {shown(word)}; choose {' or '.join(words)}")
        check_fields(self, of=" of a layout")
        product = self.dp * self.cp * self.tp * self.pp
        if product != self.gpus:
            raise RecipeError(
                f"gpus={self.gpus} but dp_replicate*dp_shard*cp*tp*pp = "
                f"{self.dp_replicate}*{self.dp_shard}*{self.cp}*{self.tp}*{self.pp} = {product}; "
                "every rank belongs to exactly one place of the product: change gpus or a degree"
            )
        self._check_generation()
        for is_idle, setting, axis, default in (
            (self.pp == 1 and self.vp > 1, f"vp={self.vp}", "pp", "vp=1"),
            (self.pp == 1 and self.pp_schedule != "1f1b", f"pp_schedule={self.pp_schedule}", "pp", "pp_schedule=1f1b"),
            (self.cp == 1 and self.cp_comm != "all_gather", f"cp_comm={self.cp_comm}", "cp", "cp_comm=all_gather"),
        ):
            if is_idle:
                raise RecipeError(
                    f"{setting} needs {axis} > 1, at {axis}=1 it does nothing; use {default} or raise {axis}"
                )
        self._check_sharded_optimizer()
        self._check_expert_degrees()

    def _check_sharded_optimizer(self) -> None:
        if not self.shard_optimizer:
            return
        if self.dp_shard > 1:
            raise RecipeError(
                f"shard_optimizer=True with dp_shard={self.dp_shard}, and FSDP shards the optimizer's states with the "
                "weights; use shard_optimizer=False, or dp_replicate for whole weights"
            )
        if self.dp_replicate * self.cp == 1:
            raise RecipeError(
                "shard_optimizer=True shares states among ranks with the same weights, and dp_replicate=1 and cp=1 "
                "leave one of each; use shard_optimizer=False or raise dp_replicate"
            )

    def _check_expert_degrees(self) -> None:
        if self._expert_ranks % (self.ep * self.etp) == 0:
            return
        axes = "ep"
        subject = f"ep={self.ep}"
        if self.etp > 1:
            axes = "ep*etp"
            subject = f"ep*etp={self.ep}*{self.etp}={self.ep * self.etp}"
        advice = f"use {axes}=1"
        if self._expert_ranks > 1:
            advice = f"choose {axes} among the divisors of {self._expert_ranks}"
        data = "dp_shard"
        if self.dp_shard == 1 and self.dp_replicate > 1:
            data = "dp_replicate"
        raise RecipeError(
            f"{subject} does not divide {data}*cp*tp ({getattr(self, data)}*{self.cp}*{self.tp}="
            f"{self._expert_ranks}); {advice}, or raise {data}"
        )

    def _check_generation(self) -> None:
        generation = self.generation
        if generation is not None and generation.is_colocated and generation.gpus != self.gpus:
            raise RecipeError(
                f"generation gpus={generation.gpus} take turns with training on gpus={self.gpus}, so the two must be "
                "equal; change one, or set is_colocated=False for ranks of its own"
            )

    @property
    def dp(self) -> int:
        """Data-parallel degree: ranks with the same tp, cp and pp rank, which read different sequences."""
        return self.dp_replicate * self.dp_shard

    @property
    def has_optimizer_copies(self) -> bool:
        """Whether ranks hold the same weights whole, so that the optimizer's states can be shared out among them."""
        return self.dp_shard == 1 and self.dp_replicate * self.cp > 1

    @property
    def total_gpus(self) -> int:
        """Ranks of the run: those that train, plus those that only generate."""
        if self.generation is None or self.generation.is_colocated:
            return self.gpus
        return self.gpus + self.generation.gpus

    @property
    def _expert_ranks(self) -> int:
        """Ranks among which the experts of a layer are divided: dp_shard x cp x tp (dp_replicate without FSDP)."""
        data = self.dp_shard if self.dp_shard > 1 else self.dp_replicate
        return data * self.cp * self.tp

    @property
    def expert_dp(self) -> int:
        """Copies (without FSDP) or shards of each expert among the ranks of ep."""
        return self._expert_ranks // (self.ep * self.etp)

    @property
    def label(self) -> str:
        """Short name for case ids, e.g. ``fsdp4tp2``, ``hsdp2x2``, ``ddp2``, ``zero1ddp2``, ``single``."""
        label = "zero1" if self.shard_optimizer else ""
        if self.dp_shard > 1 and self.dp_replicate > 1:
            label += f"hsdp{self.dp_replicate}x{self.dp_shard}"
        elif self.dp_shard > 1:
            label += f"fsdp{self.dp_shard}"
        elif self.dp_replicate > 1:
            label += f"ddp{self.dp_replicate}"
        label += _degrees_label([(name, getattr(self, name)) for name in ("tp", "pp", "vp", "cp", "ep", "etp")])
        if self.tp > 1 and not self.sequence_parallel:
            label += "nosp"
        if self.pp > 1 and self.pp_schedule == "zero_bubble":
            label += "zb"
        if self.cp > 1 and self.cp_comm == "a2a":
            label += "a2a"
        label = label or "single"
        if self.generation is not None:
            label += f"-{self.generation.label}"
        return label


def _degrees_label(degrees: Iterable[tuple[str, int]]) -> str:
    return "".join(f"{name}{degree}" for name, degree in degrees if degree > 1)


TRAINING_KEYS = tuple(item.name for item in fields(Layout) if item.name != "generation")
"""Attributes of a Layout about training."""
_GENERATION_KEYS = tuple(item.name for item in fields(GenerationLayout))


def layout_of(value: Layout | Mapping[str, Any], *, system: str) -> Layout:
    """Return a recipe's layout for a system, which may be a mapping of its attributes.

    Raises:
        RecipeError: If a key is unknown, or the number of ranks is missing.
    """
    if isinstance(value, Layout):
        return value
    subject = f"layout for system {system}"
    _check_keys(value, known=(*TRAINING_KEYS, "generation"), subject=subject)
    generation = value.get("generation")
    if isinstance(generation, Mapping):
        _check_keys(generation, known=_GENERATION_KEYS, subject=f"generation {subject}")
        value = {**value, "generation": GenerationLayout(**generation)}
    return Layout(**value)


def _check_keys(value: object, *, known: tuple[str, ...], subject: str) -> None:
    """Check that a layout's mapping has its number of ranks, and no key that it knows nothing of."""
    if not isinstance(value, Mapping):
        raise RecipeError(
            f"the {subject} is {shown(value)}; give a Layout, or a mapping such as {{'gpus': 8, 'tp': 2}}"
        )
    for key in value:
        if key not in known:
            raise RecipeError(f"unknown key {shown(key)} of the {subject}; {did_you_mean(key, known)}")
    if "gpus" not in value:
        raise RecipeError(f"the {subject} lacks 'gpus'; give the number of ranks")
