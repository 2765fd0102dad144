"""Systems: classes of machines, with peaks, names and sizes from the catalog."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Any, Literal

from pytest_nemoperf.errors import RecipeError, did_you_mean, shown
from pytest_nemoperf.recipes.case_kind import CaseKind


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedNoise:
    """Expected scatter of a kind of case (standard deviations, percent), for baselines of too few runs to show it.

    Attributes:
        run_pct: Of rates and times between launches of a session.
        session_pct: The same between sessions: days, nodes, boots.
        round_pct: The same between rounds of two sides that take turns.
        memory_pct: Of peak memory between launches.
    """

    run_pct: float
    session_pct: float
    round_pct: float
    memory_pct: float


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """One class of machines.

    Attributes:
        name: Short name, as in ``--system`` and ``baselines/<name>/``.
        title: As performance pages print it, e.g. ``DGX-H100``.
        device: ``cuda`` or ``cpu``, as torch calls it.
        gpus_per_node: GPUs of one node; None for a node with any number of ranks (cpu).
        memory_gb: Memory of one GPU as data sheets name it, in GB; None if it has no source.
        memory_tb_per_sec: Bandwidth of that memory as data sheets name it, 10^12 bytes a second; None without a source.
        compute_capability: Major and minor version of the GPU's instruction set; None for a CPU.
        peak_tflops: Dense peak in TFLOP/s by number format; one that is absent has no peak, hence no MFU.
        device_names: Names the driver reports for this GPU, exactly.
        tolerance_pct: Default tolerance of the judged metrics but peak memory, in percent.
        memory_tolerance_pct: Default tolerance of peak memory, in percent.
        noise: Expected noise of cases, of any kind that has none of its own.
        noise_by_kind: Expected noise of kinds of cases that is known to be another.
        budget_sec: Default time that the steps of a case's launches should take together; None for any.
    """

    name: str
    title: str
    device: Literal["cuda", "cpu"]
    gpus_per_node: int | None
    memory_gb: float | None
    compute_capability: tuple[int, int] | None
    peak_tflops: Mapping[str, float]
    device_names: tuple[str, ...]
    tolerance_pct: float
    memory_tolerance_pct: float
    noise: ExpectedNoise
    noise_by_kind: Mapping[CaseKind, ExpectedNoise]
    budget_sec: float | None = None
    memory_tb_per_sec: float | None = None

    def noise_of(self, kind: CaseKind) -> ExpectedNoise:
        """Return the expected noise of a kind of case."""
        return self.noise_by_kind.get(kind, self.noise)


@cache
def system_catalog() -> Mapping[str, System]:
    """Return every known system by name; the figures and their sources are in ``catalog/systems.json``."""
    text = resources.files("pytest_nemoperf").joinpath("catalog", "systems.json").read_text(encoding="utf-8")
    systems = {}
    for name, entry in json.loads(text)["systems"].items():
        systems[name] = System(
            name=name,
            title=entry["title"],
            device=entry["device"],
            gpus_per_node=entry["gpus_per_node"],
            memory_gb=entry["memory_gb"]["value"] if entry["memory_gb"] else None,
            compute_capability=_capability(entry["compute_capability"]),
            peak_tflops=MappingProxyType({key: peak["value"] for key, peak in entry["peak_dense_tflops"].items()}),
            device_names=tuple(device["name"] for device in entry["device_names"]),
            tolerance_pct=entry["tolerance_pct"],
            memory_tolerance_pct=entry["memory_tolerance_pct"],
            noise=_noise(entry),
            noise_by_kind=_noise_by_kind(entry),
            budget_sec=entry.get("budget_sec"),
            memory_tb_per_sec=entry["memory_tb_per_sec"]["value"] if entry["memory_tb_per_sec"] else None,
        )
    return MappingProxyType(systems)


def find_system(name: str) -> System:
    """Return the catalog system of that name.

    Raises:
        RecipeError: If the catalog has no such system.
    """
    catalog = system_catalog()
    if name not in catalog:
        raise RecipeError(f"unknown system {shown(name)}; {did_you_mean(name, catalog)}")
    return catalog[name]


def largest_peak_tflops(number_format: str) -> float | None:
    """Return the largest dense peak of a device in the catalog in a number format, TFLOP/s; None if none has one."""
    peaks = []
    for system in system_catalog().values():
        if number_format in system.peak_tflops:
            peaks.append(system.peak_tflops[number_format])
    return max(peaks, default=None)


def match_device(device_name: str) -> System | None:
    """Return the system with exactly this device name in the driver, or None."""
    for system in system_catalog().values():
        if device_name in system.device_names:
            return system
    return None


def _noise(figures: Mapping[str, Any]) -> ExpectedNoise:
    return ExpectedNoise(
        run_pct=figures["run_noise_pct"]["value"],
        session_pct=figures["session_noise_pct"]["value"],
        round_pct=figures["round_noise_pct"]["value"],
        memory_pct=figures["memory_noise_pct"]["value"],
    )


def _noise_by_kind(entry: Mapping[str, Any]) -> Mapping[CaseKind, ExpectedNoise]:
    """Return the noise of each kind that has figures of its own; those that it lacks are the system's."""
    noises = {}
    for kind, own in entry.get("noise_by_kind", {}).items():
        noises[CaseKind(kind)] = _noise({**entry, **own})
    return MappingProxyType(noises)


def _capability(entry: Mapping[str, Any] | None) -> tuple[int, int] | None:
    if entry is None:
        return None
    major, _, minor = str(entry["value"]).partition(".")
    return int(major), int(minor)
