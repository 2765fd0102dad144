from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_nemoperf.errors import PlanError
from pytest_nemoperf.layouts.layout import GenerationLayout, Layout
from pytest_nemoperf.recipes.case_id import benchmark_case_id, case_id, count_nodes, find_layout
from pytest_nemoperf.recipes.recipe import Precision, Recipe
from pytest_nemoperf.recipes.systems import System
from tests.builders import make_rl
from tests.recipes.test_resolve import CPU, H100, MODEL, recipe_of


def case_on(recipe: Recipe, *, system: System) -> str:
    """Return the case id of a recipe on a system."""
    layout = find_layout(recipe, system=system)
    return case_id(recipe, layout=layout, num_nodes=count_nodes(layout, system=system))


def test_a_variant_tells_recipes_apart() -> None:
    assert case_on(recipe_of(variant="no-overlap"), system=H100).endswith("-gbs128-mbs1-no-overlap")


def test_lengths_that_vary_are_in_the_id() -> None:
    recipe = recipe_of(has_varying_lengths=True, framework="megatron", variant="x")

    assert case_on(recipe, system=H100).endswith("-gbs128-mbs1-varlen-x")


names = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,12}", fullmatch=True)
shown = st.fixed_dictionaries(
    {
        "model": st.one_of(names, st.sampled_from(["a", "a-1n1g", "a-torch-fp32", "fp32", "a-"])),
        "framework": st.one_of(
            st.sampled_from(["torch", "megatron", "torch-1n1g", "x-fp32", "ddp2-seq8"]), names
        ).filter(lambda name: name != "command"),
        "precision": st.sampled_from(Precision),
        "variant": st.one_of(st.just(""), names, st.sampled_from(["bf16", "mbs1", "seq8-gbs8-mbs8", "varlen"])),
        "has_varying_lengths": st.booleans(),
        "replicas": st.integers(1, 3),
        "shards": st.integers(1, 3),
        "seq_len": st.integers(1, 20),
        "global_batch_size": st.integers(1, 20),
        "micro_batch_size": st.integers(1, 20),
    }
)


def _id_of(fields: dict[str, Any]) -> str | None:
    """Return the case id, or None if the names would make it ambiguous."""
    gpus = fields["replicas"] * fields["shards"]
    layout = Layout(gpus=gpus, dp_replicate=fields["replicas"], dp_shard=fields["shards"])
    changes = {key: value for key, value in fields.items() if key not in ("replicas", "shards")}
    recipe = recipe_of(layout, **(changes | {"model": replace(MODEL, name=fields["model"])}))
    try:
        return case_on(recipe, system=CPU)
    except PlanError:
        return None


@given(shown, shown)
def test_recipes_that_differ_in_a_shown_field_have_different_ids(one: dict[str, Any], other: dict[str, Any]) -> None:
    ids = [_id_of(one), _id_of(other)]

    assert None in ids or (ids[0] == ids[1]) == (one == other)


@given(shown, shown)
def test_one_field_is_enough_to_tell_ids_apart(one: dict[str, Any], other: dict[str, Any]) -> None:
    for field in one:
        changed = one | {field: other[field]}
        ids = [_id_of(one), _id_of(changed)]
        assert None in ids or (ids[0] == ids[1]) == (one == changed)


optional = st.fixed_dictionaries(
    {
        "variant": st.sampled_from(["", "x", "packed", "packed-x", "sampled", "replay", "vllm", "off1", "compiled"]),
        "algorithm": st.sampled_from(["grpo", "ppo", "dapo"]),
        "num_prompts_per_step": st.integers(1, 3),
        "max_staleness": st.integers(0, 2),
        "response_lengths": st.sampled_from(["fixed", "sampled", (3,)]),
        "is_packed": st.booleans(),
        "is_compiled": st.booleans(),
        "generator": st.sampled_from(["native", "vllm"]),
        "is_colocated": st.booleans(),
        "generation_tp": st.integers(1, 2),
    }
)


def _rl_id_of(fields: dict[str, Any]) -> str | None:
    generation = GenerationLayout(gpus=2, tp=fields["generation_tp"], is_colocated=fields["is_colocated"])
    apart = ("variant", "is_compiled", "is_colocated", "generation_tp")
    rl = make_rl(**{key: value for key, value in fields.items() if key not in apart})
    layout = Layout(gpus=2, dp_shard=2, generation=generation)
    try:
        return case_on(
            recipe_of(layout, rl=rl, variant=fields["variant"], is_compiled=fields["is_compiled"]), system=CPU
        )
    except PlanError:
        return None


