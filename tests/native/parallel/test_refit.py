"""After a refit, the weights of every rank that generates equal a whole model's, cut for it and cast, bit by bit."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pytest_nemoperf.errors import PlanError
from pytest_nemoperf.frameworks.torch import TorchFramework
from pytest_nemoperf.json_codec import to_json
from pytest_nemoperf.launchers.local import LocalLauncher
from pytest_nemoperf.launchers.protocol import LaunchStatus
from pytest_nemoperf.layouts.layout import GenerationLayout, Layout
from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.models.components import MLA, MoE
from pytest_nemoperf.native.parallel.refit import Refit
from pytest_nemoperf.recipes.recipe import Plan, Precision
from pytest_nemoperf.records.step import PLAN_FILE
from tests.native.engine import Engine
from tests.native.refit_probe import BUCKET_FILE
from tests.native.tiny import CPU, build, tiny_config, tiny_plan

# Nothing divides evenly: layers over stages, rows over shards, the vocabulary over tp.
ODD = tiny_config(name="odd", hidden_size=20, num_layers=5, num_kv_heads=4, head_dim=6, ffn_hidden_size=12)
ODD = replace(ODD, vocab_size=35, qkv_bias=True, out_bias=True)
TIED = replace(ODD, name="tied", tied_embeddings=True)
MIXTURE = tiny_config(
    name="mixture",
    num_kv_heads=4,
    mla=MLA(q_lora_rank=16, kv_lora_rank=12, qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=8),
    moe=MoE(num_experts=4, topk=2, ffn_hidden_size=14, shared_ffn_hidden_size=12, num_dense_layers=1),
    num_layers=3,
)
FEW_EXPERTS = tiny_config(name="few", moe=MoE(num_experts=2, topk=1, ffn_hidden_size=16, router_bias=True))
FEW_EXPERTS = replace(FEW_EXPERTS, mlp_bias=True, qkv_bias=True, attention_sinks=True)


# Ranks of tp hold copies of its key-value heads; it has no padding.
COPIED = replace(ODD, name="copied", num_kv_heads=2, vocab_size=36)


def together(gpus: int, *, tp: int = 1, pp: int = 1) -> GenerationLayout:
    return GenerationLayout(gpus=gpus, tp=tp, pp=pp)


def apart(gpus: int, *, tp: int = 1, pp: int = 1) -> GenerationLayout:
    return GenerationLayout(gpus=gpus, tp=tp, pp=pp, is_colocated=False)


PAIRS = [
    pytest.param(ODD, Layout(gpus=1, generation=together(1)), id="single-single"),
    pytest.param(ODD, Layout(gpus=1, generation=apart(1)), id="single-gsingle-apart"),
    pytest.param(ODD, Layout(gpus=2, dp_shard=2, generation=together(2, tp=2)), id="fsdp2-gtp2"),
    pytest.param(ODD, Layout(gpus=2, dp_shard=2, generation=apart(1)), id="fsdp2-gsingle-apart"),
    pytest.param(ODD, Layout(gpus=2, tp=2, generation=together(2)), id="tp2-gdp2"),
    pytest.param(ODD, Layout(gpus=2, dp_replicate=2, generation=apart(2, tp=2)), id="ddp2-gtp2-apart"),
    pytest.param(TIED, Layout(gpus=2, pp=2, generation=together(2, tp=2)), id="tied-pp2-gtp2"),
    pytest.param(TIED, Layout(gpus=2, cp=2, generation=together(2, pp=2)), id="tied-cp2-gpp2"),
    pytest.param(ODD, Layout(gpus=2, pp=2, vp=2, generation=apart(2, pp=2)), id="pp2vp2-gpp2-apart"),
    pytest.param(ODD, Layout(gpus=4, pp=2, vp=2, tp=2, generation=together(4, pp=2)), id="tp2pp2vp2-gpp2gdp2"),
    pytest.param(ODD, Layout(gpus=4, dp_shard=2, tp=2, generation=together(4, tp=2, pp=2)), id="fsdp2tp2-gtp2gpp2"),
    pytest.param(ODD, Layout(gpus=4, dp_shard=2, dp_replicate=2, generation=together(4, tp=2)), id="hsdp2x2-gtp2gdp2"),
    pytest.param(  # tied-cp2-gpp2 has cp, copies-fsdp2tp2-gtp4 has gtp4
        ODD,
        Layout(gpus=4, dp_shard=2, cp=2, generation=together(4, tp=4)),
        id="fsdp2cp2-gtp4",
        marks=pytest.mark.slow,
    ),
    pytest.param(MIXTURE, Layout(gpus=2, dp_replicate=2, ep=2, generation=together(2, tp=2)), id="moe-ep2-gtp2"),
    pytest.param(MIXTURE, Layout(gpus=2, tp=2, etp=2, generation=apart(2, pp=2)), id="moe-tp2etp2-gpp2-apart"),
    pytest.param(MIXTURE, Layout(gpus=4, dp_shard=4, ep=2, generation=together(4, tp=2)), id="moe-fsdp4ep2-gtp2gdp2"),
    pytest.param(MIXTURE, Layout(gpus=4, pp=2, dp_shard=2, ep=2, generation=together(4, pp=2)), id="moe-fsdp2pp2ep2"),
    pytest.param(FEW_EXPERTS, Layout(gpus=4, dp_shard=4, generation=together(4, tp=2)), id="few-experts-fsdp4-gtp2"),
    pytest.param(
        COPIED, Layout(gpus=4, tp=4, generation=together(4, tp=2)), id="copies-tp4-gtp2gdp2", marks=pytest.mark.slow
    ),
    pytest.param(COPIED, Layout(gpus=4, dp_shard=2, tp=2, generation=together(4, tp=4)), id="copies-fsdp2tp2-gtp4"),
    pytest.param(
        replace(COPIED, num_kv_heads=1),
        Layout(gpus=4, dp_shard=2, tp=2, generation=apart(4, tp=4)),
        id="copies-fsdp2tp2-gtp4-apart",
        marks=pytest.mark.slow,
    ),
]


def pairs(*ids: str, slow: tuple[str, ...]) -> list[Any]:
    """Return some of the pairs by id, and others for the slow tests."""
    chosen = []
    for pair in PAIRS:
        if pair.id in ids:
            chosen.append(pair)
        if pair.id in slow:
            chosen.append(pytest.param(*pair.values, id=pair.id, marks=pytest.mark.slow))
    return chosen


def colocated_pairs() -> list[Any]:
    """Return the pairs; those with ranks of their own for the slow tests, as they go on before they receive below."""
    chosen = []
    for pair in PAIRS:
        marks = [pytest.mark.slow] if "apart" in str(pair.id) else pair.marks
        chosen.append(pytest.param(*pair.values, id=pair.id, marks=marks))
    return chosen


SABOTAGE = [
    pytest.param("with_a_shifted_interval", id="interval-shifted"),
    pytest.param("without_the_last_bucket", id="bucket-lost"),
    pytest.param("with_senders_in_the_wrong_order", id="senders-mixed-up"),
]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Of one rank: weights that differ, weights it generates with, bytes of all ranks' by plan and by tensors."""

    wrong: list[str]
    weights: int
    num_bytes: int
    got_bytes: int


