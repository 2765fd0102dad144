from __future__ import annotations

import json
from importlib import resources
from typing import Any

import pytest

from pytest_nemoperf.errors import RecipeError
from pytest_nemoperf.recipes.systems import find_system, match_device, system_catalog


def _sources(node: Any) -> list[str]:
    sources: list[str] = []
    children: list[Any] = []
    if isinstance(node, dict):
        sources += node.get("sources", [])
        if "source" in node:
            sources.append(node["source"])
        children = list(node.values())
    elif isinstance(node, list):
        children = node
    for child in children:
        sources += _sources(child)
    return sources


def test_the_catalog_has_the_systems_of_the_performance_pages() -> None:
    assert set(system_catalog()) == {"h100", "h200", "b200", "b300", "gb200", "gb300", "a100", "cpu"}


def test_no_figure_of_the_catalog_is_from_memory() -> None:
    text = resources.files("pytest_nemoperf").joinpath("catalog", "systems.json").read_text(encoding="utf-8")

    sources = _sources(json.loads(text))

    assert len(sources) > 50
    assert not [source for source in sources if "memory" in source or "verify" in source]


@pytest.mark.parametrize(
    ("name", "precision", "tflops"),
    [
        ("h100", "bf16", 989.0),  # pytorch/torchtitan torchtitan/tools/utils.py, NVIDIA/dgxc-benchmarking README
        ("h200", "bf16", 989.0),  # pytorch/torchtitan torchtitan/tools/utils.py
        ("b200", "bf16", 2250.0),  # NVIDIA/dgxc-benchmarking README
        ("gb200", "bf16", 2450.0),  # NVIDIA/dgxc-benchmarking README
        ("gb300", "nvfp4", 14700.0),  # NVIDIA/dgxc-benchmarking README
        ("a100", "bf16", 312.0),  # pytorch/torchtitan torchtitan/tools/utils.py
    ],
)
def test_peaks_are_the_published_dense_ones(name: str, precision: str, tflops: float) -> None:
    assert find_system(name).peak_tflops[precision] == tflops


def test_a_peak_without_a_source_is_unknown() -> None:
    assert "fp8" not in find_system("h200").peak_tflops
    assert dict(find_system("cpu").peak_tflops) == {}


@pytest.mark.parametrize(
    ("name", "capability"),
    [("a100", (8, 0)), ("h100", (9, 0)), ("b200", (10, 0)), ("gb300", (10, 3)), ("cpu", None)],
)
def test_compute_capabilities_are_numbers_to_compare(name: str, capability: tuple[int, int] | None) -> None:
    assert find_system(name).compute_capability == capability


@pytest.mark.parametrize(
    ("device_name", "system"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA B200", "b200"),
        ("NVIDIA B300", "b300"),
        ("NVIDIA GB200", "gb200"),
        ("NVIDIA GB300", "gb300"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
    ],
)
def test_device_names_of_the_driver_match_their_system(device_name: str, system: str) -> None:
    matched = match_device(device_name)

    assert matched is not None
    assert matched.name == system


@pytest.mark.parametrize("device_name", ["NVIDIA H100 PCIe", "NVIDIA H100 NVL", "H100", "NVIDIA H200 NVL", ""])
def test_a_part_of_a_name_is_not_a_match(device_name: str) -> None:
    assert match_device(device_name) is None


def test_no_device_name_belongs_to_two_systems() -> None:
    names = [name for system in system_catalog().values() for name in system.device_names]

    assert len(names) == len(set(names))


def test_unknown_system_is_answered_with_the_nearest_names() -> None:
    with pytest.raises(RecipeError, match=r"unknown system 'h10'; did you mean h100"):
        find_system("h10")


def test_peaks_can_not_be_changed() -> None:
    with pytest.raises(TypeError, match="does not support item assignment"):
        find_system("h100").peak_tflops["bf16"] = 1.0  # type: ignore[index]  # the point of the test
