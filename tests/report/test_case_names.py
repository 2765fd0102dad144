from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_nemoperf.recipes.case_id import model_and_layout
from pytest_nemoperf.report.case_names import names_within, short_name, short_names
from tests.builders import make_plan, make_rl_plan

CASE = "pretrain-llama3-8b-1n8g-torch-bf16-fsdp4tp2-seq8192-gbs128-mbs1"
TRL_CASE = CASE.replace("-torch-", "-trl-")
NODEID = "perf_tests/test_pretrain.py::TestLlama::test_llama[tp2-pp2]"


@pytest.mark.parametrize(
    ("nodeid", "name"),
    [
        (NODEID, "llama[tp2-pp2]"),
        ("test_x.py::test_llama", "llama"),
        ("test_x.py::test_perf[llama-8b]", "perf[llama-8b]"),
        ("test_x.py::test_x[a::b]", "x[a::b]"),
        ("test_x.py::test_perf", "llama3-8b fsdp4tp2"),
        ("test_x.py::test_llama[recipe0]", "llama3-8b fsdp4tp2"),
        ("test_x.py::test_llama[recipe0-plan12]", "llama3-8b fsdp4tp2"),
        ("test_x.py::test_llama[recipe0-fp8]", "llama[recipe0-fp8]"),
        ("", "llama3-8b fsdp4tp2"),
        ("test_x.py::test_\x1b[31mred", "red"),
        ("test_x.py::test_\u4f60", r"\u4f60"),
    ],
)
def test_a_case_is_named_by_its_test_or_by_model_and_layout(nodeid: str, name: str) -> None:
    assert short_name(CASE, nodeid=nodeid) == name


def test_an_id_that_is_no_recipes_is_its_own_name() -> None:
    assert short_name("my run") == "my run"


def test_model_and_layout_are_read_from_the_id_of_a_plan() -> None:
    plan = make_plan()
    rl_plan = make_rl_plan()

    assert model_and_layout(plan.case) == (plan.model.name, plan.layout.label)
    assert model_and_layout(rl_plan.case) == (rl_plan.model.name, rl_plan.layout.label)


def test_cases_of_one_test_are_named_by_model_and_layout() -> None:
    other = CASE.replace("fsdp4tp2", "fsdp8")

    assert short_names([(CASE, NODEID), (other, NODEID)]) == {CASE: "llama3-8b fsdp4tp2", other: "llama3-8b fsdp8"}


def test_names_that_would_be_equal_get_what_differs() -> None:
    names = short_names([(CASE, NODEID), (TRL_CASE, NODEID)])

    assert names == {CASE: "llama3-8b fsdp4tp2 torch", TRL_CASE: "llama3-8b fsdp4tp2 trl"}


def test_tests_of_the_same_name_get_their_files() -> None:
    names = short_names([("bench-a", "x/test_a.py::test_gemm"), ("bench-b", "x/test_b.py::test_gemm")])

    assert names == {"bench-a": "a::gemm", "bench-b": "b::gemm"}


def test_a_long_name_keeps_both_its_ends() -> None:
    names = {CASE: "llama[" + "x" * 40 + "-pp2]"}

    assert names_within(names, width=20) == {CASE: "llama[xxx...xxx-pp2]"}


def test_names_that_are_equal_when_cut_leave_out_what_they_have_in_common() -> None:
    end = "z" * 30
    names = {"a": f"{'x' * 30}-tp2-{end}", "b": f"{'x' * 30}-pp2-{end}"}

    assert names_within(names, width=20) == {"a": "...tp2-zz...zzzzzzzz", "b": "...pp2-zz...zzzzzzzz"}


TEXTS = st.text(st.sampled_from("ab-[]:x0\x1b\u200b\u4f60"), max_size=60)


@given(cases=st.lists(st.tuples(TEXTS, TEXTS), max_size=12), width=st.integers(min_value=8, max_value=40))
def test_no_two_cases_have_the_same_name_however_short(cases: list[tuple[str, str]], width: int) -> None:
    names = short_names(cases)
    cut = names_within(names, width=width)

    num_cases = len({case for case, _ in cases})
    assert len(set(names.values())) == num_cases
    assert len(set(cut.values())) == num_cases
    assert max(map(len, cut.values()), default=0) <= width
    assert "".join(names.values()).isprintable()
    assert "".join(names.values()).isascii()
