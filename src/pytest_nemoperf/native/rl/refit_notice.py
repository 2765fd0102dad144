"""Notice from training to generating ranks that weights are about to be sent, with their version."""

from __future__ import annotations

from collections import deque

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup


class RefitNotice:
    """Sends and receives notices, so that generating ranks time the wait for weights apart from their transfer.

    Args:
        group: All ranks of the run, for nothing but this.
        device: Device of this rank.
    """

    def __init__(self, group: ProcessGroup | None, *, device: torch.device) -> None:
        self._group = group
        self._device = device
        self._in_flight: deque[tuple[dist.Work | None, Tensor]] = deque()

    def send(self, version: int) -> None:
        """Start sending the version of the weights, without waiting; on every rank that trains."""
        version_1 = version_tensor(version, device=self._device)
        work = dist.broadcast(version_1, 0, group=self._group, async_op=True)
        self._in_flight.append((work, version_1))

    def receive(self) -> Tensor:
        """Wait for a notice and return its version, int32 of shape (1,); on every rank that generates."""
        version_1 = version_tensor(0, device=self._device)
        dist.broadcast(version_1, 0, group=self._group)
        return version_1

    def finish(self) -> None:
        """Wait until all notices have arrived."""
        while self._in_flight:
            work, _ = self._in_flight.popleft()
            if work is not None:
                work.wait()


def version_tensor(version: int, *, device: torch.device) -> Tensor:
    """Return a version as int32 of shape (1,); it stays on the device, so that no host waits for it."""
    return torch.full((1,), version, dtype=torch.int32, device=device)
