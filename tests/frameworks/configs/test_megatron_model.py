from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_nemoperf.errors import RecipeError
from pytest_nemoperf.frameworks.configs.megatron_arguments import MegatronArguments
from pytest_nemoperf.frameworks.configs.megatron_model import layer_pattern, megatron_model
from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.models.catalog import find_model
from pytest_nemoperf.models.components import Activation

LLAMA = (
    "--num-layers 32 --hidden-size 4096 --ffn-hidden-size 14336 --num-attention-heads 32 --group-query-attention "
    "--num-query-groups 8 --swiglu --normalization RMSNorm --disable-bias-linear --untie-embeddings-and-output-weights "
    "--position-embedding-type rope --rotary-base 500000 --vocab-size 128256 "
)
GPT2 = "--num-layers 12 --hidden-size 768 --num-attention-heads 12 --max-position-embeddings 1024 --vocab-size 50257 "


def model_of(text: str) -> ModelConfig:
    named = megatron_model(MegatronArguments.parsed(text.split(), subject="x.sh"))
    assert isinstance(named.model, ModelConfig), named.unread
    return named.model


def unread(text: str) -> str:
    return megatron_model(MegatronArguments.parsed(text.split(), subject="x.sh")).unread


QWEN3_MOE = (
    "--num-layers 48 --hidden-size 2048 --ffn-hidden-size 6144 --num-attention-heads 32 --group-query-attention "
    "--num-query-groups 4 --kv-channels 128 --swiglu --normalization RMSNorm --norm-epsilon 1e-6 --disable-bias-linear "
    "--untie-embeddings-and-output-weights --qk-layernorm --position-embedding-type rope --rotary-base 1000000 "
    "--vocab-size 151936 --num-experts 128 --moe-router-topk 8 --moe-ffn-hidden-size 768 "
)
DEEPSEEK = (
    "--num-layers 61 --hidden-size 7168 --ffn-hidden-size 18432 --num-attention-heads 128 --swiglu --normalization "
    "RMSNorm --norm-epsilon 1e-6 --disable-bias-linear --untie-embeddings-and-output-weights --position-embedding-type "
    "rope --rotary-base 10000 --rotary-scaling-factor 40 --original-max-position-embeddings 4096 --mscale-all-dim 1.0 "
    "--vocab-size 129280 --multi-latent-attention --q-lora-rank 1536 --kv-lora-rank 512 --qk-head-dim 128 "
    "--qk-pos-emb-head-dim 64 --v-head-dim 128 --num-experts 256 --moe-router-topk 8 --moe-ffn-hidden-size 2048 "
    "--moe-shared-expert-intermediate-size 2048 --moe-layer-freq ([0]*3+[1]*58) --moe-router-score-function sigmoid "
    "--moe-router-topk-scaling-factor 2.5 --moe-router-num-groups 8 --moe-router-group-topk 4 "
    "--moe-router-enable-expert-bias --mtp-num-layers 1 "
)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        pytest.param(LLAMA, "llama3-8b", id="dense"),
        pytest.param(QWEN3_MOE, "qwen3-30b-a3b", id="a mixture"),
        pytest.param(DEEPSEEK, "deepseek-v3", id="latent attention, groups of experts and multi-token prediction"),
    ],
)
def test_arguments_describe_a_model_of_the_catalog(text: str, name: str) -> None:
    assert replace(model_of(text), name=name) == find_model(name)


def test_what_is_not_said_has_megatron_s_default() -> None:
    model = model_of(GPT2)

    assert model.activation is Activation.GELU
    assert model.ffn_hidden_size == 3072
    assert (model.num_kv_heads, model.head_dim, model.max_positions) == (12, 64, 1024)
    assert model.tied_embeddings
    assert model.qkv_bias
    assert model.out_bias
    assert model.mlp_bias
    assert model.name == "gpt-l12-h768"
    assert model_of(GPT2 + "--swiglu").ffn_hidden_size == 2048


@pytest.mark.parametrize(
    ("more", "activation"),
    [
        pytest.param("--squared-relu", Activation.SQUARED_RELU, id="squared relu"),
        pytest.param("--geglu", Activation.GEGLU, id="geglu"),
        pytest.param("--quick-geglu", Activation.CLAMPED_SWIGLU, id="quick geglu"),
    ],
)
def test_activations_are_read(more: str, activation: Activation) -> None:
    assert model_of(GPT2 + more).activation is activation


def test_positions_are_read() -> None:
    assert model_of(GPT2 + "--position-embedding-type none").nope_interval == 1
    llama3 = model_of(LLAMA + "--use-rope-scaling --rope-scaling-factor 8.0").rope_scaling
    assert llama3 is not None
    assert (llama3.kind, llama3.factor) == ("llama3", 8.0)
    assert model_of(LLAMA + "--rotary-percent 0.5").rope_dim == 64
    assert model_of(GPT2 + "--use-rotary-position-embeddings").max_positions is None


def test_scores_of_square_roots_are_not_taken_for_a_softmax() -> None:
    model = model_of(QWEN3_MOE + "--moe-router-score-function sqrtsoftplus")

    assert model.moe is not None
    assert model.moe.router == "sqrtsoftplus"


