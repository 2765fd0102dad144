from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_nemoperf.records.fingerprint import Significance, _significance_of, compare_fingerprints, watched_variables


@pytest.mark.parametrize(
    ("tier", "names"),
    [
        (Significance.KEY, ["device", "workload", "precision", "flops_convention"]),
        (
            Significance.WATCHED,
            ["driver", "cuda", "nccl", "torch", "transformer-engine", "megatron-core", "container", "cpu.governor"],
        ),
        (
            Significance.WATCHED,
            ["layer_spec", "gpu.power_cap_w", "gpu.max_sm_clock_mhz", "env.NCCL_ALGO", "env.OMP_NUM_THREADS"],
        ),
        (Significance.REST, ["commit", "python", "platform", "pytest", "pytest-nemoperf", "what nobody knows"]),
    ],
    ids=["key", "versions", "settings", "rest"],
)
def test_an_entry_has_its_tier_by_its_name(tier: Significance, names: list[str]) -> None:
    assert {name: _significance_of(name) for name in names} == dict.fromkeys(names, tier)


def test_differences_are_told_key_first_then_suspects_then_the_rest() -> None:
    then = {"torch": "2.13", "commit": "a", "device": "8x H100", "env.NCCL_ALGO": "Ring", "python": "3.12"}
    now = {"torch": "2.14", "commit": "b", "device": "8x H200", "env.NCCL_DEBUG": "INFO", "python": "3.12"}

    differences = compare_fingerprints(then, now=now)

    assert [(each.name, each.then, each.now) for each in differences] == [
        ("device", "8x H100", "8x H200"),
        ("env.NCCL_ALGO", "Ring", "-"),
        ("env.NCCL_DEBUG", "-", "INFO"),
        ("torch", "2.13", "2.14"),
        ("commit", "a", "b"),
    ]


fingerprints = st.dictionaries(st.sampled_from(["torch", "commit", "device", "env.A", "x"]), st.text(max_size=3))


@given(fingerprints, fingerprints)
def test_a_fingerprint_differs_from_another_where_the_other_differs_from_it(
    one: dict[str, str], other: dict[str, str]
) -> None:
    there = compare_fingerprints(one, now=other)
    back = compare_fingerprints(other, now=one)

    assert [(each.name, each.then, each.now) for each in there] == [(each.name, each.now, each.then) for each in back]
    assert not compare_fingerprints(one, now=one)


def test_variables_that_change_speed_are_taken_and_no_others() -> None:
    environ = {"NCCL_ALGO": "Ring", "OMP_NUM_THREADS": "1", "LD_PRELOAD": "libtcmalloc.so", "HOME": "/root", "PWD": "/"}

    assert watched_variables(environ) == {
        "env.LD_PRELOAD": "libtcmalloc.so",
        "env.NCCL_ALGO": "Ring",
        "env.OMP_NUM_THREADS": "1",
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("VLLM_API_KEY", "sk-1"),
        ("NCCL_AUTH_TOKEN", "t"),
        ("TORCH_SECRET", "s"),
        ("UCX_PASSWORD", "p"),
        ("NVTE_CREDENTIALS", "c"),
        ("VLLM_S3", "https://user:word@host/"),
        ("TORCHINDUCTOR_CACHE_DIR", "/runs/run-1/inductor"),
        ("TRITON_CACHE_DIR", "/runs/run-1/triton"),
        ("CUDA_HOME", "/usr/local/cuda"),
    ],
)
def test_secrets_addresses_and_places_are_never_recorded(name: str, value: str) -> None:
    assert watched_variables({name: value}) == {}


def test_a_long_value_is_cut() -> None:
    assert len(watched_variables({"NCCL_HCA": "x" * 1000})["env.NCCL_HCA"]) == 200
