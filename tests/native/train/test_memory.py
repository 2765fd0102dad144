"""Planned memory against allocations of real ranks: state to the byte, activations within a few percent."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch

from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.layouts.shards import stage_shards
from pytest_nemoperf.models.architecture import ModelConfig, value_model
from pytest_nemoperf.models.components import MLA, MoE
from pytest_nemoperf.native.train.data import SyntheticTokens
from pytest_nemoperf.pricing.activations import ActivationBytes
from pytest_nemoperf.pricing.memory import StateBytes, stage_memory, state_bytes
from pytest_nemoperf.recipes.memory_rules import native_rules
from pytest_nemoperf.recipes.recipe import Plan
from tests.builders import make_plan
from tests.native.engine import Engine
from tests.native.memory_probe import KeptActivations
from tests.native.tiny import CPU, build, tiny_config

# Nothing divides evenly: layers over stages, rows over shards, the vocabulary over tp.
ODD = ModelConfig(
    name="odd",
    hidden_size=20,
    num_layers=5,
    num_heads=4,
    num_kv_heads=4,
    head_dim=6,
    ffn_hidden_size=14,
    vocab_size=35,
)
MIXTURE = MoE(num_experts=4, topk=2, ffn_hidden_size=10, shared_ffn_hidden_size=12, num_dense_layers=1)
ODD_MOE = replace(ODD, name="odd-moe", moe=MIXTURE, mtp_num_layers=1)
FEW_EXPERTS = replace(ODD_MOE, name="few-experts", moe=replace(MIXTURE, num_experts=2))
TIED = replace(ODD, name="tied", tied_embeddings=True)
# Ranks of tp hold copies of key-value heads, with the last of FSDP's shards in the middle of them.
FEW_HEADS = replace(ODD, name="few-heads", num_kv_heads=2, ffn_hidden_size=16, qkv_bias=True)
ONE_HEAD = replace(FEW_HEADS, name="one-head", num_kv_heads=1)
# Those that are not slow differ in kind: shards of rows, parts of matrices, copies of heads that a shard ends in, tied
# tables at both ends of a pipeline, a head of one row, and meshes of experts.
STATE_CASES = [
    pytest.param(ODD, Layout(gpus=3, dp_shard=3), id="fsdp3"),
    pytest.param(ODD, Layout(gpus=2, tp=2), id="tp2"),
    pytest.param(ODD, Layout(gpus=4, dp_shard=2, tp=2), id="fsdp2tp2", marks=pytest.mark.slow),
    pytest.param(ODD, Layout(gpus=4, dp_shard=2, pp=2), id="fsdp2pp2", marks=pytest.mark.slow),
    pytest.param(FEW_HEADS, Layout(gpus=4, tp=4), id="copies-tp4", marks=pytest.mark.slow),
    pytest.param(ONE_HEAD, Layout(gpus=6, dp_shard=3, tp=2), id="copies-fsdp3tp2"),
    pytest.param(TIED, Layout(gpus=4, tp=2, pp=2, vp=2), id="tied-tp2pp2vp2"),
    pytest.param(value_model(ODD), Layout(gpus=3, dp_shard=3), id="value-fsdp3"),
    pytest.param(value_model(TIED), Layout(gpus=4, tp=2, pp=2), id="value-tp2pp2", marks=pytest.mark.slow),
    pytest.param(ODD_MOE, Layout(gpus=4, dp_shard=4, ep=2), id="moe-fsdp4ep2"),
    pytest.param(ODD_MOE, Layout(gpus=4, dp_shard=2, tp=2, etp=2), id="moe-fsdp2tp2etp2", marks=pytest.mark.slow),
    pytest.param(FEW_EXPERTS, Layout(gpus=4, dp_shard=4), id="fewer-experts-than-shards", marks=pytest.mark.slow),
    pytest.param(
        ODD_MOE, Layout(gpus=8, pp=2, dp_shard=2, cp=2, ep=2), id="moe-fsdp2pp2cp2ep2", marks=pytest.mark.slow
    ),
]
DENSE = tiny_config(hidden_size=64, head_dim=16, ffn_hidden_size=96, vocab_size=128, num_layers=4)
MIXED = replace(DENSE, name="mixed", moe=replace(MIXTURE, ffn_hidden_size=48, shared_ffn_hidden_size=48))
SHARED_HEAD = replace(DENSE, name="shared-head", num_kv_heads=1, qk_norm="rms")
ACTIVATION_CASES = [
    pytest.param(DENSE, Layout(gpus=2, tp=2), "none", id="tp2"),
    pytest.param(DENSE, Layout(gpus=2, cp=2), "none", id="cp2"),
    pytest.param(SHARED_HEAD, Layout(gpus=2, tp=2), "none", id="copies-tp2", marks=pytest.mark.slow),
    pytest.param(SHARED_HEAD, Layout(gpus=2, tp=2), "selective", id="copies-tp2-selective", marks=pytest.mark.slow),
    pytest.param(SHARED_HEAD, Layout(gpus=2, cp=2, cp_comm="a2a"), "none", id="copies-cp2a2a", marks=pytest.mark.slow),
    pytest.param(DENSE, Layout(gpus=4, pp=4), "none", id="pp4"),
    pytest.param(DENSE, Layout(gpus=2, pp=2), "full", id="pp2-full"),
    pytest.param(MIXED, Layout(gpus=2, tp=2, ep=2), "none", id="moe-tp2ep2"),
]
ACTIVATION_TOLERANCE = 0.05
LATENT = MLA(q_lora_rank=48, kv_lora_rank=32, qk_nope_head_dim=16, qk_rope_head_dim=8, v_head_dim=16)
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "value": {"has_value_head": True},
    "qwen3": {"qk_norm": "rms", "head_dim": 24},
    "gpt3": {"activation": "gelu", "norm": "layernorm", "max_positions": 64, "qkv_bias": True, "num_kv_heads": 4},
    "nemotron4": {"activation": "squared_relu", "norm": "layernorm", "rope_dim": 8},
    "gemma2": {
        "activation": "geglu",
        "has_post_norms": True,
        "attention_softcap": 50.0,
        "final_softcap": 30.0,
        "sliding_window": 16,
        "full_attention_interval": 2,
        "tied_embeddings": True,
    },
    "gpt-oss": {
        "activation": "clamped_swiglu",
        "attention_sinks": True,
        "mlp_bias": True,
        "sliding_window": 16,
        "full_attention_interval": 2,
        "moe": replace(MIXTURE, ffn_hidden_size=48, shared_ffn_hidden_size=0, router_bias=True),
    },
    "deepseek-v3": {
        "moe": replace(MIXTURE, ffn_hidden_size=48, shared_ffn_hidden_size=48, router="sigmoid"),
        "mla": LATENT,
        "mtp_num_layers": 1,
        "num_kv_heads": 4,
    },
}
FAMILY_TOLERANCE = 0.02


def plan_of(model: ModelConfig, layout: Layout, **changes: Any) -> Plan:
    """Return a plan of two steps, with more micro-batches than a stage of its pipeline keeps at once."""
    values = {
        "model": model,
        "layouts": {"cpu": layout},
        "seq_len": 64,
        "micro_batch_size": 1,
        "global_batch_size": 2 * layout.pp * layout.dp,
        **changes,
    }
    return replace(make_plan(is_router_balanced=model.moe is not None, **values), warmup_steps=0, steps=2)


def measure(engine: Engine, plan: Plan) -> list[dict[str, int]]:
    """Return each rank's bytes by kind."""
    run_dir = engine.launch(plan, entrypoint="tests.native.memory_probe:report_memory")
    return [json.loads((run_dir / f"memory-rank{rank}.json").read_text()) for rank in range(plan.layout.gpus)]


