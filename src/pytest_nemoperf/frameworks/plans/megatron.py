"""Plans that Megatron-Core can run: parts of models, layouts and settings that it lacks, each with the reason."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_nemoperf.frameworks.plans.command_settings import command_setting_problems
from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.models.components import Mixer, MoE, RopeScaling
from pytest_nemoperf.models.trainable import deepseek_v4_parts, unsupported_model
from pytest_nemoperf.recipes.recipe import Plan, Precision, Recompute

_LLAMA3_BANDS = (1.0, 4.0, 8192)
"""Bands and context of Llama 3.1's rotary scaling, which are constants in Megatron-Core."""


def unsupported_by_megatron(model: ModelConfig) -> str | None:
    """Return the part of an architecture that Megatron-Core's GPTModel lacks, or None if it has all."""
    for part in _unsupported_parts(model):
        others = "framework='torch' or framework='megatron_bridge'"
        if unsupported_model(model):
            others = "framework='megatron_bridge'"
        return f"model {model.name} has {part}; choose another model, or run it by {others}"
    return None


def unsupported_plan(plan: Plan, *, has_te: bool) -> str | None:
    """Return the setting of a plan that Megatron-Core can't run here, or None if it can run it.

    Args:
        plan: The plan.
        has_te: transformer-engine is installed in the interpreter of the run.
    """
    for problem in (*_settings(plan), *_layout(plan), *_context_parallel(plan), *_without_te(plan, has_te=has_te)):
        return problem
    return None


def _unsupported_parts(model: ModelConfig) -> Iterator[str]:
    for mixer, name in ((Mixer.MAMBA, "Mamba-2"), (Mixer.GATED_DELTA_NET, "gated delta net")):
        if any(layer.mixer is mixer for layer in model.layer_counts):
            yield f"layers of {name}, which are another model class of Megatron-Core"
    for part in deepseek_v4_parts(model):
        yield f"{part}, which is not mapped to Megatron-Core"
    if model.hybrid_pattern:
        yield "a hybrid_pattern, which is another model class of Megatron-Core"
    switches = {
        "attention_gate": (model.attention_gate, "gates on the heads' outputs"),
        "attention_softcap": (model.attention_softcap is not None, "bounded attention scores"),
        "embedding_scale": (model.embedding_scale != 1, "scaled embeddings"),
        "final_softcap": (model.final_softcap is not None, "bounded logits"),
        "has_post_norms": (model.has_post_norms, "norms after the sub-layers"),
        "has_value_head": (model.has_value_head, "a value head"),
        "is_window_chunked": (model.is_window_chunked and model.sliding_window is not None, "windows of fixed pieces"),
        "logit_scale": (model.logit_scale != 1, "scaled logits"),
        "query_temperature": (model.query_temperature is not None, "queries that grow with the position"),
        "rope_local_theta": (model.rope_local_theta is not None, "rotary frequencies of windows apart"),
    }
    for name, (is_there, what) in switches.items():
        if is_there:
            yield f"{what} ({name}={getattr(model, name)}), which Megatron-Core lacks"
    if model.mtp_num_layers:
        yield (
            f"multi-token prediction (mtp_num_layers={model.mtp_num_layers}), whose loss Megatron-Core computes "
            "without each sequence's last tokens; with mtp_num_layers=0 it trains the rest"
        )
    yield from _attention_parts(model)
    if model.rope_scaling is not None:
        yield from _rotary_parts(model, model.rope_scaling)
    if model.moe is not None:
        yield from _router_parts(model, model.moe)


def _attention_parts(model: ModelConfig) -> Iterator[str]:
    if model.out_bias != model.mlp_bias or (model.mlp_bias and not model.qkv_bias and model.mla is None):
        yield (
            f"qkv_bias={model.qkv_bias}, out_bias={model.out_bias} and mlp_bias={model.mlp_bias}: Megatron-Core has "
            "one switch for all linear layers, and another that adds those of queries, keys and values"
        )
    if model.qk_norm == "rms" and model.norm != "rmsnorm":
        yield "qk_norm='rms' beside norm='layernorm': Megatron-Core has one kind of norm for all"
    if model.qk_norm == "l2" and model.nope_interval:
        yield (
            f"qk_norm='l2' with nope_interval={model.nope_interval}: Megatron-Core has those norms in layers without "
            "rotary positions, too"
        )
    rope_dim = model.rope_dim
    if rope_dim is not None and int(model.head_dim * (rope_dim / model.head_dim)) != rope_dim:
        yield f"rope_dim={rope_dim} of head_dim={model.head_dim}, a fraction that Megatron-Core would round"
    if model.mla is not None and (model.sliding_window is not None or model.attention_sinks):
        yield "windows or sinks beside latent attention, which Megatron-Core lacks"
    if model.mla is not None and model.norm != "rmsnorm":
        yield "norm='layernorm' beside latent attention, whose norms are rmsnorm"


