from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pytest_nemoperf
from pytest_nemoperf.errors import RecordError
from pytest_nemoperf.json_codec import to_json
from pytest_nemoperf.measure.measurement import workload_of
from pytest_nemoperf.options.usage import usage_error
from pytest_nemoperf.visible import visible_styled_text
from tests.builders import MACHINE, make_baseline, make_plan
from tests.results.row_builders import make_origin, make_release, make_row
from tests.runs.stored_runs import store_case

PACKAGE = Path(pytest_nemoperf.__file__).parent
HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b1A\u202e\r\x00\u200bx"
RAW = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ufeff]")
PLAN = make_plan(timeout_sec=60.0)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a project whose stored files hold hostile text: cases, reasons, remarks, names of models and sources."""
    monkeypatch.chdir(tmp_path)
    baseline = make_baseline(
        case=PLAN.case,
        workload={**workload_of(PLAN), "note": HOSTILE},
        machine={**MACHINE, "cpu": f"Test CPU {HOSTILE}"},
        reason=f"because {HOSTILE}",
    )
    files = {
        f"baselines/cpu/{PLAN.case}.json": to_json(baseline),
        f"baselines/cpu/{PLAN.case}{HOSTILE.replace(chr(0), '')}.json": to_json(baseline),
        "baselines/cpu/broken.json": json.dumps({f"a key {HOSTILE}": 1, "case": HOSTILE}),
        "case.json": to_json(baseline),
        "page.md": f"# {HOSTILE}\n<!-- nemoperf:begin native systems=cpu -->\n<!-- nemoperf:end -->\n",
        "recipe.json": json.dumps({"model": HOSTILE, "layouts": {"cpu": {"gpus": 1}}, "seq_len": 8}),
        "bad.md": f"<!-- nemoperf:begin {HOSTILE} -->\n",
        "run.log": f"step {HOSTILE}\n",
    }
    for name in ("0.3", "0.4"):
        row = make_row(case=f"a{HOSTILE}", model=f"m{HOSTILE}", origin=make_origin(note=HOSTILE, source=HOSTILE))
        files[f"baselines/releases/{name}.json"] = to_json(make_release(name, row, make_row()))
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    waiver = {"reason": f"slow {HOSTILE}", "until": "2999-12-31", "floor": 90}
    store_case(tmp_path / "run", plan=PLAN, times=(0.2, 0.2), waiver=waiver)
    return tmp_path


COMMANDS = (
    "judge --baseline case.json run",
    "judge --json --baseline case.json run",
    "judge run",
    f"judge run{HOSTILE.replace(chr(0), '').replace(' ', '')}",
    "judge --recipe recipe.json --log run.log --log-format megatron",
    "record --baselines new run",
    "lint",
    "lint --json",
    "lint --github",
    "show",
    "show system:cpu",
    "show system:cpu --format csv",
    "show system:cpu --format markdown",
    "show system:cpu --format json",
    "show release:0.4",
    "show release:0.4 --all",
    "show release:0.4 --format csv",
    "show release:0.4 --format markdown",
    "compare release:0.3 release:0.4 --all",
    "compare release:0.3 release:0.4 --format csv --all",
    "compare case.json system:cpu --all",
    "release 0.5",
    "release",
    "page --template page.md --output out.md",
    "page --check page.md",
    "page --check bad.md",
    "plan --recipe recipe.json --system cpu",
    f"plan --model {HOSTILE.replace(chr(0), '')} --system cpu --gpus 1 --seq-len 8 --gbs 1",
    f"flops {HOSTILE.replace(chr(0), '')} --seq-len 8",
    f"{HOSTILE.replace(chr(0), '')}",
    f"show --columns {HOSTILE.replace(chr(0), '')} system:cpu",
    f"frameworks {HOSTILE.replace(chr(0), '')}",
)


@pytest.mark.parametrize("words", COMMANDS, ids=range(len(COMMANDS)))
def test_no_command_prints_what_a_terminal_obeys(
    words: str, folder: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    from pytest_nemoperf.cli.main import main

    try:
        main(words.split(" "))
    except SystemExit as exc:
        assert exc.code in (0, 2)  # noqa: PT017 (argparse ends so)

    captured = capsysbinary.readouterr()
    output = captured.out.decode() + captured.err.decode()
    assert output
    assert not RAW.search(output), repr(output)


def test_an_error_is_printed_without_what_a_terminal_obeys_whatever_it_quotes() -> None:
    assert str(RecordError(f"a.json: {HOSTILE} must go")) == "a.json:  x must go"
    assert usage_error(f"--system={HOSTILE}").args == ("--system= x",)


def test_colours_of_a_report_are_kept_and_nothing_else_is() -> None:
    assert visible_styled_text(f"\x1b[1;31mred\x1b[0m{HOSTILE}") == "\x1b[1;31mred\x1b[0m x"


def calls_in(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func)


def test_commands_print_through_one_module() -> None:
    found = []
    for path in (PACKAGE / "cli").glob("*.py"):
        if path.name != "terminal.py":
            found += [f"{path.name}: {call}" for call in calls_in(path) if call in PRINTING]

    assert not found, "write with pytest_nemoperf.cli.terminal, which leaves out what a terminal obeys"


PRINTING = {"print", "sys.stdout.write", "sys.stderr.write"}


def test_errors_of_usage_are_made_in_one_place() -> None:
    found = []
    for path in PACKAGE.rglob("*.py"):
        if path != PACKAGE / "options" / "usage.py" and "pytest.UsageError(" in path.read_text():
            found.append(path.name)

    assert not found, "raise usage_error(...) of pytest_nemoperf.options.usage: pytest prints the text as it is"


def test_pytest_prints_a_hostile_option_without_what_a_terminal_obeys(tmp_path: Path) -> None:
    option = f"--perf-find={HOSTILE.replace(chr(0), '')}"
    command = [sys.executable, "-m", "pytest", "-m", "perf", "-p", "no:cacheprovider", option]

    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)

    output = (done.stdout + done.stderr).decode()
    assert "is not [METRIC=]PCT" in output
    assert not RAW.search(output), repr(output)
