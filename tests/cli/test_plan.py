from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_nemoperf.baselines.files import baseline_path
from pytest_nemoperf.json_codec import from_data, from_json, to_json
from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.measure.measurement import workload_of
from pytest_nemoperf.pricing.price import Price
from pytest_nemoperf.recipes.recipe import Plan, Precision, Recipe, Recompute
from pytest_nemoperf.recipes.resolve import resolve
from pytest_nemoperf.recipes.systems import find_system
from tests.builders import make_baseline, make_run
from tests.frameworks.megatron_files import YAML, write_text
from tests.schema_check import schema_faults

RECIPE = Recipe(
    model="llama3-8b", layouts={"h100": Layout(gpus=8, tp=2, dp_shard=4)}, seq_len=8192, global_batch_size=128
)
OPTIONS = {
    "--model": "llama3-8b",
    "--system": "h100",
    "--gpus": "8",
    "--tp": "2",
    "--seq-len": "8192",
    "--gbs": "128",
    "--mbs": "1",
}
LARGE = {
    "llama3.1-405b on 1,024": {"model": "llama3.1-405b", "gpus": "1024", "tp": "8", "pp": "8", "vp": "2", "cp": "2"},
    "deepseek-v3 on 2,048": {"model": "deepseek-v3", "gpus": "2048", "tp": "1", "pp": "16", "ep": "64"},
}


def argv(*flags: str, **changes: str | None) -> list[str]:
    options = OPTIONS | {f"--{name.replace('_', '-')}": value for name, value in changes.items()}
    words = (word for name, value in options.items() if value is not None for word in (name, value))
    return ["plan", *words, *flags]


def plan_in(out: str) -> Plan:
    return from_data(Plan, json.loads(out)["plan"], subject="output")


def store_baseline(root: Path, plan: Plan, **changes: Any) -> None:
    path = baseline_path(root, system=plan.system, case=plan.case)
    path.parent.mkdir(parents=True)
    values: dict[str, Any] = {"case": plan.case, "system": plan.system, "workload": workload_of(plan), **changes}
    path.write_text(to_json(make_baseline(**values)), encoding="utf-8")


def test_json_is_the_price_with_the_plan_the_ranks_get(nemoperf: Any) -> None:
    code, out, _ = nemoperf(*argv("--json"))

    assert schema_faults(json.loads(out), name="price") == []
    price = from_json(Price, out, subject="output")
    assert code == 0
    assert price.plan == resolve(RECIPE, system=find_system("h100"))
    assert price.num_parameters == 8_030_261_248
    assert price.flops_per_step == price.plan.flops_per_token * 128 * 8192


def test_people_see_what_it_costs(nemoperf: Any) -> None:
    code, out, _ = nemoperf(*argv())

    shown = dict(line.split("  ", maxsplit=1) for line in out.splitlines() if "  " in line.strip())
    shown = {name.strip(): value.strip() for name, value in shown.items()}
    assert code == 0
    assert out.startswith("pretrain-llama3-8b-1n8g-torch-bf16-fsdp4tp2-seq8192-gbs128-mbs1\n")
    assert shown["layout"] == "gpus=8, tp=2, dp_shard=4"
    assert shown["grad accumulation"] == "32"
    assert shown["parameters"] == "8,030,261,248"
    assert shown["peak of one GPU"] == "989 TFLOP/s (bf16, dense)"
    assert shown["pipeline bubble"] == "no pipeline"
    assert shown["expected step time"] == "unknown: no baseline is stored for this case"
    assert "GiB fits into the 74.5 GiB (80 GB) of one GPU" in out
    assert "sent per rank and step" in out


def test_shards_take_the_ranks_that_are_left(nemoperf: Any) -> None:
    assert plan_in(nemoperf(*argv("--json", gpus="64", pp="2"))[1]).layout == Layout(gpus=64, tp=2, pp=2, dp_shard=16)


def test_every_option_reaches_the_plan(nemoperf: Any) -> None:
    words = argv(
        "--no-sequence-parallel",
        "--compiled",
        "--balanced",
        "--json",
        model="mixtral-8x7b",
        gpus="64",
        pp="2",
        vp="2",
        cp="2",
        dp_replicate="2",
        pp_schedule="zero_bubble",
        cp_comm="a2a",
        precision="fp32",
        recompute="full",
        framework="megatron",
        convention="full-attention",
        mbs="4",
    )

    plan = plan_in(nemoperf(*words)[1])

    assert plan.layout == Layout(
        gpus=64,
        tp=2,
        pp=2,
        vp=2,
        cp=2,
        dp_replicate=2,
        dp_shard=4,
        sequence_parallel=False,
        pp_schedule="zero_bubble",
        cp_comm="a2a",
    )
    assert (plan.precision, plan.recompute, plan.framework) == (Precision.FP32, Recompute.FULL, "megatron")
    assert (plan.flops_convention, plan.micro_batch_size) == ("full-attention", 4)
    assert (plan.is_compiled, plan.is_router_balanced) == (True, True)


