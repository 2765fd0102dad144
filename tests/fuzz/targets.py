"""Targets by name: contracts, models and recipes, pages, frameworks' own recipes, logs, ini files and options."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import Any, Final

from pytest_nemoperf.baselines.files import baseline_path, read_baseline
from pytest_nemoperf.baselines.profile_store import PROFILES_DIR
from pytest_nemoperf.cli.project_ini import find_ini_lines
from pytest_nemoperf.frameworks.configs.automodel import read_automodel
from pytest_nemoperf.frameworks.configs.bridge import read_bridge
from pytest_nemoperf.frameworks.configs.megatron import read_megatron
from pytest_nemoperf.frameworks.configs.nemo_rl import read_nemo_rl
from pytest_nemoperf.frameworks.interpreter import parse_interpreters
from pytest_nemoperf.json_codec import to_json, to_json_line
from pytest_nemoperf.logs.log_format import LogFormat, LogKind
from pytest_nemoperf.logs.reading import read_log
from pytest_nemoperf.measure.measurement import workload_of
from pytest_nemoperf.options import parse as options
from pytest_nemoperf.options.selection import asks_for_perf_alone
from pytest_nemoperf.pages.releases import PUBLISHED_FOLDER, RELEASES_FOLDER
from pytest_nemoperf.recipes.overrides import change_recipe, parse_changes
from pytest_nemoperf.recipes.systems import find_system
from pytest_nemoperf.records.step import PLAN_FILE, STEPS_FILE
from pytest_nemoperf.report.row_selection import parse_condition
from pytest_nemoperf.results.cases import SessionResults
from pytest_nemoperf.verdict.policy import parse_tolerances
from pytest_nemoperf.verdict.waivers import parse_waiver
from tests.builders import (
    MACHINE,
    make_baseline,
    make_plan,
    make_profile,
    make_recipe,
    make_records,
    make_rl_plan,
)
from tests.frameworks import automodel_files, bridge_files, megatron_files, nemo_rl_files
from tests.fuzz import mutate
from tests.fuzz.target import Mutate, Target, Use, command
from tests.logs.event_writer import write_events
from tests.logs.log_texts import (
    BY_HAND,
    automodel_console_line,
    automodel_line,
    bridge_memory,
    by_hand,
    context,
    megatron_line,
    megatron_memory,
    titan_line,
)
from tests.report.builders import make_passed, make_regressed, make_results, make_rl_report
from tests.results.row_builders import make_release, make_row
from tests.runs.stored_runs import make_record, store_case

PLAN: Final = make_plan(timeout_sec=60.0)
_DATA: Final = Path(__file__).parents[1] / "data" / "hf"
_CATALOG: Final = Path(mutate.__file__).parents[2] / "src" / "pytest_nemoperf" / "catalog" / "published"


def _json(raw: bytes, random: Random) -> bytes:
    return mutate.mutated_json(json.loads(raw), random=random)


def _jsonl(raw: bytes, random: Random) -> bytes:
    return mutate.mutated_jsonl([json.loads(line) for line in raw.splitlines()], random=random)


def _text(hostile: mutate.Hostile) -> Mutate:
    return lambda raw, random: mutate.mutated_text(raw, random=random, hostile=hostile)


def _yaml(raw: bytes, random: Random) -> bytes:
    """Change a tree, which is written as JSON and so YAML too, or the text."""
    if random.random() < 0.7 and raw.startswith(b"{"):
        return _json(raw, random)
    return mutate.mutated_text(raw, random=random, hostile=mutate.YAML)


def _written(value: object) -> bytes:
    return to_json(value).encode()


def _stored(root: Path) -> Path:
    """Store a baseline and a case of its plan; return the case's folder."""
    baselines = root / "baselines"
    path = baseline_path(baselines, system="cpu", case=PLAN.case)
    path.parent.mkdir(parents=True)
    path.write_bytes(_written(_baseline()))
    store_case(root / "case", plan=PLAN, times=(0.1, 0.101))
    return root / "case"


def _baseline() -> Any:
    return make_baseline(case=PLAN.case, workload=workload_of(PLAN), machine=MACHINE)


def _judged(root: Path) -> list[Use]:
    path = baseline_path(root / "baselines", system="cpu", case=PLAN.case)
    judge = partial(command, "judge", "--baseline", path, root / "case")
    return [judge(), judge("--json"), command("record", "--baselines", root / "new", "--json", root / "case")]


