"""Switches of fast paths."""

from __future__ import annotations

import pytest

from pytest_nemoperf.errors import PlanError
from pytest_nemoperf.native.fast_paths import (
    FAST_PATHS,
    FAST_PATHS_VARIABLE,
    enabled_fast_paths,
    fast_path_environment,
)
from pytest_nemoperf.records.fingerprint import Significance, compare_fingerprints, watched_variables


def test_no_path_is_on_by_default() -> None:
    assert enabled_fast_paths({}) == frozenset()
    assert fast_path_environment({}) == {}


def test_every_path_can_be_switched_on_by_its_name() -> None:
    names = [path.name for path in FAST_PATHS]

    assert enabled_fast_paths({FAST_PATHS_VARIABLE: " , ".join(names)}) == frozenset(names)


def test_an_unknown_path_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(PlanError, match=r"unknown fast path 'tf23'; did you mean tf32\?"):
        enabled_fast_paths({FAST_PATHS_VARIABLE: "tf23"})


def test_a_path_may_consist_of_variables() -> None:
    environ = {FAST_PATHS_VARIABLE: "expandable_segments"}

    assert fast_path_environment(environ) == {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}


def test_another_value_of_such_a_variable_is_not_overwritten() -> None:
    environ = {FAST_PATHS_VARIABLE: "expandable_segments", "PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:64"}

    with pytest.raises(PlanError, match="but PYTORCH_CUDA_ALLOC_CONF=max_split_size_mb:64 is set"):
        fast_path_environment(environ)


def test_a_comparison_names_the_paths_that_differ() -> None:
    (difference,) = compare_fingerprints({}, now=watched_variables({FAST_PATHS_VARIABLE: "tf32"}))

    assert (difference.name, difference.now) == ("env.NEMOPERF_FAST_PATHS", "tf32")
    assert difference.tier is Significance.WATCHED