@pytest.mark.parametrize("changes", LARGE.values(), ids=LARGE)
def test_thousands_of_gpus_are_priced(nemoperf: Any, changes: dict[str, str]) -> None:
    words = argv("--json", **{"system": "gb200", "seq_len": "4096", "gbs": "8192", **changes})

    code, out, err = nemoperf(*words)

    assert code == 0, err
    price = from_json(Price, out, subject="output")
    assert price.fullest.total == max(stage.total for stage in price.stages)
    assert {stage.pp_rank for stage in price.stages} >= {0, price.plan.layout.pp - 1}
    assert {axis.axis for axis in price.traffic} >= {"pp", "dp"}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        pytest.param({"precision": "nvfp4"}, "precision=nvfp4 needs compute capability 10.0", id="compute capability"),
        pytest.param({"precision": "fp8_cs", "system": "cpu"}, "precision=fp8_cs needs an NVIDIA GPU", id="no GPU"),
        pytest.param({"model": "qwen3-next-80b-a3b"}, "mixes tokens by gated delta net", id="hybrid"),
        pytest.param(
            {"framework": "elsewhere"},
            "framework 'elsewhere' is not known here; known: automodel, command, megatron, megatron_bridge",
            id="framework",
        ),
    ],
)
def test_what_can_not_run_is_priced_and_says_why(nemoperf: Any, changes: dict[str, str], reason: str) -> None:
    code, out, _ = nemoperf(*argv("--json", **changes))
    _, text, _ = nemoperf(*argv(**changes))

    assert code == 0
    assert reason in json.loads(out)["unsupported"]
    assert reason in " ".join(text.split())
    assert "not runnable here  " in text


def test_a_framework_s_own_recipe_file_is_priced(nemoperf: Any, tmp_path: Path) -> None:
    write_text(tmp_path / "gpt2.yaml", YAML)
    recipe = {"framework": "megatron_lm", "framework_config": "gpt2.yaml", "gpus": {"h100": 8}}
    write_text(tmp_path / "recipe.json", json.dumps(recipe))

    code, out, _ = nemoperf("plan", "--recipe", "recipe.json", "--system", "h100", "--json")

    plan = plan_in(out)
    assert code == 0
    assert plan.case == "pretrain-gpt-l12-h768-1n8g-megatron_lm-bf16-zero1ddp2tp2pp2-seq1024-gbs32-mbs2-gpt2"
    assert len(plan.framework_config_digest) == 16
    assert "gpt2.yaml lies in no checkout of Megatron-LM" in json.loads(out)["unsupported"]


def test_states_of_the_optimizer_are_shared_out_under_megatron(nemoperf: Any) -> None:
    words = "--model llama3-8b --system h100 --gpus 8 --seq-len 4096 --gbs 8 --framework megatron --recompute full"
    _, whole, _ = nemoperf("plan", *words.split(), "--dp-shard", "1", "--json")
    _, shared, _ = nemoperf("plan", *words.split(), "--shard-optimizer", "--json")

    before = json.loads(whole)["stages"][0]
    after = json.loads(shared)["stages"][0]
    assert plan_in(shared).layout.label == "zero1ddp8"
    assert (after["weights"], after["gradients"]) == (before["weights"], before["gradients"])
    assert after["optimizer"] == before["optimizer"] / 8


def test_memory_is_counted_by_the_rules_of_the_framework(nemoperf: Any, tmp_path: Path) -> None:
    write_text(tmp_path / "gpt2.yaml", YAML)
    recipe = {"framework": "megatron_lm", "framework_config": "gpt2.yaml", "gpus": {"h100": 8}}
    write_text(tmp_path / "recipe.json", json.dumps(recipe))

    _, text, _ = nemoperf("plan", "--recipe", "recipe.json", "--system", "h100")
    _, out, _ = nemoperf("plan", "--recipe", "recipe.json", "--system", "h100", "--json")

    price = json.loads(out)
    stage = price["stages"][0]
    assert "memory of the fullest rank of a stage, as Megatron-Core's:" in text
    assert price["memory_rules"]["kept_by"] == "megatron"
    assert stage["weights"] == 2 * stage["num_parameters"]
    assert stage["optimizer"] == 12 * stage["num_parameters"] / 2  # two data-parallel ranks share them


def test_what_a_framework_s_own_recipe_file_does_not_tell_is_asked_for(nemoperf: Any, tmp_path: Path) -> None:
    write_text(tmp_path / "gpt2.yaml", YAML.replace("--seq-length: 1024", ""))
    recipe = {"framework": "megatron_lm", "framework_config": "gpt2.yaml"}
    write_text(tmp_path / "recipe.json", json.dumps(recipe))

    code, _, err = nemoperf("plan", "--recipe", "recipe.json", "--system", "h100")

    assert code != 0
    assert "gpt2.yaml does not tell seq_len (--seq-length is not set) and gpus (the launch says it" in err