def _of_baselines(root: Path) -> list[Use]:
    folder = ("--baselines", root / "baselines")
    return [
        command("judge", *folder, root / "case"),
        command("lint", root / "baselines"),
        command("lint", "--json", root / "baselines"),
        command("show", "system:cpu", *folder),
        command("show", "system:cpu", *folder, "--format", "csv"),
        command("show", "system:cpu", *folder, "--format", "markdown"),
        command("show", "system:cpu", *folder, "--format", "json"),
        command("page", *folder, "--template", root / "page.md"),
        command("compare", "system:cpu", root / "other.json", *folder),
    ]


def _baseline_file(root: Path) -> Target:
    _stored(root)
    (root / "page.md").write_text(_PAGE)
    (root / "other.json").write_bytes(_written(_baseline()))
    path = baseline_path(root / "baselines", system="cpu", case=PLAN.case)
    rl = make_rl_plan()
    seeds = [path.read_bytes(), _written(make_baseline(case=rl.case, workload=workload_of(rl)))]
    return Target(path=path, seeds=seeds, mutate=_json, read=partial(read_baseline, path), uses=_of_baselines(root))


def _run_file(name: str, root: Path, *, content: bytes | None = None, change: Mutate = _json) -> Target:
    """A file of a case's folder."""
    case = _stored(root)
    path = case / name
    seed = content if content is not None else path.read_bytes()
    return Target(path=path, seeds=[seed], mutate=change, uses=_judged(root))


def _case_file(root: Path) -> Target:
    waived = make_record(PLAN, waiver={"reason": "slow", "until": "2999-12-31", "floor": 50}, runs=("run-1",))
    target = _run_file("case.json", root)
    return Target(path=target.path, seeds=[*target.seeds, _written(waived)], mutate=_json, uses=target.uses)


def _steps(root: Path) -> Target:
    records = [json.loads(to_json_line(each)) for each in make_records(PLAN)]
    return _run_file(f"run-1/{STEPS_FILE}", root, content="\n".join(map(json.dumps, records)).encode(), change=_jsonl)


_HEALTH: Final[Mapping[str, Any]] = {
    "schema_version": 1,
    "num_samples": 12,
    "gpus": [],
}


def _results(root: Path) -> Target:
    case = _stored(root)
    reports = [make_passed(PLAN.case), make_regressed("b"), make_rl_report()]
    results: SessionResults = make_results(*reports)
    path = case.parent / "results.json"
    (root / "page.md").write_text(_PAGE)
    uses = [
        command("show", path),
        command("show", path, "--format", "csv"),
        command("show", path, "--format", "markdown"),
        command("compare", path, "system:cpu", "--baselines", root / "baselines", "--all"),
        command("page", "--results", path, "--template", root / "page.md"),
    ]
    return Target(path=path, seeds=[_written(results)], mutate=_json, uses=uses)


def _release(root: Path) -> Target:
    _stored(root)
    (root / "page.md").write_text(_PAGE)
    folder = root / "baselines" / RELEASES_FOLDER
    folder.mkdir()
    (folder / "0.3.json").write_bytes(_written(make_release("0.3", make_row())))
    path = folder / "0.4.json"
    given = ("--baselines", root / "baselines")
    uses = [
        command("show", "release:0.4", *given),
        command("show", "release:0.4", *given, "--format", "csv"),
        command("compare", "release:0.3", "release:0.4", *given),
        command("release", "--show", "0.4", *given),
        command("release", "--list", *given),
        command("page", "--release", "0.4", "--template", root / "page.md", *given),
        command("lint", root / "baselines"),
    ]
    rows = [make_row(), make_row(case="b", system="cpu", framework="nemo_rl", workload="rl")]
    seeds = [_written(make_release("0.4", *rows)), _written(make_release("0.4", rows[0], previous="0.3"))]
    return Target(path=path, seeds=seeds, mutate=_json, uses=uses)


def _profile(root: Path) -> Target:
    _stored(root)
    path = root / "baselines" / "cpu" / PROFILES_DIR / f"{PLAN.case}.json"
    path.parent.mkdir()
    seed = make_profile(case=PLAN.case, workload=workload_of(PLAN))
    return Target(path=path, seeds=[_written(seed)], mutate=_json, uses=[command("lint", root / "baselines")])


def _published(root: Path) -> Target:
    _stored(root)
    (root / "page.md").write_text(_PAGE)
    path = root / "baselines" / PUBLISHED_FOLDER / "h100.json"
    path.parent.mkdir()
    data = json.loads((_CATALOG / "h100.json").read_text())
    small = {**data, "rows": data["rows"][:6], "excluded": data.get("excluded", [])[:2]}
    given = ("--baselines", root / "baselines")
    uses = [
        command("lint", root / "baselines"),
        command("show", "--published", "h100", *given),
        command("show", "published:h100", *given, "--format", "csv"),
        command("compare", "published:h100", "system:cpu", "--all", *given),
        command("page", "--template", root / "page.md", *given),
    ]
    return Target(path=path, seeds=[json.dumps(small).encode()], mutate=_json, uses=uses)


