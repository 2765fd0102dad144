"""Addresses of this host, by which the ranks of a run meet."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import psutil

from pytest_nemoperf.errors import LaunchError

LOOPBACK: Final = "127.0.0.1"
INTERFACE_VARIABLES: Final = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
"""Variables by which a user chooses the network interfaces of process groups."""
_LOOPBACK_6 = "::1"
_CONNECT_LIMIT_SEC = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalAddress:
    """Address at which processes of this host reach each other.

    Attributes:
        address: IPv4 or IPv6 address.
        interface: Network interface that has it; empty for 127.0.0.1, where libraries need none.
    """

    address: str
    interface: str = ""


def local_address() -> LocalAddress:
    """Return the first address of this host that takes a connection from it: 127.0.0.1, ::1, then others.

    Raises:
        LaunchError: If none does; the text says what was tried.
    """
    problems = []
    for candidate in _candidates():
        problem = connection_problem(candidate.address)
        if not problem:
            return candidate
        problems.append(f"{candidate.address}: {problem}")
    raise LaunchError(
        f"no address of this host takes a connection from it ({'; '.join(problems)}), so ranks can't meet; "
        f"its interfaces are {interfaces_text()}; bring one up, as with: ip link set lo up"
    )


def address_of_one() -> LocalAddress:
    """Return an address for a process that connects to no other: of any interface up, if none connects."""
    try:
        return local_address()
    except LaunchError:
        addresses = [candidate for candidate in _candidates() if candidate.address not in (LOOPBACK, _LOOPBACK_6)]
        return next(iter(addresses), LocalAddress(address=LOOPBACK))


def interfaces_text() -> str:
    """Return the network interfaces of this host with their addresses, for messages."""
    states = psutil.net_if_stats()
    texts = []
    for name in sorted(states):
        facts = [] if states[name].isup else ["down"]
        facts += _addresses_of(name)
        texts.append(f"{name} ({', '.join(facts) or 'no address'})")
    return ", ".join(texts) or "none"


def _candidates() -> Iterator[LocalAddress]:
    by_interface = psutil.net_if_addrs()
    interfaces = {address.address: name for name, addresses in by_interface.items() for address in addresses}
    yield LocalAddress(address=LOOPBACK)
    yield LocalAddress(address=_LOOPBACK_6, interface=interfaces.get(_LOOPBACK_6, "lo"))
    states = psutil.net_if_stats()
    for name in sorted(by_interface):
        if name in states and states[name].isup:
            for address in _addresses_of(name):
                if address not in (LOOPBACK, _LOOPBACK_6):
                    yield LocalAddress(address=address, interface=name)


def _addresses_of(interface: str) -> list[str]:
    """Return the IPv4 and IPv6 addresses of an interface, without those that need a scope."""
    addresses = []
    for entry in psutil.net_if_addrs().get(interface, []):
        if entry.family in (socket.AF_INET, socket.AF_INET6) and "%" not in entry.address:
            addresses.append(entry.address)
    return addresses


def connection_problem(address: str) -> str:
    """Return why this process can't connect to itself by an address; empty if it can."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with suppress(OSError), socket.create_server((address, 0), family=family) as server:
        try:
            socket.create_connection(server.getsockname()[:2], timeout=_CONNECT_LIMIT_SEC).close()
        except OSError as error:
            return f"it can be listened at, but not connected to ({error.strerror or error})"
        return ""
    return "no interface that is up has it"
