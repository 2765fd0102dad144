from __future__ import annotations

from dataclasses import replace

import pynvml
import pytest

from pytest_nemoperf.errors import MachineError, PlanError, RecipeError
from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.machine.identity import (
    _MAX_CPU_RANKS,
    Devices,
    check_capacity,
    choose_system,
    detect_devices,
    machine_key,
)
from pytest_nemoperf.recipes.recipe import Plan, Recipe
from pytest_nemoperf.recipes.resolve import resolve
from pytest_nemoperf.recipes.systems import find_system
from tests.machine.fake_nvml import GIB, H100_NAME, FakeNvml, install

B200S = Devices(kind="cuda", names=("NVIDIA B200",) * 8, memory_bytes=(179 * GIB,) * 8, driver="580.1")
NO_GPU = Devices(kind="cpu")


def _plan(layout: Layout, *, system: str) -> Plan:
    recipe = Recipe(model="llama-tiny", layouts={system: layout}, seq_len=128, global_batch_size=layout.dp)
    return resolve(recipe, system=find_system(system))


def test_every_gpu_is_found_and_the_driver_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeNvml()
    install(monkeypatch, fake)

    devices = detect_devices()

    assert devices == Devices(
        kind="cuda",
        names=(H100_NAME,) * 2,
        memory_bytes=(80 * GIB,) * 2,
        driver="570.86.15",
        topology="SYS",
        first_topologies=("SYS",),
        settings={"gpu.max_sm_clock_mhz": "1980", "gpu.max_memory_clock_mhz": "2619", "gpu.power_cap_w": "700"},
    )
    assert fake.num_open == 0


@pytest.mark.parametrize(
    ("fake", "topology"),
    [
        pytest.param(FakeNvml(num_links=18), "NV18", id="nvlink"),
        pytest.param(FakeNvml(level=pynvml.NVML_TOPOLOGY_SINGLE), "PIX", id="one bridge"),
        pytest.param(FakeNvml(level=pynvml.NVML_TOPOLOGY_NODE), "NODE", id="one NUMA node"),
        pytest.param(FakeNvml(names=[H100_NAME], num_links=18), "", id="one GPU has no peers"),
    ],
)
@pytest.mark.parametrize("visible", [None, "0"], ids=["all", "one visible"])
def test_links_between_the_gpus_are_part_of_the_machine_even_if_some_are_hidden(
    monkeypatch: pytest.MonkeyPatch, fake: FakeNvml, topology: str, visible: str | None
) -> None:
    install(monkeypatch, fake, visible=visible)

    devices = detect_devices()

    assert devices.topology == topology
    assert machine_key(find_system("h100"), devices=devices, num_gpus=2).get("topology", "") == topology