def _recipe(root: Path) -> Target:
    path = root / "recipe.json"
    h100 = {
        "model": "llama3-8b",
        "layouts": {"h100": {"gpus": 8, "tp": 2, "dp_shard": 4}},
        "seq_len": 8192,
        "global_batch_size": 128,
    }
    rl = make_rl_plan()
    seeds = [
        json.dumps(h100).encode(),
        _written(make_recipe(layouts={"h100": make_recipe().layouts["cpu"]})),
        _written(make_recipe(layouts={"h100": rl.layout}, rl=rl.rl)),
        json.dumps({**h100, "framework": "command", "command": ["python", "train.py"], "env": {"A": "1"}}).encode(),
    ]
    plan = partial(command, "plan", "--recipe", path, "--system", "h100")
    return Target(path=path, seeds=seeds, mutate=_json, uses=[plan(), plan("--json")])


def _model(root: Path) -> Target:
    path = root / "config.json"
    seeds = [each.read_bytes() for each in sorted(_DATA.glob("*/config.json"))]
    plan = ("plan", "--model", path, "--system", "h100", "--gpus", "8", "--seq-len", "4096", "--gbs", "64")
    uses = [command(*plan), command(*plan, "--tp", "2"), command("flops", path, "--seq-len", "4096")]
    return Target(path=path, seeds=seeds, mutate=_json, uses=uses)


_PAGE: Final = """\
# Ours

By hand: a | b.
<!-- nemoperf:begin tables frameworks=torch,automodel systems=cpu,h100 -->
| old | table |
<!-- nemoperf:end -->

<!-- nemoperf:begin native systems=cpu -->
<!-- nemoperf:end -->
the end
"""


def _page(root: Path) -> Target:
    _stored(root)
    path = root / "page.md"
    template = Path(mutate.__file__).parents[2] / "src" / "pytest_nemoperf" / "pages" / "templates"
    seeds = [
        _PAGE.encode(),
        _PAGE.replace("\n", "\r\n").encode(),
        *[each.read_bytes() for each in template.glob("*.md")],
    ]
    given = ("--baselines", root / "baselines")
    uses = [
        command("page", "--check", path, *given),
        command("page", "--template", path, "--output", root / "out.md", *given),
    ]
    return Target(path=path, seeds=seeds, mutate=_text(mutate.PAGE), uses=uses)


def _framework_recipe(root: Path, name: str, *, framework: str, gpus: int = 8) -> list[Use]:
    recipe = {"framework": framework, "framework_config": str(root / name), "gpus": {"h100": gpus}}
    (root / "recipe-of-it.json").write_text(json.dumps(recipe))
    plan = ("plan", "--recipe", root / "recipe-of-it.json", "--system", "h100")
    return [command(*plan), command(*plan, "--json")]


def _nemo_rl(root: Path) -> Target:
    path = root / "recipe.yaml"
    megatron = nemo_rl_files.write_file(root / "m.yaml", nemo_rl_files.GRPO, nemo_rl_files.MEGATRON).read_bytes()
    seeds = [json.dumps(nemo_rl_files.GRPO).encode(), json.dumps(nemo_rl_files.SFT).encode(), megatron]
    return Target(
        path=path,
        seeds=[*seeds, b"a: &a [1]\nb: *a\npolicy:\n  model_name: ${oc.env:HOME}\ngrpo:\n  x: ${mul:2,3}\n"],
        mutate=_yaml,
        read=lambda: read_nemo_rl(path, options={}, env={}),
        uses=_framework_recipe(root, "recipe.yaml", framework="nemo_rl", gpus=16),
    )


def _automodel(root: Path) -> Target:
    path = root / "recipe.yaml"
    return Target(
        path=path,
        seeds=[json.dumps(automodel_files.TRAINING).encode(), json.dumps(automodel_files.BENCHMARK).encode()],
        mutate=_yaml,
        read=lambda: read_automodel(path, options={}),
        uses=_framework_recipe(root, "recipe.yaml", framework="automodel"),
    )


def _megatron_yaml(root: Path) -> Target:
    path = root / "args.yaml"
    return Target(
        path=path,
        seeds=[megatron_files.YAML.encode()],
        mutate=_text(mutate.YAML),
        read=lambda: read_megatron(path, options={}, env={}),
        uses=_framework_recipe(root, "args.yaml", framework="megatron_lm"),
    )


