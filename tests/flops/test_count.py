from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_nemoperf.errors import RecipeError
from pytest_nemoperf.flops.conventions import FlopsConvention, find_convention, flops_conventions
from pytest_nemoperf.flops.count import flops_terms, num_flops, num_flops_per_token
from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.models.catalog import find_model, model_catalog
from pytest_nemoperf.models.weights import model_weights, num_active_parameters, num_parameters

HALVED = find_convention("megatron-bridge")
FULL = find_convention("full-attention")
models = st.sampled_from(sorted(model_catalog())).map(find_model)
llamas = st.sampled_from([name for name in sorted(model_catalog()) if name.startswith(("llama2", "llama3"))]).map(
    find_model
)
conventions = st.sampled_from(sorted(flops_conventions())).map(find_convention)


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


@given(llamas, st.integers(1, 200_000))
def test_causal_halving_takes_half_of_the_attention_scores_away(model: ModelConfig, seq_len: int) -> None:
    halved = num_flops_per_token(model, seq_len=seq_len, convention=HALVED)
    full = num_flops_per_token(model, seq_len=seq_len, convention=FULL)

    scores = 6 * 2 * seq_len * model.num_heads * model.head_dim * model.num_layers
    assert full - halved == pytest.approx(scores / 2, rel=1e-9)


@given(models, conventions, st.integers(1, 100_000))
def test_longer_sequences_never_cost_less_per_token(
    model: ModelConfig, convention: FlopsConvention, seq_len: int
) -> None:
    shorter = num_flops_per_token(model, seq_len=seq_len, convention=convention)
    longer = num_flops_per_token(model, seq_len=seq_len + 1, convention=convention)

    assert shorter <= longer * (1 + 1e-12)
    # packed samples keep their own length in a sequence of any length
    assert (shorter == longer) == (convention.packed_sample_len is not None)


@given(models, conventions, st.integers(1, 100_000))
def test_terms_are_positive_and_sum_to_the_total(model: ModelConfig, convention: FlopsConvention, seq_len: int) -> None:
    terms = flops_terms(model, seq_len=seq_len, convention=convention)

    assert all(term > 0 for term in terms.values())
    assert sum(terms.values()) == num_flops_per_token(model, seq_len=seq_len, convention=convention)


@given(models, st.integers(1, 100_000))
def test_full_attention_counts_six_flops_a_matrix_element_and_the_whole_square(
    model: ModelConfig, seq_len: int
) -> None:
    if model.mamba is not None or model.gated_delta_net is not None:
        return  # scans and convolutions are no matrix products
    if model.compressed_attention is not None:
        return  # its core is not the square; tests/flops/test_compressed_attention.py has its products
    elements = 0.0
    for weight in model_weights(model):
        if len(weight.shape) == 1 or weight.name.endswith(".bias") or "embedding" in weight.name:
            continue
        if model.moe is not None and weight.is_expert:
            elements += weight.numel * model.moe.topk / model.moe.num_experts
        else:
            elements += weight.numel
    if model.max_positions:
        elements -= model.max_positions * model.hidden_size
    heads = model.mtp_num_layers + int(model.tied_embeddings)
    elements += heads * model.hidden_size * model.vocab_size
    width = 2 * model.head_dim
    if model.mla is not None:
        width = model.mla.qk_nope_head_dim + model.mla.qk_rope_head_dim + model.mla.v_head_dim
    core = seq_len * model.num_heads * width * (model.num_layers + model.mtp_num_layers)

    flops = num_flops_per_token(model, seq_len=seq_len, convention=FULL)

    assert flops == pytest.approx(6 * (elements + core), rel=1e-12)


@given(llamas, st.integers(1, 100_000))
def test_torchtitan_counts_six_flops_a_parameter_but_the_embedding(model: ModelConfig, seq_len: int) -> None:
    table = 0 if model.tied_embeddings else model.hidden_size * model.vocab_size
    core = 12 * model.num_layers * model.num_heads * model.head_dim * seq_len

    flops = num_flops_per_token(model, seq_len=seq_len, convention=find_convention("torchtitan"))

    assert flops == pytest.approx(6 * (num_parameters(model) - table) + core, rel=1e-12)


def test_torchtitan_counts_the_active_parameters_of_a_mixture() -> None:
    model = find_model("gpt-oss-20b")
    table = model.hidden_size * model.vocab_size
    core = 12 * model.num_layers * model.num_heads * model.head_dim * 4096

    flops = num_flops_per_token(model, seq_len=4096, convention=find_convention("torchtitan"))

    assert flops == pytest.approx(6 * (num_active_parameters(model) - table) + core, rel=1e-9)


@given(st.lists(st.integers(1, 20_000), min_size=1, max_size=6))
def test_sequences_of_a_batch_are_counted_by_their_own_lengths(seq_lens: list[int]) -> None:
    model = find_model("qwen3-30b-a3b")

    batch = num_flops(model, seq_lens=seq_lens, convention=HALVED)

    each = [length * num_flops_per_token(model, seq_len=length, convention=HALVED) for length in seq_lens]
    assert batch == pytest.approx(sum(each), rel=1e-12)
    mean = sum(seq_lens) / len(seq_lens)
    if len(set(seq_lens)) > 1 and mean == int(mean):  # attention grows with the square: the mean length undercounts
        assert batch > len(seq_lens) * mean * num_flops_per_token(model, seq_len=int(mean), convention=HALVED)


