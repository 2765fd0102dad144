"""One small model of each kind of part, for tests that don't need whole families."""

from __future__ import annotations

from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.models.components import MLA, Activation, MoE, RopeScaling
from tests.native.tiny import tiny_config

MOE = MoE(num_experts=8, topk=2, ffn_hidden_size=16)
LATENT = MLA(q_lora_rank=16, kv_lora_rank=12, qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=8)

PARTS: dict[str, ModelConfig] = {
    "dense": tiny_config(),
    "tied": tiny_config(tied_embeddings=True),
    "qkv-bias": tiny_config(qkv_bias=True),
    "qk-norm": tiny_config(qk_norm="rms"),
    "gelu-layernorm-learned-positions": tiny_config(
        activation=Activation.GELU,
        norm="layernorm",
        max_positions=32,
        qkv_bias=True,
        out_bias=True,
        mlp_bias=True,
        tied_embeddings=True,
    ),
    "squared-relu-partial-rotary": tiny_config(activation=Activation.SQUARED_RELU, norm="layernorm", rope_dim=4),
    "post-norms-softcaps-windows": tiny_config(
        activation=Activation.GEGLU,
        has_post_norms=True,
        attention_softcap=50.0,
        final_softcap=30.0,
        embedding_scale=5.0,
        sliding_window=5,
        full_attention_interval=2,
        rope_local_theta=10.0,
        query_scale=0.25,
    ),
    "moe": tiny_config(moe=MOE),
    "moe-sinks-biases": tiny_config(
        activation=Activation.CLAMPED_SWIGLU,
        moe=MoE(num_experts=8, topk=2, ffn_hidden_size=16, router_bias=True),
        attention_sinks=True,
        qkv_bias=True,
        out_bias=True,
        mlp_bias=True,
        sliding_window=5,
        full_attention_interval=2,
        rope_scaling=RopeScaling(kind="yarn", factor=8, original_context=16, high_freq=32.0, truncates=False),
    ),
    "moe-scaled-inputs-chunks": tiny_config(
        num_layers=4,
        moe=MoE(
            num_experts=4,
            topk=1,
            ffn_hidden_size=16,
            shared_ffn_hidden_size=16,
            layer_interval=2,
            router="sigmoid",
            is_normalized=False,
            scales_input=True,
        ),
        qk_norm="l2",
        query_temperature=(0.1, 4.0),
        sliding_window=6,
        is_window_chunked=True,
        full_attention_interval=4,
        nope_interval=4,
    ),
    "latent-moe": tiny_config(
        moe=MoE(num_experts=8, topk=2, ffn_hidden_size=16, latent_size=16, shared_gate=True, shared_ffn_hidden_size=24),
        activation=Activation.SQUARED_RELU,
    ),
    "gated-heads": tiny_config(attention_gate=True, qk_norm="rms", rope_dim=4),
    "mla-moe-mtp": tiny_config(
        num_layers=3,
        num_kv_heads=4,
        mla=LATENT,
        moe=MoE(
            num_experts=8,
            topk=2,
            ffn_hidden_size=16,
            shared_ffn_hidden_size=16,
            num_dense_layers=1,
            router="sigmoid",
            scaling_factor=2.5,
            num_groups=4,
            topk_groups=2,
            group_score="top2",
            has_score_correction=True,
        ),
        rope_scaling=RopeScaling(
            kind="yarn", factor=40, original_context=64, high_freq=32.0, attention_factor=1.0, softmax_mscale=1.0
        ),
        mtp_num_layers=2,
    ),
    "mla-without-query-latent": tiny_config(
        num_kv_heads=4, mla=MLA(q_lora_rank=None, kv_lora_rank=12, qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=8)
    ),
}
