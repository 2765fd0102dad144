from __future__ import annotations

import copy
from typing import Any

import pytest

from pytest_nemoperf.errors import RecipeError
from pytest_nemoperf.frameworks.configs.nemo_rl_algorithm import read_rl
from pytest_nemoperf.frameworks.configs.yaml_file import YamlConfig, set_option
from pytest_nemoperf.recipes.algorithms import Algorithm
from pytest_nemoperf.recipes.rl import RL
from tests.frameworks.nemo_rl_files import GRPO


def read(changes: dict[str, Any] | None = None, *, algorithm: str = "grpo", seq_len: int | None = 4096) -> RL:
    """Return what is read from a file with changes."""
    data = copy.deepcopy(GRPO)
    for name, value in (changes or {}).items():
        set_option(data, name, value)
    return read_rl(YamlConfig(data, subject="x.yaml"), algorithm=algorithm, seq_len=seq_len)


def algorithm_of(changes: dict[str, Any] | None = None, *, algorithm: str = "grpo") -> Algorithm:
    """Return the algorithm of a file with changes."""
    found = read(changes, algorithm=algorithm).algorithm
    assert isinstance(found, Algorithm)
    return found


def test_a_step_of_grpo_is_read_whole() -> None:
    assert read() == RL(
        num_prompts_per_step=32,
        num_generations_per_prompt=16,
        prompt_len=1024,
        max_response_len=3072,
        response_lengths="sampled",
        algorithm=Algorithm(
            name="grpo",
            clip_low=0.2,
            clip_high=0.28,
            kl_coef=0.01,
            loss_mean="token",
            is_leave_one_out=True,
            is_std_normalized=True,
        ),
        generator="vllm",
        learning_rate=3e-7,
        dataset="OpenMath",
    )


def test_dynamic_sampling_makes_it_dapo() -> None:
    algorithm = algorithm_of(
        {
            "grpo.use_dynamic_sampling": True,
            "grpo.dynamic_sampling_max_gen_batches": 7,
            "grpo.reward_shaping": {
                "enabled": True,
                "overlong_buffer_length": 512,
                "overlong_buffer_penalty": 1.0,
                "max_response_length": 2048,
            },
        }
    )

    assert (algorithm.name, algorithm.has_dynamic_sampling, algorithm.max_rounds) == ("dapo", True, 7)
    assert (algorithm.overlong_share, algorithm.overlong_penalty) == (0.25, 1.0)


def test_another_estimator_names_the_algorithm() -> None:
    assert algorithm_of({"grpo.adv_estimator.name": "Reinforce++"}).name == "reinforce_"


def test_ppo_has_values_of_its_estimator() -> None:
    algorithm = algorithm_of(
        {"ppo": {**GRPO["grpo"], "adv_estimator": {"gae_lambda": 0.9, "gae_gamma": 0.99}}}, algorithm="ppo"
    )

    assert (algorithm.name, algorithm.advantage, algorithm.gae_lambda, algorithm.discount) == ("ppo", "gae", 0.9, 0.99)


def test_importance_is_capped_only_where_it_is_corrected() -> None:
    ratio = {"loss_fn.truncated_importance_sampling_ratio": 2.0}

    assert algorithm_of(ratio).importance_cap is None
    assert algorithm_of({**ratio, "loss_fn.use_importance_sampling_correction": True}).importance_cap == 2.0


@pytest.mark.parametrize(
    ("changes", "staleness"),
    [
        pytest.param({}, 0, id="on policy"),
        pytest.param({"grpo.async_grpo": {"enabled": False, "max_trajectory_age_steps": 3}}, 0, id="off"),
        pytest.param({"grpo.async_grpo": {"enabled": True, "max_trajectory_age_steps": 3}}, 3, id="three steps"),
        pytest.param({"async_rl": {"sampler": {"max_lookahead_versions": 2}}}, 2, id="single controller"),
        pytest.param({"async_rl": {"sampler": {}}}, 1, id="single controller without a limit"),
    ],
)
def test_staleness_is_that_of_the_loop(changes: dict[str, Any], staleness: int) -> None:
    assert read(changes).max_staleness == staleness


def test_lengths_without_limits_are_limited_by_the_sequence() -> None:
    rl = read({"policy.generation.max_new_tokens": None, "data.max_input_seq_length": None})

    assert (rl.prompt_len, rl.max_response_len) == (4096, 4096)


@pytest.mark.parametrize(
    ("changes", "precision"),
    [
        ({}, None),
        ({"policy.generation.vllm_cfg.precision": "fp8"}, "fp8"),
        ({"policy.generation.vllm_cfg.precision": "bfloat16"}, "bf16"),
        ({"policy.generation.vllm_cfg.precision": "fp8", "policy.generation.backend": "megatron"}, None),
    ],
)
def test_precision_of_generation_is_that_of_vllm(changes: dict[str, Any], precision: str | None) -> None:
    assert read(changes).generation_precision == precision


def test_a_precision_of_generation_without_a_word_is_an_error() -> None:
    with pytest.raises(RecipeError, match=r"vllm_cfg\.precision=float16 has no word here"):
        read({"policy.generation.vllm_cfg.precision": "float16"})


def test_packing_and_sampling_are_read() -> None:
    rl = read(
        {
            "policy.sequence_packing": {"enabled": True},
            "policy.generation.top_p": 0.9,
            "policy.generation.top_k": 40,
            "policy.generation.temperature": 0.7,
            "policy.generation.backend": "sglang",
        }
    )

    assert (rl.is_packed, rl.top_p, rl.top_k, rl.temperature, rl.generator) == (True, 0.9, 40, 0.7, "sglang")
    assert read({"policy.generation.top_k": -1}).top_k is None


@pytest.mark.parametrize(
    ("data", "dataset"),
    [
        pytest.param({"train": {"data_path": "/data/math.jsonl"}}, "math.jsonl", id="a file"),
        pytest.param({"train": [{"dataset_name": "a"}, {"dataset_name": "b"}]}, "a+b", id="several"),
        pytest.param({"dataset_name": "old"}, "old", id="without parts"),
        pytest.param({"shuffle": True}, "", id="none"),
    ],
)
def test_the_dataset_is_named(data: dict[str, Any], dataset: str) -> None:
    assert read({"data": {**data, "max_input_seq_length": 64}}).dataset == dataset


def test_megatron_s_learning_rate_is_its_optimizer_s() -> None:
    assert read({"policy.megatron_cfg": {"enabled": True, "optimizer": {"lr": 5e-7}}}).learning_rate == 5e-7


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        pytest.param(
            {"grpo.num_prompts_per_step": None},
            "x.yaml does not tell grpo.num_prompts_per_step, which every step needs; set it there",
            id="missing",
        ),
        pytest.param(
            {"policy.generation.backend": "new"}, "x.yaml: unknown generator 'new'; known: ", id="a generator"
        ),
        pytest.param(
            {"policy.generation.temperature": "hot"}, "x.yaml: policy.generation: temperature='hot' must be", id="text"
        ),
    ],
)
def test_a_value_that_can_not_be_is_refused_with_the_file(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(RecipeError) as caught:
        read(changes)

    assert str(caught.value).startswith(told)


def test_the_longest_sequence_is_asked_for_where_prompts_or_responses_have_no_limit() -> None:
    with pytest.raises(RecipeError, match=r"x\.yaml does not tell policy\.max_total_sequence_length, the longest"):
        read({"data.max_input_seq_length": None}, seq_len=None)

    assert read(seq_len=None).prompt_len == 1024
