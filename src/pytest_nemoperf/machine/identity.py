"""This machine: its GPUs, its system, and the key that identifies it. Needs no torch."""

from __future__ import annotations

import hashlib
import importlib
import os
import platform
import shlex
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Final, Literal

import psutil

from pytest_nemoperf.errors import MachineError, PlanError, count_text
from pytest_nemoperf.machine.git import CodeVersion
from pytest_nemoperf.machine.gpus import installed_gpus, settings_of, topology_of, visible_gpus
from pytest_nemoperf.machine.processor import available_cores, cpu_model, cpu_topology, host_settings
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.recipes.systems import System, find_system, match_device
from pytest_nemoperf.records.machine_key import key_of_case
from pytest_nemoperf.records.provenance import Provenance

_MAX_CPU_RANKS = 64
"""Maximum ranks on a CPU: ranks beyond its cores only run slower, but more than this are a mistake in the layout."""

_BYTES_PER_GIB = 2**30
_GPU_MEMORY_CLASS_GIB = 20  # drivers reserve one or two GiB more or less; no known GPU is near a border
DISTRIBUTIONS: Final = (
    "pytest-nemoperf",
    "pytest",
    "torch",
    "triton",
    "numpy",
    "transformer-engine",
    "transformer-engine-torch",
    "flash-attn",
    "transformers",
    "vllm",
    "megatron-core",
    "nemo-automodel",
    "nemo-rl",
    "accelerate",
    "deepspeed",
    "lightning",
    "megatron-bridge",
    "pytorch-lightning",
    "torchtitan",
    "trl",
    "wandb",
)
"""Distributions whose versions are recorded with a measurement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Devices:
    """Devices of this machine that a run can use.

    Attributes:
        kind: ``cuda`` if any GPU is visible.
        names: Name of each visible GPU, as the driver reports it.
        memory_bytes: Memory of each visible GPU.
        driver: NVIDIA driver version; empty without one.
        num_hidden: Number of GPUs that CUDA_VISIBLE_DEVICES hides.
        driver_error: Error of an installed driver that does not answer, else empty.
        topology: Links between the machine's GPUs, hidden ones included, e.g. ``NV18``; empty for one GPU.
        first_topologies: Links among the first two visible GPUs, the first three, and so on up to all.
        settings: Clocks and power caps of the visible GPUs, by name.
    """

    kind: Literal["cuda", "cpu"]
    names: tuple[str, ...] = ()
    memory_bytes: tuple[int, ...] = ()
    driver: str = ""
    num_hidden: int = 0
    driver_error: str = ""
    topology: str = ""
    first_topologies: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)

    def topology_among(self, num_gpus: int) -> str:
        """Return the links among the GPUs that a case of so many runs on: the first visible ones, or all of a host."""
        if 1 < num_gpus <= len(self.first_topologies) + 1:
            return self.first_topologies[num_gpus - 2]
        return self.topology


def detect_devices() -> Devices:
    """Query the driver for the GPUs that CUDA_VISIBLE_DEVICES leaves visible; none without a driver."""
    nvml = importlib.import_module("pynvml")
    try:
        nvml.nvmlInit()
    except (nvml.NVMLError_LibraryNotFound, nvml.NVMLError_DriverNotLoaded):
        return Devices(kind="cpu")
    except nvml.NVMLError as exc:
        return Devices(kind="cpu", driver_error=str(exc))
    try:
        driver = nvml.nvmlSystemGetDriverVersion()
        installed = installed_gpus(nvml)
        visible = list(visible_gpus(installed, selection=os.environ.get("CUDA_VISIBLE_DEVICES")))
        topology = topology_of(nvml, gpus=installed)
        first_topologies = tuple(topology_of(nvml, gpus=visible[:count]) for count in range(2, len(visible) + 1))
        settings = settings_of(nvml, gpus=visible)
    except nvml.NVMLError as exc:
        return Devices(kind="cpu", driver_error=str(exc))
    finally:
        nvml.nvmlShutdown()
    return Devices(
        kind="cuda" if visible else "cpu",
        names=tuple(gpu.name for gpu in visible),
        memory_bytes=tuple(gpu.memory_bytes for gpu in visible),
        driver=driver,
        num_hidden=max(0, len(installed) - len(visible)),
        topology=topology,
        first_topologies=first_topologies,
        settings=settings,
    )


def choose_system(requested: str, *, devices: Devices) -> System:
    """Return the system that this machine is, or was requested to be.

    Args:
        requested: Value of ``--system``: a system's name, or ``auto``.
        devices: Devices of this machine.

    Raises:
        RecipeError: If the catalog has no such system.
        MachineError: If this machine is another system, or ``auto`` finds none.
    """
    if requested == "auto" and not devices.names and not devices.driver_error:
        return find_system("cpu")
    system = None if requested == "auto" else find_system(requested)
    if system is not None and system.device == "cpu":
        return system
    found = match_device(devices.names[0]) if devices.names else None
    if found is not None and len(set(devices.names)) == 1 and requested in ("auto", found.name):
        return found
    raise MachineError(f"--system={requested} but {describe_devices(devices)}; {_advice(devices, found=found)}")


def check_capacity(plan: Plan, *, devices: Devices) -> None:
    """Check that this machine has enough devices for all ranks of a plan.

    Raises:
        PlanError: If it has not.
    """
    ranks = plan.layout.total_gpus
    if plan.device == "cuda" and ranks > len(devices.names):
        raise PlanError(
            f"{plan.case} needs {count_text(ranks, 'GPU')} on {count_text(plan.num_nodes, 'node')}, "
            f"but {describe_devices(devices)}; "
            f"use a layout of at most {count_text(len(devices.names), 'GPU')}, or deselect the case"
        )
    if plan.device == "cpu" and ranks > _MAX_CPU_RANKS:
        raise PlanError(f"{plan.case} needs {ranks} ranks; on a CPU at most {_MAX_CPU_RANKS} run; use fewer gpus")


def host_memory_bytes() -> int:
    """Return the memory size of this host."""
    return int(psutil.virtual_memory().total)


def machine_key(
    system: System, *, devices: Devices, num_gpus: int | None = None, machine_name: str = ""
) -> dict[str, str | int]:
    """Return the properties that two machines must share for their measurements of a case to be comparable.

    A GPU system is a class of machines, so the GPU's name and memory are enough for a case of one GPU, and the links
    among its GPUs for a larger one; see key_of_case. CPU machines differ in more than can be listed: their key also
    holds a digest of the host name, unless they are named as a pool.

    Args:
        system: System of this session.
        devices: Devices of this machine.
        num_gpus: GPUs of the case; None for the whole machine, as a session's results describe it.
        machine_name: Name of a pool of identical machines (ini key ``perf_machine``).
    """
    key: dict[str, str | int] = {}
    if machine_name:
        key["machine"] = machine_name
    if system.device == "cuda":
        key["device"] = devices.names[0]
        key["memory_gib"] = memory_class_gib(devices.memory_bytes[0] / _BYTES_PER_GIB)
        key["gpus"] = len(devices.names) + devices.num_hidden
        topology = devices.topology if num_gpus is None else devices.topology_among(num_gpus)
        if topology:
            key["topology"] = topology
        return key if num_gpus is None else key_of_case(key, num_gpus=num_gpus)
    if not machine_name:
        key["host"] = hashlib.sha256(platform.node().encode()).hexdigest()[:12]
    memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return key | {
        "cpu": cpu_model(),
        "cores": available_cores(),
        "memory_gib": round(memory_bytes / _BYTES_PER_GIB),
        "arch": platform.machine(),
        "topology": cpu_topology(),
    }


def memory_class_gib(memory_gib: float) -> int:
    """Return the class of a GPU's memory, which a GiB more or less does not change."""
    return round(memory_gib / _GPU_MEMORY_CLASS_GIB) * _GPU_MEMORY_CLASS_GIB


