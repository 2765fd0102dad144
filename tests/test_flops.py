from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_nemoperf.architecture import ModelConfig
from pytest_nemoperf.errors import RecipeError
from pytest_nemoperf.flops import CONVENTIONS, find_convention, num_flops_per_token
from pytest_nemoperf.models import find_model, model_catalog

HALVED = find_convention("megatron-bridge")
FULL = find_convention("full-attention")
dense = st.sampled_from(sorted(model_catalog())).map(find_model)


@pytest.mark.parametrize(
    ("name", "sequences", "seq_len", "expected"),
    [
        ("llama2-7b", 128, 4096, 2.25e16),
        ("llama2-13b", 128, 4096, 4.17e16),
        ("llama2-70b", 128, 4096, 2.25e17),
        ("llama3-8b", 128, 8192, 5.31e16),
        ("llama3.1-70b", 128, 8192, 4.71e17),
        ("llama3.1-405b", 128, 8192, 2.65e18),
    ],
)
def test_flops_agree_with_what_nemo_rl_expects(name: str, sequences: int, seq_len: int, expected: float) -> None:
    # NVIDIA-NeMo/RL tests/unit/utils/test_flops_counter.py, which allows 5%
    flops = num_flops_per_token(find_model(name), seq_len=seq_len, convention=HALVED) * sequences * seq_len

    assert flops == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (find_model("llama2-7b"), 84_486_301_679_616),
        (replace(find_model("llama3-8b"), vocab_size=32_000), 90_671_054_585_856),
    ],
    ids=["llama2-7b", "llama3-8b with 32,000 tokens"],
)
def test_flops_equal_what_automodel_expects(model: ModelConfig, expected: int) -> None:
    # NVIDIA-NeMo/Automodel tests/unit_tests/utils/test_flops_utils.py, one sequence of 2048 tokens
    assert num_flops_per_token(model, seq_len=2048, convention=HALVED) * 2048 == expected


@pytest.mark.parametrize(
    ("name", "tokens_per_sec_per_gpu", "published_tflops"),
    [
        # NVIDIA-NeMo/Megatron-Bridge docs/performance-summary.md, 25.09 and 25.11, sequences of 8192 tokens
        pytest.param("llama3-8b", 31_357, 1614, id="25.09 8B GB200"),
        pytest.param("llama3-8b", 29_994, 1544, id="25.09 8B B200"),
        pytest.param("llama3-8b", 14_079, 725, id="25.09 8B H100"),
        pytest.param("llama3-70b", 3_986, 1791, id="25.09 70B GB200"),
        pytest.param("llama3.1-405b", 729, 1840, id="25.09 405B GB200"),
        pytest.param("llama3-8b", 37_556, 1933, id="25.11 8B GB300"),
        pytest.param("llama3-70b", 4_440, 1995, id="25.11 70B GB300"),
        pytest.param("llama3.1-405b", 292, 737, id="25.11 405B H100"),
    ],
)
def test_published_tflops_follow_from_published_tokens(
    name: str, tokens_per_sec_per_gpu: int, published_tflops: int
) -> None:
    tflops_per_token = num_flops_per_token(find_model(name), seq_len=8192, convention=HALVED) / 1e12

    # both columns are rounded to whole numbers
    lowest = (tokens_per_sec_per_gpu - 0.5) * tflops_per_token - 0.5
    highest = (tokens_per_sec_per_gpu + 0.5) * tflops_per_token + 0.5
    assert lowest <= published_tflops <= highest


@pytest.mark.parametrize(
    ("name", "seq_len", "tokens_per_sec_per_gpu", "published_tflops"),
    [
        # NVIDIA-NeMo/NeMo docs/source/performance/performance_summary.md, NeMo 24.07, H100
        pytest.param("llama2-7b", 4096, 16_847, 776, id="Llama 2 7B"),
        pytest.param("llama2-13b", 4096, 8_715, 760, id="Llama 2 13B"),
        pytest.param("llama3-8b", 8192, 12_036, 697, id="Llama 3 8B"),
        pytest.param("llama3-70b", 8192, 1_549, 746, id="Llama 3 70B"),
    ],
)
def test_older_pages_count_attention_in_full(
    name: str, seq_len: int, tokens_per_sec_per_gpu: int, published_tflops: int
) -> None:
    full, halved = (
        num_flops_per_token(find_model(name), seq_len=seq_len, convention=convention) / 1e12
        for convention in (FULL, HALVED)
    )

    assert tokens_per_sec_per_gpu * full == pytest.approx(published_tflops, rel=1e-3)
    assert tokens_per_sec_per_gpu * halved < 0.98 * published_tflops


@given(dense, st.integers(1, 200_000))
def test_causal_halving_takes_half_of_the_attention_scores_away(model: ModelConfig, seq_len: int) -> None:
    halved = num_flops_per_token(model, seq_len=seq_len, convention=HALVED)
    full = num_flops_per_token(model, seq_len=seq_len, convention=FULL)

    scores = 6 * 2 * seq_len * model.num_heads * model.head_dim * model.num_layers
    assert full - halved == pytest.approx(scores / 2, rel=1e-9)


@given(dense, st.integers(1, 100_000))
def test_longer_sequences_cost_more_per_token(model: ModelConfig, seq_len: int) -> None:
    for convention in CONVENTIONS.values():
        shorter, longer = (
            num_flops_per_token(model, seq_len=length, convention=convention) for length in (seq_len, seq_len + 1)
        )
        assert shorter < longer


def test_a_tied_head_is_still_computed() -> None:
    model = find_model("llama3.2-1b")

    tied, untied = (
        num_flops_per_token(replace(model, tied_embeddings=each), seq_len=64, convention=HALVED)
        for each in (True, False)
    )

    assert tied == untied


@pytest.mark.parametrize("seq_len", [0, -1])
def test_sequence_length_must_be_positive(seq_len: int) -> None:
    with pytest.raises(RecipeError, match=rf"seq_len={seq_len} must be >= 1"):
        num_flops_per_token(find_model("llama-tiny"), seq_len=seq_len, convention=HALVED)


def test_unknown_convention_is_answered_with_the_nearest_names() -> None:
    with pytest.raises(RecipeError, match=r"unknown FLOPs convention 'megatron'; did you mean megatron-bridge"):
        find_convention("megatron")