def _megatron_words(root: Path) -> Target:
    path = root / "args.txt"
    words = [line.strip().replace(": true", "").replace(": ", " ") for line in megatron_files.YAML.splitlines()]
    text = "torchrun --nproc-per-node 8 pretrain_gpt.py " + " ".join(word for word in words if word.startswith("--"))
    return Target(
        path=path,
        seeds=[text.encode(), text.replace(" --", " \\\n  --").encode()],
        mutate=_text(mutate.WORDS),
        read=lambda: read_megatron(path, options={}, env={}),
        uses=_framework_recipe(root, "args.txt", framework="megatron_lm"),
    )


def _python(root: Path) -> Target:
    bridge_files.make_checkout(root)
    path = root / bridge_files.RECIPES
    benchmarks = root / bridge_files.BENCHMARKS
    name = f"{path}:tiny_pretrain_config"
    return Target(
        path=path,
        seeds=[
            path.read_bytes(),
            benchmarks.read_bytes() + b"\n\ntiny_pretrain_config = tiny_pretrain_16gpu_h100_fp8cs_config\n",
        ],
        mutate=_text(mutate.PYTHON),
        read=lambda: read_bridge(Path(name), options={}),
        uses=_framework_recipe(root, f"{bridge_files.RECIPES}:tiny_pretrain_config", framework="megatron_bridge"),
    )


def _ini(root: Path, name: str, seed: str) -> Target:
    folder = root / "project"
    folder.mkdir()

    def read() -> None:
        found = find_ini_lines("perf_python", start=folder)
        parse_interpreters(found.lines, subject="ini")

    return Target(path=folder / name, seeds=[seed.encode()], mutate=_text(mutate.INI), read=read)


_COLUMNS: Final = {"step": "step", "step_time_sec": "time", "loss": "loss"}
_STEPS: Final = range(1, 9)
_BY_STEP: Final = {
    key: {str(step): 1.5 for step in _STEPS}
    for key in ("train/loss", "timing/train/total_step_time", "train/global_valid_toks", "train/grad_norm")
}


def _megatron_line(step: int) -> str:
    return megatron_line(step, fields={"throughput per GPU (TFLOP/s/GPU)": "37.0"})


_LOGS: Final[Mapping[str, tuple[str | LogFormat, str]]] = MappingProxyType(
    {
        "log text": (BY_HAND, by_hand(_STEPS)),
        "log megatron": ("megatron", "".join(_megatron_line(step) + megatron_memory(step) for step in _STEPS)),
        "log megatron_bridge": (
            "megatron_bridge",
            "".join(_megatron_line(step) + bridge_memory(step) for step in _STEPS),
        ),
        "log torchtitan": ("torchtitan", "".join(titan_line(step, tflops=46.32) for step in _STEPS)),
        "log automodel": ("automodel", "".join(map(automodel_line, _STEPS))),
        "log automodel_console": ("automodel_console", "".join(map(automodel_console_line, _STEPS))),
        "log dict": (
            LogFormat(kind=LogKind.DICT, fields=_COLUMNS),
            "".join(f"{{'step': {step}, 'time': 1.25, 'loss': '8.5', 'x': nan}}\n" for step in _STEPS),
        ),
        "log trl_console": (
            "trl_console",
            "".join(
                f"{{'loss': 0.5, 'step_time': 1.5, 'num_tokens': {step * 2048}.0, 'epoch': 0.1}}\n" for step in _STEPS
            ),
        ),
        "log jsonl": (
            LogFormat(kind=LogKind.JSONL, fields={**_COLUMNS, "tokens": "a.tokens"}),
            "".join(json.dumps({"step": s, "time": 1.25, "loss": 8.5, "a": {"tokens": 2048}}) + "\n" for s in _STEPS),
        ),
        "log csv": (
            LogFormat(kind=LogKind.CSV, fields=_COLUMNS),
            "step,loss,time,epoch\n" + "".join(f"{step},8.5,1.25,0.0\n" for step in _STEPS),
        ),
        "log json": ("nemo_rl_json", json.dumps(_BY_STEP)),
    }
)


