from __future__ import annotations

import pytest

from tests.published.rows import all_rows

FRAMEWORKS = {
    "NVIDIA-NeMo/Automodel": {"automodel"},
    "NVIDIA-NeMo/DFM": {"dfm"},
    "NVIDIA-NeMo/Megatron-Bridge": {"megatron_bridge"},
    "NVIDIA-NeMo/NeMo": {"nemo"},
    "NVIDIA-NeMo/RL": {"nemo_rl"},
    "NVIDIA/dgxc-benchmarking": {"maxtext", "nemo", "paxml"},
    "docs.nvidia.com": {"nemo"},
    "pytorch/torchtitan": {"torchtitan"},
}


@pytest.mark.parametrize(
    ("name", "url"),
    [
        (  # at its commit
            "pt0281",
            "https://github.com/NVIDIA-NeMo/Megatron-Bridge/blob/c0fb16b14b475b1bc01769f67fa6d24ba7352b23/"
            "docs/performance-summary.md",
        ),
        (  # at its release's tag
            "pt0975",
            "https://github.com/NVIDIA/dgxc-benchmarking/blob/v25.02/llama3/finetuning/README_8b.md",
        ),
        (
            "pt1200",
            "https://github.com/pytorch/torchtitan/blob/main/benchmarks/llama3_h100_202412_torchtitan.md",
        ),
        ("rl095", "https://github.com/NVIDIA-NeMo/RL"),  # a draft is on no page
    ],
)
def test_a_row_has_the_address_of_its_page(name: str, url: str) -> None:
    urls = {row.id: row.url for row in all_rows()}

    assert urls[name] == url


def test_pages_outside_of_github_are_their_own_addresses() -> None:
    for row in all_rows():
        if row.source == "docs.nvidia.com":
            assert row.url == row.path
            assert row.url.startswith("https://docs.nvidia.com/")


def test_frameworks_are_those_of_their_sources() -> None:
    found: dict[str, set[str]] = {}
    for row in all_rows():
        found.setdefault(row.source, set()).add(row.framework)

    assert found == FRAMEWORKS


def test_jax_is_named_by_the_pages_folder() -> None:
    for row in all_rows():
        folder = row.path.split("/")[0]
        assert (row.framework in ("maxtext", "paxml")) == (folder in ("maxtext", "paxml")), row.id


def test_a_figure_that_is_not_printed_is_none() -> None:
    rows = {row.id: row for row in all_rows()}

    assert rows["pt0281"].value("tokens_per_sec_per_gpu") == 14451
    assert rows["pt0281"].value("step_time_sec") is None
