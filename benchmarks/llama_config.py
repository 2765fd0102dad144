"""Transformers' configuration of a plan's model, for benchmarks beside that library."""

from __future__ import annotations

from typing import Any

from pytest_nemoperf.recipes.recipe import Plan


def llama_config(plan: Plan) -> Any:
    """Return the LlamaConfig of a dense Llama; weights are fp32, attention is torch's."""
    from transformers import LlamaConfig

    model = plan.model
    return LlamaConfig(
        vocab_size=model.vocab_size,
        hidden_size=model.hidden_size,
        intermediate_size=model.ffn_hidden_size,
        num_hidden_layers=model.num_layers,
        num_attention_heads=model.num_heads,
        num_key_value_heads=model.num_kv_heads,
        head_dim=model.head_dim,
        max_position_embeddings=plan.seq_len,
        rms_norm_eps=model.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": model.rope_theta},
        tie_word_embeddings=model.tied_embeddings,
        use_cache=False,
        attn_implementation="sdpa",
        dtype="float32",
    )
