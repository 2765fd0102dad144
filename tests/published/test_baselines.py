"""Published rows as baselines: which plans they match, and what they hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from pytest_nemoperf.baselines.baseline import find_mismatches
from pytest_nemoperf.errors import BaselineError
from pytest_nemoperf.layouts.layout import GenerationLayout, Layout
from pytest_nemoperf.measure.measurement import workload_of
from pytest_nemoperf.published import baselines
from pytest_nemoperf.published.baselines import published_baselines, why_unpublished
from pytest_nemoperf.published.row import ExcludedRow, PublishedRollouts, PublishedRow, PublishedRows
from pytest_nemoperf.recipes.recipe import Plan, Recipe, Recompute
from pytest_nemoperf.recipes.resolve import resolve
from pytest_nemoperf.recipes.systems import find_system
from tests.builders import make_rl

Publish = Callable[..., None]


def make_row(**changes: Any) -> PublishedRow:
    values: dict[str, Any] = {
        "id": "pt1",
        "source": "NVIDIA-NeMo/Megatron-Bridge",
        "path": "docs/performance-summary.md",
        "release": "25.11",
        "task": "pretrain",
        "framework": "megatron_bridge",
        "model": "LLAMA3_8B",
        "system": "h100",
        "system_title": "DGX-H100",
        "gpus": 8,
        "precision": "FP8-CS",
        "printed": {"tokens_per_sec_per_gpu": "14451", "tflops_per_sec_per_gpu": "744"},
        "global_batch_size": 128,
        "micro_batch_size": 1,
        "seq_len": 8192,
        "fsdp": 1,
        "tp": 1,
        "pp": 1,
        "cp": 1,
        "vp": 5,
    }
    return PublishedRow(**{**values, **changes})


def make_plan(**changes: Any) -> Plan:
    values: dict[str, Any] = {
        "model": "llama3-8b",
        "layouts": {"h100": Layout(gpus=8, dp_shard=8)},
        "seq_len": 8192,
        "global_batch_size": 128,
        "precision": "fp8_cs",
        "framework": "megatron_bridge",
        "flops_convention": "megatron-bridge-25.09",
    }
    return resolve(Recipe(**{**values, **changes}), system=find_system("h100"))


@pytest.fixture
def publish(monkeypatch: pytest.MonkeyPatch) -> Iterator[Publish]:
    """Put rows in place of the package's."""

    def publish(*rows: PublishedRow, excluded: tuple[ExcludedRow, ...] = ()) -> None:
        published = PublishedRows(rows=rows, excluded=excluded)
        monkeypatch.setattr(baselines, "published_rows", lambda _system: published)
        baselines._index.cache_clear()

    yield publish
    baselines._index.cache_clear()


def matching(plan: Plan) -> list[str]:
    return [each.published.row for each in published_baselines(plan) if each.published is not None]


def test_a_published_baseline_holds_the_printed_figures_and_settings_only(publish: Publish) -> None:
    publish(make_row(date="2025-12-04", commit="abc"))

    (baseline,) = published_baselines(make_plan())

    (run,) = baseline.runs
    assert run.metrics == {"tokens_per_sec_per_gpu": 14451.0, "tflops_per_sec_per_gpu": 744.0}
    assert baseline.machine == {}
    assert baseline.workload.keys() == {
        *("workload", "model", "precision", "global_batch_size", "micro_batch_size", "seq_len", "layout")
    }
    assert baseline.workload["layout"] == {"tp": 1, "pp": 1, "cp": 1, "dp_shard": 8, "gpus": 8}
    assert baseline.published is not None
    assert baseline.published.title == "NVIDIA-NeMo/Megatron-Bridge 25.11"
    assert baseline.published.place.endswith("/blob/abc/docs/performance-summary.md")
    assert baseline.published.notes == ("not printed, so it may differ: recomputation",)


def test_settings_that_are_not_printed_may_differ(publish: Publish) -> None:
    publish(make_row())
    plan = make_plan(recompute=Recompute.FULL, seed=7, framework="megatron")

    (baseline,) = published_baselines(plan)

    other = workload_of(replace(plan, seed=8, recompute=Recompute.SELECTIVE))
    assert find_mismatches(baseline, machine={"gpus": 8}, workload=other) == []


