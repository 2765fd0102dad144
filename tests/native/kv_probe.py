"""Ranks that report the key-value rows they hold after each update. An entrypoint, as in sabotage.py."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from torch import nn

from pytest_nemoperf.json_codec import from_json
from pytest_nemoperf.native.rank import entry
from pytest_nemoperf.native.train import optimizer_step
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.records.step import PLAN_FILE


def main() -> None:
    """Train as usual, and write a digest of the rows of every fused projection that follow the queries."""
    run_dir = Path(os.environ["NEMOPERF_RUN_DIR"])
    model = from_json(Plan, (run_dir / PLAN_FILE).read_bytes(), subject="plan").model
    num_rows = 2 * model.head_dim  # a rank with a copy has one key head and one value head
    digests: list[str] = []
    train = optimizer_step.Updater.update
    named: dict[str, nn.Parameter] = {}
    original = optimizer_step.named_parameters

    def noted(chunks: Sequence[nn.Module]) -> dict[str, nn.Parameter]:
        named.update(original(chunks))
        return dict(named)

    def updated(self: optimizer_step.Updater, *args: Any) -> Any:
        result = train(self, *args)
        digest = hashlib.blake2b()
        for name, parameter in named.items():
            if name.endswith(("qkv.weight", "qkv.bias")):
                digest.update(parameter.detach()[-num_rows:].numpy().tobytes())
        digests.append(digest.hexdigest())
        (run_dir / f"copies-rank{os.environ['RANK']}.json").write_text(json.dumps(digests))
        return result

    with (
        mock.patch.object(optimizer_step, "named_parameters", noted),
        mock.patch.object(optimizer_step.Updater, "update", updated),
    ):
        entry.main()


def read_digests(run_dir: Path, *, num_ranks: int) -> list[list[str]]:
    """Return the digests of each rank, one per update."""
    return [json.loads((run_dir / f"copies-rank{number}.json").read_text()) for number in range(num_ranks)]
