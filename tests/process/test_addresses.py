"""Addresses of this host, with real sockets; other interfaces are in tests/launchers/test_namespaces.py."""

from __future__ import annotations

import pytest

from pytest_nemoperf.errors import LaunchError
from pytest_nemoperf.process import addresses
from pytest_nemoperf.process.addresses import (
    LocalAddress,
    address_of_one,
    connection_problem,
    interfaces_text,
    local_address,
)

ELSEWHERE = "192.0.2.1"
"""An address that no host has: https://www.rfc-editor.org/rfc/rfc5737."""


def test_an_address_that_connects_has_no_problem_and_one_of_no_interface_says_so() -> None:
    chosen = local_address()

    assert connection_problem(chosen.address) == ""
    assert connection_problem(ELSEWHERE) == "no interface that is up has it"


def test_interfaces_are_shown_with_their_addresses() -> None:
    assert "lo (127.0.0.1" in interfaces_text()


def test_the_first_address_that_connects_is_taken_with_its_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    working = LocalAddress(address=local_address().address, interface="nic0")
    monkeypatch.setattr(addresses, "_candidates", lambda: iter((LocalAddress(address=ELSEWHERE), working)))

    assert local_address() == working


def test_without_any_the_error_lists_what_was_tried_and_one_process_takes_any(monkeypatch: pytest.MonkeyPatch) -> None:
    candidate = LocalAddress(address=ELSEWHERE, interface="nic0")
    monkeypatch.setattr(addresses, "_candidates", lambda: iter((candidate,)))

    with pytest.raises(
        LaunchError, match=rf"\({ELSEWHERE}: no interface .*\), so ranks can't meet; its interfaces are"
    ):
        local_address()
    assert address_of_one() == candidate