def _rotary_parts(model: ModelConfig, scaling: RopeScaling) -> Iterator[str]:
    subject = f"rope_scaling of kind {scaling.kind!r}"
    is_yarn = scaling.kind == "yarn"
    if model.mla is not None and not is_yarn:
        yield f"{subject} beside latent attention, which Megatron-Core scales by 'yarn' only"
    bands = (scaling.low_freq, scaling.high_freq, scaling.original_context)
    if scaling.kind == "llama3" and bands != _LLAMA3_BANDS:
        yield (
            f"{subject} with low_freq={bands[0]:g}, high_freq={bands[1]:g} and original_context={bands[2]}, which are "
            "1, 4 and 8192 in Megatron-Core"
        )
    if is_yarn and scaling.attention_factor not in (None, 1.0):
        yield f"{subject} with attention_factor={scaling.attention_factor}, which is 1 or derived in Megatron-Core"
    if is_yarn and scaling.attention_factor is None and scaling.softmax_mscale:
        yield f"{subject} with softmax_mscale={scaling.softmax_mscale} but no attention_factor=1"
    if is_yarn and model.mla is None and scaling.softmax_mscale:
        yield f"{subject} with softmax_mscale={scaling.softmax_mscale} outside latent attention"
    if is_yarn and model.mla is not None and not scaling.truncates:
        yield f"{subject} with truncates=False beside latent attention"


def _router_parts(model: ModelConfig, moe: MoE) -> Iterator[str]:
    if moe.router_bias != model.mlp_bias:
        yield (
            f"moe.router_bias={moe.router_bias} and mlp_bias={model.mlp_bias}: Megatron-Core has one switch for the "
            "biases of routers and experts"
        )
    if moe.latent_size is not None:
        yield f"experts of a width of their own (moe.latent_size={moe.latent_size}), which has not been tried"
    if moe.scales_input and moe.topk != 1:
        yield f"moe.scales_input=True with moe.topk={moe.topk}, which Megatron-Core does for one expert only"
    if moe.router == "sigmoid" and moe.is_normalized != (moe.topk > 1):
        yield (
            f"moe.router='sigmoid' with moe.is_normalized={moe.is_normalized} and moe.topk={moe.topk}: Megatron-Core "
            "divides by the sum if there are several experts"
        )
    if moe.router == "softmax" and moe.is_normalized and moe.topk == 1:
        yield "moe.router='softmax' with moe.is_normalized=True and moe.topk=1, which Megatron-Core refuses"
    if moe.has_score_correction and moe.router != "sigmoid":
        yield "moe.has_score_correction=True with moe.router='softmax', which Megatron-Core has for 'sigmoid' only"
    if moe.num_groups > 1:
        num_best = {"max": 1, "top2": 2}[moe.group_score]
        if moe.topk // moe.topk_groups != num_best or (moe.router == "softmax" and moe.is_normalized and num_best > 1):
            yield (
                f"moe.group_score={moe.group_score!r}: Megatron-Core scores a group by the sum of its "
                f"moe.topk // moe.topk_groups = {moe.topk} // {moe.topk_groups} = {moe.topk // moe.topk_groups} best"
            )


def _settings(plan: Plan) -> Iterator[str]:
    if plan.rl is not None:
        yield "rl=RL(...) with framework='megatron', which pre-trains; use framework='torch' or 'nemo_rl'"
    if plan.is_compiled:
        yield "is_compiled=True with framework='megatron', which fuses by its own kernels; use is_compiled=False"
    if plan.has_varying_lengths:
        yield "has_varying_lengths=True with framework='megatron', whose sequences have seq_len tokens; leave it out"
    yield from command_setting_problems(plan, instead="use framework='megatron_lm' for Megatron-LM's scripts")
    if plan.precision is Precision.FP8_DS and plan.recompute is not Recompute.NONE:
        yield (
            f"precision=fp8_ds with recompute={plan.recompute}, which would count each largest value twice; use "
            "recompute=none, or precision=bf16"
        )


