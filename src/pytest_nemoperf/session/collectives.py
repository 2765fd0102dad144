"""Collective that a test asks for, on the system of the session."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pytest_nemoperf.errors import NoLayoutError, PlanError, RecipeError, UnsupportedError, count_text, shown
from pytest_nemoperf.machine import identity
from pytest_nemoperf.options.settings import Settings
from pytest_nemoperf.recipes.systems import find_system
from pytest_nemoperf.records.collective import Collective, make_collective
from pytest_nemoperf.report.cells import bytes_text

_TIMEOUT_SEC: Final = 120.0  # the calls take seconds; NCCL on a busy node takes most of a minute to start


def collective_of(
    kind: str,
    *,
    gpus: Mapping[str, int],
    size_mib: float | Mapping[str, float],
    dtype: str | None,
    settings: Settings,
) -> Collective:
    """Return the collective that a test asks for on this system.

    Raises:
        NoLayoutError: If it names no number of ranks for the system.
        PlanError: If the ranks are too few, or more than may be on a node.
        RecipeError: If the kind or a system is unknown, or a size impossible.
    """
    system = settings.system
    if not isinstance(gpus, Mapping):
        raise RecipeError(f"gpus={shown(gpus)} of a collective must be ranks by system, e.g. {{'h100': 8, 'cpu': 2}}")
    for name in gpus:
        find_system(name)  # a slip of a name would skip the test for good
    if system.name not in gpus:
        known = ", ".join(sorted(gpus)) or "none"
        raise NoLayoutError(f"the collective {kind} has no gpus for system {system.name}; it has them for {known}")
    if isinstance(size_mib, Mapping):
        if system.name not in size_mib:
            raise RecipeError(
                f"size_mib={shown(size_mib)} of a collective lacks the system {system.name!r} of its gpus"
            )
        size_mib = size_mib[system.name]
    if dtype is None:
        dtype = "bf16" if system.device == "cuda" else "fp32"
    return make_collective(
        kind,
        num_gpus=gpus[system.name],
        size_mib=size_mib,
        dtype=dtype,
        device=system.device,
        timeout_sec=settings.timeout_sec or _TIMEOUT_SEC,
        inject_pct=settings.inject_pct,
    )


def check_devices(collective: Collective, *, settings: Settings) -> None:
    """Check that this machine has a GPU for each rank, or memory for ranks on a CPU.

    Raises:
        PlanError: If the messages of all ranks don't fit into the memory of a CPU.
        UnsupportedError: If there are fewer GPUs than ranks.
    """
    num_visible = len(settings.devices.names)
    if collective.device == "cuda" and collective.num_gpus > num_visible:
        raise UnsupportedError(
            f"a collective over {count_text(collective.num_gpus, 'GPU')} needs them on this node, but "
            f"{identity.describe_devices(settings.devices)}"
        )
    there = identity.host_memory_bytes()
    if collective.device == "cpu" and collective.host_bytes > there:
        raise PlanError(
            f"{collective.case}: its ranks need about {bytes_text(collective.host_bytes)}, and this host has "
            f"{bytes_text(there)}; lower size_mib or gpus"
        )
