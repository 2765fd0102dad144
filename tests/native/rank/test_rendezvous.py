"""Rendezvous: what a rank says that can't meet the others."""

from __future__ import annotations

import socket
from datetime import timedelta

import pytest

from pytest_nemoperf.errors import LaunchError
from pytest_nemoperf.native.rank.rendezvous import open_store

SECOND = timedelta(seconds=1)


def test_a_rank_that_reaches_no_store_says_where_it_looked(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        monkeypatch.setenv("MASTER_ADDR", "localhost")
        monkeypatch.setenv("MASTER_PORT", str(port))
        said = (
            rf"rank 1 of 2 could not reach the store of the run at MASTER_ADDR=localhost MASTER_PORT={port} \(which is "
        )

        with pytest.raises(LaunchError, match=said) as caught:
            open_store(rank=1, world_size=2, timeout=SECOND)

    assert "frame #0" not in str(caught.value)
    assert "MASTER_ADDR must be an address of rank 0's host that every rank reaches" in str(caught.value)


def test_a_name_that_does_not_resolve_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_ADDR", "no-such-host.invalid")
    monkeypatch.setenv("MASTER_PORT", "1")

    with pytest.raises(LaunchError, match=r"MASTER_ADDR=no-such-host\.invalid .*does not resolve"):
        open_store(rank=1, world_size=2, timeout=SECOND)


def test_a_port_that_is_taken_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
        monkeypatch.setenv("MASTER_PORT", str(port))

        with pytest.raises(LaunchError, match=rf"rank 0 of 2 could not open the store .* MASTER_PORT={port}: .*in use"):
            open_store(rank=0, world_size=2, timeout=SECOND)