def _layout(plan: Plan) -> Iterator[str]:
    layout = plan.layout
    model = plan.model
    if layout.dp_shard > 1:
        yield (
            f"dp_shard={layout.dp_shard}: framework='megatron' keeps whole weights; use "
            f"dp_replicate={layout.dp_replicate * layout.dp_shard} with shard_optimizer=True, which shards the "
            "optimizer's states, or framework='torch' or 'automodel' for FSDP"
        )
    if layout.pp_schedule != "1f1b":
        yield f"pp_schedule={layout.pp_schedule}, and Megatron-Core's schedules are 1f1b; use pp_schedule=1f1b"
    if model.vocab_size % layout.tp:
        yield (
            f"tp={layout.tp} does not divide vocab_size={model.vocab_size}, and Megatron-Core would train padding; "
            f"choose tp among the divisors of {model.vocab_size}"
        )
    if model.mla is None and model.num_kv_heads % layout.tp:
        yield (
            f"tp={layout.tp} does not divide num_kv_heads={model.num_kv_heads}, and each rank has key-value heads of "
            f"its own; choose tp among the divisors of {model.num_kv_heads}"
        )
    if model.moe is not None and layout.tp > 1 and not layout.sequence_parallel:
        yield (
            f"tp={layout.tp} without sequence parallelism, which Megatron-Core needs for experts; use "
            "sequence_parallel=True"
        )
    if model.mla is not None and layout.tp > 1 and not layout.sequence_parallel:
        yield (
            f"tp={layout.tp} without sequence parallelism, and Megatron-Core does not sum the gradient of the rotated "
            "key that all heads of latent attention share; use sequence_parallel=True"
        )
    if model.mlp_bias and layout.etp > 1:
        yield f"etp={layout.etp} with biases of experts (mlp_bias=True), which Megatron-Core lacks; use etp=1"
    num_micro_batches = plan.grad_accum_steps
    if layout.vp > 1 and (num_micro_batches < layout.pp or num_micro_batches % layout.pp > 0):
        yield (
            f"vp={layout.vp}: {num_micro_batches} micro-batches a step (global_batch_size/(micro_batch_size*dp)) are "
            f"no multiple of pp={layout.pp}, as Megatron-Core's interleaved schedule needs; change global_batch_size, "
            "or use vp=1"
        )


def _context_parallel(plan: Plan) -> Iterator[str]:
    """Yield settings that transformer-engine's attention lacks over several ranks.

    References:
        TransformerEngine transformer_engine/pytorch/attention/dot_product_attention/utils.py, get_attention_backend
    """
    layout = plan.layout
    if layout.cp == 1:
        return
    if plan.precision is Precision.FP32:
        yield (
            f"cp={layout.cp} with precision=fp32: transformer-engine's attention over several ranks has 16 bits; use "
            "precision=bf16, or cp=1"
        )
    if plan.model.attention_sinks and layout.cp_comm != "a2a":
        yield (
            f"cp_comm={layout.cp_comm} with attention_sinks=True: transformer-engine has sinks over several ranks by "
            "a2a only; use cp_comm=a2a, or cp=1"
        )


def _without_te(plan: Plan, *, has_te: bool) -> Iterator[str]:
    """Yield settings that need transformer-engine's layers."""
    if has_te:
        return
    layout = plan.layout
    needs = []
    if plan.precision.needs_transformer_engine:
        needs.append((f"precision={plan.precision}", "precision=bf16"))
    if layout.tp > 1 and layout.sequence_parallel:
        needs.append((f"sequence_parallel=True at tp={layout.tp}", "sequence_parallel=False"))
    if layout.cp > 1:
        needs.append((f"cp={layout.cp}", "cp=1"))
    if plan.model.mla is not None:
        needs.append((f"latent attention of model {plan.model.name}", "another model"))
    if plan.model.moe is not None and plan.model.mlp_bias:
        needs.append((f"experts with biases, as of model {plan.model.name},", "another model"))
    for what, instead in needs:
        place = plan.python or "pytest's own interpreter"
        yield (
            f"{what} needs transformer-engine's layers, which {place} lacks; install it there with: pip install "
            f"--no-build-isolation 'transformer-engine[pytorch]', or use {instead}"
        )