def test_a_window_is_counted_as_the_mean_of_what_tokens_see() -> None:
    model = find_model("gpt-oss-20b")
    seq_len = 4096
    window = 128
    seen = [min(position + 1, window) for position in range(seq_len)]
    width = 2 * model.num_heads * model.head_dim * model.num_layers / 2

    exact = flops_terms(model, seq_len=seq_len, convention=HALVED)["attention core"]

    assert exact == pytest.approx(6 * width * (sum(seen) / seq_len + seq_len / 2), rel=1e-12)


def test_a_window_longer_than_the_sequence_changes_nothing() -> None:
    model = find_model("gemma2-2b")
    without = replace(model, sliding_window=None, full_attention_interval=0)

    flops = num_flops_per_token(model, seq_len=4096, convention=HALVED)

    assert flops == num_flops_per_token(without, seq_len=4096, convention=HALVED)


def test_multi_token_prediction_computes_block_projection_and_head_once_more() -> None:
    model = find_model("deepseek-v3")
    without = replace(model, mtp_num_layers=0)
    terms = flops_terms(model, seq_len=4096, convention=FULL)
    one_layer = num_flops_per_token(replace(without, num_layers=62), seq_len=4096, convention=FULL)
    layer = one_layer - num_flops_per_token(without, seq_len=4096, convention=FULL)

    projection = 6 * 2 * model.hidden_size**2
    assert terms["mtp"] == pytest.approx(layer + terms["head"] + projection, rel=1e-9)
    assert num_flops_per_token(model, seq_len=4096, convention=find_convention("nemo-24.07")) == num_flops_per_token(
        without, seq_len=4096, convention=find_convention("nemo-24.07")
    )


def test_the_router_is_a_term_that_a_convention_counts_or_not() -> None:
    model = find_model("mixtral-8x7b")

    assert flops_terms(model, seq_len=64, convention=FULL)["router"] == 6 * 4096 * 8 * 32
    assert "router" not in flops_terms(model, seq_len=64, convention=HALVED)


def test_the_vocabulary_is_padded_for_the_tensor_parallel_ranks() -> None:
    model = replace(find_model("llama-tiny"), vocab_size=1000)

    heads = [flops_terms(model, seq_len=64, convention=HALVED, tp=tp)["head"] for tp in (1, 8, 16)]

    assert heads == [6 * 128 * vocab for vocab in (1024, 1024, 2048)]
    assert flops_terms(model, seq_len=64, convention=FULL, tp=8)["head"] == 6 * 128 * 1000


def test_adapters_leave_two_of_three_products_with_frozen_weights() -> None:
    model = find_model("llama3-70b")

    full = flops_terms(model, seq_len=4096, convention=find_convention("nemo-24.07-sft"))
    lora = flops_terms(model, seq_len=4096, convention=find_convention("nemo-24.07-lora"))

    assert lora["mlp"] == pytest.approx(full["mlp"] * 2 / 3)
    assert lora["attention core"] == full["attention core"]


def test_adapters_own_gradients_count_in_proportion_to_their_parameters() -> None:
    model = find_model("llama-tiny")
    shapes = [(128, 128), (128, 64), (128, 64), (128, 128), (128, 384), (128, 384), (384, 128)]
    adapters = 2 * sum(16 * (rows + columns) for rows, columns in shapes)

    base = num_flops_per_token(model, seq_len=64, convention=find_convention("automodel"))
    lora = num_flops_per_token(model, seq_len=64, convention=find_convention("automodel-lora"))

    assert lora / base == pytest.approx((2 + adapters / num_parameters(model)) / 3, rel=1e-12)


def test_every_convention_has_a_source() -> None:
    assert [name for name, convention in flops_conventions().items() if not convention.source] == []


def test_a_tied_head_is_still_computed() -> None:
    model = find_model("llama3.2-1b")

    tied = num_flops_per_token(model, seq_len=64, convention=HALVED)

    assert model.tied_embeddings
    assert tied == num_flops_per_token(replace(model, tied_embeddings=False), seq_len=64, convention=HALVED)


@pytest.mark.parametrize("seq_len", [0, -1])
def test_sequence_length_must_be_positive(seq_len: int) -> None:
    with pytest.raises(RecipeError, match=rf"seq_len={seq_len} must be >= 1"):
        num_flops_per_token(find_model("llama-tiny"), seq_len=seq_len, convention=HALVED)


def test_unknown_convention_is_answered_with_the_nearest_names() -> None:
    with pytest.raises(
        RecipeError, match=r"unknown FLOPs convention 'megatron'; did you mean megatron-lm or megatron-bridge"
    ):
        find_convention("megatron")
