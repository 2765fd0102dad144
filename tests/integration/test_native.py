"""Sessions with real ranks: torch, gloo, the warm server."""

from __future__ import annotations

import pytest

from tests.integration.conftest import NATIVE, Project

pytestmark = pytest.mark.ranks


def test_ranks_train_and_their_numbers_agree_across_layouts(project: Project) -> None:
    project.pytester.makepyfile(test_speed=NATIVE.format(axis="dp_shard", env="{}"))

    result = project.run("--perf-fail-on=none")

    result.assert_outcomes(passed=2)
    of_one_rank, of_two_ranks = project.results()["cases"]
    (one,) = of_one_rank["measurement"]["runs"]
    (two,) = of_two_ranks["measurement"]["runs"]
    assert abs(one["loss"] - two["loss"]) < 1e-5 * one["loss"]
    assert set(one["phases"]) == {"data", "forward", "backward", "grad_comm", "optimizer", "other"}
    assert one["phases"]["grad_comm"] == 0 < two["phases"]["grad_comm"]
    assert two["rank_spread_pct"] is not None
    assert of_one_rank["measurement"]["environment"]["torch"]


def test_a_rank_that_fails_is_named_with_its_own_error(project: Project) -> None:
    project.pytester.makepyfile(test_speed=NATIVE.format(axis="tp", env='{"GLOO_SOCKET_IFNAME": "nowhere"}'))

    result = project.run("-k", "two")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*rank *nowhere*", "*.nemoperf/runs/*rank*.log*"])
