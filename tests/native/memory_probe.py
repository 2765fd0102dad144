"""Ranks that report allocated bytes by kind. An entrypoint of the warm server, as in sabotage.py."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.distributed.tensor import DTensor

from pytest_nemoperf.native.rank import entry


def report_memory() -> None:
    """Train as usual; each optimizer step writes the bytes of weights, gradients, optimizer state and activations."""
    step = torch.optim.AdamW.step
    sizes: Counter[str] = Counter()
    kept = KeptActivations()

    def probed(optimizer: torch.optim.AdamW, *args: Any, **kwargs: Any) -> Any:
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        sizes["weights"] = _bytes(weights)
        sizes["gradients"] = _bytes(weight.grad for weight in weights)
        result = step(optimizer, *args, **kwargs)
        sizes["optimizer"] = _bytes(value for state in optimizer.state.values() for value in state.values())
        sizes["activations"] = kept.peak_bytes
        path = Path(os.environ["NEMOPERF_RUN_DIR"]) / f"memory-rank{os.environ['RANK']}.json"
        path.write_text(json.dumps(sizes))
        return result

    with (
        mock.patch.object(torch.optim.AdamW, "step", probed),
        saved_tensors_hooks(kept.hold, lambda held: held.tensor),
    ):
        entry.main()


class KeptActivations:
    """The storages autograd keeps for backward, weights apart, and the most that were there at once."""

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._bytes = 0
        self._holders: Counter[int] = Counter()

    def hold(self, tensor: Tensor) -> Held:
        """Count a tensor's storage until autograd lets go of it."""
        base = tensor._base if tensor._base is not None else tensor
        storage = tensor.untyped_storage()
        key = 0 if isinstance(base, nn.Parameter) else storage.data_ptr()
        if key and not self._holders[key]:
            self._bytes += storage.nbytes()
            self.peak_bytes = max(self.peak_bytes, self._bytes)
        self._holders[key] += 1
        return Held(tensor, kept=self, key=key)

    def release(self, key: int, *, num_bytes: int) -> None:
        """Take a holder back."""
        self._holders[key] -= 1
        if key and not self._holders[key]:
            self._bytes -= num_bytes


class Held:
    """Handle of a saved tensor in the autograd graph."""

    def __init__(self, tensor: Tensor, *, kept: KeptActivations, key: int) -> None:
        self.tensor = tensor
        self._kept = kept
        self._key = key
        self._num_bytes = tensor.untyped_storage().nbytes()

    def __del__(self) -> None:
        self._kept.release(self._key, num_bytes=self._num_bytes)


def _bytes(tensors: Iterable[Tensor | None]) -> int:
    """Return the bytes of the storages behind tensors, each counted once."""
    storages = {}
    for tensor in tensors:
        if tensor is not None:
            local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
            storage = local.untyped_storage()
            storages[storage.data_ptr(), storage.nbytes()] = storage.nbytes()
    return sum(storages.values())
