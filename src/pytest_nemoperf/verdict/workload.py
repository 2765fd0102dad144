"""Tokens, GPUs and FLOPs of a stored workload: plain data that outlives the code that wrote it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pytest_nemoperf.errors import RecipeError
from pytest_nemoperf.flops.conventions import find_convention
from pytest_nemoperf.flops.count import num_flops_per_token
from pytest_nemoperf.json_codec import from_data, plain_mapping
from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.measure.expected_records import ExpectedRecords
from pytest_nemoperf.measure.stored_workload import BENCHMARK, LOOP
from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.recipes.recipe import PRETRAIN
from pytest_nemoperf.recipes.rl import RL

_READ_ELSEWHERE = ("rl", "has_varying_lengths")
"""Further keys that the plugin reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadFacts:
    """Figures that follow from a workload alone.

    Attributes:
        num_gpus: Ranks that tokens are divided by; None for a benchmark test.
        tokens_per_step: Tokens of every step; None if lengths vary, or for a benchmark test.
        flops_per_token: Model FLOPs of pre-training, as counted now; None otherwise, and if lengths vary.
    """

    num_gpus: int | None = None
    tokens_per_step: int | None = None
    flops_per_token: float | None = None


def loop_workload(name: str, *, expected: ExpectedRecords, added: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the workload of a measured loop: the plugin's keys, and those that its test adds.

    Args:
        name: Name of the loop.
        expected: GPUs and tokens of its steps.
        added: Keys from the test; None for none.

    Raises:
        RecipeError: If an added value is no plain data, or a key is the plugin's own.
    """
    own: dict[str, Any] = {
        "workload": LOOP,
        "name": name,
        "num_gpus": expected.num_gpus,
        "tokens_per_step": expected.tokens_per_step,
    }
    if not expected.has_exact_tokens:
        own["has_varying_lengths"] = True
    more = {} if added is None else plain_mapping(added, subject="workload")
    for key in (*own, *_READ_ELSEWHERE):
        if key in more:
            raise RecipeError(
                f"workload[{key!r}]={more[key]!r}: the plugin itself sets or reads this key; use another name"
            )
    return {**more, **own}


def facts_of(workload: Mapping[str, Any], *, convention: str | None) -> WorkloadFacts:
    """Return the figures of a stored workload.

    Args:
        workload: As stored.
        convention: Name of the FLOPs convention; None if FLOPs are not counted.

    Raises:
        RecipeError: If a part of it is missing or impossible.
    """
    kind = workload.get("workload")
    has_varying_lengths = bool(workload.get("has_varying_lengths"))
    try:
        if kind == LOOP:
            tokens = None if has_varying_lengths else workload["tokens_per_step"]
            return WorkloadFacts(num_gpus=workload["num_gpus"], tokens_per_step=tokens)
        if "rl" in workload and kind != BENCHMARK:
            return WorkloadFacts(num_gpus=_layout_of(workload).total_gpus, tokens_per_step=_rl_tokens(workload["rl"]))
        if kind != PRETRAIN:
            return WorkloadFacts()
        if has_varying_lengths:
            return WorkloadFacts(num_gpus=_layout_of(workload).total_gpus)
        return WorkloadFacts(
            num_gpus=_layout_of(workload).total_gpus,
            tokens_per_step=workload["global_batch_size"] * workload["seq_len"],
            flops_per_token=_flops_per_token(workload, convention=convention),
        )
    except KeyError as exc:
        raise RecipeError(f"lacks {exc}; record the case again") from None


def _layout_of(workload: Mapping[str, Any]) -> Layout:
    return from_data(Layout, workload["layout"], subject="layout", error=RecipeError)


def _rl_tokens(stored: Mapping[str, Any]) -> int | None:
    rl = from_data(RL, stored, subject="rl", error=RecipeError)
    lengths = rl.max_lengths()
    may_change = rl.algorithm_config.has_dynamic_sampling and len(set(lengths)) > 1
    if may_change or not rl.has_pinned_lengths:
        return None
    return sum(lengths)


def _flops_per_token(workload: Mapping[str, Any], *, convention: str | None) -> float | None:
    if convention is None:
        return None
    model = from_data(ModelConfig, workload["model"], subject="model", error=RecipeError)
    return num_flops_per_token(
        model, seq_len=workload["seq_len"], convention=find_convention(convention), tp=_layout_of(workload).tp
    )
