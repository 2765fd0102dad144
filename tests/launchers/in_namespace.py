"""Launches of ranks in a network namespace whose interfaces are changed in between.

Run as a program inside a namespace of its own (``unshare --net``): prints a JSON object with, of each state of the
interfaces and number of ranks, the status and the ranks' logs, or the error.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from pytest_nemoperf.errors import LaunchError
from pytest_nemoperf.frameworks.torch import TorchFramework
from pytest_nemoperf.json_codec import to_json
from pytest_nemoperf.launchers.local import LocalLauncher
from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.records.step import PLAN_FILE
from tests.native.engine import plan_of

STATES: Final[Mapping[str, tuple[str, ...]]] = {
    "nothing-up": (),
    "nic-without-lo": (
        "ip link add nic0 type veth peer name nic1",
        "ip addr add 10.77.0.1/24 dev nic0",
        "ip link set nic0 up",
        "ip link set nic1 up",
    ),
    "only-ipv6": ("ip link set lo up", "ip addr del 127.0.0.1/8 dev lo", "ip addr del 10.77.0.1/24 dev nic0"),
    "two-nics": (
        "ip addr add 10.77.0.1/24 dev nic0",
        "ip addr add 10.78.0.1/24 dev nic1",
        "ip -6 addr del ::1/128 dev lo",
    ),
}
"""Commands that lead from one state of the interfaces to the next; a namespace begins with a loopback that is down."""
LAUNCHES: Final = ("nothing-up-1", "nothing-up-2", "nic-without-lo-1", "nic-without-lo-2", "only-ipv6-2", "two-nics-2")


def outcome(launcher: LocalLauncher, *, num_ranks: int, run_dir: Path) -> dict[str, object]:
    """Launch a run and return its status and its ranks' logs, or the error."""
    plan = replace(plan_of(Layout(gpus=num_ranks, dp_shard=num_ranks)), timeout_sec=60.0)
    run_dir.mkdir()
    (run_dir / PLAN_FILE).write_text(to_json(plan))
    command = TorchFramework().command(plan, run_dir=run_dir)
    try:
        result = launcher.launch(command, run_dir=run_dir, timeout_sec=60, on_poll=lambda: None)
    except LaunchError as error:
        return {"error": str(error)}
    return {"status": result.status, "logs": [log.read_text() for log in result.logs]}


def main(folder: Path) -> None:
    """Go through the states."""
    launcher = LocalLauncher(grace_sec=0.5)
    outcomes = {}
    for state, commands in STATES.items():
        for command in commands:
            subprocess.run(command.split(), check=True)
        for num_ranks in (1, 2):
            name = f"{state}-{num_ranks}"
            if name not in LAUNCHES:
                continue  # each takes seconds
            outcomes[name] = outcome(launcher, num_ranks=num_ranks, run_dir=folder / name)
    launcher.close()
    print(json.dumps(outcomes))


if __name__ == "__main__":
    os.environ["PYTHONPATH"] = str(Path.cwd())
    main(Path(sys.argv[1]))
