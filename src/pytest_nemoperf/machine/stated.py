"""Key of a machine that can't be asked any more: from the catalog of systems and from stated parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from pytest_nemoperf.bounds import whole_number
from pytest_nemoperf.errors import MachineError, did_you_mean, shown
from pytest_nemoperf.machine.identity import memory_class_gib
from pytest_nemoperf.recipes.systems import System
from pytest_nemoperf.records.machine_key import key_of_case

_NAME: Final = "machine"
_HOST: Final = "host"
_KEYS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "cuda": (_NAME, "device", "memory_gib", "gpus", "topology"),
        "cpu": (_NAME, _HOST, "cpu", "cores", "memory_gib", "arch", "topology"),
    }
)
"""Parts of a machine's key by device, as identity.machine_key has them."""
_COUNTS: Final = frozenset({"memory_gib", "gpus", "cores"})
_REPORTED_SHARE: Final = 0.995
"""Memory as drivers report it over that of data sheets, in one unit: 79.6 of an H100's 80, 140.4 of an H200's 141."""


def stated_key(system: System, *, num_gpus: int, texts: Sequence[str], option: str) -> dict[str, str | int]:
    """Return the key of a case on a machine of a system: the catalog's parts of its GPUs, and the stated parts.

    The links between GPUs are not in the catalog, and of a CPU machine nothing is.

    Args:
        system: System of the machine.
        num_gpus: GPUs of the case; what does not matter to so many is left out, see key_of_case.
        texts: Parts as ``KEY=VALUE``, or the name of a pool of identical machines.
        option: Name of the option that texts are the values of, for messages.

    Raises:
        MachineError: If a part is unknown or no number, or a part that can't be left out is missing.
    """
    stated = _parse(system, texts=texts, option=option)
    if system.device == "cpu":
        if not stated.keys() & {_NAME, _HOST}:
            raise MachineError(
                f"{option} missing: a log does not say which machine it is of, and CPU machines compare only with "
                f"themselves; give it a name, {option} NAME, as perf_machine does, or --here if it ran on this machine"
            )
        return stated
    key: dict[str, str | int] = {}
    if len(system.device_names) == 1:
        key["device"] = system.device_names[0]
    elif "device" not in stated:
        names = " or ".join(repr(name) for name in system.device_names)
        raise MachineError(f"{option} device=NAME missing: a GPU of system {system.name} is {names}; say which")
    if system.memory_gb is not None:
        key["memory_gib"] = memory_class_gib(_REPORTED_SHARE * system.memory_gb)
    if system.gpus_per_node is not None:
        key["gpus"] = system.gpus_per_node
    return key_of_case(key | stated, num_gpus=num_gpus)


def _parse(system: System, *, texts: Sequence[str], option: str) -> dict[str, str | int]:
    known = _KEYS[system.device]
    stated: dict[str, str | int] = {}
    for text in texts:
        key, has_key, value = text.partition("=")
        if not has_key:
            key, value = _NAME, text
        key = key.strip()
        value = value.strip()
        if key not in known:
            raise MachineError(f"{option}={text!r}: {key!r} is no part of a machine's key; {did_you_mean(key, known)}")
        if not value:
            raise MachineError(f"{option}={text!r} states nothing; give a value, or drop it")
        if key in stated and str(stated[key]) != value:
            raise MachineError(f"{option}={text!r}: {key} is {stated[key]!r} already; give it once")
        stated[key] = _count(value, text=text, option=option) if key in _COUNTS else value
    return stated


def _count(value: str, *, text: str, option: str) -> int:
    number = whole_number(value)
    if not number:
        raise MachineError(f"{option}={shown(text)} must be a whole number >= 1")
    return number
