from __future__ import annotations

import re

import pytest

from pytest_nemoperf.errors import MachineError
from pytest_nemoperf.machine.identity import Devices, machine_key
from pytest_nemoperf.machine.stated import stated_key
from pytest_nemoperf.recipes.systems import find_system, system_catalog
from tests.machine.fake_nvml import GIB

REPORTED_GIB = {
    "NVIDIA H100 80GB HBM3": 79.6,
    "NVIDIA H200": 140.4,
    "NVIDIA B200": 179.1,
    "NVIDIA GB200": 185.0,
    "NVIDIA A100-SXM4-80GB": 80.0,
}
"""Memory as drivers report it."""


def key_of(system: str, *texts: str, num_gpus: int = 8) -> dict[str, str | int]:
    return stated_key(find_system(system), num_gpus=num_gpus, texts=texts, option="--machine")


@pytest.mark.parametrize("name", ["h100", "h200", "b200", "gb200", "a100"])
def test_a_stated_gpu_machine_has_the_key_that_such_a_machine_reports(name: str) -> None:
    system = find_system(name)
    (device,) = system.device_names
    num_gpus = system.gpus_per_node or 0
    memory_bytes = round(REPORTED_GIB[device] * GIB)
    devices = Devices(kind="cuda", names=(device,) * num_gpus, memory_bytes=(memory_bytes,) * num_gpus, topology="NV18")

    for size in (1, 2, num_gpus, 2 * num_gpus):
        stated = key_of(name, "topology=NV18", num_gpus=size)

        assert stated == machine_key(system, devices=devices, num_gpus=size)


def test_links_between_gpus_are_left_out_unless_they_are_stated() -> None:
    assert key_of("h100") == {"device": "NVIDIA H100 80GB HBM3", "memory_gib": 80}
    assert key_of("h100", num_gpus=16) == {"device": "NVIDIA H100 80GB HBM3", "memory_gib": 80, "gpus": 8}


def test_what_is_stated_wins_over_the_catalog() -> None:
    key = key_of("h100", "east pool", "gpus=4", "memory_gib= 100")

    assert key == {"machine": "east pool", "device": "NVIDIA H100 80GB HBM3", "memory_gib": 100, "gpus": 4}


def test_a_named_cpu_machine_has_its_name_for_a_key() -> None:
    assert key_of("cpu", "laptop") == {"machine": "laptop"}
    assert key_of("cpu", "machine=pool=east") == {"machine": "pool=east"}
    assert key_of("cpu", "host=abc", "cores=2") == {"host": "abc", "cores": 2}


@pytest.mark.parametrize("name", [name for name, system in system_catalog().items() if len(system.device_names) > 1])
def test_of_several_gpus_the_one_must_be_stated(name: str) -> None:
    device = find_system(name).device_names[-1]

    with pytest.raises(MachineError, match=rf"--machine device=NAME missing: .*{re.escape(repr(device))}; say which"):
        key_of(name)
    assert key_of(name, f"device={device}")["device"] == device


@pytest.mark.parametrize(
    ("system", "texts", "problem"),
    [
        ("cpu", (), "--machine missing: a log does not say which machine it is of"),
        ("cpu", ("cores=2",), "give it a name, --machine NAME"),
        ("h100", ("cores=2",), "'cores' is no part of a machine's key; known: device, gpus, machine"),
        ("h100", ("gpu=2",), "did you mean gpus?"),
        ("h100", ("gpus=all",), "--machine='gpus=all' must be a whole number >= 1"),
        ("h100", ("gpus=0",), "must be a whole number >= 1"),
        ("h100", ("topology=",), "states nothing"),
        ("h100", ("",), "states nothing"),
        ("cpu", ("laptop", "desktop"), "machine is 'laptop' already; give it once"),
    ],
)
def test_an_impossible_part_is_named(system: str, texts: tuple[str, ...], problem: str) -> None:
    with pytest.raises(MachineError, match=re.escape(problem)):
        key_of(system, *texts)