@given(optional, optional)
def test_recipes_of_reinforcement_learning_that_differ_in_what_is_shown_have_different_ids(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    for changed in (other, *(one | {field: other[field]} for field in one)):
        ids = [_rl_id_of(one), _rl_id_of(changed)]
        assert None in ids or (ids[0] == ids[1]) == (one == changed)


def test_every_setting_that_is_not_the_default_is_in_the_id() -> None:
    rl = make_rl(max_staleness=2, response_lengths=(3, 5), is_packed=True, generator="vllm", algorithm="ppo")

    case = case_on(recipe_of(rl=rl, variant="x"), system=H100)

    assert case == (
        "ppo-llama3-8b-1n8g-torch-bf16-fsdp4tp2-gdp8-seq8192-gbs128-mbs1-p4g2-in16out24-off2-replay-packed-vllm-x"
    )


def test_a_generation_layout_that_says_the_default_changes_no_id() -> None:
    spelt = Layout(gpus=2, dp_shard=2, generation=GenerationLayout(gpus=2))

    ids = {case_on(recipe_of(layout, rl=make_rl()), system=CPU) for layout in (spelt, Layout(gpus=2, dp_shard=2))}

    assert len(ids) == 1


@given(shown)
def test_ids_are_safe_as_file_names(fields: dict[str, Any]) -> None:
    case = _id_of(fields)

    assert case is None or re.fullmatch(r"[a-z0-9][a-z0-9._-]*", case)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param(
            {"model": replace(MODEL, name="my-2n4g")}, r"model name 'my-2n4g' has the part '2n4g'", id="nodes"
        ),
        pytest.param({"framework": "x-bf16"}, r"framework name 'x-bf16' has the part 'bf16'", id="precision"),
        pytest.param(
            {"variant": "packed-rows"}, r"variant 'packed-rows' begins with 'packed', .* means a setting", id="setting"
        ),
        pytest.param({"variant": "varlen"}, r"variant 'varlen' begins with 'varlen'", id="lengths"),
        pytest.param({"variant": "off2"}, r"variant 'off2' begins with 'off2'", id="staleness"),
        pytest.param({"variant": "v" * 200}, r"has 26\d characters, a file name takes 200", id="too long"),
    ],
)
def test_names_that_spoil_the_id_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        case_on(recipe_of(**changes), system=H100)


@pytest.mark.parametrize(
    ("nodeid", "case"),
    [
        ("perf_tests/test_kernels.py::test_matmul", "bench-perf_tests.test_kernels.test_matmul"),
        ("perf-tests/test_a.py::TestB::test_c[bf16-NT]", "bench-perf-tests.test_a.TestB.test_c-bf16-NT"),
        ("test_a.py::test_b[0.5--1e-3]", "bench-test_a.test_b-0.5--1e-3"),
    ],
)
def test_a_benchmark_is_named_by_its_node_id_where_nothing_else_has_that_name(nodeid: str, case: str) -> None:
    assert benchmark_case_id(nodeid) == case


@pytest.mark.parametrize(
    "nodeids",
    [
        pytest.param(["t.py::t[C]", "t.py::t[C++]", "t.py::t[C#]"], id="signs"),
        pytest.param(
            ["t.py::t[a b]", "t.py::t[a:b]", "t.py::t[a-b]", "t.py::t[a/b]", "t.py::t[a::b]"], id="separators"
        ),
        pytest.param(["t.py::t", "t.py::t[]", "t.py::t[-]", "t.py::t[.]"], id="next to nothing"),
        pytest.param(["t.py::t[1]", "t.py::t[1-]", "t.py::t[1+]"], id="at the end"),
        pytest.param(["a/b.py::c", "a.b.py::c", "a.py::b::c", "a.b::c", "a/b::c"], id="file or class"),
        pytest.param(["a/B.py::c", "a.py::B::c", "a.B.py::c"], id="file with a capital or class"),
        pytest.param(["a/p-t/x.py::y", "a.py::p[t.x.y]", "a/p.py::t[x.y]", "a/p-t.py::x::y"], id="dash of a folder"),
        pytest.param(["a/b.py::c", "-a/b.py::c"], id="at the start"),
        pytest.param([f"t.py::t[{'x' * 200}{end}]" for end in "ab"], id="long"),
    ],
)
def test_benchmarks_with_different_node_ids_have_different_cases(nodeids: list[str]) -> None:
    cases = [benchmark_case_id(nodeid) for nodeid in nodeids]

    assert len(set(cases)) == len(nodeids)
    assert all(re.fullmatch(r"bench-[A-Za-z0-9._-]{1,180}", case) for case in cases)