def _log(name: str, root: Path) -> Target:
    log_format, text = _LOGS[name]
    path = root / "run.log"

    def read() -> None:
        read_log([path], log_format=log_format, context=context(warmup_steps=0))

    def change(raw: bytes, random: Random) -> bytes:
        if name == "log json" and random.random() < 0.5:
            return _json(raw, random)
        return mutate.mutated_text(raw, random=random, hostile=mutate.LOG)

    uses: list[Use] = []
    if isinstance(log_format, str):
        recipe = {
            "model": "llama3-8b",
            "layouts": {"h100": {"gpus": 2, "dp_shard": 2}},
            "seq_len": 128,
            "global_batch_size": 16,
            "framework": "command",
            "command": ["python", "train.py"],
            "log_format": log_format,
        }
        (root / "recipe.json").write_text(json.dumps(recipe))
        judge = ("judge", "--recipe", root / "recipe.json", "--warmup", "2", "--log", path)
        uses = [command(*judge), command(*judge, "--json")]
    return Target(path=path, seeds=[text.encode()], mutate=change, read=read, uses=uses)


def _events(root: Path) -> Target:
    steps = [(step, 1.0 + step, {"time": 1.25, "loss": 8.5}) for step in _STEPS]
    path = write_events(root / "events", steps)
    log_format = LogFormat(kind=LogKind.TENSORBOARD, fields={"step_time_sec": "time", "loss": "loss"})

    def read() -> None:
        read_log([path], log_format=log_format, context=context(warmup_steps=0))

    return Target(path=path, seeds=[path.read_bytes()], mutate=_text(mutate.Hostile()), read=read)


def _changed(text: str) -> object:
    changes = parse_changes([text], subject="--perf-set")
    return change_recipe(make_recipe(), system=find_system("cpu"), changes=changes)


_OPTIONS: Final[Sequence[tuple[str, Callable[[str], object]]]] = (
    ("tp=2,seq_len=128,precision=bf16,sequence_parallel=true", _changed),
    ("5%", lambda text: parse_tolerances([text], subject="--perf-tolerance")),
    ("peak_memory_gib=10", lambda text: parse_tolerances([text], subject="--perf-find")),
    ("regressed,invalid", options.parse_fail_on),
    ("3", lambda text: options.parse_count(text, subject="--perf-runs")),
    ("0.005", lambda text: options.parse_probability(text, subject="--perf-alpha")),
    ("on", lambda text: options.parse_on_off(text, subject="--perf-health")),
    ("5%", lambda text: options.parse_percent(text, subject="--perf-find")),
    ("600", lambda text: options.parse_seconds(text, subject="--perf-timeout")),
    ("torch,megatron", lambda text: options.parse_frameworks(text, subject="--perf-framework")),
    ("nemo_rl=/usr/bin/python3", lambda text: options.parse_pythons([text], subject="--perf-python")),
    ("model=llama3,gpus>=8", lambda text: parse_condition(text, subject="--where")),
    ("perf and not slow", asks_for_perf_alone),
    ("2999-12-31", lambda text: parse_waiver({"reason": text, "until": text, "floor": 50}, subject="perf_waive")),
    ("50", lambda text: parse_waiver({"reason": "x", "until": "1.4", "floor": text}, subject="perf_waive")),
)


def _option(root: Path) -> Target:
    """Options, one of each input: its number is the input's first line."""
    path = root / "option"
    seeds = [f"{at}\n{text}".encode() for at, (text, _) in enumerate(_OPTIONS)]

    def change(raw: bytes, random: Random) -> bytes:
        number, _, text = raw.partition(b"\n")
        return number + b"\n" + mutate.mutated_text(text, random=random, hostile=mutate.WORDS)

    def read() -> object:
        number, _, text = path.read_bytes().decode(errors="surrogateescape").partition("\n")
        return _OPTIONS[int(number)][1](text)

    return Target(path=path, seeds=seeds, mutate=change, read=read)


TARGETS: Final[Mapping[str, Callable[[Path], Target]]] = MappingProxyType(
    {
        "baseline": _baseline_file,
        "case": _case_file,
        "plan": partial(_run_file, f"run-1/{PLAN_FILE}"),
        "steps": _steps,
        "result": partial(_run_file, "run-1/result.json"),
        "results": _results,
        "release": _release,
        "profile": _profile,
        "published": _published,
        "recipe": _recipe,
        "model": _model,
        "page": _page,
        "nemo_rl": _nemo_rl,
        "automodel": _automodel,
        "megatron yaml": _megatron_yaml,
        "megatron words": _megatron_words,
        "python recipe": _python,
        "pyproject": lambda root: _ini(
            root, "pyproject.toml", "[tool.pytest.ini_options]\nperf_python = ['nemo_rl=/x']\n"
        ),
        "pytest.ini": lambda root: _ini(root, "pytest.ini", "[pytest]\nperf_python =\n  nemo_rl=/x\n  megatron=~/y\n"),
        **{name: partial(_log, name) for name in _LOGS},
        "log tensorboard": _events,
        "options": _option,
    }
)
"""Targets by name; each sets up its files in an empty folder."""
