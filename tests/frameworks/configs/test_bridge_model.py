from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pytest_nemoperf.frameworks.configs.bridge_model import bridge_model, provider_of
from pytest_nemoperf.frameworks.configs.python_values import UNKNOWN, Opaque
from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.models.catalog import find_model
from pytest_nemoperf.models.components import Activation

PROVIDER: dict[str, Any] = {
    "num_layers": 4,
    "hidden_size": 256,
    "ffn_hidden_size": 512,
    "num_attention_heads": 4,
    "num_query_groups": 2,
    "normalization": "RMSNorm",
    "gated_linear_unit": True,
    "add_bias_linear": False,
    "position_embedding_type": "rope",
    "share_embeddings_and_output_weights": False,
    "vocab_size": 1000,
}


def checkpoint(name: Any, **values: Any) -> Opaque:
    """Return a model made from a checkpoint."""
    bridge = Opaque(made_by="from_hf_pretrained", owner=Opaque(made_by="AutoBridge"), args=(name,))
    return Opaque(made_by="to_megatron_provider", owner=bridge, values=values)


def config_of(model: Any, **sections: Any) -> Opaque:
    return Opaque(made_by="ConfigContainer", values={"model": model, **sections})


def model_of(config: Opaque) -> ModelConfig:
    named = bridge_model(config)
    assert named.model, named.unread
    return find_model(named.model) if isinstance(named.model, str) else named.model


def test_a_checkpoint_is_known_by_its_name() -> None:
    assert bridge_model(config_of(checkpoint("meta-llama/Llama-3.1-8B"))).model == "llama3.1-8b"


def test_a_provider_is_known_by_its_sizes() -> None:
    model = model_of(config_of(Opaque(made_by="GPTModelProvider", values=PROVIDER)))

    assert (model.num_layers, model.hidden_size, model.num_kv_heads, model.vocab_size) == (4, 256, 2, 1000)
    assert model.activation is Activation.SWIGLU
    assert not model.tied_embeddings
    assert not model.mlp_bias


def test_a_provider_s_class_has_sizes_too() -> None:
    provider = Opaque(made_by="HybridModelProvider", values={"num_layers": 2}, defaults=PROVIDER)

    assert model_of(config_of(provider)).num_layers == 2
    squared = {**PROVIDER, "gated_linear_unit": False, "activation_func": Opaque(made_by="squared_relu")}
    assert model_of(config_of(Opaque(made_by="GPTModelProvider", values=squared))).activation is Activation.SQUARED_RELU
    named = {**squared, "activation_func": "squared_relu"}  # as an override gives it
    assert model_of(config_of(Opaque(made_by="GPTModelProvider", values=named))).activation is Activation.SQUARED_RELU


def test_stretched_positions_of_a_provider_are_llama_3_s() -> None:
    values = {**PROVIDER, "rope_scaling": True, "rope_scaling_factor": 32.0}

    scaling = model_of(config_of(Opaque(made_by="GPTModelProvider", values=values))).rope_scaling

    assert scaling is not None
    assert (scaling.kind, scaling.factor, scaling.original_context) == ("llama3", 32.0, 8192)


def test_the_provider_is_the_one_with_sizes() -> None:
    inner = Opaque(made_by="Provider", values={"num_layers": 2})

    assert provider_of(Opaque(made_by="wrap", owner=inner)) is inner
    assert provider_of(None).made_by == ""


def test_multi_token_prediction_is_what_the_recipe_trains() -> None:
    assert model_of(config_of(checkpoint("deepseek-ai/DeepSeek-V3"))).mtp_num_layers == 1
    assert model_of(config_of(checkpoint("deepseek-ai/DeepSeek-V3", mtp_num_layers=None))).mtp_num_layers == 0
    deeper = model_of(config_of(checkpoint("deepseek-ai/DeepSeek-V3", mtp_num_layers=2, mtp_use_repeated_layer=True)))
    assert (deeper.mtp_num_layers, deeper.is_mtp_shared) == (2, True)


def test_a_made_up_vocabulary_is_the_tokenizer_s() -> None:
    null = {"tokenizer_type": "NullTokenizer", "vocab_size": 5000}
    without = {name: value for name, value in PROVIDER.items() if name != "vocab_size"}

    spelt = config_of(Opaque(made_by="GPTModelProvider", values=without), tokenizer=Opaque(made_by="T", values=null))
    assert model_of(spelt).vocab_size == 5000
    resized = Opaque(made_by="T", values={**null, "use_tokenizer_vocab_size": True})
    assert model_of(config_of(checkpoint("meta-llama/Llama-3.1-8B"), tokenizer=resized)) == replace(
        find_model("llama3.1-8b"), vocab_size=5000
    )
    assert model_of(config_of(checkpoint("meta-llama/Llama-3.1-8B", vocab_size=7))).vocab_size == 7
    hub = Opaque(made_by="T", values={"tokenizer_model": "meta-llama/Llama-3.1-8B"})
    assert model_of(config_of(Opaque(made_by="GPTModelProvider", values=without), tokenizer=hub)).vocab_size == 128_256


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        pytest.param(UNKNOWN, "cfg.model can't be told from the source", id="unknown"),
        pytest.param(
            checkpoint(UNKNOWN), "the argument of from_hf_pretrained can't be told from the source", id="a name"
        ),
        pytest.param(
            checkpoint("team/own"),
            "from_hf_pretrained=team/own is neither a known architecture nor a directory with a config.json",
            id="another checkpoint",
        ),
        pytest.param(
            checkpoint("meta-llama/Llama-3.1-8B", num_layers=2, hidden_size=64),
            "the recipe changes cfg.model.hidden_size, cfg.model.num_layers",
            id="changed sizes",
        ),
        pytest.param(
            Opaque(made_by="to_text_provider", owner=Opaque(made_by="x")),
            "cfg.model is the text part of another model",
            id="a part",
        ),
        pytest.param(
            Opaque(made_by="GPTModelProvider", values={"num_layers": 2, "vocab_size": 10}),
            "cfg.model made by GPTModelProvider: --hidden-size is not set",
            id="a size",
        ),
        pytest.param(
            Opaque(made_by="VideoModelProvider", values=PROVIDER),
            "cfg.model made by VideoModelProvider is not understood",
            id="another provider",
        ),
        pytest.param(
            Opaque(made_by="GPTModelProvider", values={**PROVIDER, "window_size": (127, 0)}),
            "cfg.model.window_size is not understood",
            id="windows",
        ),
        pytest.param(
            Opaque(made_by="GPTModelProvider", values={"num_layers": 2}),
            "neither cfg.model.vocab_size nor cfg.tokenizer says the size of the vocabulary",
            id="a vocabulary",
        ),
    ],
)
def test_a_model_that_can_not_be_told_has_its_reason(model: Any, reason: str) -> None:
    assert bridge_model(config_of(model)).unread == reason