def test_printed_settings_of_the_runs_must_be_the_pages(publish: Publish) -> None:
    publish(make_row())
    plan = make_plan()
    (baseline,) = published_baselines(plan)

    mismatches = find_mismatches(baseline, machine={}, workload=workload_of(replace(plan, micro_batch_size=2)))

    assert [each.text for each in mismatches] == ["other workload: micro_batch_size is 2, 1 in the baseline"]


@pytest.mark.parametrize(
    ("row", "plan"),
    [
        pytest.param({"gpus": 16}, {}, id="gpus"),
        pytest.param({"global_batch_size": 256}, {}, id="global-batch"),
        pytest.param({"micro_batch_size": 2}, {}, id="micro-batch"),
        pytest.param({"seq_len": 4096}, {}, id="length"),
        pytest.param({"seq_len": None}, {}, id="length-not-printed"),
        pytest.param({"precision": ""}, {}, id="precision-not-printed"),
        pytest.param({"precision": "BF16"}, {}, id="precision"),
        pytest.param({"precision": "FP8"}, {"precision": "mxfp8"}, id="mxfp8-is-no-plain-fp8"),
        pytest.param({"precision": "FP8-CS"}, {"precision": "fp8_ds"}, id="scaling"),
        pytest.param({"model": "LLAMA3.1_8B"}, {}, id="model"),
        pytest.param({"num_layers": 16}, {}, id="layers"),
        pytest.param({"task": "sft"}, {}, id="task"),
        pytest.param({"fsdp": 0}, {}, id="ddp"),
        pytest.param({"fsdp": 4}, {}, id="shards"),
        pytest.param({"tp": 2}, {}, id="tp"),
        pytest.param({"ep": 8}, {}, id="ep"),
        pytest.param({"recompute": "full"}, {}, id="recomputation"),
        pytest.param({"printed": {"total_tokens_per_sec": "9"}}, {}, id="no-figure"),
        pytest.param({"system_title": "8x H100 96GB HBM2e 500W (Grand Teton)"}, {}, id="other-gpus"),
        pytest.param({"model": "LLAMA3_8B (tokendrop)"}, {}, id="dropped-tokens"),
    ],
)
def test_a_row_of_another_workload_is_no_baseline(publish: Publish, row: dict[str, Any], plan: dict[str, Any]) -> None:
    publish(make_row(**row))

    assert published_baselines(make_plan(**plan)) == ()


@pytest.mark.parametrize("precision", ["fp8_ds", "fp8_cs", "fp8_sc"])
def test_plain_fp8_is_any_scaling_of_whole_tensors_or_tiles(publish: Publish, precision: str) -> None:
    publish(make_row(precision="FP8"))

    assert matching(make_plan(precision=precision)) == ["pt1"]


def test_degrees_that_are_not_printed_may_be_any(publish: Publish) -> None:
    publish(make_row(tp=None, pp=None, cp=None, fsdp=None, global_batch_size=None))

    (baseline,) = published_baselines(make_plan(layouts={"h100": Layout(gpus=8, tp=2, dp_replicate=4)}))

    assert baseline.published is not None
    assert baseline.published.notes == (
        "not printed, so it may differ: global batch; tp, pp, cp; recomputation; sharding of the optimizer's states",
    )


def test_the_newest_release_of_the_plans_own_framework_comes_first(publish: Publish) -> None:
    publish(
        make_row(id="old", release="25.09", date="2026-03-20"),
        make_row(id="other", framework="nemo", source="NVIDIA-NeMo/NeMo", release="NeMo26.08"),
        make_row(id="new", release="26.04.01", date="2026-05-27"),
        make_row(id="revised", release="26.04.01", date="2026-06-01"),
        make_row(id="main", release="main", date="2026-01-14"),
    )

    assert matching(make_plan(framework="megatron")) == ["revised", "new", "main", "old", "other"]


def test_a_release_with_the_frameworks_name_is_said_once(publish: Publish) -> None:
    publish(make_row(framework="nemo", source="NVIDIA-NeMo/NeMo", release="NeMo24.07"))

    (baseline,) = published_baselines(make_plan())

    assert baseline.published is not None
    assert baseline.published.notes[0] == "published for NeMo 24.07; this ran in megatron_bridge"


