"""Collective that a test asks for, on the session's system."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pytest_nemoperf.errors import NoLayoutError, PlanError, RecipeError, UnsupportedError
from pytest_nemoperf.machine.identity import Devices
from pytest_nemoperf.recipes.systems import find_system
from pytest_nemoperf.session.collectives import check_devices, collective_of


def settings(system: str, *, num_gpus: int = 0, timeout_sec: float | None = None) -> Any:
    names = ("NVIDIA H100 80GB HBM3",) * num_gpus
    return SimpleNamespace(
        system=find_system(system),
        devices=Devices(kind="cuda" if num_gpus else "cpu", names=names),
        timeout_sec=timeout_sec,
        inject_pct=0.0,
    )


def test_ranks_and_message_are_those_of_the_system() -> None:
    sizes = {"cpu": 4, "h100": 512}

    on_cpu = collective_of("all_gather", gpus={"cpu": 2}, size_mib=sizes, dtype=None, settings=settings("cpu"))
    on_gpus = collective_of("all_gather", gpus={"h100": 8}, size_mib=sizes, dtype=None, settings=settings("h100"))

    assert (on_cpu.case, on_cpu.device) == ("collective-all_gather-1n2g-fp32-4mib", "cpu")
    assert (on_gpus.case, on_gpus.device) == ("collective-all_gather-1n8g-bf16-512mib", "cuda")


def test_the_time_limit_is_that_of_the_session() -> None:
    given = collective_of(
        "send_recv", gpus={"cpu": 2}, size_mib=1, dtype="bf16", settings=settings("cpu", timeout_sec=7.0)
    )

    assert given.timeout_sec == 7.0


def test_a_system_without_gpus_of_it_skips() -> None:
    with pytest.raises(NoLayoutError, match="all_reduce has no gpus for system cpu; it has them for b200, h100"):
        collective_of("all_reduce", gpus={"h100": 8, "b200": 8}, size_mib=1, dtype=None, settings=settings("cpu"))


def test_sizes_by_system_need_this_one() -> None:
    with pytest.raises(RecipeError, match="lacks the system 'cpu' of its gpus"):
        collective_of("all_reduce", gpus={"cpu": 2}, size_mib={"h100": 1}, dtype=None, settings=settings("cpu"))


def test_gpus_are_ranks_by_system() -> None:
    anything: Any = 8
    with pytest.raises(RecipeError, match="gpus=8 of a collective must be ranks by system"):
        collective_of("all_reduce", gpus=anything, size_mib=1, dtype=None, settings=settings("cpu"))


def test_fewer_gpus_than_ranks_skip_in_words() -> None:
    one = settings("h100", num_gpus=1)
    collective = collective_of("all_reduce", gpus={"h100": 8}, size_mib=1, dtype=None, settings=one)

    with pytest.raises(UnsupportedError, match="over 8 GPUs needs them on this node, but this machine has 1x NVIDIA"):
        check_devices(collective, settings=one)
    check_devices(collective, settings=settings("h100", num_gpus=8))


@pytest.mark.parametrize("name", ["cup", 1])
def test_a_slip_of_a_system_is_no_reason_to_skip(name: Any) -> None:
    with pytest.raises(RecipeError, match="unknown system"):
        collective_of("all_reduce", gpus={name: 2}, size_mib=1, dtype=None, settings=settings("cpu"))


def test_messages_beyond_the_memory_of_the_host_are_refused() -> None:
    collective = collective_of("all_reduce", gpus={"cpu": 64}, size_mib=2**16, dtype=None, settings=settings("cpu"))

    with pytest.raises(PlanError, match=r"need about 12 TiB, and this host has .*; lower size_mib or gpus"):
        check_devices(collective, settings=settings("cpu"))
