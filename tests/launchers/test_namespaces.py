"""Ranks on hosts with other interfaces than most: real launches in a network namespace."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.launchers.in_namespace import LAUNCHES

pytestmark = pytest.mark.ranks

ROOT = Path(__file__).parents[2]
_UNSHARE = (("unshare", "--net"), ("unshare", "--net", "--map-root-user"))
"""Ways to be in a network namespace of one's own: as root, and as any user where users may have namespaces."""
_PROBE = ("sh", "-c", "ip link add nic0 type veth peer name nic1 && ip addr add 10.77.0.1/24 dev nic0")


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Outcomes of all launches, in one process of one namespace."""
    unshare = _permitted_namespace()
    env = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    program = [*unshare, sys.executable, "-m", "tests.launchers.in_namespace", str(tmp_path_factory.mktemp("runs"))]
    output = subprocess.run(program, cwd=ROOT, env=env, check=True, stdout=subprocess.PIPE)
    outcomes: dict[str, Any] = json.loads(output.stdout)
    assert tuple(outcomes) == LAUNCHES
    return outcomes


def _permitted_namespace() -> tuple[str, ...]:
    """Return the command that makes a namespace here; skip with the reason where none is permitted."""
    problems = []
    for unshare in _UNSHARE:
        try:
            tried = subprocess.run([*unshare, *_PROBE], check=False, capture_output=True, text=True)
        except FileNotFoundError:
            pytest.skip("this host has no unshare, of util-linux, to make a network namespace with")
        if tried.returncode == 0:
            return unshare
        problems.append(f"{' '.join(unshare)}: {tried.stderr.strip()}")
    pytest.skip(f"this host permits no network namespace with interfaces of its own ({'; '.join(problems)})")


@pytest.mark.parametrize("launch", ["nic-without-lo-1", "only-ipv6-2", "two-nics-2"])
def test_ranks_meet_wherever_they_can(launch: str, outcomes: dict[str, Any]) -> None:
    assert outcomes[launch]["status"] == "ok", outcomes[launch]


def test_ranks_that_can_not_meet_are_told_what_was_tried(outcomes: dict[str, Any]) -> None:
    error = outcomes["nothing-up-2"]["error"]

    assert "no address of this host takes a connection from it (127.0.0.1: " in error
    assert "::1: no interface that is up has it" in error
    assert "its interfaces are lo (down" in error
    assert error.endswith("bring one up, as with: ip link set lo up")


def test_an_interface_without_a_loopback_connects_no_ranks_and_is_named(outcomes: dict[str, Any]) -> None:
    error = outcomes["nic-without-lo-2"]["error"]

    assert "10.77.0.1: it can be listened at, but not connected to" in error
    assert "nic0 (10.77.0.1" in error


def test_one_rank_without_any_interface_says_what_its_group_needs(outcomes: dict[str, Any]) -> None:
    log = outcomes["nothing-up-1"]["logs"][0]

    assert "rank 0 of 1 could not join the others over gloo" in log
    assert "its interfaces are lo (down" in log
    assert "GLOO_SOCKET_IFNAME is not set" in log