def test_a_row_of_another_framework_says_so(publish: Publish) -> None:
    publish(make_row())

    (baseline,) = published_baselines(make_plan(framework="torch"))

    assert baseline.published is not None
    assert baseline.published.notes[0] == "published for Megatron-Bridge 25.11; this ran in torch"


@pytest.mark.parametrize(
    ("framework", "is_balanced", "notes"),
    [
        ("megatron_bridge", True, []),
        ("nemo", False, []),
        (
            "megatron_bridge",
            False,
            ["the page assigns tokens to experts evenly, and this run routes them (is_router_balanced)"],
        ),
        (
            "nemo",
            True,
            ["this run assigns tokens to experts evenly (is_router_balanced), and the page does not say so"],
        ),
    ],
)
def test_other_routing_than_the_pages_is_told(
    publish: Publish, *, framework: str, is_balanced: bool, notes: list[str]
) -> None:
    publish(make_row(model="Qwen3_30B_a3B", framework=framework))

    (baseline,) = published_baselines(make_plan(model="qwen3-30b-a3b", is_router_balanced=is_balanced))

    assert baseline.published is not None
    assert [note for note in baseline.published.notes if "experts" in note] == notes


def test_other_values_of_the_same_release_are_named(publish: Publish) -> None:
    printed = {"tokens_per_sec_per_gpu": "14000"}
    publish(
        make_row(id="pt1"), make_row(id="pt2", printed=printed), make_row(id="pt3", release="25.09", printed=printed)
    )

    first, *_ = published_baselines(make_plan())

    assert first.published is not None
    assert first.published.notes[-1] == (
        "NVIDIA-NeMo/Megatron-Bridge printed other values of 25.11 too: 14000 (row pt2) beside 14451"
    )


def test_flops_of_another_convention_are_left_out_with_the_reason(publish: Publish) -> None:
    publish(make_row())

    (baseline,) = published_baselines(make_plan(flops_convention="megatron-bridge"))

    assert baseline.flops_convention is None
    assert baseline.runs[0].metrics == {"tokens_per_sec_per_gpu": 14451.0}
    assert baseline.published is not None
    assert baseline.published.notes[-1] == (
        "TFLOP/s/GPU is not compared: the page counts FLOPs as megatron-bridge-25.09, this as megatron-bridge"
    )


def test_a_row_of_incomparable_flops_alone_comes_last(publish: Publish) -> None:
    publish(make_row(id="old", release="25.09"), make_row(id="flops", printed={"tflops_per_sec_per_gpu": "744"}))

    assert matching(make_plan(flops_convention="megatron-bridge-25.09")) == ["flops", "old"]
    assert matching(make_plan(flops_convention="megatron-bridge")) == ["old", "flops"]


def test_rounding_is_half_the_last_printed_digit_or_half_a_sequence(publish: Publish) -> None:
    publish(
        make_row(id="a", printed={"tokens_per_sec_per_gpu": "12.5"}),
        make_row(id="b", release="26.04.01", printed={"tokens_per_sec_per_gpu": "10240"}),
    )

    whole, digits = published_baselines(make_plan())

    assert whole.published is not None
    assert digits.published is not None
    assert whole.published.rounding_pct == {"tokens_per_sec_per_gpu": 100 * 0.5 * 8192 / 8 / 10240}
    assert digits.published.rounding_pct == {"tokens_per_sec_per_gpu": pytest.approx(0.4)}


def test_excluded_rows_and_drafts_are_no_baselines_but_the_reason(publish: Publish) -> None:
    reason = "14,451 tokens/sec/GPU contradict 700 TFLOP/s/GPU"
    publish(make_row(id="draft", is_draft=True), excluded=(ExcludedRow(row=make_row(id="bad"), reason=reason),))
    plan = make_plan()

    assert published_baselines(plan) == ()
    assert why_unpublished(plan) == (
        "only published rows that are no baselines match: row draft (NVIDIA-NeMo/Megatron-Bridge 25.11): its figures "
        f"were never released; row bad (NVIDIA-NeMo/Megatron-Bridge 25.11): {reason}"
    )


def test_without_a_match_the_nearest_row_is_named(publish: Publish) -> None:
    publish(make_row(id="far", micro_batch_size=4, tp=2), make_row(id="near", micro_batch_size=4))

    assert why_unpublished(make_plan()) == (
        "no published row of h100 is of this workload; the nearest is row near (NVIDIA-NeMo/Megatron-Bridge 25.11), "
        "and there micro_batch_size is 4, not 1"
    )