def test_windows_and_linear_attention_are_read() -> None:
    windows = model_of(LLAMA + "--window-size (127,0) --window-attn-skip-freq 2 --softmax-type learnable")
    assert (windows.sliding_window, windows.full_attention_interval, windows.attention_sinks) == (128, 2, True)

    linear = model_of(
        LLAMA + "--experimental-attention-variant gated_delta_net --linear-attention-freq 4 --linear-num-key-heads 16 "
        "--linear-key-head-dim 128 --linear-num-value-heads 32 --linear-value-head-dim 128 --attention-output-gate"
    )
    assert linear.full_attention_interval == 4
    assert linear.gated_delta_net is not None
    assert linear.gated_delta_net.num_value_heads == 32
    assert linear.attention_gate


def test_a_hybrid_has_its_layers_by_letter() -> None:
    hybrid = model_of(
        "--hybrid-layer-pattern M-M*-|M-M*- --hidden-size 1024 --num-attention-heads 16 --group-query-attention "
        "--num-query-groups 2 --squared-relu --normalization RMSNorm --disable-bias-linear --vocab-size 1024 "
        "--mamba-num-heads 32 --mamba-state-dim 64 --untie-embeddings-and-output-weights"
    )

    assert hybrid.hybrid_pattern == "M-M*-M-M*-"
    assert hybrid.mamba is not None
    assert (hybrid.num_layers, hybrid.mamba.num_heads, hybrid.mamba.state_dim) == (10, 32, 64)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        pytest.param("--tokenizer-type GPT2BPETokenizer", 50_257, id="gpt2"),
        pytest.param("--vocab-file v --merge-file m", 50_257, id="gpt2 by its files"),
        pytest.param("--tokenizer-type Llama2Tokenizer --tokenizer-model /x.model", 32_000, id="llama2"),
        pytest.param(
            "--tokenizer-type HuggingFaceTokenizer --tokenizer-model meta-llama/Llama-3.1-8B", 128_256, id="hub"
        ),
        pytest.param("--tokenizer-type NullTokenizer --vocab-size 131072", 131_072, id="said"),
        pytest.param("--padded-vocab-size 1024", 1024, id="padded"),
    ],
)
def test_the_vocabulary_is_the_tokenizer_s(text: str, size: int) -> None:
    assert model_of(GPT2.replace("--vocab-size 50257", text)).vocab_size == size


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param(
            GPT2.replace("--vocab-size 50257", "--tokenizer-type SentencePieceTokenizer --tokenizer-model /x"),
            "the vocabulary is that of --tokenizer-type SentencePieceTokenizer /x, whose size no argument says; "
            "framework_options={'vocab-size': ...} does",
            id="a tokenizer of files",
        ),
        pytest.param(GPT2.replace("--num-layers 12", ""), "--num-layers is not set", id="a size"),
        pytest.param(
            GPT2.replace("768", "770"), "--hidden-size 770 is not a multiple of --num-attention-heads 12", id="heads"
        ),
        pytest.param(
            GPT2 + "--position-embedding-type mrope",
            "--position-embedding-type mrope is not understood",
            id="positions",
        ),
        pytest.param(
            GPT2 + "--experimental-attention-variant dsa",
            "--experimental-attention-variant dsa is not understood",
            id="attention",
        ),
        pytest.param(GPT2 + "--window-size x", "--window-size x is not understood", id="a window"),
        pytest.param(
            GPT2 + "--heterogeneous-layers-config-path x",
            "--heterogeneous-layers-config-path is not understood",
            id="layers that differ",
        ),
        pytest.param(
            QWEN3_MOE + "--moe-layer-freq ([1]*40+[0]*8)",
            "--moe-layer-freq ([1]*40+[0]*8) has dense layers after a mixture, which is not understood",
            id="dense layers at the end",
        ),
        pytest.param(
            QWEN3_MOE + "--moe-layer-freq ([0]*3+[1]*40)",
            "--moe-layer-freq ([0]*3+[1]*40) has dense layers after a mixture, which is not understood",
            id="a pattern of another length",
        ),
        pytest.param(
            QWEN3_MOE + "--moe-router-score-function tanh",
            "--moe-router-score-function tanh is not understood",
            id="scores of another kind",
        ),
        pytest.param(LLAMA + "--enable-mhc-connections", "--enable-mhc-connections is not understood", id="streams"),
        pytest.param(
            LLAMA + "--experimental-attention-variant dsv4_hybrid",
            "--experimental-attention-variant dsv4_hybrid is not understood",
            id="compressed attention",
        ),
    ],
)
def test_what_is_not_understood_has_its_reason(text: str, reason: str) -> None:
    assert unread(text) == reason


@pytest.mark.parametrize(
    ("text", "layers"),
    [
        pytest.param("1", [1, 1, 1, 1], id="each"),
        pytest.param("2", [1, 0, 1, 0], id="every other"),
        pytest.param("([0]*1+[1]*3)", [0, 1, 1, 1], id="a sum"),
        pytest.param("'[1,0]*2'", [1, 0, 1, 0], id="a product in quotes"),
    ],
)
def test_a_pattern_of_mixtures_is_evaluated(text: str, layers: list[int]) -> None:
    assert layer_pattern(text, num_layers=4) == layers


@pytest.mark.parametrize("text", ["0", "[1]-[0]", "print(1)", "[1]*", "'x'*3", "[x]*3"])
def test_nothing_but_numbers_and_lists_is_evaluated(text: str) -> None:
    with pytest.raises(RecipeError, match=r"--moe-layer-freq .* is not understood"):
        layer_pattern(text, num_layers=4)
