"""Every layout must compute what one process computes: loss and gradient norm, step by step."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_nemoperf.architecture import ModelConfig
from pytest_nemoperf.frameworks.torch import TorchFramework
from pytest_nemoperf.launchers.local import LocalLauncher
from pytest_nemoperf.launchers.protocol import LaunchStatus
from pytest_nemoperf.parallelism import Layout
from pytest_nemoperf.recipe import Plan, Precision
from pytest_nemoperf.records import PLAN_FILE, StepRecord, to_json
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
LAYOUTS = [
    pytest.param(Layout(gpus=2, dp_replicate=2), id="ddp2"),
    pytest.param(Layout(gpus=2, dp_shard=2), id="fsdp2"),
    pytest.param(Layout(gpus=4, dp_replicate=2, dp_shard=2), id="hsdp2x2"),
    pytest.param(Layout(gpus=2, tp=2), id="tp2"),
    pytest.param(Layout(gpus=2, tp=2, sequence_parallel=False), id="tp2nosp"),
    pytest.param(Layout(gpus=2, cp=2), id="cp2"),
    pytest.param(Layout(gpus=2, cp=2, cp_comm="a2a"), id="cp2a2a"),
    pytest.param(Layout(gpus=4, cp=2, tp=2), id="tp2cp2"),
    pytest.param(Layout(gpus=4, cp=2, dp_replicate=2), id="ddp2cp2"),
    pytest.param(Layout(gpus=4, cp=2, dp_shard=2), id="fsdp2cp2"),
    pytest.param(Layout(gpus=8, cp=2, dp_shard=2, dp_replicate=2), id="hsdp2x2cp2"),
    pytest.param(Layout(gpus=4, dp_replicate=2, tp=2), id="ddp2tp2"),
    pytest.param(Layout(gpus=4, dp_shard=2, tp=2), id="fsdp2tp2"),
    pytest.param(Layout(gpus=4, dp_shard=2, tp=2, sequence_parallel=False), id="fsdp2tp2nosp"),
    pytest.param(Layout(gpus=8, dp_replicate=2, dp_shard=2, tp=2), id="hsdp2x2tp2"),
]
SABOTAGE = [
    pytest.param(Layout(gpus=2, tp=2), "without_norm_reduction", id="tp2-norms-not-reduced"),
    pytest.param(Layout(gpus=2, dp_replicate=2), "without_gradient_sync", id="ddp2-not-synchronised"),
    pytest.param(Layout(gpus=2, dp_shard=2), "with_everyones_first_share", id="fsdp2-same-data"),
]


def plan_of(layout: Layout, **changes: Any) -> Plan:
    """Eight sequences a step, in micro-batches of one: every layout here accumulates gradients."""
    recipe = {"model": MODEL, "seq_len": 32, "global_batch_size": 8, "layouts": {"cpu": layout}}
    return replace(make_plan(**recipe, **changes), warmup_steps=0, steps=STEPS)


class Engine:
    """Runs plans on fresh ranks of one warm server; single-process runs are kept."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._launcher = LocalLauncher()
        self._references: dict[str, list[StepRecord]] = {}

    def run(self, plan: Plan, *, sabotage: str = "") -> list[StepRecord]:
        run_dir = self._root / f"run-{len(list(self._root.iterdir()))}"
        run_dir.mkdir()
        (run_dir / PLAN_FILE).write_text(to_json(plan))
        framework = TorchFramework()
        command = framework.command(plan, run_dir=run_dir)
        if sabotage:
            command = replace(command, entrypoint=f"tests.native.sabotage:{sabotage}")
        result = self._launcher.launch(command, run_dir=run_dir, timeout_sec=120, on_poll=lambda: None)
        assert result.status is LaunchStatus.OK, result.logs[0].read_text()
        return list(framework.read_output(plan, run_dir=run_dir).records)

    def reference(self, plan: Plan) -> list[StepRecord]:
        alone = replace(plan, layout=Layout(gpus=1), grad_accum_steps=1, micro_batch_size=plan.global_batch_size)
        key = json.dumps([alone.model.tied_embeddings, alone.precision])
        if key not in self._references:
            self._references[key] = self.run(alone)
        return self._references[key]

    def close(self) -> None:
        self._launcher.close()


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    engine = Engine(tmp_path_factory.mktemp("parity"))
    yield engine
    engine.close()


def largest_difference(records: list[StepRecord], *, reference: list[StepRecord]) -> float:
    """Return the largest relative difference of loss or gradient norm at any step."""
    assert len(records) == len(reference) == STEPS
    pairs = [
        (getattr(ours, name), getattr(theirs, name))
        for ours, theirs in zip(records, reference, strict=True)
        for name in ("loss", "grad_norm")
    ]
    return float(max(abs(ours - theirs) / abs(theirs) for ours, theirs in pairs))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_computes_what_one_process_computes(engine: Engine, layout: Layout) -> None:
    plan = plan_of(layout)

    assert largest_difference(engine.run(plan), reference=engine.reference(plan)) <= REL_TOL


@pytest.mark.parametrize("layout", [LAYOUTS[0], LAYOUTS[1], LAYOUTS[6]])
def test_one_micro_batch_a_step_is_synchronised_as_well(engine: Engine, layout: Layout) -> None:
    plan = plan_of(layout, micro_batch_size=8 // layout.dp)

    assert plan.grad_accum_steps == 1
    assert largest_difference(engine.run(plan), reference=engine.reference(plan)) <= REL_TOL


@pytest.mark.parametrize("layout", [LAYOUTS[1], LAYOUTS[3], LAYOUTS[6]])
def test_a_tied_head_is_one_table_in_every_layout(engine: Engine, layout: Layout) -> None:
    plan = plan_of(layout, variant="tied")
    plan = replace(plan, model=replace(MODEL, tied_embeddings=True))

    assert largest_difference(engine.run(plan), reference=engine.reference(plan)) <= REL_TOL


def test_gradient_accumulation_computes_what_one_pass_computes(engine: Engine) -> None:
    plan = plan_of(Layout(gpus=1))

    assert plan.grad_accum_steps == 8
    assert largest_difference(engine.run(plan), reference=engine.reference(plan)) <= REL_TOL


@pytest.mark.parametrize(("layout", "sabotage"), SABOTAGE)
def test_what_is_left_out_is_noticed(engine: Engine, layout: Layout, sabotage: str) -> None:
    plan = plan_of(layout)

    records = engine.run(plan, sabotage=sabotage)

    assert largest_difference(records, reference=engine.reference(plan)) > REL_TOL


@pytest.mark.parametrize("layout", [pytest.param(Layout(gpus=1), id="single"), LAYOUTS[1], LAYOUTS[3], LAYOUTS[6]])
def test_bf16_stays_near_fp32(engine: Engine, layout: Layout) -> None:
    plan = plan_of(layout, precision="bf16")

    # bf16 keeps eight significant bits, 0.4%; a loss is a mean over 256 tokens.
    reference = engine.reference(replace(plan, precision=Precision.FP32))
    difference = largest_difference(engine.run(plan), reference=reference)
    assert 0 < difference < 0.02
