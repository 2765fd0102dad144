"""Runs plans on real ranks and compares them with one process, for parity tests."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pytest_nemoperf.frameworks.torch import TorchFramework
from pytest_nemoperf.json_codec import to_json
from pytest_nemoperf.launchers.local import LocalLauncher
from pytest_nemoperf.launchers.protocol import LaunchStatus
from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.recipes.recipe import Plan, Recompute
from pytest_nemoperf.records.step import PLAN_FILE, StepRecord
from tests.builders import make_plan

REL_TOL = 1e-5
STEPS = 3
NO_PLANS: Mapping[str, Plan] = MappingProxyType({})
MODEL = ModelConfig(
    name="speck",
    hidden_size=64,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    ffn_hidden_size=128,
    vocab_size=128,
)


def plan_of(layout: Layout, **changes: Any) -> Plan:
    """Eight sequences a step, in micro-batches of one: every layout here accumulates gradients."""
    recipe = {"model": MODEL, "seq_len": 32, "global_batch_size": 8, "layouts": {"cpu": layout}}
    return replace(make_plan(**{**recipe, **changes}), warmup_steps=0, steps=STEPS)


def accumulating_plan(layout: Layout, *, num_micro_batches: int = 2, **changes: Any) -> Plan:
    """Eight sequences a step in few micro-batches: two are enough to accumulate, and each costs as much as the next."""
    return plan_of(layout, **{"micro_batch_size": max(1, 8 // (num_micro_batches * layout.dp)), **changes})


def by_layout(plans: Iterable[Plan]) -> dict[str, Plan]:
    """Return plans of different layouts by the layouts' labels."""
    named: dict[str, Plan] = {}
    for plan in plans:
        assert plan.layout.label not in named
        named[plan.layout.label] = plan
    return named


class Engine:
    """Runs plans on fresh ranks of one warm server; single-process runs are kept."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.launcher = LocalLauncher()
        self._references: dict[str, list[StepRecord]] = {}

    def run(self, plan: Plan, *, sabotage: str = "") -> list[StepRecord]:
        run_dir = self.launch(plan, entrypoint=f"tests.native.sabotage:{sabotage}" if sabotage else "")
        return list(TorchFramework().read_output(plan, run_dir=run_dir).records)

    def run_together(self, plans: Mapping[str, Plan], *, sabotage: str = "") -> dict[str, list[StepRecord]]:
        """Run plans, given by name, one after another on the same ranks, with a launch for each number of ranks.

        The plans share the cost of starting ranks and of all that a process does for the first time.
        """
        by_size: dict[int, dict[str, Plan]] = {}
        for name, plan in plans.items():
            by_size.setdefault(plan.layout.gpus, {})[name] = plan
        records = {}
        for same_size in by_size.values():
            first = next(iter(same_size.values()))
            run_dir = self.launch(first, entrypoint=f"tests.native.several:{sabotage or 'main'}", plans=same_size)
            for name, plan in same_size.items():
                records[name] = list(TorchFramework().read_output(plan, run_dir=run_dir / name).records)
        return records

    def launch(self, plan: Plan, *, entrypoint: str = "", plans: Mapping[str, Plan] = NO_PLANS) -> Path:
        """Run a plan's ranks, or other functions in their place, and return the directory they wrote to.

        Args:
            plan: Plan of the launch.
            entrypoint: Function in place of the ranks' own.
            plans: Plans that this function runs, each in the folder of its name.
        """
        run_dir = self._root / f"run-{len(list(self._root.iterdir()))}"
        for path, each in ((run_dir, plan), *((run_dir / name, each) for name, each in plans.items())):
            path.mkdir()
            (path / PLAN_FILE).write_text(to_json(each))
        command = TorchFramework().command(plan, run_dir=run_dir)
        if entrypoint:
            command = replace(command, entrypoint=entrypoint)
        result = self.launcher.launch(command, run_dir=run_dir, timeout_sec=plan.timeout_sec, on_poll=lambda: None)
        errors = sorted(run_dir.rglob("error-rank*.json"))
        assert result.status is LaunchStatus.OK, "\n".join(path.read_text() for path in (*errors, result.logs[0]))
        return run_dir

    def reference(self, plan: Plan, *, sabotage: str = "") -> list[StepRecord]:
        """Return the records of one process for the plan's model and batch, in one pass, not recomputed or compiled."""
        alone = _alone(plan)
        key = sabotage + to_json(alone)
        if key not in self._references:
            self._references[key] = self.run(alone, sabotage=sabotage)
        return self._references[key]

    def difference(self, plan: Plan, *, sabotage: str = "") -> float:
        """Return the largest relative difference of a plan's run to one process."""
        return largest_difference(self.run(plan, sabotage=sabotage), reference=self.reference(plan))

    def mismatches(self, plans: Mapping[str, Plan], *, sabotage: str = "") -> dict[str, float]:
        """Run plans together and return the names of those that differ from one process, each with its difference.

        Args:
            plans: Plans by name.
            sabotage: Function of ``several``, for the plans' ranks and for the one process.
        """
        self._prepare_references(plans, sabotage=sabotage)
        found = {}
        for name, records in self.run_together(plans, sabotage=sabotage).items():
            reference = self.reference(plans[name], sabotage=sabotage)
            difference = largest_difference(records, reference=reference)
            if difference > REL_TOL:
                found[name] = difference
        return found

    def _prepare_references(self, plans: Mapping[str, Plan], *, sabotage: str) -> None:
        """Run the references of plans that are not known yet, in one launch."""
        missing = {}
        for plan in plans.values():
            alone = _alone(plan)
            key = sabotage + to_json(alone)
            if key not in self._references:
                missing[key] = alone
        numbered = {str(number): alone for number, alone in enumerate(missing.values())}
        for key, records in zip(missing, self.run_together(numbered, sabotage=sabotage).values(), strict=True):
            self._references[key] = records

    def close(self) -> None:
        self.launcher.close()


def _alone(plan: Plan) -> Plan:
    return replace(
        plan,
        case="reference",
        layout=Layout(gpus=1),
        grad_accum_steps=1,
        micro_batch_size=plan.global_batch_size,
        recompute=Recompute.NONE,
        is_compiled=False,
    )


def largest_difference(records: list[StepRecord], *, reference: list[StepRecord]) -> float:
    """Return the largest relative difference of loss or gradient norm at any step, infinite for what is no number."""
    assert len(records) == len(reference) == STEPS
    differences = []
    for ours, theirs in zip(records, reference, strict=True):
        for name in ("loss", "grad_norm"):
            expected = getattr(theirs, name)
            difference = abs(getattr(ours, name) - expected) / abs(expected)
            differences.append(math.inf if math.isnan(difference) else difference)
    return float(max(differences))
