"""Rendezvous of the ranks at the store that rank 0, or torchrun's agent, keeps at MASTER_ADDR and MASTER_PORT."""

from __future__ import annotations

import os
import socket
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]  # documented, not in __all__

from pytest_nemoperf.errors import LaunchError
from pytest_nemoperf.process.addresses import interfaces_text

_REACHABLE = (
    "MASTER_ADDR must be an address of rank 0's host that every rank reaches, and MASTER_PORT a free port there"
)


def open_store(*, rank: int, world_size: int, timeout: timedelta) -> Store:
    """Return the store of the run, once this rank has opened or reached it.

    Args:
        rank: Rank in the run.
        world_size: Ranks of the run.
        timeout: Limit of this and of each later wait for a key.

    Raises:
        LaunchError: If it can't; the text says what was tried.
    """
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    # Under torchrun the agent of the first node keeps the store: https://docs.pytorch.org/docs/stable/elastic/run.html
    is_keeper = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != str(True)
    try:
        return TCPStore(address, port, world_size, is_master=is_keeper, timeout=timeout, wait_for_workers=False)
    except (RuntimeError, ValueError) as error:
        tried = "open the store of the run" if is_keeper else "reach the store of the run"
        raise LaunchError(
            f"rank {rank} of {world_size} could not {tried} at MASTER_ADDR={address} MASTER_PORT={port}"
            f"{_resolved(address)}: {first_line(error)}; {_REACHABLE}"
        ) from error


def join_group(
    backend: str, *, store: Store, rank: int, world_size: int, device: torch.device, timeout: timedelta
) -> None:
    """Join the default process group, of all ranks.

    Args:
        backend: ``nccl`` or ``gloo``.
        store: Store of the run.
        rank: Rank in the run.
        world_size: Ranks of the run.
        device: Device of this rank.
        timeout: Timeout of collectives.

    Raises:
        LaunchError: If the ranks can't connect; the text says what was tried.
    """
    try:
        dist.init_process_group(
            backend,
            store=PrefixStore("default_pg", store),  # keys of its own beside those of the notice of failures
            rank=rank,
            world_size=world_size,
            timeout=timeout,
            device_id=device if device.type == "cuda" else None,
        )
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise LaunchError(
            f"rank {rank} of {world_size} could not join the others over {backend}: {first_line(error)}; "
            f"{_connections_text()}"
        ) from error


def _connections_text() -> str:
    """Return the facts that choose the addresses of process groups."""
    chosen = []
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        chosen.append(f"{name}={os.environ[name]}" if os.environ.get(name) else f"{name} is not set")
    host = socket.gethostname()
    return (
        f"this host is {host}{_resolved(host)}, its interfaces are {interfaces_text()}, and {' and '.join(chosen)}: "
        "set it to the interface by which the ranks reach each other"
    )


def first_line(error: Exception) -> str:
    """Return an error's first line, without the C++ frames that torch adds."""
    return str(error).partition("\n")[0]


def _resolved(name: str) -> str:
    """Return the addresses of a name in brackets; empty for an address."""
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)}
    except OSError as error:
        return f" (which does not resolve: {error.strerror})"
    found.discard(name)
    return f" (which is {', '.join(sorted(found))})" if found else ""
