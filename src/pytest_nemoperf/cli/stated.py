"""Facts that options state of logs: the machine, the code, versions, the day."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from datetime import UTC, datetime

from pytest_nemoperf.errors import MachineError, RecordError
from pytest_nemoperf.machine.identity import choose_system, describe_devices, detect_devices, machine_key
from pytest_nemoperf.machine.stated import stated_key
from pytest_nemoperf.recipes.systems import System

_COMMIT = re.compile(r"[0-9a-fA-F]{7,64}")


def stated_machine(system: System, *, num_gpus: int, arguments: argparse.Namespace) -> dict[str, str | int]:
    """Return the machine's key of a case of so many GPUs, of logs: stated, or this machine's with ``--here``.

    Raises:
        MachineError: If a part is missing, unknown or stated twice, or this machine is of another system.
    """
    if not arguments.here:
        return stated_key(system, num_gpus=num_gpus, texts=arguments.machine, option="--machine")
    for text in arguments.machine:
        if "=" in text:
            raise MachineError(f"--machine={text} with --here: this machine tells its key itself; drop one of them")
    if len(arguments.machine) > 1:
        raise MachineError(f"--machine={' --machine='.join(arguments.machine)}: a machine has one name; give it once")
    devices = detect_devices()
    try:
        choose_system(system.name, devices=devices)
    except MachineError:
        raise MachineError(
            f"--here with a job on {system.title}, but {describe_devices(devices)}; leave --here out, and state the "
            "machine with --machine where it matters"
        ) from None
    return machine_key(system, devices=devices, num_gpus=num_gpus, machine_name="".join(arguments.machine))


def stated_commit(text: str | None) -> str | None:
    """Return the value of ``--commit``.

    Raises:
        RecordError: If it is no hash.
    """
    if text is not None and not _COMMIT.fullmatch(text):
        raise RecordError(
            f"--commit={text} is no commit hash of 7 to 64 hexadecimal digits, and branches and tags move; give what "
            "git rev-parse says"
        )
    return text


def stated_versions(texts: Sequence[str]) -> dict[str, str]:
    """Return the values of ``--version`` by name.

    Raises:
        RecordError: If one is not ``NAME=VERSION``, or contradicts another.
    """
    versions: dict[str, str] = {}
    for text in texts:
        name, _, version = text.partition("=")
        name = name.strip()
        version = version.strip()
        if not name or not version:
            raise RecordError(f"--version={text} is not NAME=VERSION; write e.g. torch=2.9.1")
        if versions.get(name, version) != version:
            raise RecordError(f"--version={text}: {name} is {versions[name]} already; give it once")
        versions[name] = version
    return versions


def stated_date(text: str | None) -> str:
    """Return the value of ``--date`` as UTC in ISO 8601; empty for none.

    Raises:
        RecordError: If it is no date, or lies in the future.
    """
    if text is None:
        return ""
    try:
        day = datetime.fromisoformat(text)
        if day.tzinfo is None:
            day = day.replace(tzinfo=UTC)
        day = day.astimezone(UTC)
    except (ValueError, OverflowError):
        raise RecordError(f"--date={text} is no date; write e.g. 2026-11-20 or 2026-11-20T08:30:00Z") from None
    if day > datetime.now(UTC):
        raise RecordError(f"--date={text} lies in the future; give the day on which the jobs ran")
    return day.isoformat(timespec="seconds")
