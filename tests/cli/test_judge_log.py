from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pytest_nemoperf.cli import given
from pytest_nemoperf.cli.main import main
from pytest_nemoperf.frameworks.command import CommandFramework
from pytest_nemoperf.frameworks.configs.config_values import ConfigValues
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.schema import schema_of
from tests.runs.job_logs import CASE, STEP_MS, write_megatron_log, write_recipe, write_step_records

DAYS = (10, 11, 12, 13, 14)


class Jobs:
    """A folder with a recipe and logs of its jobs, in which commands run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.recipe = write_recipe(folder / "recipe.json")

    def logs(self, name: str, *, loss_pct: float = 0.0, number: int = 3, first_day: int = 20) -> list[str]:
        """Write logs of days in a row, slower by a percentage, and return their names."""
        names = []
        for at in range(number):
            names.append(f"{name}{at + 1}.log")
            step_ms = STEP_MS * (1 + loss_pct / 100) * (1 + 0.001 * (at % 2))
            write_megatron_log(self.folder / names[-1], step_ms=step_ms, day=first_day + at)
        return names

    def record(self, *words: str, name: str = "then") -> None:
        """Record five logs."""
        logs = self.logs(name, number=5, first_day=10)
        assert main(["record", "--recipe", "recipe.json", *words, "--log", *logs]) == 0


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Jobs:
    monkeypatch.chdir(tmp_path)
    return Jobs(tmp_path)


def judge(logs: list[str], *words: str) -> int:
    return main(["judge", "--recipe", "recipe.json", *words, "--log", *logs])


def flat(text: str) -> str:
    return " ".join(text.split())


def test_logs_without_a_baseline_are_measured_and_told_how_to_record(
    jobs: Jobs, capsys: pytest.CaptureFixture[str]
) -> None:
    code = judge(jobs.logs("now"))

    output = capsys.readouterr().out
    assert code == 0
    assert output.startswith(f"NO BASELINE {CASE}\nnothing is stored for this case in baselines\n")
    for part in (
        "measured: 8,7",
        "read from logs, not measured by a session (megatron)",
        "now1.log: 17 steps after 3 of warm-up, 2026-11-20",
        "health: not known, for a log does not tell clocks, heat or other load",
        "nemoperf record --log now1.log now2.log now3.log --recipe recipe.json",
    ):
        assert part in output


@pytest.mark.parametrize(
    ("loss_pct", "verdict", "code"), [(0.0, "PASSED", 0), (12.0, "REGRESSED", 1), (-12.0, "IMPROVED", 0)]
)
def test_logs_are_judged_beside_the_baseline_of_their_case(
    jobs: Jobs, capsys: pytest.CaptureFixture[str], loss_pct: float, verdict: str, code: int
) -> None:
    jobs.record()
    capsys.readouterr()

    found = judge(jobs.logs("now", loss_pct=loss_pct))

    output = capsys.readouterr().out
    assert found == code
    assert output.startswith(f"{verdict} {CASE}\n")
    assert "read from 5 logs (megatron): then1.log, then2.log, then3.log, then4.log, then5.log" in flat(output)


def test_one_log_alone_is_inconclusive_and_asks_for_more(jobs: Jobs, capsys: pytest.CaptureFixture[str]) -> None:
    jobs.record()
    capsys.readouterr()

    code = judge(jobs.logs("now", loss_pct=12.0, number=1), "--noise", "session=0.3", "--noise", "run=0.3")

    output = flat(capsys.readouterr().out)
    assert code == 0
    assert output.startswith("INCONCLUSIVE")
    assert "undecided with 1 run: 95% interval" in output
    assert "add further runs, for one alone is never REGRESSED" in output
    assert "to accept it as the new baseline nemoperf record --log now1.log --recipe recipe.json --noise" in output
    assert "--accept-regression" in output
    assert "--perf-" not in output


def test_a_copy_of_a_baseline_is_judged_by_with_other_tolerances(
    jobs: Jobs, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs.record()
    (jobs.folder / "baselines" / "h100" / f"{CASE}.json").rename(jobs.folder / "copy.json")
    logs = jobs.logs("now", loss_pct=12.0)
    capsys.readouterr()

    assert judge(logs, "--baseline", "copy.json") == 1
    assert "to accept it as the new baseline" not in capsys.readouterr().out
    assert judge(logs, "--baseline", "copy.json", "--tolerance", "25%") == 0
    assert judge(logs) == 0


def test_the_command_that_records_names_the_same_folder_of_baselines(
    jobs: Jobs, capsys: pytest.CaptureFixture[str]
) -> None:
    (jobs.folder / "elsewhere").mkdir()

    judge(jobs.logs("now", number=1), "--baselines", "elsewhere")

    output = flat(capsys.readouterr().out)
    assert "nothing is stored for this case in elsewhere" in output
    assert output.endswith("--baselines elsewhere")


def test_tolerances_of_the_recipe_count(jobs: Jobs, capsys: pytest.CaptureFixture[str]) -> None:
    jobs.record()
    logs = jobs.logs("now", loss_pct=12.0)
    write_recipe(jobs.recipe, tolerances={"all": 25.0})

    assert judge(logs) == 0
    assert judge(logs, "--tolerance", "3") == 1


def test_json_is_a_case_of_the_results_file_with_its_logs(jobs: Jobs, capsys: pytest.CaptureFixture[str]) -> None:
    assert judge(jobs.logs("now", number=1), "--json") == 0

    case = json.loads(capsys.readouterr().out)
    assert set(case) == set(schema_of("results")["$defs"]["CaseResult"]["properties"])
    (log,) = case["logs"]
    assert (log["path"], log["log_format"], log["num_records"]) == ("now1.log", "megatron", 20)
    assert case["plan"]["log_format"] == "megatron"


def test_a_log_that_the_baseline_was_recorded_from_is_pointed_out(
    jobs: Jobs, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs.record()
    capsys.readouterr()

    judge(["then2.log"])

    assert "then2.log is run 2 of the baseline itself" in capsys.readouterr().out


def test_a_machine_that_the_log_does_not_tell_can_be_stated(jobs: Jobs, capsys: pytest.CaptureFixture[str]) -> None:
    jobs.record("--machine", "east pool", "--machine", "topology=NV18")
    logs = jobs.logs("now")
    capsys.readouterr()

    assert judge(logs) == 0
    output = flat(capsys.readouterr().out)
    assert output.startswith("NOT COMPARABLE")
    assert "if it was one like the baseline's, add --machine 'east pool' --machine topology=NV18" in output
    assert judge(logs, "--machine", "east pool", "--machine", "topology=NV18") == 0
    assert capsys.readouterr().out.startswith("PASSED")


def test_the_option_to_add_for_a_name_with_an_equals_sign_is_taken(
    jobs: Jobs, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs.record("--machine", "machine=pool=east")
    logs = jobs.logs("now")
    capsys.readouterr()

    judge(logs)

    assert "add --machine machine=pool=east" in flat(capsys.readouterr().out)
    judge(logs, "--machine", "machine=pool=east")
    assert capsys.readouterr().out.startswith("PASSED")


def test_only_what_both_sides_state_is_a_suspect(jobs: Jobs, capsys: pytest.CaptureFixture[str]) -> None:
    jobs.record("--version", "torch=2.9", "--version", "nccl=2.27", "--commit", "0123456789ab")
    capsys.readouterr()

    judge(jobs.logs("now", loss_pct=12.0), "--version", "torch=2.10")

    output = flat(capsys.readouterr().out)
    assert "torch: 2.9 -> 2.10" in output
    assert "nccl" not in output
    assert "only what was stated of both sides is compared" in output
    assert "commit 0123456789ab" in output


def test_the_format_may_be_given_in_place_of_the_recipes(jobs: Jobs, capsys: pytest.CaptureFixture[str]) -> None:
    write_recipe(jobs.recipe, log_format=None)
    write_step_records(jobs.folder / "steps.jsonl", tokens=128 * 8192, step_time_sec=15.0)

    assert judge(["steps.jsonl"], "--log-format", "steps") == 0
    assert judge(jobs.logs("now"), "--log-format", "megatron") == 0


def test_the_recipes_file_is_looked_for_where_its_format_is_given_once_more(jobs: Jobs) -> None:
    write_recipe(jobs.recipe, log_file="logs/train.log")
    write_megatron_log(jobs.folder / "job" / "train.log")

    assert judge(["job"]) == 0
    assert judge(["job"], "--log-format", "megatron") == 0
    assert judge(["job"], "--log-format", "megatron_bridge") == 2


def test_a_framework_that_writes_a_log_of_its_own_names_the_format(
    jobs: Jobs, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Megatron(CommandFramework):
        name = "megatron"
        log_formats = ("megatron", "megatron_bridge")

        def log_format(self, plan: Plan) -> str:  # noqa: ARG002 (the same for all)
            return "megatron"

        def log_file(self, plan: Plan) -> str:  # noqa: ARG002 (as above)
            return ""

    monkeypatch.setattr(given, "builtin_frameworks", lambda: {"megatron": Megatron()})
    write_recipe(jobs.recipe, log_format=None)
    logs = jobs.logs("now")

    for words in ((), ("--log-format", "megatron")):
        assert judge(logs, "--json", *words) == 0
        case = json.loads(capsys.readouterr().out)
        assert case["logs"][0]["log_format"] == "megatron"
        assert "log_format" not in case["measurement"]["workload"]


def test_a_recipe_is_completed_by_the_file_of_its_framework(
    jobs: Jobs, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Megatron(CommandFramework):
        name = "megatron"

        def read_config(self, *_: Any, **__: Any) -> ConfigValues:
            values = {"seq_len": 8192, "global_batch_size": 128}
            return ConfigValues(digest="abc", model="llama3-8b", gpus=8, degrees={"tp": 2}, values=values)

    monkeypatch.setattr(given, "builtin_frameworks", lambda: {"megatron": Megatron()})
    missing = dict.fromkeys(("model", "layouts", "seq_len", "global_batch_size"))
    write_recipe(jobs.recipe, framework_config="args.sh", **missing)
    logs = jobs.logs("now")

    assert judge(logs) == 2
    assert "--system NAME missing: the recipe names none; say where the jobs ran" in capsys.readouterr().err
    assert judge(logs, "--system", "h100", "--json") == 0
    case = json.loads(capsys.readouterr().out)
    assert case["measurement"]["workload"]["framework_config"] == {"name": "args.sh", "digest": "abc"}
    assert case["plan"]["layout"]["tp"] == 2


def test_warm_up_may_be_longer_than_the_recipes(jobs: Jobs, capsys: pytest.CaptureFixture[str]) -> None:
    judge(jobs.logs("now", number=1), "--warmup", "8")

    assert "now1.log: 12 steps after 8 of warm-up" in capsys.readouterr().out


def test_logs_of_a_job_on_this_machine_have_its_key(jobs: Jobs, capsys: pytest.CaptureFixture[str]) -> None:
    write_recipe(jobs.recipe, model="llama3.2-1b", layouts={"cpu": {"gpus": 1}}, global_batch_size=128)
    logs = jobs.logs("now")

    assert main(["record", "--recipe", "recipe.json", "--here", "--log", *logs]) == 0
    (path,) = (jobs.folder / "baselines" / "cpu").iterdir()
    assert "host" in json.loads(path.read_text())["machine"]
    capsys.readouterr()
    assert judge(logs, "--here", "--machine", "lab") == 0
    assert "machine is 'lab', the default in the baseline" in capsys.readouterr().out


def test_a_recipe_of_several_systems_asks_for_one(jobs: Jobs, capsys: pytest.CaptureFixture[str]) -> None:
    layout = {"gpus": 8, "dp_shard": 8}
    write_recipe(jobs.recipe, layouts={"h100": layout, "b200": layout})
    logs = jobs.logs("now")

    assert judge(logs) == 2
    assert "--system NAME missing: the recipe has layouts for b200, h100; say which ran" in capsys.readouterr().err
    assert judge(logs, "--system", "b200") == 0


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("", "no run is given; give folders that a session left, RUN, or logs with --log FILE"),
        ("--log now1.log", "--recipe FILE missing: a log does not say what ran"),
        ("--recipe recipe.json", "--recipe only counts with --log: folders of runs say it themselves; drop it"),
        ("--here run-1", "--here only counts with --log"),
        ("run-1 --recipe recipe.json --log now1.log", "RUN run-1 with --log: judge folders of a session or logs"),
        ("--log now1.log --recipe none.json", "none.json: cannot be read: No such file or directory"),
        ("--log none.log --recipe recipe.json", "none.log: cannot be read: No such file or directory"),
        ("--log now1.log now1.log --recipe recipe.json", "now1.log: is now1.log again"),
        ("--log now1.log --recipe bare.json", "--log-format NAME missing: bare.json has no log_format; known: "),
        ("--log now1.log --recipe bare.json --log-format megatrom", "did you mean megatron"),
        (
            "--log now1.log --recipe native.json --log-format megatron",
            "native.json: framework is 'torch', the native engine, and --log-format=megatron is another program's; "
            'name what wrote the log, e.g. "framework": "megatron"',
        ),
        ("--log now1.log --recipe recipe.json --system b300", "has no layout for"),
        ("--log now1.log --recipe recipe.json --system h1000", "unknown system 'h1000'"),
        ("--log now1.log --recipe cpu.json", "--machine missing: a log does not say which machine it is of"),
        ("--log now1.log --recipe recipe.json --machine gpu=8", "'gpu' is no part of a machine's key"),
        ("--log now1.log --recipe cpu.json --here --machine cores=2", "--machine=cores=2 with --here"),
        ("--log now1.log --recipe cpu.json --here --machine a --machine b", "a machine has one name; give it once"),
        ("--log now1.log --recipe recipe.json --here", "--here with a job on DGX-H100, but "),
        ("--log now1.log --recipe recipe.json --warmup 1", "--warmup=1 must be >= 2"),
        ("--log now1.log --recipe recipe.json --warmup 0", "0 must be a whole number >= 1"),
        ("--log now1.log --recipe recipe.json --warmup 17", "has 20 records of steps, and needs 17 of warm-up and 4"),
        ("--log now1.log --recipe recipe.json --commit main", "--commit=main is no commit hash of 7 to 64 hexadecimal"),
        ("--log now1.log --recipe recipe.json --version torch", "--version=torch is not NAME=VERSION"),
        (
            "--log now1.log --recipe recipe.json --version torch=2.9 --version torch=2.10",
            "--version=torch=2.10: torch is 2.9 already; give it once",
        ),
        ("--log now1.log --recipe recipe.json --date 0001-01-01T00:00+05:00", "is no date; write e.g. 2026-11-20"),
        ("--log now1.log --recipe recipe.json --date monday", "--date=monday is no date; write e.g. 2026-11-20"),
        ("--log now1.log --recipe recipe.json --date 2999-01-01", "--date=2999-01-01 lies in the future"),
        ("--log now1.log --recipe recipe.json --health a.json b.json", "--health names 2 reports and --log 1 log"),
        ("--log now1.log --recipe recipe.json --health a.json", "a.json: cannot be read: No such file or directory"),
        ("--log now1.log --recipe recipe.json --baselines none", "--baselines=none: no such folder"),
        ("--log now1.log --recipe recipe.json --baselines now1.log", "--baselines=now1.log: is no folder"),
        ("--log now1.log --recipe recipe.json --baselines . --baseline x", "--baseline with --baselines"),
        ("--log now1.log --recipe recipe.json --baseline none.json", "none.json: cannot be read"),
        ("--log now1.log --recipe recipe.json --noise runs=1", "--noise='runs=1' is not KIND=PCT"),
        ("--log now1.log --recipe recipe.json --tolerance speed=1", "'speed' is not a judged metric"),
    ],
)
def test_a_usage_error_is_one_line_and_exits_with_2(
    jobs: Jobs, capsys: pytest.CaptureFixture[str], words: str, problem: str
) -> None:
    jobs.logs("now", number=1)
    (jobs.folder / "run-1").mkdir()
    write_recipe(jobs.folder / "bare.json", log_format=None)
    write_recipe(jobs.folder / "native.json", log_format=None, framework=None)
    write_recipe(jobs.folder / "cpu.json", layouts={"cpu": {"gpus": 1}})

    try:
        code = main(["judge", *words.split()])
    except SystemExit as exc:
        code = int(exc.code or 0)

    error = capsys.readouterr().err
    assert code == 2
    assert problem in error
    assert error.count("\n") == 1


def test_neither_torch_nor_pytest_is_imported(jobs: Jobs) -> None:
    script = (
        "import sys; from pytest_nemoperf.cli.main import main; code = main(sys.argv[1:])\n"
        "print(sorted({'torch', 'pytest', '_pytest'} & set(sys.modules)), file=sys.stderr); sys.exit(code)"
    )
    words = ["record", "--recipe", "recipe.json", "--log", *jobs.logs("now")]

    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "[]\n")


OUT_OF_MEMORY = (
    "[rank3]: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.50 GiB. GPU 3 has a total capacity of "
    "79.11 GiB of which 1.10 GiB is free.\n"
)


def test_a_job_that_ran_out_of_memory_before_a_step_is_told_with_rank_and_size(
    jobs: Jobs, capsys: pytest.CaptureFixture[str]
) -> None:
    (jobs.folder / "now.log").write_text(OUT_OF_MEMORY)

    assert judge(["now.log"]) == 2

    error = capsys.readouterr().err
    assert "OUT OF MEMORY: rank 3 of now.log tried to allocate 2.50 GiB on GPU 3 (it has 79.11 GiB, 1.10 GiB" in error
    assert "; it ended before any step was logged" in error


def test_steps_before_a_job_ran_out_of_memory_are_judged_and_the_end_is_told(
    jobs: Jobs, capsys: pytest.CaptureFixture[str]
) -> None:
    (name,) = jobs.logs("now", number=1)
    log = jobs.folder / name
    log.write_text(log.read_text() + OUT_OF_MEMORY)

    assert judge([name]) == 0

    assert "OUT OF MEMORY: rank 3 of now1.log tried to allocate 2.50 GiB" in flat(capsys.readouterr().out)