def test_without_a_row_of_the_model_no_other_is_named(publish: Publish) -> None:
    publish(make_row(model="Wan 2.1 14B"), make_row(model="LLAMA3_70B"))

    assert why_unpublished(make_plan()) == (
        "no published row of h100 is of this workload: none has llama3-8b on 8 GPUs"
    )


def test_a_system_without_rows_is_named() -> None:
    assert why_unpublished(replace(make_plan(), system="cpu")) == "no published row is of cpu"


@pytest.mark.parametrize("text", ["fast", "nan", "-3", "0", "inf"])
def test_a_figure_that_is_none_is_an_error_with_its_row(publish: Publish, text: str) -> None:
    publish(make_row(printed={"tokens_per_sec_per_gpu": text}))

    with pytest.raises(BaselineError, match=rf"h100\.json: row pt1 prints tokens_per_sec_per_gpu '{text}'"):
        published_baselines(make_plan())


ROLLOUTS = PublishedRollouts(
    max_staleness=0, backend="Megatron-core", mean_response_len=1060, num_samples=8, tp=2, pp=1, precision="BF16"
)


def make_rl_plan(*, layout: Layout | None = None, **changes: Any) -> Plan:
    layout = layout or Layout(gpus=8, dp_shard=8, generation=GenerationLayout(gpus=8, tp=2))
    rl = make_rl(prompt_len=512, max_response_len=1536, response_lengths="sampled", **changes)
    return make_plan(layouts={"h100": layout}, seq_len=2048, global_batch_size=8, rl=rl, precision="bf16")


def make_rl_row(**changes: Any) -> PublishedRow:
    return make_row(
        task="grpo",
        precision="BF16",
        seq_len=2048,
        global_batch_size=8,
        micro_batch_size=None,
        fsdp=None,
        printed={"tokens_per_sec_per_gpu": "1562", "step_time_sec": "97.7"},
        rollouts=replace(ROLLOUTS, **changes),
    )


def test_rows_of_reinforcement_learning_match_by_samples_and_generation(publish: Publish) -> None:
    publish(make_rl_row())

    (baseline,) = published_baselines(make_rl_plan())

    (run,) = baseline.runs
    assert run.metrics == {"tokens_per_sec_per_gpu": 1562.0, "step_time_sec": 97.7, "mean_response_len": 1060.0}
    assert "gpus" not in baseline.workload["layout"]


@pytest.mark.parametrize(
    "changes",
    [{"max_staleness": 1}, {"num_samples": 16}, {"tp": 4}, {"pp": 2}, {"dp": 2}, {"precision": "FP8"}],
    ids=lambda changes: next(iter(changes)),
)
def test_other_generation_is_another_workload(publish: Publish, changes: dict[str, Any]) -> None:
    publish(make_rl_row(**changes))

    assert published_baselines(make_rl_plan()) == ()


def test_rows_of_nemo_rl_match_by_backend_and_by_the_precision_of_generation(publish: Publish) -> None:
    publish(make_rl_row(precision="FP8"))
    bf16 = replace(make_rl_plan(), framework="nemo_rl")
    assert bf16.rl is not None
    plan = replace(bf16, rl=replace(bf16.rl, generation_precision="fp8"))

    assert matching(plan) == ["pt1"]
    assert why_unpublished(bf16).endswith("generation's precision is fp8, not bf16")
    assert why_unpublished(replace(plan, framework_options={"backend": "dtensor"})).endswith(
        "the training backend is megatron, not dtensor"
    )


def test_another_algorithm_is_another_workload(publish: Publish) -> None:
    publish(make_rl_row())

    assert published_baselines(make_rl_plan(algorithm="dapo")) == ()


def test_gpus_are_those_that_train_and_those_that_generate(publish: Publish) -> None:
    publish(make_rl_row(max_staleness=1))
    apart = GenerationLayout(gpus=4, tp=2, is_colocated=False)

    plan = make_rl_plan(layout=Layout(gpus=4, dp_shard=4, generation=apart), max_staleness=1)

    assert matching(plan) == ["pt1"]


def test_shipped_rows_match_a_plan_of_their_workload() -> None:
    plan = make_plan()

    assert matching(plan)[0] == "pt0281"
    assert matching(make_plan(precision="bf16")) == []
