from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_nemoperf.frameworks.configs.automodel import BENCHMARK, TRAINING, read_automodel
from pytest_nemoperf.frameworks.plans.automodel import plan_config, unmapped
from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.models.catalog import model_catalog
from pytest_nemoperf.recipes.recipe import Plan
from tests.builders import ROUND_MODEL, make_plan, make_rl
from tests.frameworks.nemo_rl_files import write_file

MIXTURE = "qwen3-30b-a3b-twin"
MIXED = {"model.torch_dtype": "bfloat16"}


def plan_of(layout: Layout | None = None, **changes: Any) -> Plan:
    """Return a plan of sixteen sequences a step, in micro-batches of two."""
    values: dict[str, Any] = {
        "model": ROUND_MODEL,
        "global_batch_size": 16,
        "micro_batch_size": 2,
        "layouts": {"cpu": layout or Layout(gpus=2, dp_shard=2)},
        **changes,
    }
    return make_plan(framework="automodel", **values)


def config_of(layout: Layout | None = None, **changes: Any) -> dict[str, Any]:
    plan = plan_of(layout, **changes)
    assert unmapped(plan) is None
    return plan_config(plan, run_dir=Path("/run"))


def test_a_plan_becomes_a_whole_recipe_file() -> None:
    config = config_of(seed=7)

    assert config == {
        "recipe": TRAINING,
        "seed": 7,
        "step_scheduler": {
            "global_batch_size": 16,
            "local_batch_size": 2,
            "max_steps": 8,
            "num_epochs": 1,
            "val_every_steps": None,
        },
        "dist_env": {"backend": "gloo", "timeout_minutes": config["dist_env"]["timeout_minutes"]},
        "model": {
            "_target_": "nemo_automodel.NeMoAutoModelForCausalLM.from_config",
            "config": "/run/model",
            "torch_dtype": "float32",
            "attn_implementation": "sdpa",
            "force_hf": False,
        },
        "distributed": {
            "strategy": "fsdp2",
            "dp_replicate_size": 1,
            "tp_size": 1,
            "cp_size": 1,
            "pp_size": 1,
            "sequence_parallel": False,
            "activation_checkpointing": False,
            "enable_compile": False,
            "mp_policy": {
                "_target_": "torch.distributed.fsdp.MixedPrecisionPolicy",
                "param_dtype": "float32",
                "reduce_dtype": "float32",
                "output_dtype": None,
                "cast_forward_inputs": False,
            },
        },
        "dataset": {
            "_target_": "pytest_nemoperf.trainers.automodel.PlanTokens",
            "seq_len": 64,
            "tokenizer": None,
        },
        "dataloader": {
            "_target_": "torchdata.stateful_dataloader.StatefulDataLoader",
            "shuffle": False,
            "collate_fn": "pytest_nemoperf.trainers.automodel.collate",
        },
        "loss_fn": {"_target_": "nemo_automodel.components.loss.masked_ce.MaskedCrossEntropy"},
        "optimizer": {"_target_": "pytest_nemoperf.trainers.automodel.PlanAdamW"},
        "clip_grad_norm": {"max_norm": 1.0},
        "checkpoint": {"enabled": False, "checkpoint_dir": "/run/checkpoints"},
    }


@pytest.mark.parametrize(
    "layout",
    [
        pytest.param(Layout(gpus=4, dp_shard=4), id="fsdp"),
        pytest.param(Layout(gpus=4, dp_replicate=4), id="ddp"),
        pytest.param(Layout(gpus=8, dp_replicate=2, dp_shard=4), id="hsdp"),
        pytest.param(Layout(gpus=4, dp_shard=2, tp=2), id="tp"),
        pytest.param(Layout(gpus=2, tp=2, sequence_parallel=False), id="no sequence parallelism"),
        pytest.param(Layout(gpus=4, dp_shard=2, cp=2), id="cp"),
        pytest.param(Layout(gpus=4, dp_shard=2, pp=2), id="pp"),
        pytest.param(Layout(gpus=2, pp=2, vp=2), id="vp"),
        pytest.param(Layout(gpus=2, pp=2, vp=2, pp_schedule="zero_bubble"), id="zero bubble"),
    ],
)
@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
def test_a_generated_file_is_read_back_as_the_plan(layout: Layout, recompute: str, tmp_path: Path) -> None:
    plan = plan_of(layout, recompute=recompute, micro_batch_size=1)
    assert unmapped(plan) is None
    generated = plan_config(plan, run_dir=tmp_path)
    generated["distributed"]["dp_size"] = layout.dp  # left to the launch

    values = read_automodel(write_file(tmp_path / "x.yaml", generated), options={})

    degrees = {name: value for name, value in values.degrees.items() if name != "sequence_parallel"}
    assert degrees == {name: getattr(layout, name) for name in degrees}
    assert values.degrees["sequence_parallel"] == (layout.tp > 1 and layout.sequence_parallel)
    assert values.gpus == layout.gpus
    assert values.values["global_batch_size"] == 16
    assert values.values["micro_batch_size"] == 1
    assert values.values["seq_len"] == 64
    assert values.values["seed"] == plan.seed
    assert values.values.get("recompute", "none") == recompute


