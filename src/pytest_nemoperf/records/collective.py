"""Collectives that ranks time: kind, ranks and message, and the times of their calls.

Sizes and factors are those of nccl-tests, so that bandwidths compare with what others publish.

References:
    https://github.com/NVIDIA/nccl-tests/blob/master/doc/PERFORMANCE.md
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final, Literal

from pytest_nemoperf.errors import PlanError, RecipeError, count_text, did_you_mean, enum_member, shown
from pytest_nemoperf.records.figures import Amount, Positive, Size

COLLECTIVE: Final = "collective"
"""Kind of workload."""
COLLECTIVE_FILE: Final = "collective.json"
CALLS_FILE: Final = "calls.json"
ITEM_BYTES: Final = MappingProxyType({"fp32": 4, "bf16": 2})
"""Bytes of a number by type of numbers."""
_MIN_RANKS: Final = 2
MAX_RANKS: Final = 64
"""Ranks of one node; more on a CPU would wait for each other alone."""
_MAX_MIB: Final = 2**16


class CollectiveKind(StrEnum):
    """Collective, named as torch.distributed and nccl-tests name it."""

    ALL_REDUCE = "all_reduce"
    ALL_GATHER = "all_gather"
    REDUCE_SCATTER = "reduce_scatter"
    ALL_TO_ALL = "all_to_all"
    SEND_RECV = "send_recv"


@dataclass(frozen=True, slots=True, kw_only=True)
class Collective:
    """One collective over ranks of one node; ``collective.json`` of a run directory.

    Attributes:
        kind: The collective; ``send_recv`` sends to the next rank and receives from the one before, in a ring.
        num_gpus: Number of ranks.
        size_bytes: Bytes of the message, as nccl-tests counts it: of an all-reduce and of a send what each rank has, of
            an all-gather, a reduce-scatter and an all-to-all the parts of all ranks together.
        dtype: Type of numbers: ``fp32`` or ``bf16``.
        device: ``cuda`` for NCCL, ``cpu`` for gloo.
        timeout_sec: Time limit of a launch.
        inject_pct: Self-test delay of each call, percent.
    """

    kind: CollectiveKind
    num_gpus: Size
    size_bytes: Size
    dtype: str
    device: Literal["cuda", "cpu"]
    timeout_sec: Positive
    inject_pct: Amount = 0.0
    schema_version: Literal[1] = 1

    @property
    def case(self) -> str:
        """Case id: ``collective-all_reduce-1n8g-bf16-512mib``."""
        size = f"{self.size_bytes}b"
        if self.size_bytes % 2**20 == 0:
            size = f"{self.size_bytes // 2**20}mib"
        return f"collective-{self.kind}-1n{self.num_gpus}g-{self.dtype}-{size}"

    @property
    def num_items(self) -> int:
        """Numbers of the message."""
        return self.size_bytes // ITEM_BYTES[self.dtype]

    @property
    def host_bytes(self) -> int:
        """Bytes that its ranks allocate together at most: a message each, one to receive into, a part to send."""
        return 3 * self.size_bytes * self.num_gpus

    @property
    def bus_factor(self) -> float:
        """Bytes that cross the busiest link for each byte of the message: the bus bandwidth over the algorithm's."""
        others = (self.num_gpus - 1) / self.num_gpus
        match self.kind:
            case CollectiveKind.ALL_REDUCE:
                return 2 * others
            case CollectiveKind.SEND_RECV:
                return 1.0
            case CollectiveKind.ALL_GATHER | CollectiveKind.REDUCE_SCATTER | CollectiveKind.ALL_TO_ALL:
                return others

    @property
    def workload(self) -> dict[str, Any]:
        """Workload: two measurements compare only if it is equal."""
        return {
            "workload": COLLECTIVE,
            "collective": self.kind.value,
            "num_gpus": self.num_gpus,
            "size_bytes": self.size_bytes,
            "dtype": self.dtype,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectiveCalls:
    """Timed calls of a collective; ``calls.json`` of a run directory, written by rank 0.

    Attributes:
        times_sec: Seconds of a call on the slowest rank, one for each group of calls, in their order.
        calls_per_group: Calls between two looks at the clock.
        hosts: Name of each rank's host, by rank.
        environment: Versions and settings inside the ranks.
    """

    times_sec: tuple[Positive, ...]
    calls_per_group: Size
    hosts: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    schema_version: Literal[1] = 1


def make_collective(
    kind: str,
    *,
    num_gpus: int,
    size_mib: float,
    dtype: str,
    device: Literal["cuda", "cpu"],
    timeout_sec: float,
    inject_pct: float = 0.0,
) -> Collective:
    """Return a collective, its message rounded down to equal parts of whole numbers.

    Raises:
        RecipeError: If the kind or the type of numbers is unknown, or a size impossible.
        PlanError: If there are too few ranks, or more than may be on a node.
    """
    member = enum_member(CollectiveKind, kind, subject="collective")
    if dtype not in tuple(ITEM_BYTES):  # a test may give what has no hash
        raise RecipeError(f"dtype={shown(dtype)} of a collective is unknown; {did_you_mean(dtype, ITEM_BYTES)}")
    if type(size_mib) not in (int, float) or not 0 < size_mib <= _MAX_MIB:
        raise RecipeError(f"size_mib={shown(size_mib)} of a collective must be above 0 and at most {_MAX_MIB:,}")
    if type(num_gpus) is not int or not _MIN_RANKS <= num_gpus <= MAX_RANKS:
        raise PlanError(
            f"gpus={shown(num_gpus)} of a collective must be a whole number >= {_MIN_RANKS} and at most {MAX_RANKS}: "
            "its ranks are on one node"
        )
    part_bytes = num_gpus * ITEM_BYTES[dtype]
    size_bytes = int(size_mib * 2**20) // part_bytes * part_bytes
    if not size_bytes:
        raise RecipeError(
            f"size_mib={size_mib:g} of a collective over {count_text(num_gpus, 'rank')} is less than one number of "
            f"{dtype} for each; raise it"
        )
    return Collective(
        kind=member,
        num_gpus=num_gpus,
        size_bytes=size_bytes,
        dtype=dtype,
        device=device,
        timeout_sec=timeout_sec,
        inject_pct=inject_pct,
    )
