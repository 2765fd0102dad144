from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pytest_nemoperf.baseline import baseline_path
from pytest_nemoperf.cli import main
from pytest_nemoperf.flops import find_convention, num_flops_per_token
from pytest_nemoperf.models import find_model
from pytest_nemoperf.parallelism import Layout
from pytest_nemoperf.plan import resolve
from pytest_nemoperf.recipe import Plan, Precision, Recipe
from pytest_nemoperf.records import from_json, to_json
from pytest_nemoperf.systems import find_system
from tests.builders import make_baseline

RECIPE = Recipe(
    model="llama3-8b", layouts={"h100": Layout(gpus=8, tp=2, dp_shard=4)}, seq_len=8192, global_batch_size=128
)
PLAN_OPTIONS = {
    "--model": "llama3-8b",
    "--system": "h100",
    "--seq-len": "8192",
    "--gbs": "128",
    "--mbs": "1",
    "--layout": "gpus=8,tp=2,dp_shard=4",
    "--precision": "bf16",
}


def _plan_argv(**changes: str | None) -> list[str]:
    options = PLAN_OPTIONS | {f"--{name.replace('_', '-')}": value for name, value in changes.items()}
    return ["plan", *(word for name, value in options.items() if value is not None for word in (name, value))]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*argv: str) -> tuple[int, str, str]:
        try:
            code = main(argv)
        except SystemExit as exc:  # argparse ends so
            code = int(exc.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.json"
    path.write_text(to_json(RECIPE), encoding="utf-8")
    return path


@pytest.mark.parametrize("convention", ["megatron-bridge", "full-attention"])
def test_flops_as_json_have_exactly_the_documented_keys(run: Any, convention: str) -> None:
    code, out, _ = run("flops", "llama3-8b", "--seq-len", "8192", "--convention", convention, "--json")

    flops = num_flops_per_token(find_model("llama3-8b"), seq_len=8192, convention=find_convention(convention))
    assert code == 0
    assert json.loads(out) == {
        "model": "llama3-8b",
        "seq_len": 8192,
        "convention": convention,
        "flops_per_token": flops,
    }


def test_flops_for_people_name_the_convention(run: Any) -> None:
    assert run("flops", "llama3-8b", "--seq-len", "8192")[1] == (
        "llama3-8b at seq_len 8192: 5.14704e+10 FLOPs per token (megatron-bridge)\n"
    )


def test_terms_of_the_flops_are_shown_with_their_shares(run: Any) -> None:
    code, out, _ = run("flops", "mixtral-8x7b", "--seq-len", "4096", "--convention", "full-attention", "--terms")

    shown = [line.split("  ") for line in out.splitlines()[1:]]
    names = [next(part.strip() for part in line if part.strip()) for line in shown]
    shares = [float(line.split()[-1].removesuffix("%")) for line in out.splitlines()[1:]]
    assert code == 0
    assert names == ["attention projections", "attention core", "experts", "router", "head"]
    assert sum(shares) == pytest.approx(100, abs=0.3)


def test_flops_of_several_lengths_are_a_list(run: Any) -> None:
    answers = json.loads(run("flops", "llama3-8b", "--seq-len", "4096,8192", "--terms", "--json")[1])

    assert [answer["seq_len"] for answer in answers] == [4096, 8192]
    assert all(sum(answer["terms"].values()) == answer["flops_per_token"] for answer in answers)
    assert answers[0]["flops_per_token"] < answers[1]["flops_per_token"]


def test_flops_of_a_hugging_face_config_are_counted(run: Any) -> None:
    path = Path(__file__).parent / "data" / "hf" / "qwen3" / "config.json"

    assert run("flops", str(path), "--seq-len", "64")[1].startswith("qwen3 at seq_len 64: ")


def test_a_plan_as_json_is_the_plan_the_ranks_get(run: Any) -> None:
    code, out, _ = run(*_plan_argv(), "--json")

    assert code == 0
    assert from_json(Plan, out, subject="output") == resolve(RECIPE, system=find_system("h100"))


def test_a_plan_is_shown_as_a_table(run: Any) -> None:
    code, out, _ = run(*_plan_argv())

    shown = dict(line.split("  ", maxsplit=1) for line in out.splitlines())
    shown = {name: value.strip() for name, value in shown.items()}
    assert code == 0
    assert shown["case"] == "pretrain-llama3-8b-1n8g-torch-bf16-fsdp4tp2-seq8192-gbs128-mbs1"
    assert shown["layout"] == "gpus=8, tp=2, dp_shard=4"
    assert shown["grad accumulation"] == "32"
    assert shown["tokens per step"] == "1,048,576"
    assert shown["parameters"] == "8,030,261,248"
    assert shown["FLOPs per token"] == "5.14704e+10 (megatron-bridge)"
    assert shown["peak of one GPU"] == "989 TFLOP/s (bf16, dense)"
    assert shown["time-out"] == "320 s"


def test_a_peak_that_is_not_known_is_shown_so(run: Any) -> None:
    _, out, _ = run(*_plan_argv(system="cpu", model="llama-tiny"))

    assert "peak of one GPU     unknown\n" in out


def test_defaults_of_a_plan_are_those_of_a_recipe(run: Any) -> None:
    _, out, _ = run(*_plan_argv(mbs=None, precision=None), "--json")

    assert from_json(Plan, out, subject="output") == resolve(RECIPE, system=find_system("h100"))


def test_options_reach_the_plan(run: Any) -> None:
    layout = "gpus=2,tp=2,sequence_parallel=false"
    argv = _plan_argv(precision="fp32", framework="megatron", convention="full-attention", layout=layout, mbs="4")

    plan = from_json(Plan, run(*argv, "--json")[1], subject="output")

    assert (plan.precision, plan.framework, plan.flops_convention) == (Precision.FP32, "megatron", "full-attention")
    assert plan.layout == Layout(gpus=2, tp=2, sequence_parallel=False)
    assert plan.micro_batch_size == 4


def test_a_plan_is_made_of_a_recipe_file(run: Any, recipe_file: Path) -> None:
    code, out, _ = run("plan", "--recipe", str(recipe_file), "--system", "h100", "--json")

    assert code == 0
    assert from_json(Plan, out, subject="output") == resolve(RECIPE, system=find_system("h100"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param('{"model": ', r": not JSON: ", id="half a file"),
        pytest.param("{}", r": $: 'model' is a required property", id="empty"),
        pytest.param(
            to_json(RECIPE).replace('"tp"', '"tpp"'), r"$.layouts.h100.tpp: unknown key; did you mean", id="key"
        ),
        pytest.param(to_json(RECIPE).replace('"tp": 2', '"tp": 3'), r"gpus=8 but", id="rule"),
        pytest.param(None, r": cannot be read: No such file or directory", id="no file"),
    ],
)
def test_a_recipe_file_at_fault_is_named(run: Any, tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "mine.json"
    if text is not None:
        path.write_text(text, encoding="utf-8")

    code, out, err = run("plan", "--recipe", str(path), "--system", "h100")

    assert (code, out) == (2, "")
    assert err.startswith(f"nemoperf: error: {path}")
    assert message in err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        pytest.param([], "the following arguments are required: COMMAND", id="no command"),
        pytest.param(["flop"], "invalid choice: 'flop'", id="unknown command"),
        pytest.param(["flops", "llama3-8b"], "the following arguments are required: --seq-len", id="no length"),
        pytest.param(["flops", "llama3-8b", "--seq-len", "8k"], "--seq-len: '8k' is not a number", id="not a number"),
        pytest.param(["flops", "llama3-8b", "--seq-len", "0"], "seq_len=0 must be >= 1", id="no tokens"),
        pytest.param(["flops", "llama3-9b", "--seq-len", "8"], "unknown model 'llama3-9b'; did you mean", id="model"),
        pytest.param(
            ["flops", "llama3-8b", "--seq-len", "8", "--convention", "x"], "unknown FLOPs convention 'x'", id="word"
        ),
        pytest.param(_plan_argv(system="h101"), "unknown system 'h101'; did you mean", id="system"),
        pytest.param(_plan_argv(precision="bf61"), "unknown precision 'bf61'; did you mean bf16", id="precision"),
        pytest.param(
            _plan_argv(gbs=None, layout=None), "--gbs, --layout missing; give them, or a recipe", id="missing options"
        ),
        pytest.param(_plan_argv(layout="gpus=8,tp"), "--layout: 'tp' is not KEY=NUMBER", id="half a degree"),
        pytest.param(_plan_argv(layout="gpus=8,tp=x"), "--layout: 'tp=x' is not KEY=NUMBER", id="not a degree"),
        pytest.param(_plan_argv(layout="gpus=8,gpus=4"), "--layout: gpus is given twice", id="a degree twice"),
        pytest.param(_plan_argv(layout="gpus=8,ttp=8"), "unknown layout key 'ttp' for system h100", id="key"),
        pytest.param(_plan_argv(gbs="10"), "global_batch_size=10 is not a multiple of", id="batch"),
        pytest.param(_plan_argv(mbs="0"), "micro_batch_size=0 must be a whole number", id="no micro batch"),
        pytest.param(_plan_argv(recipe="x.json"), "--model with --recipe: the file says it already", id="both"),
        pytest.param(["lint", "no/such/folder"], "no/such/folder: no such folder; give the one", id="no folder"),
    ],
)
def test_a_usage_error_is_one_line_and_exits_2(run: Any, argv: list[str], message: str) -> None:
    code, out, err = run(*argv)

    assert (code, out) == (2, "")
    assert err.startswith("nemoperf: error: ")
    assert err.count("\n") == 1
    assert message in err