def test_a_case_of_one_gpu_is_of_the_same_machine_in_every_host_with_that_card(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = []
    for fake in (FakeNvml(names=[H100_NAME]), FakeNvml(names=[H100_NAME] * 8, num_links=18), FakeNvml()):
        install(monkeypatch, fake)
        keys.append(machine_key(find_system("h100"), devices=detect_devices(), num_gpus=1))

    assert keys == [{"device": H100_NAME, "memory_gib": 80}] * 3


@pytest.mark.parametrize(
    ("num_gpus", "topology"),
    [(2, "PIX"), (3, "PXB"), (4, "SYS"), (5, "SYS")],
    ids=["pair", "three", "all", "two hosts"],
)
def test_the_links_among_the_gpus_of_a_case_count_and_not_those_of_the_others(num_gpus: int, topology: str) -> None:
    devices = Devices(
        kind="cuda",
        names=(H100_NAME,) * 4,
        memory_bytes=(80 * GIB,) * 4,
        topology="SYS",
        first_topologies=("PIX", "PXB", "SYS"),
    )

    key = machine_key(find_system("h100"), devices=devices, num_gpus=num_gpus)

    assert key["topology"] == topology
    assert ("gpus" in key) == (num_gpus > 4)


def test_the_links_among_the_first_gpus_are_asked_of_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeNvml(names=[H100_NAME] * 3, level=pynvml.NVML_TOPOLOGY_SINGLE)
    install(monkeypatch, fake, visible="1,2")

    assert detect_devices().first_topologies == ("PIX",)


@pytest.mark.parametrize("error", [pynvml.NVMLError_LibraryNotFound, pynvml.NVMLError_DriverNotLoaded])
def test_no_driver_means_a_cpu(monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
    install(monkeypatch, FakeNvml(errors={"nvmlInit": error}))

    assert detect_devices() == Devices(kind="cpu")


@pytest.mark.parametrize("call", ["nvmlInit", "nvmlSystemGetDriverVersion"])
def test_a_broken_driver_is_not_taken_for_a_cpu(monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    install(monkeypatch, FakeNvml(errors={call: pynvml.NVMLError_LibRmVersionMismatch}))

    devices = detect_devices()

    with pytest.raises(MachineError, match=r"--system=auto but the NVIDIA driver can't be asked: .*mismatch.*; mend"):
        choose_system("auto", devices=devices)
    assert choose_system("cpu", devices=devices).name == "cpu"


@pytest.mark.parametrize(
    ("visible", "indices"),
    [
        pytest.param("", [], id="none"),
        pytest.param("-1", [], id="minus one"),
        pytest.param("NoDevFiles", [], id="a word"),
        pytest.param("2", [2], id="one index"),
        pytest.param("3,1", [3, 1], id="indices in their order"),
        pytest.param(" 0 , 2 ", [0, 2], id="spaces"),
        pytest.param("0,7,1", [0], id="an unknown index hides what follows"),
        pytest.param("GPU-1aaaa-bbbb", [1], id="identifier"),
        pytest.param("GPU-3,GPU-0", [3, 0], id="beginnings of identifiers"),
        pytest.param("GPU-,0", [], id="an ambiguous identifier hides what follows"),
    ],
)
def test_cuda_visible_devices_chooses(monkeypatch: pytest.MonkeyPatch, visible: str, indices: list[int]) -> None:
    names = [f"GPU number {index}" for index in range(4)]
    install(monkeypatch, FakeNvml(names=names), visible=visible)

    devices = detect_devices()

    assert devices.names == tuple(names[index] for index in indices)
    assert devices.num_hidden == 4 - len(indices)
    assert devices.kind == ("cuda" if indices else "cpu")


def test_a_slice_of_a_gpu_is_not_the_gpu_of_the_catalog(monkeypatch: pytest.MonkeyPatch) -> None:
    for fake, visible in ((FakeNvml(mig=True), None), (FakeNvml(), "MIG-1234")):
        install(monkeypatch, fake, visible=visible)
        with pytest.raises(MachineError, match=r"has .*MIG.*; no system of the catalog has this GPU"):
            choose_system("auto", devices=detect_devices())


@pytest.mark.parametrize(
    "errors",
    [
        {"nvmlDeviceGetMigMode": pynvml.NVMLError_NotSupported},
        {"nvmlDeviceGetMemoryInfo": pynvml.NVMLError_NotSupported},
    ],
    ids=["slices", "memory"],
)
def test_what_a_gpu_does_not_support_is_not_a_broken_driver(
    monkeypatch: pytest.MonkeyPatch, errors: dict[str, type[Exception]]
) -> None:
    install(monkeypatch, FakeNvml(errors=errors))

    assert detect_devices().names == (H100_NAME,) * 2


@pytest.mark.parametrize(
    ("requested", "devices", "expected"),
    [
        pytest.param("auto", NO_GPU, "cpu", id="auto without a GPU"),
        pytest.param("auto", B200S, "b200", id="auto with GPUs"),
        pytest.param("b200", B200S, "b200", id="the system it is"),
        pytest.param("cpu", NO_GPU, "cpu", id="cpu without a GPU"),
        pytest.param("cpu", B200S, "cpu", id="cpu in spite of GPUs"),
        pytest.param("auto", Devices(kind="cpu", num_hidden=8), "cpu", id="auto with hidden GPUs"),
    ],
)
def test_the_system_is_chosen(requested: str, devices: Devices, expected: str) -> None:
    assert choose_system(requested, devices=devices).name == expected


@pytest.mark.parametrize(
    ("requested", "devices", "message"),
    [
        pytest.param(
            "h100",
            B200S,
            r"^--system=h100 but this machine has 8x NVIDIA B200; use --system=b200, or --system=auto$",
            id="another GPU",
        ),
        pytest.param(
            "h100",
            NO_GPU,
            r"^--system=h100 but this machine has no NVIDIA GPU; use --system=cpu, or --system=auto$",
            id="no GPU",
        ),
        pytest.param(
            "h100",
            Devices(kind="cpu", num_hidden=8),
            r"CUDA_VISIBLE_DEVICES hides this machine's 8 NVIDIA GPU\(s\); change CUDA_VISIBLE_DEVICES, or",
            id="hidden GPUs",
        ),
        pytest.param(
            "auto",
            Devices(kind="cuda", names=("NVIDIA H100 PCIe",), memory_bytes=(80 * GIB,)),
            r"--system=auto but this machine has 1x NVIDIA H100 PCIe; no system of the catalog has this GPU; add",
            id="unknown GPU",
        ),
        pytest.param(
            "b200",
            Devices(kind="cuda", names=("NVIDIA B200", H100_NAME, "NVIDIA B200"), memory_bytes=(1, 1, 1)),
            r"this machine has 2x NVIDIA B200 and 1x NVIDIA H100 80GB HBM3; choose GPUs of one kind",
            id="mixed GPUs",
        ),
    ],
)
def test_a_system_this_machine_is_not_is_refused(requested: str, devices: Devices, message: str) -> None:
    with pytest.raises(MachineError, match=message):
        choose_system(requested, devices=devices)


def test_an_unknown_system_is_a_mistake_in_the_request() -> None:
    with pytest.raises(RecipeError, match=r"unknown system 'h10'; did you mean h100"):
        choose_system("h10", devices=NO_GPU)


def test_a_layout_larger_than_the_machine_is_refused() -> None:
    plan = _plan(Layout(gpus=16, dp_shard=16), system="b200")

    with pytest.raises(PlanError, match=r"needs 16 GPUs on 2 nodes, but this machine has 8x NVIDIA B200; use"):
        check_capacity(plan, devices=B200S)


def test_a_cpu_runs_more_ranks_than_it_has_cores_up_to_a_limit() -> None:
    check_capacity(_plan(Layout(gpus=_MAX_CPU_RANKS, dp_shard=_MAX_CPU_RANKS), system="cpu"), devices=NO_GPU)

    too_many = 2 * _MAX_CPU_RANKS
    with pytest.raises(PlanError, match=rf"needs {too_many} ranks; on a CPU at most {_MAX_CPU_RANKS} run"):
        check_capacity(_plan(Layout(gpus=too_many, dp_shard=too_many), system="cpu"), devices=NO_GPU)


def test_a_layout_that_fits_is_accepted() -> None:
    check_capacity(_plan(Layout(gpus=8, dp_shard=8), system="b200"), devices=B200S)


def test_a_gpu_machine_is_known_by_its_gpus_alone() -> None:
    key = machine_key(find_system("b200"), devices=B200S)

    assert key == {"device": "NVIDIA B200", "memory_gib": 180, "gpus": 8}


def test_hiding_gpus_or_another_driver_does_not_make_another_machine() -> None:
    hidden = replace(B200S, names=B200S.names[:2], num_hidden=6, memory_bytes=(178 * GIB,) * 2, driver="590.2")

    assert machine_key(find_system("b200"), devices=hidden) == machine_key(find_system("b200"), devices=B200S)


def test_a_cpu_machine_is_known_by_its_host_without_naming_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.node", lambda: "secret-host")
    key = machine_key(find_system("cpu"), devices=NO_GPU)
    monkeypatch.setattr("platform.node", lambda: "other-host")
    other = machine_key(find_system("cpu"), devices=NO_GPU)

    assert set(key) == {"host", "cpu", "cores", "memory_gib", "arch", "topology"}
    assert "secret" not in str(key)
    assert len(str(key["host"])) == 12
    assert key["host"] != other["host"]


def test_a_pool_of_identical_machines_goes_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = []
    for host in ("one", "two"):
        monkeypatch.setattr("platform.node", lambda host=host: host)
        keys.append(machine_key(find_system("cpu"), devices=NO_GPU, machine_name="ci-large"))

    assert keys[0] == keys[1]
    assert keys[0]["machine"] == "ci-large"
    assert "host" not in keys[0]
