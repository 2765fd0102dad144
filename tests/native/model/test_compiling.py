"""Compiled blocks compute the same; each run compiles for itself."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.native.model.block import Block
from pytest_nemoperf.native.model.compiling import _CACHE_DIR, use_own_cache
from tests.native.engine import REL_TOL, Engine, plan_of
from tests.native.families import PARTS
from tests.native.tiny import build, tiny_plan


def test_what_is_compiled_stays_in_the_directory_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        monkeypatch.setenv(name, "/shared")

    use_own_cache(tmp_path)

    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / _CACHE_DIR / "inductor")
    assert os.environ["TRITON_CACHE_DIR"] == str(tmp_path / _CACHE_DIR / "triton")


@pytest.mark.parametrize("is_compiled", [True, False])
def test_blocks_are_compiled_one_by_one_if_the_plan_says_so(is_compiled: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []

    def note(forward: Any) -> Any:
        compiled.append(forward.__self__)
        return forward

    monkeypatch.setattr(torch, "compile", note)

    model = build(tiny_plan(layouts={"cpu": Layout(gpus=1)}, is_compiled=is_compiled))

    blocks: list[nn.Module] = [module for module in model.modules() if isinstance(module, Block)]
    assert compiled == (blocks if is_compiled else [])


@pytest.mark.slow
def test_compiled_blocks_with_experts_compute_what_one_process_computes(engine: Engine) -> None:
    layout = Layout(gpus=2, dp_shard=2, ep=2)
    plan = plan_of(layout, model=PARTS["moe"], is_compiled=True, timeout_sec=300)

    assert engine.difference(plan) <= REL_TOL


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layout", "recompute"),
    [
        pytest.param(Layout(gpus=1), "full", id="single, recomputed"),
        pytest.param(Layout(gpus=2, dp_shard=2), "none", id="fsdp2"),
        pytest.param(Layout(gpus=2, pp=2), "none", id="pp2"),
    ],
)
def test_compiled_blocks_compute_what_one_process_computes(engine: Engine, layout: Layout, recompute: str) -> None:
    plan = plan_of(layout, recompute=recompute, is_compiled=True, timeout_sec=300)

    assert engine.difference(plan) <= REL_TOL