@pytest.mark.parametrize("argv", [["--help"], ["flops", "--help"], ["plan", "--help"], ["lint", "--help"]], ids=str)
def test_help_is_given(run: Any, argv: list[str]) -> None:
    code, out, _ = run(*argv)

    assert code == 0
    assert out.startswith("usage: nemoperf")


def test_help_shows_examples_that_work(run: Any) -> None:
    examples = run("--help")[1].partition("examples:\n")[2].replace("\\\n", " ").strip().splitlines()

    codes = [
        run(*example.split()[1:])[0] for example in examples if "recipe.json" not in example and "lint" not in example
    ]

    assert codes == [0, 0]


@pytest.fixture
def baselines(tmp_path: Path) -> Path:
    for case in ("pretrain-a", "pretrain-b"):
        path = baseline_path(tmp_path, system="cpu", case=case)
        path.parent.mkdir(exist_ok=True)
        path.write_text(to_json(make_baseline(case=case)), encoding="utf-8")
    return tmp_path


def test_lint_counts_sound_baselines(run: Any, baselines: Path) -> None:
    assert run("lint", str(baselines)) == (0, "2 baselines ok\n", "")


def test_lint_looks_into_the_folder_named_baselines(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "baselines").mkdir()

    assert run("lint") == (0, "baselines: no baselines in it\n", "")


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        pytest.param("cpu/pretrain-a.json", {"text": "{"}, ": not JSON, truncated or corrupt: ", id="half a file"),
        pytest.param("cpu/pretrain-a.json", {"device": 1}, ": $.provenance.device: 1 is not of type", id="schema"),
        pytest.param("cpu/other.json", {}, ": holds case 'pretrain-a' of system 'cpu'; ", id="file name"),
        pytest.param("h100/pretrain-a.json", {}, ": holds case 'pretrain-a' of system 'cpu'; ", id="folder name"),
        pytest.param(
            "h101/pretrain-a.json", {"system": "h101"}, ": $.system: unknown system 'h101'; did you", id="system"
        ),
        pytest.param("pretrain-a.json", {}, ": is not <system>/<case>.json under ", id="no folder"),
        pytest.param("cpu/old/pretrain-a.json", {}, ": is not <system>/<case>.json under ", id="one folder too many"),
    ],
)
def test_lint_names_each_problem_in_a_line(
    run: Any, baselines: Path, name: str, changes: dict[str, Any], message: str
) -> None:
    source = baseline_path(baselines, system="cpu", case="pretrain-a")
    data = json.loads(source.read_text(encoding="utf-8"))
    source.unlink()
    data["system"] = changes.get("system", data["system"])
    data["provenance"]["device"] = changes.get("device", "Test CPU")
    path = baselines / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(changes.get("text", json.dumps(data)), encoding="utf-8")

    code, out, err = run("lint", str(baselines))

    assert (code, err) == (1, "")
    assert out.splitlines()[0].startswith(f"{path}{message}")
    assert out.splitlines()[1:] == ["1 of 2 baselines have problems"]