def test_more_than_two_chunks_a_rank_are_layers_a_stage() -> None:
    model = replace(ROUND_MODEL, num_layers=8)

    pipeline = config_of(Layout(gpus=2, pp=2, vp=4), model=model)["distributed"]["pipeline"]

    assert pipeline == {"pp_schedule": "interleaved1f1b", "pp_microbatch_size": 2, "layers_per_stage": 1}


def test_a_pipeline_takes_the_micro_batches_of_a_step_in_one_go() -> None:
    scheduler = config_of(Layout(gpus=4, pp=2, dp_shard=2))["step_scheduler"]

    assert scheduler["local_batch_size"] == 8  # 2 sequences x 4 micro-batches


@pytest.mark.parametrize(
    ("precision", "param_dtype"), [("fp32", "float32"), ("bf16", "bfloat16"), ("fp8_cs", "bfloat16")]
)
def test_weights_stay_in_fp32_below_the_precision_of_computation(precision: str, param_dtype: str) -> None:
    config = config_of(precision=precision)

    assert config["model"]["torch_dtype"] == "float32"
    assert config["distributed"]["mp_policy"]["param_dtype"] == param_dtype
    assert config["distributed"]["mp_policy"]["reduce_dtype"] == "float32"
    assert ("fp8" in config) == (precision == "fp8_cs")


def test_8_bit_layers_leave_the_head_out() -> None:
    assert config_of(precision="fp8_cs")["fp8"] == {
        "enabled": True,
        "recipe_name": "tensorwise",
        "filter_fqns": ["lm_head"],
    }


def test_blocks_are_compiled_one_by_one_and_ddp_as_a_whole() -> None:
    assert config_of(is_compiled=True)["distributed"]["enable_compile"] is True
    assert config_of(Layout(gpus=2, dp_replicate=2), is_compiled=True)["compile"] == {"enabled": True}


def test_context_parallelism_runs_transformers_own_classes() -> None:
    assert config_of(Layout(gpus=2, cp=2))["model"]["force_hf"] is True


def test_experts_are_divided_and_balanced() -> None:
    config = config_of(Layout(gpus=2, dp_shard=2, ep=2), model=MIXTURE, is_router_balanced=True)

    assert config["distributed"]["ep_size"] == 2
    assert config["model"]["backend"] == {
        "_target_": "nemo_automodel.components.models.common.utils.BackendConfig",
        "fake_balanced_gate": True,
    }


def test_an_option_names_the_benchmark_recipe() -> None:
    config = config_of(framework_options={"recipe": BENCHMARK})

    assert config["recipe"] == BENCHMARK
    assert config["benchmark"] == {
        "warmup_steps": 2,
        "peak_tflops": 1.0,
        "nsys_start": -1,
        "nsys_end": -1,
        "nsys_ranks": [],
        "json_output_path": "/run/benchmark.json",
    }


def test_other_options_are_settings_of_the_file() -> None:
    options = {"model.attn_implementation": "flash_attention_2", "distributed.reshard_after_forward": False}

    config = config_of(framework_options=options)

    assert config["model"]["attn_implementation"] == "flash_attention_2"
    assert config["distributed"]["reshard_after_forward"] is False
    assert config["distributed"]["strategy"] == "fsdp2"


def test_weights_may_be_kept_in_bf16_where_nothing_tells_the_two_apart() -> None:
    config = config_of(Layout(gpus=1), precision="bf16", framework_options=MIXED)

    assert config["model"]["torch_dtype"] == "bfloat16"


