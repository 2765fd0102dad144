"""Runs plans on real ranks and compares them with one process, for parity tests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
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


class Engine:
    """Runs plans on fresh ranks of one warm server; single-process runs are kept."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.launcher = LocalLauncher()
        self._references: dict[str, list[StepRecord]] = {}

    def run(self, plan: Plan, *, sabotage: str = "") -> list[StepRecord]:
        run_dir = self.launch(plan, entrypoint=f"tests.native.sabotage:{sabotage}" if sabotage else "")
        return list(TorchFramework().read_output(plan, run_dir=run_dir).records)

    def launch(self, plan: Plan, *, entrypoint: str = "") -> Path:
        """Run a plan's ranks, or other functions in their place, and return the directory they wrote to."""
        run_dir = self._root / f"run-{len(list(self._root.iterdir()))}"
        run_dir.mkdir()
        (run_dir / PLAN_FILE).write_text(to_json(plan))
        command = TorchFramework().command(plan, run_dir=run_dir)
        if entrypoint:
            command = replace(command, entrypoint=entrypoint)
        result = self.launcher.launch(command, run_dir=run_dir, timeout_sec=plan.timeout_sec, on_poll=lambda: None)
        errors = sorted(run_dir.glob("error-rank*.json"))
        assert result.status is LaunchStatus.OK, "\n".join(path.read_text() for path in (*errors, result.logs[0]))
        return run_dir

    def reference(self, plan: Plan, *, sabotage: str = "") -> list[StepRecord]:
        """Return the records of one process for the plan's model and batch, in one pass, not recomputed or compiled."""
        alone = replace(
            plan,
            case="reference",
            layout=Layout(gpus=1),
            grad_accum_steps=1,
            micro_batch_size=plan.global_batch_size,
            recompute=Recompute.NONE,
            is_compiled=False,
        )
        key = sabotage + to_json(alone)
        if key not in self._references:
            self._references[key] = self.run(alone, sabotage=sabotage)
        return self._references[key]

    def difference(self, plan: Plan, *, sabotage: str = "") -> float:
        """Return the largest relative difference of a plan's run to one process."""
        return largest_difference(self.run(plan, sabotage=sabotage), reference=self.reference(plan))

    def close(self) -> None:
        self.launcher.close()


def largest_difference(records: list[StepRecord], *, reference: list[StepRecord]) -> float:
    """Return the largest relative difference of loss or gradient norm at any step."""
    assert len(records) == len(reference) == STEPS
    pairs = [
        (getattr(ours, name), getattr(theirs, name))
        for ours, theirs in zip(records, reference, strict=True)
        for name in ("loss", "grad_norm")
    ]
    return float(max(abs(ours - theirs) / abs(theirs) for ours, theirs in pairs))