def planned_state(model: ModelConfig, *, layout: Layout, rank: int) -> StateBytes:
    """Ranks are in the order (pp, dp_replicate, dp_shard, cp, tp); experts see (copies or shards, ep, etp)."""
    shards = stage_shards(model, layout=layout, pp_rank=rank // (layout.gpus // layout.pp))
    parts = [(shard, 1) for shard in shards]
    rules = native_rules(make_plan())
    if layout.dp_shard == 1:
        return state_bytes(parts, rules=rules)
    inside = rank % (layout.dp_shard * layout.cp * layout.tp)
    return state_bytes(
        parts, rules=rules, dense_shard=inside // layout.tp, expert_shard=inside // (layout.ep * layout.etp)
    )


@pytest.mark.parametrize(("model", "layout"), STATE_CASES)
def test_weights_gradients_and_optimizer_state_are_those_of_real_ranks(
    engine: Engine, model: ModelConfig, layout: Layout
) -> None:
    measured = measure(engine, plan_of(model, layout, global_batch_size=layout.pp * layout.dp))

    for rank, sizes in enumerate(measured):
        planned = planned_state(model, layout=layout, rank=rank)
        assert (planned.weights, planned.gradients, planned.optimizer) == (
            sizes["weights"],
            sizes["gradients"],
            sizes["optimizer"],
        ), f"rank {rank}"


@pytest.mark.parametrize(("model", "layout", "recompute"), ACTIVATION_CASES)
def test_activations_are_near_the_peak_of_real_ranks(
    engine: Engine, model: ModelConfig, layout: Layout, recompute: str
) -> None:
    plan = plan_of(model, layout, recompute=recompute)

    measured = measure(engine, plan)

    for rank, sizes in enumerate(measured):
        stage = stage_memory(plan, pp_rank=rank // (layout.gpus // layout.pp))
        assert stage.activations == pytest.approx(sizes["activations"], rel=ACTIVATION_TOLERANCE), f"rank {rank}"


@pytest.mark.filterwarnings("ignore:grouped_mm needs rows")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_activations_of_each_family_are_near_what_autograd_keeps(family: str, precision: str) -> None:
    model = replace(DENSE, name=family, **FAMILIES[family])
    plan = plan_of(model, Layout(gpus=1), precision=precision, micro_batch_size=2, global_batch_size=2)
    kept = KeptActivations()
    ((tokens, labels),) = SyntheticTokens(plan, dp_rank=0, device=CPU).micro_batches(0)

    with torch.autograd.graph.saved_tensors_hooks(kept.hold, lambda held: held.tensor):
        build(plan)(tokens, labels)

    stage = stage_memory(plan, pp_rank=0)
    casts = stage.transient - ActivationBytes(plan).loss_workspace()
    assert stage.activations + casts == pytest.approx(kept.peak_bytes, rel=FAMILY_TOLERANCE)
