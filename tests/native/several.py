"""Ranks that run several plans, one after another. Entrypoints of the warm server, as in sabotage.py."""

from __future__ import annotations

from dataclasses import replace
from unittest import mock

import torch

from pytest_nemoperf.json_codec import from_json
from pytest_nemoperf.native.rank import entry
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.records.step import PLAN_FILE
from tests.native import sabotage

_train = entry.train


def main() -> None:
    """Run each plan in a folder of the run directory; the folder gets the files of its run."""
    with mock.patch.object(entry, "train", _train_each):
        entry.main()


def with_values_to_learn() -> None:
    """As ``main``, with the function of this name in sabotage.py."""
    with mock.patch.object(entry, "train", _train_each):
        sabotage.with_values_to_learn()


def with_everyones_first_share() -> None:
    """As ``main``, with the function of this name in sabotage.py."""
    with mock.patch.object(entry, "train", _train_each):
        sabotage.with_everyones_first_share()


def _train_each(
    plan: Plan, *, env: entry.RankEnvironment, device: torch.device, make_trainer: entry.MakeStepRunner
) -> None:
    del plan  # of the launch
    for path in sorted(env.run_dir.glob(f"*/{PLAN_FILE}")):
        plan = from_json(Plan, path.read_bytes(), subject=str(path))
        try:
            _train(plan, env=replace(env, run_dir=path.parent), device=device, make_trainer=make_trainer)
        except Exception as error:
            error.add_note(f"while the ranks ran {path.parent.name}")
            raise
