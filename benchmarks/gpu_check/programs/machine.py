"""Facts of the machine: devices, libraries, settings, and what the later stages need."""

from __future__ import annotations

import importlib
import os
import platform
import sys
from importlib import metadata
from pathlib import Path

from gpu_check.findings import Findings
from gpu_check.programs.program import Context, run_program
from gpu_check.programs.sessions import plugin_options
from pytest_nemoperf.machine.identity import (
    DISTRIBUTIONS,
    detect_devices,
    host_memory_bytes,
    machine_key,
)
from pytest_nemoperf.machine.processor import available_cores, cpu_model, host_settings
from pytest_nemoperf.recipes.systems import find_system
from pytest_nemoperf.records.fingerprint import watched_variables

_GIB = 2**30
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 (where NCCL and gloo keep buffers; nothing is written)


def examine(context: Context, findings: Findings) -> None:
    """Write down the fingerprint, and try torch on the device."""
    devices = detect_devices()
    system = find_system(context.system)
    facts = findings.table("Machine", ["fact", "value"])
    facts.add("system", context.system)
    facts.add("GPUs", ", ".join(devices.names) or "none")
    facts.add("driver", devices.driver or "none")
    facts.add("key", ", ".join(f"{name}={value}" for name, value in machine_key(system, devices=devices).items()))
    facts.add("processor", f"{cpu_model()}, {available_cores()} cores")
    facts.add("host memory", f"{host_memory_bytes() / _GIB:.0f} GiB")
    shared = os.statvfs(_SHARED_MEMORY)
    facts.add(str(_SHARED_MEMORY), f"{shared.f_bavail * shared.f_frsize / _GIB:.1f} GiB free")
    facts.add("python", f"{platform.python_version()}, {sys.executable}")
    facts.add("plugin", "from the path" if plugin_options() else "installed")
    _add_settings(findings, settings={**host_settings(), **devices.settings, **watched_variables(os.environ)})
    _add_packages(findings)
    _add_torch(context, findings)


def _add_settings(findings: Findings, *, settings: dict[str, str]) -> None:
    table = findings.table("Settings and variables that may change the speed", ["name", "value"])
    for name, value in sorted(settings.items()):
        table.add(name, value)


def _add_packages(findings: Findings) -> None:
    table = findings.table("Packages", ["package", "version"])
    for name in (*DISTRIBUTIONS, "pytest-benchmark", "nvidia-ml-py"):
        try:
            table.add(name, metadata.version(name))
        except metadata.PackageNotFoundError:
            table.add(name, "not installed")


def _add_torch(context: Context, findings: Findings) -> None:
    torch = importlib.import_module("torch")
    table = findings.table("torch", ["fact", "value"])
    table.add("torch", str(torch.__version__))
    table.add("CUDA", str(torch.version.cuda))
    if context.is_cpu:
        table.add("processor's instructions", torch.backends.cpu.get_cpu_capability())
        return
    if not torch.cuda.is_available():
        findings.problems.append(
            f"torch {torch.__version__} sees no GPU; install a build for CUDA that the driver runs"
        )
        return
    table.add("capability", ".".join(map(str, torch.cuda.get_device_capability())))
    table.add("cuDNN", str(torch.backends.cudnn.version()))
    table.add("NCCL", ".".join(map(str, torch.cuda.nccl.version())))
    free, total = torch.cuda.mem_get_info()
    table.add("memory free", f"{free / _GIB:.1f} of {total / _GIB:.1f} GiB")
    if free < 0.95 * total:
        findings.problems.append(
            f"{(total - free) / _GIB:.1f} GiB of the GPU's memory are taken by others; end what else runs on it"
        )


if __name__ == "__main__":
    sys.exit(run_program(examine))