like_node_ids = st.from_regex(r"([aB]/)*[aB1-]\.py::(B::)?a(\[[aB1.-]+\])?", fullmatch=True)
odd = st.text(alphabet="aB1./:[-]+", max_size=12)


@given(st.sets(like_node_ids | odd, min_size=2))
def test_no_two_benchmarks_share_a_case(nodeids: set[str]) -> None:
    assert len({benchmark_case_id(nodeid) for nodeid in nodeids}) == len(nodeids)


def config_part(path: str, /, **options: Any) -> str:
    """Return the part of a case id that tells a framework's own recipe file and its options."""
    recipe = recipe_of(framework="nemo_rl", framework_config=path, framework_options=options)
    before, _, part = case_on(recipe, system=H100).partition("-mbs1-")
    assert before
    return part


@pytest.mark.parametrize(
    ("path", "part"),
    [
        pytest.param("recipes/grpo_llama.yaml", "grpo_llama", id="a file"),
        pytest.param("GRPO Llama-8B.yaml", "grpo_llama_8b", id="other characters"),
        pytest.param("gpt3_345m/model_config.yaml", "gpt3_345m", id="a name that all have"),
        pytest.param("model_config.yaml", "model_config", id="a name that all have, without a folder"),
        pytest.param("recipes/llama.py:llama_pretrain_config", "llama_pretrain_config", id="a function"),
        pytest.param("megatron.bridge.llama:llama_config", "llama_config", id="a function of a module"),
        pytest.param("compiled.yaml", "config_compiled", id="a name that means a setting"),
        pytest.param("\u00e9.yaml", "config", id="no letter"),
    ],
)
def test_a_framework_s_own_recipe_file_is_in_the_id(path: str, part: str) -> None:
    assert config_part(path) == part


@pytest.mark.parametrize(
    ("options", "part"),
    [
        pytest.param({"overlap_grad_reduce": True}, "x.overlap_grad_reduce", id="on"),
        pytest.param({"ddp.overlap_param_gather": False}, "x.no_overlap_param_gather", id="off"),
        pytest.param({"dispatcher": "deepep"}, "x.dispatcher_deepep", id="a value"),
        pytest.param({"tp": 4, "a.b.cp": 2}, "x.cp_2.tp_4", id="several, in the order of their names"),
        pytest.param({"--sequence-parallel": None}, "x.sequence_parallel_none", id="left out"),
    ],
)
def test_options_are_words_of_the_id(options: dict[str, Any], part: str) -> None:
    assert config_part("x.yaml", **options) == part


def test_the_order_of_options_changes_no_id() -> None:
    assert config_part("x.yaml", b=1, a=2) == config_part("x.yaml", a=2, b=1)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param({"path": "/a/b"}, {"path": "/a-b"}, id="values that no word tells"),
        pytest.param({"a.x": 1, "b.x": 1}, {"a.x": 1, "c.x": 1}, id="two of one name"),
        pytest.param({"names": [1, 2]}, {"names": [2, 1]}, id="lists"),
        pytest.param({f"option_{at}": at for at in range(30)}, {f"option_{at}": 0 for at in range(30)}, id="many"),
    ],
)
def test_options_that_make_no_readable_word_are_a_digest(one: dict[str, Any], other: dict[str, Any]) -> None:
    parts = [config_part("x.yaml", **options) for options in (one, other)]

    assert parts[0] != parts[1]
    for part in parts:
        assert re.fullmatch(r"x\.[0-9a-f]{8}", part)


def test_a_long_name_is_shortened_so_that_the_id_still_fits_a_file_name() -> None:
    ids = []
    for ending in "ab":
        path = f"{'long_' * 30}{ending}.yaml"
        recipe = recipe_of(framework="nemo_rl", framework_config=path, variant="v" * 60)
        ids.append(case_on(recipe, system=H100))

    assert ids[0] != ids[1]
    for case in ids:
        assert len(case) <= 200
        assert case.endswith("-" + "v" * 60)