def provenance(system: System, *, devices: Devices, code: CodeVersion, argv: Sequence[str] | None = None) -> Provenance:
    """Return the origin of this session's numbers: code, software, devices, settings and command.

    Args:
        system: System of this session.
        devices: Devices of this machine.
        code: Version of the code that is measured.
        argv: Command that started the session; None for this process's own.
    """
    program, *arguments = sys.argv if argv is None else argv
    path = Path(program)
    command = path.parent.name if path.name == "__main__.py" else path.name  # python -m pytest
    versions = {"python": platform.python_version(), "platform": platform.platform()}
    versions.update(_installed_versions(DISTRIBUTIONS))
    device = cpu_model()
    driver = ""
    settings = host_settings()
    if system.device == "cuda":
        device = _count(devices.names)
        driver = devices.driver
        settings.update(devices.settings)
    return Provenance(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        git_commit=code.commit,
        git_dirty=code.is_dirty,
        versions=versions,
        device=device,
        driver=driver,
        settings=settings,
        command=shlex.join([command, *arguments]),
    )


def describe_devices(devices: Devices) -> str:
    """Describe the devices in a clause, e.g. ``this machine has 8x NVIDIA B200``."""
    if devices.driver_error:
        return f"the NVIDIA driver can't be asked: {devices.driver_error}"
    if devices.names:
        return f"this machine has {_count(devices.names)}"
    if devices.num_hidden:
        return f"CUDA_VISIBLE_DEVICES hides this machine's {devices.num_hidden} NVIDIA GPU(s)"
    return "this machine has no NVIDIA GPU"


def _advice(devices: Devices, *, found: System | None) -> str:
    if devices.driver_error:
        return "mend the driver (nvidia-smi must work), or use --system=cpu"
    if devices.num_hidden and not devices.names:
        return "change CUDA_VISIBLE_DEVICES, or use --system=cpu"
    if not devices.names:
        return "use --system=cpu, or --system=auto"
    if len(set(devices.names)) > 1:
        return "choose GPUs of one kind with CUDA_VISIBLE_DEVICES, or use --system=cpu"
    if found is None:
        return "no system of the catalog has this GPU; add its name to catalog/systems.json, or use --system=cpu"
    return f"use --system={found.name}, or --system=auto"


def _count(names: Iterable[str]) -> str:
    return " and ".join(f"{count}x {name}" for name, count in Counter(names).items())


def _installed_versions(distributions: Iterable[str]) -> Iterator[tuple[str, str]]:
    for name in distributions:
        try:
            yield name, metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
