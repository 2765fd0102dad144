"""The whole way of the data with real ranks: torch, gloo, the warm server."""

from __future__ import annotations

import json

import pytest

from tests.integration.conftest import Project

pytestmark = pytest.mark.ranks

NATIVE = """
import pytest
from pytest_nemoperf import Layout, ModelConfig, Recipe

MODEL = ModelConfig(name="speck", hidden_size=32, num_layers=1, num_heads=2, num_kv_heads=2, head_dim=16,
                    ffn_hidden_size=64, vocab_size=64)

@pytest.mark.perf
@pytest.mark.parametrize("layout", [Layout(gpus=1), Layout(gpus=2, {axis}=2)], ids=["one", "two"])
def test_speck(perf, layout):
    perf.check(Recipe(model=MODEL, layouts={{"cpu": layout}}, seq_len=16, global_batch_size=2, precision="fp32",
                      steps=4, warmup_steps=2, env={env}))
"""


def test_ranks_train_and_their_numbers_agree_across_layouts(project: Project) -> None:
    project.pytester.makepyfile(test_speed=NATIVE.format(axis="dp_shard", env="{}"))

    result = project.run("--perf-fail-on=none")

    result.assert_outcomes(passed=2)
    data = json.loads((project.root / ".nemoperf" / "latest" / "results.json").read_text())
    one, two = (case["measurement"]["runs"][0] for case in data["cases"])
    assert abs(one["loss"] - two["loss"]) < 1e-5 * one["loss"]
    assert set(one["phases"]) == {"data", "forward", "backward", "grad_comm", "optimizer", "other"}
    assert one["phases"]["grad_comm"] == 0 < two["phases"]["grad_comm"]
    assert two["rank_spread_pct"] is not None
    assert data["cases"][0]["measurement"]["environment"]["torch"]


def test_a_rank_that_fails_is_named_with_its_own_error(project: Project) -> None:
    project.pytester.makepyfile(test_speed=NATIVE.format(axis="tp", env='{"WORLD_SIZE": "three"}'))

    result = project.run("-k", "two")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*rank *invalid literal for int() with base 10: 'three'*", "*.nemoperf/runs/*rank*.log*"]
    )