def test_what_can_run_has_no_reason_against_it(nemoperf: Any) -> None:
    _, out, _ = nemoperf(*argv("--json"))

    assert json.loads(out)["unsupported"] is None


def test_a_missing_installation_hides_nothing_about_the_plan(nemoperf: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)

    reasons = [
        json.loads(nemoperf(*argv("--json", precision=precision))[1])["unsupported"] for precision in ("nvfp4", "bf16")
    ]

    assert reasons[0].startswith("precision=nvfp4 needs compute capability 10.0, DGX-H100 has 9.0")
    assert reasons[1].startswith("torch is not installed")


def test_memory_that_is_not_enough_is_told(nemoperf: Any) -> None:
    _, out, _ = nemoperf(*argv(model="llama3-70b"))

    assert "GiB does not fit into the 74.5 GiB (80 GB) of one GPU" in out


def test_a_system_without_a_known_memory_has_no_verdict(nemoperf: Any) -> None:
    _, out, _ = nemoperf(*argv(system="cpu", model="llama-tiny", seq_len="64"))

    assert "the memory of cpu is not known" in out
    assert "peak of one GPU     unknown\n" in out


def test_a_baseline_says_how_long_it_takes(nemoperf: Any, tmp_path: Path) -> None:
    store_baseline(tmp_path / "baselines", resolve(RECIPE, system=find_system("h100")))

    _, out, _ = nemoperf(*argv("--tokens", "3600000"))

    # 1,000 tokens/sec/GPU: an hour of one GPU
    words = " ".join(out.split())
    assert "expected step time 100 ms, 1,000 tokens/sec/GPU (3 runs of 2026-11-22T12:00:00Z)" in words
    assert "3,600,000 tokens 0.1 hours, 1 GPU-hours at that rate" in words


def test_a_published_row_says_how_long_a_case_without_a_baseline_takes(nemoperf: Any) -> None:
    _, out, _ = nemoperf(*argv("--precision=fp8_cs", "--tokens=3600000", tp="1"))

    words = " ".join(out.split())
    assert "9.07 s, 14,451 tokens/sec/GPU (published in NVIDIA-NeMo/Megatron-Bridge 25.11)" in words


def test_settings_that_a_recipe_leaves_unstated_make_its_price_a_range(nemoperf: Any, tmp_path: Path) -> None:
    layout = Layout(gpus=8, dp_replicate=8)
    recipe = replace(RECIPE, layouts={"h100": layout}, unstated=("recompute", "shard_optimizer"))
    (tmp_path / "recipe.json").write_text(to_json(recipe))

    _, out, _ = nemoperf("plan", "--recipe", "recipe.json", "--system", "h100", "--json")

    price = json.loads(out)
    assert schema_faults(price, name="price") == []
    assert price["is_fitting"] is None
    assert price["memory_range"]["low_bytes"] < price["memory_range"]["high_bytes"]
    assert price["memory_range"]["unstated"] == ["recompute", "shard_optimizer"]


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("1e12", 10**12), ("15T", 15 * 10**12), ("15.6t", 15_600 * 10**9), ("3,600", 3600), ("2B", 2 * 10**9)],
)
def test_tokens_of_a_run_may_be_written_shortly(nemoperf: Any, tmp_path: Path, text: str, tokens: int) -> None:
    store_baseline(tmp_path / "baselines", resolve(RECIPE, system=find_system("h100")))

    _, out, _ = nemoperf(*argv("--json", tokens=text))

    assert json.loads(out)["expected"]["run_tokens"] == tokens


def test_help_says_what_a_model_and_an_exit_code_may_be_within_80_columns(
    nemoperf: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")

    code, out, _ = nemoperf("plan", "--help")

    words = " ".join(out.split())
    assert code == 0
    assert "catalog name, e.g. llama3-8b, or path of a config.json; with -twin at its end" in words
    assert "0 if there is a price, also of a plan that does not fit or can't run here" in words
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize(
    ("changes", "why_not"),
    [
        ({"workload": {"seq_len": 1}}, "the stored baseline is of another workload"),
        ({"runs": (replace(make_run(), metrics={}),)}, "the stored baseline has no step time"),
    ],
)
def test_a_baseline_that_says_nothing_is_told(
    nemoperf: Any, tmp_path: Path, changes: dict[str, Any], why_not: str
) -> None:
    store_baseline(tmp_path / "stored", resolve(RECIPE, system=find_system("h100")), **changes)

    _, out, _ = nemoperf(*argv("--baselines", "stored"))

    assert f"expected step time   unknown: {why_not}\n" in out


def test_a_folder_of_baselines_that_is_named_must_be_there(nemoperf: Any) -> None:
    code, _, err = nemoperf(*argv("--baselines", "baselnies"))

    assert code == 2
    assert "--baselines=baselnies: no such folder; give the one that holds <system>/<case>.json" in err
