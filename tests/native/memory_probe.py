"""Ranks that report what they allocated, by kind. An entrypoint of the warm server, as in sabotage.py."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from pytest_nemoperf.native import rank


def report_memory() -> None:
    """Train as usual; each optimizer step writes the bytes of weights, gradients and optimizer state."""
    step = torch.optim.AdamW.step

    def probed(optimizer: torch.optim.AdamW, *args: Any, **kwargs: Any) -> Any:
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        sizes = {"weights": _bytes(weights), "gradients": _bytes(weight.grad for weight in weights)}
        result = step(optimizer, *args, **kwargs)
        sizes["optimizer"] = _bytes(value for state in optimizer.state.values() for value in state.values())
        path = Path(os.environ["NEMOPERF_RUN_DIR"]) / f"memory-rank{os.environ['RANK']}.json"
        path.write_text(json.dumps(sizes))
        return result

    with mock.patch.object(torch.optim.AdamW, "step", probed):
        rank.main()


def _bytes(tensors: Iterable[Tensor | None]) -> int:
    """Return the bytes of the storages behind tensors, each counted once."""
    storages = {}
    for tensor in tensors:
        if tensor is not None:
            local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
            storage = local.untyped_storage()
            storages[storage.data_ptr(), storage.nbytes()] = storage.nbytes()
    return sum(storages.values())
