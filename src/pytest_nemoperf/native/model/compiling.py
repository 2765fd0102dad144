"""torch.compile, one block at a time."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from pytest_nemoperf.native.model.block import Block
from pytest_nemoperf.native.model.transformer import Decoder

_CACHE_DIR = "compile-cache"


def use_own_cache(run_dir: Path) -> None:
    """Set the compile caches to the run's own directory; call it before anything is compiled.

    A compiler that is killed leaves a torn cache, and every later run that shared it would fail.
    """
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(run_dir / _CACHE_DIR / "inductor")
    os.environ["TRITON_CACHE_DIR"] = str(run_dir / _CACHE_DIR / "triton")


def apply_compile(model: Decoder) -> None:
    """Compile every block, in its first pass.

    Blocks and not the whole model: equal blocks are compiled once, and the communication between them stays outside.
    Call it after recomputation and tensor parallelism, which change a block, and before FSDP, whose hooks stay outside.

    Args:
        model: Changed in place.
    """
    for module in model.modules():
        if isinstance(module, Block):
            module.forward = torch.compile(module.forward)  # type: ignore[method-assign]  # of this one
