"""FLOP counts that other projects' own tests expect."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pytest_nemoperf.flops.conventions import find_convention
from pytest_nemoperf.flops.count import num_flops
from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.models.catalog import find_model


@pytest.mark.parametrize(
    ("name", "seq_len", "expected"),
    [
        ("llama2-7b", 4096, 2.25e16),
        ("llama2-13b", 4096, 4.17e16),
        ("llama2-70b", 4096, 2.25e17),
        ("llama3-8b", 8192, 5.31e16),
        ("llama3.1-70b", 8192, 4.71e17),
        ("llama3.1-405b", 8192, 2.65e18),
        ("qwen3-30b-a3b", 4096, 1.21e16),
        ("qwen3-235b-a22b", 4096, 7.76e16),
    ],
)
def test_flops_agree_with_what_nemo_rl_expects(name: str, seq_len: int, expected: float) -> None:
    # NVIDIA-NeMo/RL tests/unit/utils/test_flops_counter.py, 128 sequences, which allows 5%
    flops = num_flops(find_model(name), seq_lens=[seq_len] * 128, convention=find_convention("nemo-rl"))

    assert flops == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize(("name", "expected"), [("deepseek-v3", 1.023e15), ("moonlight-16b-a3b", 6.45e13)])
def test_the_mistakes_of_nemo_rls_deepseek_formula_are_its_own(name: str, expected: float) -> None:
    # as above, one sequence; its formula's one shared expert and mixtures in every layer bring them within 0.1%
    flops = num_flops(find_model(name), seq_lens=[4096], convention=find_convention("nemo-rl"))

    assert flops == pytest.approx(expected, rel=1e-3)


def _fixture(name: str, **changes: Any) -> ModelConfig:
    return replace(find_model(name), **changes)


@pytest.mark.parametrize(
    ("model", "convention", "seq_len", "expected"),
    [
        # the fixtures' own changes to the models are given here; their mistakes are the convention's
        (_fixture("llama2-7b"), "automodel", 2048, 84_486_301_679_616),
        (_fixture("llama3-8b", vocab_size=32_000), "automodel", 2048, 90_671_054_585_856),
        (_fixture("deepseek-v3", vocab_size=151_936), "automodel", 1024, 233_225_179_889_664),
        (_fixture("moonlight-16b-a3b"), "automodel", 2048, 30_625_801_175_040),
        (_fixture("nemotron-3-nano-30b-a3b"), "automodel-nemotron-h", 2048, 39_982_504_869_888),
        (
            _fixture("nemotron-3-super-120b-a12b", mtp_num_layers=0),
            "automodel-nemotron-h",
            2048,
            152_918_015_606_784,
        ),
    ],
    ids=["llama2", "llama3", "deepseekv3", "moonlight", "nemotronh_nano_v3", "nemotronh_super_v3"],
)
def test_flops_equal_what_automodel_expects(model: ModelConfig, convention: str, seq_len: int, expected: int) -> None:
    # NVIDIA-NeMo/Automodel tests/unit_tests/utils/test_flops_utils.py, to the last digit
    assert num_flops(model, seq_lens=[seq_len], convention=find_convention(convention)) == expected


def test_flops_agree_with_what_dgxc_benchmarking_says_of_grok() -> None:
    # NVIDIA/dgxc-benchmarking grok1/README.md: one sequence of 8192 tokens, the vocabulary of Llama 3
    model = _fixture("grok-1", vocab_size=128_256)

    flops = num_flops(model, seq_lens=[8192], convention=find_convention("nemo-25.09"))

    assert flops == pytest.approx(4.27e15, rel=0.005)