class Ranks:
    """Runs refits on fresh ranks of the warm server; outcomes are kept for tests of the same refit."""

    def __init__(self, launcher: LocalLauncher, *, root: Path) -> None:
        self._launcher = launcher
        self._root = root
        self._outcomes: dict[tuple[str, str, int], list[Outcome]] = {}

    def run(self, plan: Plan, *, entrypoint: str = "compare", bucket_bytes: int = 2**20) -> list[Outcome]:
        key = (to_json(plan), entrypoint, bucket_bytes)
        if key not in self._outcomes:
            self._outcomes[key] = self._launch(plan, entrypoint=entrypoint, bucket_bytes=bucket_bytes)
        return self._outcomes[key]

    def _launch(self, plan: Plan, *, entrypoint: str, bucket_bytes: int) -> list[Outcome]:
        run_dir = self._root / f"run-{len(self._outcomes)}"
        run_dir.mkdir()
        (run_dir / PLAN_FILE).write_text(to_json(plan))
        (run_dir / BUCKET_FILE).write_text(str(bucket_bytes))
        command = replace(
            TorchFramework().command(plan, run_dir=run_dir), entrypoint=f"tests.native.refit_probe:{entrypoint}"
        )
        result = self._launcher.launch(command, run_dir=run_dir, timeout_sec=60, on_poll=lambda: None)
        errors = sorted(run_dir.glob("error-rank*.json"))
        assert result.status is LaunchStatus.OK, "\n".join(path.read_text() for path in (*errors, result.logs[0]))
        reports = [run_dir / f"refit-rank{rank}.json" for rank in range(plan.layout.total_gpus)]
        return [Outcome(**json.loads(report.read_text())) for report in reports]