@pytest.mark.parametrize(
    ("layout", "changes", "reason"),
    [
        (None, {"precision": "mxfp8"}, "precision=mxfp8: .* use that, bf16 or fp32"),
        (None, {"precision": "nvfp4"}, "precision=nvfp4: "),
        (None, {"precision": "fp8_ds"}, "precision=fp8_ds: "),
        (None, {"precision": "fp8_sc"}, "precision=fp8_sc: "),
        (Layout(gpus=1), {"precision": "bf16"}, "precision=bf16 with gpus=1: .*'model.torch_dtype': 'bfloat16'"),
        (
            Layout(gpus=2, dp_replicate=2),
            {"precision": "bf16"},
            r"precision=bf16 with dp_replicate=2 \(DDP\): .*dp_shard",
        ),
        (None, {"has_varying_lengths": True}, "has_varying_lengths=True: .*leave it out"),
        (None, {"rl": make_rl(), "global_batch_size": 8}, "grpo is not what NeMo Automodel trains"),
        (Layout(gpus=2, dp_replicate=2, shard_optimizer=True), {}, "shard_optimizer=True: .*use dp_shard"),
        (Layout(gpus=4, dp_replicate=2, tp=2), {}, "dp_replicate=2 with tp=2, cp=1, pp=1: .*use dp_shard"),
        (Layout(gpus=2, cp=2, cp_comm="a2a"), {}, "cp_comm=a2a: .*use cp_comm=all_gather"),
        (Layout(gpus=4, pp=4), {"global_batch_size": 4}, "pp=4 with 2 micro-batches a step: .*raise global_batch_size"),
        (
            Layout(gpus=3, pp=3, vp=2),
            {"global_batch_size": 14, "model": replace(ROUND_MODEL, num_layers=6)},
            "don't make equal rounds of at least pp=3",
        ),
        (Layout(gpus=4, tp=2, pp=2), {}, "sequence_parallel=True with tp=2 and pp=2: .*use sequence_parallel=False"),
        (Layout(gpus=3, pp=3, vp=2), {}, "model chunks are more than num_layers=4; lower pp or vp"),
        (Layout(gpus=2, pp=2, pp_schedule="zero_bubble"), {}, "pp_schedule=zero_bubble with vp=1: .*use vp=2"),
        (
            Layout(gpus=2, pp=2, vp=3),
            {"model": replace(ROUND_MODEL, num_layers=7)},
            "vp=3: NeMo Automodel divides num_layers=7 into pp.vp=6 chunks",
        ),
        (Layout(gpus=2, pp=2), {"model": replace(ROUND_MODEL, tied_embeddings=True)}, "pp=2 with tied_embeddings=True"),
        (Layout(gpus=2, pp=2), {"is_compiled": True}, "is_compiled=True with pp=2: "),
        (Layout(gpus=2, tp=2), {"model": MIXTURE}, "tp=2: .*use tp=1, and ep for the experts"),
        (Layout(gpus=2, dp_shard=2, etp=2), {"model": MIXTURE}, "etp=2: .*use etp=1"),
        (Layout(gpus=2, cp=2), {"model": MIXTURE}, "cp=2: .*use cp=1"),
        (Layout(gpus=2, dp_replicate=2, ep=2), {"model": MIXTURE}, "ep=2 with dp_replicate=2: .*use dp_shard"),
        (None, {"model": MIXTURE, "precision": "fp8_cs"}, "precision=fp8_cs: .*use bf16"),
        (
            None,
            {"model": "gemma2-2b-twin"},
            "gemma2-2b-twin has none here: its .*framework_config.*framework='torch'",
        ),
        (
            None,
            {"model": "deepseek-v4-flash-twin"},
            "compressed attention .*framework='megatron_bridge'",
        ),
        (None, {"model": "mixtral-8x7b-twin", "is_router_balanced": True}, "mixtral-8x7b-twin has none here"),
        (
            None,
            {"framework_options": {"recipe": "KnowledgeDistillation"}},
            "recipe='KnowledgeDistillation' is not run by",
        ),
        (
            Layout(gpus=1),
            {"framework_options": {"recipe": BENCHMARK}},
            "the benchmark recipe with gpus=1, .*leave recipe",
        ),
        (Layout(gpus=4, tp=4), {"model": "qwen2.5-1.5b"}, "tp=4 does not divide num_kv_heads=2"),
        (None, {"framework_options": {"distributed.tp_size": 2}}, "each run sets distributed.tp_size itself"),
        (None, {"framework_options": {"step_scheduler.max_steps": 2}}, "use steps= of the recipe"),
        (None, {"framework_options": {"peft": {"dim": 8}}}, "each run sets peft itself"),
        (None, {"framework_options": {"optimizer.lr": 1e-5}}, "each run sets optimizer itself"),
    ],
)
def test_what_no_file_can_say_is_refused_by_name(layout: Layout | None, changes: dict[str, Any], reason: str) -> None:
    assert re.search(reason, str(unmapped(plan_of(layout, **changes))))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"inject_pct": 20.0}, "--perf-inject delays steps from inside"),
        ({"log_format": "automodel"}, "log_format='automodel' is for commands"),
        ({"is_command_per_rank": True}, "is_command_per_rank=True is for commands"),
        ({"env": {"MASTER_PORT": "29500"}}, "MASTER_PORT='29500' clashes with the launcher"),
        ({"num_nodes": 2, "layout": Layout(gpus=16, dp_shard=16)}, "gpus=16 on 2 nodes: "),
    ],
)
def test_what_a_session_adds_is_refused_by_name(changes: dict[str, Any], reason: str) -> None:
    assert re.search(reason, str(unmapped(replace(plan_of(), **changes))))


def test_every_llama_and_qwen_of_one_kind_of_layers_is_taken() -> None:
    taken = []
    for name, model in model_catalog().items():
        if unmapped(plan_of(model=model)) is None:
            taken.append(name)

    assert len(taken) == 25
    assert {name.partition("-")[0] for name in taken} == {
        "llama",
        "llama2",
        "llama3",
        "llama3.1",
        "llama3.2",
        "qwen2.5",
        "qwen3",
    }
