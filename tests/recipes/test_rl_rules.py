"""Rules of reinforcement learning plans, the arithmetic in their errors, and the frameworks they bind."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pytest_nemoperf.errors import PlanError, RecipeError
from pytest_nemoperf.layouts.layout import GenerationLayout, Layout
from pytest_nemoperf.recipes.algorithms import ALGORITHMS
from tests.builders import make_plan, make_rl, make_rl_plan
from tests.recipes.test_resolve import MODEL, MOE

# 24 query heads in groups of six
SIX_GROUPS = replace(MODEL, num_heads=24, num_kv_heads=4)
APART = GenerationLayout(gpus=2, is_colocated=False)
TRAIN2 = Layout(gpus=2, dp_shard=2)


def _generating(**degrees: Any) -> dict[str, Layout]:
    generation = GenerationLayout(is_colocated=False, **degrees)
    return {"cpu": replace(TRAIN2, generation=generation)}


def test_a_plan_of_reinforcement_learning_spells_out_who_generates() -> None:
    plan = make_rl_plan()

    assert plan.layout.generation == GenerationLayout(gpus=2)
    assert plan.tokens_per_step == 8 * (16 + 24)
    assert plan.rl is not None
    assert plan.rl.algorithm == ALGORITHMS["grpo"]


@pytest.mark.parametrize(
    ("rl", "recipe", "message"),
    [
        pytest.param(
            {},
            {"global_batch_size": 6},
            r"num_prompts_per_step\*num_generations_per_prompt \(4\*2=8 samples a step, G-GBS\) is not a multiple of "
            r"global_batch_size=6 \(T-GBS\), .* 8/6 = 1\.33333 updates; choose 6 or 12 samples",
            id="updates of a step",
        ),
        pytest.param(
            {}, {"global_batch_size": 16}, r"8/16 = 0\.5 updates; choose 16 samples", id="less than one update"
        ),
        pytest.param(
            {"max_response_len": 49},
            {},
            r"prompt_len\+max_response_len \(16\+49=65\) is more than seq_len=64; raise seq_len to 65",
            id="length",
        ),
        pytest.param(
            {"max_batch_size": 9}, {}, r"max_batch_size=9 is more than the samples of a step \(4\*2=8\)", id="slots"
        ),
        pytest.param(
            {"is_packed": True},
            {"micro_batch_size": 2},
            r"micro_batch_size=2 with is_packed=True: .*use micro_batch_size=1",
            id="micro-batches of packed rows",
        ),
        pytest.param(
            {"max_staleness": 1},
            {},
            r"max_staleness=1 lets generation run ahead of training, .*is_colocated=False",
            id="staleness of ranks that take turns",
        ),
        pytest.param(
            {},
            {"model": "qwen3-30b-a3b-twin", "is_router_balanced": True},
            r"is_router_balanced=True sends a token to experts by its place .*use is_router_balanced=False",
            id="balanced router",
        ),
        pytest.param(
            {},
            {"has_varying_lengths": True, "framework": "mine"},
            r"has_varying_lengths=True with rl, whose response_lengths says how long responses are",
            id="varying lengths",
        ),
        pytest.param(
            {},
            {"model": replace(MODEL, vocab_size=13)},
            r"vocab_size=13 is less than the 14 tokens of the arithmetic task",
            id="vocabulary",
        ),
        pytest.param(
            {"num_prompts_per_step": 2},
            {"layouts": _generating(gpus=6, tp=2)},
            r"num_prompts_per_step=2 are fewer than the replicas .*6/\(2\*1\) = 3\)",
            id="prompts of a replica",
        ),
        pytest.param(
            {"generator": "vllm"},
            {"layouts": _generating(gpus=2, tp=2)},
            r"generator='vllm' runs one engine a rank, .* tp=2, pp=1; use tp=1 and pp=1",
            id="ranks of a vllm engine",
        ),
        pytest.param(
            {"generator": "vllm", "temperature": 0.001},
            {},
            r"generator='vllm' samples at temperatures from 0\.01 on, not 0\.001",
            id="temperature of vllm",
        ),
        pytest.param(
            {"generator": "vllm", "temperature": 0.7, "top_k": 5},
            {},
            r"before the temperature \(0\.7\) or after the cut \(top_p=1, top_k=5\)",
            id="log-probabilities of vllm",
        ),
        pytest.param(
            {"generator": "vllm"},
            {"model": "qwen3-30b-a3b-twin"},
            r"generator='vllm' can't load the model: weights of experts are not handed over",
            id="experts of vllm",
        ),
        pytest.param(
            {"generator": "vllm"},
            {"model": replace(MODEL, logit_scale=2.0)},
            r"generator='vllm' can't load the model: its logit_scale=2\.0 is not what",
            id="models of vllm",
        ),
        pytest.param(
            {"generation_precision": "fp8"},
            {},
            r"generation_precision='fp8' with generator='native', whose matrix products are fp32 or bf16",
            id="precision of generation",
        ),
        pytest.param(
            {},
            {"model": MODEL, "layouts": _generating(gpus=3, tp=3)},
            r"generation tp=3 does not divide num_heads=8 \(8/3 = 2\.66667\)",
            id="heads of a replica",
        ),
        pytest.param(
            {},
            {"model": SIX_GROUPS, "layouts": _generating(gpus=6, tp=6)},
            r"generation tp=6 neither divides num_kv_heads=4 .* choose generation tp among 1, 2, 4, 8, 12, 24$",
            id="key-value heads of a replica",
        ),
        pytest.param(
            {},
            {"model": replace(MODEL, ffn_hidden_size=193), "layouts": _generating(gpus=2, tp=2)},
            r"generation tp=2 does not divide ffn_hidden_size=193",
            id="ffn of a replica",
        ),
        pytest.param(
            {},
            {
                "model": replace(MODEL, moe=replace(MOE, ffn_hidden_size=51)),
                "layouts": _generating(gpus=2, tp=2),
            },
            r"generation tp=2 does not divide moe\.ffn_hidden_size=51",
            id="experts of a replica",
        ),
        pytest.param(
            {},
            {"model": MODEL, "layouts": _generating(gpus=13, pp=13)},
            r"generation pp=13 stages are more than num_layers=12",
            id="stages of a replica",
        ),
    ],
)
def test_a_broken_rule_shows_the_arithmetic(rl: dict[str, Any], recipe: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        make_rl_plan(rl=make_rl(**rl), **recipe)


def test_generation_in_the_precision_of_training_is_one_workload_said_either_way() -> None:
    said = make_rl_plan(rl=make_rl(generation_precision="fp32"))

    assert said == make_rl_plan()
    assert said.generation_precision == "fp32"


def test_generation_in_another_precision_is_part_of_the_case_id() -> None:
    plan = make_rl_plan(rl=make_rl(generation_precision="bf16"))

    assert plan.case == f"{make_rl_plan().case}-genbf16"
    assert plan.generation_precision == "bf16"


def test_a_variant_may_not_resemble_a_precision_of_generation() -> None:
    with pytest.raises(PlanError, match="begins with 'genfp8', which in a case id means a setting"):
        make_rl_plan(variant="genfp8")


def test_an_unknown_precision_of_generation_is_refused() -> None:
    with pytest.raises(RecipeError, match="unknown generation_precision 'fp16'"):
        make_rl(generation_precision="fp16")


def test_a_generation_layout_needs_reinforcement_learning() -> None:
    with pytest.raises(PlanError, match=r"layout\.generation \(gdp2apart\) .* a recipe without rl has none"):
        make_plan(layouts=_generating(gpus=2))


@pytest.mark.parametrize(
    ("rl", "recipe"),
    [
        pytest.param({}, {"model": replace(MODEL, vocab_size=13)}, id="the task"),
        pytest.param({}, {"model": SIX_GROUPS, "layouts": _generating(gpus=6, tp=6)}, id="key-value heads"),
        pytest.param({"generator": "vllm"}, {"layouts": _generating(gpus=2, tp=2)}, id="engines of several ranks"),
    ],
)
def test_rules_of_the_native_generator_do_not_bind_other_frameworks(rl: dict[str, Any], recipe: dict[str, Any]) -> None:
    foreign = make_rl_plan(rl=make_rl(**rl), framework="nemo-rl", **recipe)

    with pytest.raises(PlanError, match=r"vocab_size=13|generation tp=6|engine a rank"):
        make_rl_plan(rl=make_rl(**rl), **recipe)
    assert foreign.framework == "nemo-rl"


def test_generators_of_other_frameworks_are_theirs_alone() -> None:
    rl = make_rl(generator="sglang")

    with pytest.raises(PlanError, match=r"generator='sglang' with framework='torch', which has native and vllm"):
        make_rl_plan(rl=rl)
    assert make_rl_plan(rl=rl, framework="nemo-rl").case.endswith("-gen_sglang")


def test_other_frameworks_may_cut_sequences_pack_micro_batches_and_generate_ahead_on_the_same_ranks() -> None:
    rl = make_rl(prompt_len=64, max_response_len=64, is_packed=True, max_staleness=2)

    plan = make_rl_plan(
        rl=rl, model="qwen3-30b-a3b-twin", micro_batch_size=2, is_router_balanced=True, framework="nemo-rl"
    )

    assert plan.rl is not None
    assert plan.rl.max_lengths(seq_len=plan.seq_len)[0] == 64
    assert plan.tokens_per_step == 8 * 64  # a sequence ends at seq_len


def test_a_command_may_run_reinforcement_learning() -> None:
    plan = make_rl_plan(framework="command", command=("my-rl",))

    assert plan.case.startswith("grpo-llama-tiny-1n2g-command-fp32-fsdp2-gdp2-")


def test_generation_may_have_ranks_of_its_own_and_run_ahead() -> None:
    plan = make_rl_plan(rl=make_rl(max_staleness=1), layouts=_generating(gpus=4, tp=2))

    assert (plan.layout.gpus, plan.layout.total_gpus) == (2, 6)
    assert plan.case == "grpo-llama-tiny-1n6g-torch-fp32-fsdp2-gtp2gdp2apart-seq64-gbs4-mbs1-p4g2-in16out24-off1"
