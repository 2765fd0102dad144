"""FLOPs of DeepSeek-V4: Megatron-Bridge's arithmetic and published rates, and the products of transformers' classes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from pytest_nemoperf.flops.conventions import find_convention
from pytest_nemoperf.flops.count import flops_terms, num_flops_per_token
from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.models.catalog import find_model
from pytest_nemoperf.models.huggingface.read import read_config
from pytest_nemoperf.models.weights import model_weights

BRIDGE = find_convention("megatron-bridge")
FULL = find_convention("full-attention")
FLASH = find_model("deepseek-v4-flash")
CONFIG = Path(__file__).parents[1] / "data" / "hf" / "deepseek-v4"


def test_flash_is_counted_as_megatron_bridge_s_formula_has_it() -> None:
    # NVIDIA-NeMo/Megatron-Bridge v0.6.0, flop_utils.py, dsv4_hybrid; layers by ratio: 3 of 0 (one of them of
    # multi-token prediction), 21 of 4, 20 of 128
    hidden, heads, width, rank, seq_len, window = 4096, 64, 512, 1024, 4096, 128
    layer = rank * (hidden + heads * width + 1) + (hidden + 1) * width + heads * width * 1024 + 8 * 1024 * hidden
    chosen = 512 * (1 - 512 * 4 / (2 * seq_len))
    core = heads * width * 2 * (3 * window + 21 * (window + chosen) + 20 * (window + seq_len // 128 / 2))
    compressors = hidden * width * 2 * (21 * 2 + 20)
    indexers = 21 * (hidden * 2 * 128 * 2 + rank * 64 * 128 + hidden * 64 + 64 * 128 * (seq_len // 4))
    experts = 44 * 3 * hidden * 2048 * (6 + 1)
    prediction = 3 * hidden + 2 * hidden**2
    head = 2 * hidden * 129_280

    flops = num_flops_per_token(FLASH, seq_len=seq_len, convention=BRIDGE)

    assert flops == 6 * (44 * layer + core + compressors + indexers + experts + prediction + head)


@pytest.mark.parametrize(
    ("tokens_per_sec_per_gpu", "tflops_per_sec_per_gpu"),
    [
        # NVIDIA-NeMo/Megatron-Bridge@067f987df examples/model_verification_cards/deepseek-v4-flash/card.yaml: means of
        # ten steps, so that the mean of a rate may lie above the rate of the mean time
        pytest.param(8056.450, 731.400, id="GB200 MXFP8"),
        pytest.param(8358.842, 759.280, id="GB300 MXFP8"),
        pytest.param(1573.001, 142.910, id="GB200 BF16"),
        pytest.param(1118.506, 101.560, id="GB200 BF16, resumed"),
    ],
)
def test_rates_of_megatron_bridge_s_own_runs_follow(
    tokens_per_sec_per_gpu: float, tflops_per_sec_per_gpu: float
) -> None:
    flops = num_flops_per_token(FLASH, seq_len=4096, convention=BRIDGE)

    assert flops * tokens_per_sec_per_gpu / 1e12 == pytest.approx(tflops_per_sec_per_gpu, rel=1e-3)


def test_a_sequence_shorter_than_the_indexer_s_choice_has_all_its_positions() -> None:
    short = flops_terms(replace(FLASH, mtp_num_layers=0), seq_len=512, convention=BRIDGE)

    core = 6 * 2 * 64 * 512 * (43 * 128 + 21 * 128 / 2 + 20 * 512 / 128 / 2)
    assert short["attention core"] == pytest.approx(core, rel=1e-12)


def forward_flops(seq_len: int) -> int:
    """Return the matrix products of transformers' own class, forward, over a sequence."""
    config = transformers.AutoConfig.from_pretrained(CONFIG)
    model = transformers.AutoModelForCausalLM.from_config(
        config, attn_implementation="eager", experts_implementation="eager"
    )
    table = torch.arange(config.vocab_size)[:, None] % 4 * 2 + torch.arange(config.num_experts_per_tok)
    for layer in model.model.layers[:2]:  # an uninitialised table would name one expert several times
        layer.mlp.gate.tid2eid.copy_(table)
    tokens = torch.randint(config.vocab_size, (1, seq_len))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(tokens, use_cache=False)
    return int(counter.get_total_flops())


def test_products_are_those_that_transformers_class_computes_without_skipping() -> None:
    seq_len = 256
    model = replace(read_config(CONFIG), mtp_num_layers=0)

    flops = num_flops_per_token(model, seq_len=seq_len, convention=FULL)

    assert seq_len * flops / 3 == forward_flops(seq_len)


def matrix_elements(model: ModelConfig) -> float:
    """Return the active elements of weights that take part in products."""
    assert model.moe is not None
    elements = 0.0
    for weight in model_weights(model):
        if len(weight.shape) > 1 and not weight.name.endswith(".bias") and "embedding" not in weight.name:
            elements += weight.numel * (model.moe.topk / model.moe.num_experts if weight.is_expert else 1)
    return elements


@pytest.mark.parametrize("name", ["deepseek-v4-flash", "deepseek-v4-pro"])
def test_products_with_weights_are_six_flops_an_element(name: str) -> None:
    model = replace(find_model(name), mtp_num_layers=0)
    attention = model.compressed_attention
    assert attention is not None
    seq_len = 4096
    terms = flops_terms(model, seq_len=seq_len, convention=FULL)
    indexed = attention.ratios.count(4)

    scores = 6 * indexed * attention.index_num_heads * attention.index_head_dim * seq_len / 4
    mixing = 6 * model.num_layers * 2 * 4 * 4 * model.hidden_size
    products = sum(terms.values()) - terms["attention core"] - scores - mixing

    assert products == pytest.approx(6 * matrix_elements(model), rel=1e-12)


def test_torchtitan_counts_what_weighs_the_streams_as_parameters_and_no_mixing() -> None:
    model = replace(FLASH, mtp_num_layers=0)
    one_stream = replace(model, hyper_connections=None)
    titan = find_convention("torchtitan")

    added = num_flops_per_token(model, seq_len=64, convention=titan) - num_flops_per_token(
        one_stream, seq_len=64, convention=titan
    )

    streams = [weight.numel for weight in model_weights(model) if "streams" in weight.name]
    assert added == pytest.approx(6 * sum(streams), rel=1e-9)