@pytest.fixture(scope="module")
def ranks(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Ranks:
    return Ranks(engine.launcher, root=tmp_path_factory.mktemp("refit"))


def plan_of(model: ModelConfig, layout: Layout, **changes: Any) -> Plan:
    """Return a plan with a generation layout and nothing to generate: weights alone are transferred."""
    plan = tiny_plan(model=model, layouts={"cpu": replace(layout, generation=None)}, global_batch_size=8, **changes)
    return replace(plan, layout=layout)


@pytest.mark.parametrize(("model", "layout"), colocated_pairs())
def test_a_refit_is_exact(ranks: Ranks, model: ModelConfig, layout: Layout) -> None:
    outcomes = ranks.run(plan_of(model, layout))

    assert [outcome.wrong for outcome in outcomes] == [[]] * layout.total_gpus
    assert sum(outcome.weights > 0 for outcome in outcomes) == (layout.generation or together(layout.gpus)).gpus


# A weight is cast, and cut into buckets, after the moves of its layouts were found: four ranks add nothing to two.
@pytest.mark.parametrize(
    ("model", "layout"),
    pairs(
        *("tp2-gdp2", "moe-ep2-gtp2"),
        slow=("tp2pp2vp2-gpp2gdp2", "moe-tp2etp2-gpp2-apart", "moe-fsdp4ep2-gtp2gdp2"),
    ),
)
def test_weights_are_cast_once(ranks: Ranks, model: ModelConfig, layout: Layout) -> None:
    plan = plan_of(model, layout, precision="bf16")

    outcomes = ranks.run(plan)

    assert [outcome.wrong for outcome in outcomes] == [[]] * layout.total_gpus
    in_fp32 = ranks.run(replace(plan, precision=Precision.FP32))
    assert 2 * outcomes[0].num_bytes == in_fp32[0].num_bytes


@pytest.mark.parametrize("bucket_bytes", [4, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("model", "layout"), pairs("fsdp2-gtp2", "tied-pp2-gtp2", slow=("moe-fsdp4ep2-gtp2gdp2",)))
def test_weights_larger_than_a_bucket_go_in_pieces(
    ranks: Ranks, model: ModelConfig, layout: Layout, bucket_bytes: int
) -> None:
    if bucket_bytes == 4:  # an element each
        model = replace(model, hidden_size=4, num_layers=2, vocab_size=5, ffn_hidden_size=2, head_dim=2, moe=None)
        model = replace(model, mla=None, num_heads=2, num_kv_heads=2)
        layout = replace(layout, ep=1)

    outcomes = ranks.run(plan_of(model, layout), bucket_bytes=bucket_bytes)

    assert [outcome.wrong for outcome in outcomes] == [[]] * layout.total_gpus


@pytest.mark.parametrize("sabotage", SABOTAGE)
def test_what_goes_wrong_on_the_way_is_noticed(ranks: Ranks, sabotage: str) -> None:
    layout = Layout(gpus=2, dp_shard=2, generation=together(2, tp=2))

    outcomes = ranks.run(plan_of(ODD, layout), entrypoint=sabotage)

    assert any(outcome.wrong for outcome in outcomes)


@pytest.mark.parametrize(("model", "layout"), [pair for pair in PAIRS if "apart" in str(pair.id)])
def test_training_goes_on_before_anyone_receives(ranks: Ranks, model: ModelConfig, layout: Layout) -> None:
    outcomes = ranks.run(plan_of(model, layout), entrypoint="compare_asynchronously", bucket_bytes=2000)

    assert [outcome.wrong for outcome in outcomes] == [[]] * layout.total_gpus
    assert sum(outcome.weights > 0 for outcome in outcomes) == layout.total_gpus - layout.gpus


@pytest.mark.parametrize(
    ("model", "layout"),
    [
        pytest.param(MIXTURE, Layout(gpus=2, dp_shard=2, generation=together(2)), id="mixture"),
        pytest.param(
            replace(COPIED, num_kv_heads=1), Layout(gpus=2, dp_shard=2, generation=together(2, tp=2)), id="copies"
        ),
    ],
)
def test_bytes_are_those_of_all_weights_that_generate(ranks: Ranks, model: ModelConfig, layout: Layout) -> None:
    outcomes = ranks.run(plan_of(model, layout))  # it has no padding

    got = sum(outcome.got_bytes for outcome in outcomes)
    assert [outcome.num_bytes for outcome in outcomes] == [got, got]


def alone(model: ModelConfig) -> tuple[Refit, dict[str, Tensor], dict[str, Tensor]]:
    plan = plan_of(model, Layout(gpus=1))
    sources = {name: weight.detach() for name, weight in build(plan).named_parameters()}
    targets = {name: torch.full_like(weight, torch.nan) for name, weight in sources.items()}
    return Refit(plan, group=None, device=CPU), sources, targets


def test_a_rank_on_its_own_copies() -> None:
    refit, sources, targets = alone(ODD)

    refit.run(sources, targets)

    assert all(torch.equal(targets[name], sources[name]) for name in sources)
    assert refit.num_message_bytes == 0
    assert refit.num_bytes == sum(weight.nbytes for weight in sources.values())


def test_what_is_no_weight_of_the_policy_stays() -> None:
    refit, sources, targets = alone(replace(ODD, mtp_num_layers=1))
    sources["value_head.weight"] = torch.ones(1)

    refit.run(sources, targets)

    untouched = {name for name, weight in targets.items() if weight.isnan().any()}
    assert untouched == {name for name in targets if name.startswith("mtp.")}


def test_a_weight_that_is_missing_is_named() -> None:
    refit, sources, targets = alone(ODD)

    del targets["norm.weight"]
    with pytest.raises(PlanError, match=r"^norm\.weight is not among the weights this rank generates"):
        refit.run(sources, targets)


def test_a_weight_that_is_cut_otherwise_is_named() -> None:
    refit, sources, targets = alone(ODD)

    sources["head.weight"] = sources["head.weight"][:20]
    with pytest.raises(PlanError, match=r"head\.weight that this rank trains has shape \(20, 20\).*says \(35, 20\)"):
        refit.run(sources, targets)


def test_ranks_that_take_turns_can_not_go_on_meanwhile() -> None:
    refit, sources, _ = alone(ODD)

    with pytest.raises(PlanError, match="use is_colocated=False, or run"):
        refit.start(sources)
