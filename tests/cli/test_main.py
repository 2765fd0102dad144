from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pytest_nemoperf.cli.main import main
from pytest_nemoperf.flops.conventions import find_convention
from pytest_nemoperf.flops.count import num_flops_per_token
from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.models.catalog import find_model
from pytest_nemoperf.recipes.resolve import resolve
from pytest_nemoperf.recipes.systems import find_system
from tests.builders import make_recipe
from tests.results.row_builders import store_plan


@pytest.mark.parametrize("convention", ["megatron-bridge", "full-attention"])
def test_flops_as_json_have_exactly_the_documented_keys(nemoperf: Any, convention: str) -> None:
    code, out, _ = nemoperf("flops", "llama3-8b", "--seq-len", "8192", "--convention", convention, "--json")

    flops = num_flops_per_token(find_model("llama3-8b"), seq_len=8192, convention=find_convention(convention))
    assert code == 0
    assert json.loads(out) == {
        "model": "llama3-8b",
        "seq_len": 8192,
        "convention": convention,
        "flops_per_token": flops,
    }


def test_flops_for_people_name_the_convention(nemoperf: Any) -> None:
    assert nemoperf("flops", "llama3-8b", "--seq-len", "8192")[1] == (
        "llama3-8b at seq_len 8192: 5.14704e+10 FLOPs per token (megatron-bridge)\n"
    )


def test_terms_of_the_flops_are_shown_with_their_shares(nemoperf: Any) -> None:
    code, out, _ = nemoperf("flops", "mixtral-8x7b", "--seq-len", "4096", "--convention", "full-attention", "--terms")

    shown = [line.split("  ") for line in out.splitlines()[1:]]
    names = [next(part.strip() for part in line if part.strip()) for line in shown]
    shares = [float(line.split()[-1].removesuffix("%")) for line in out.splitlines()[1:]]
    assert code == 0
    assert names == ["attention projections", "attention core", "experts", "router", "head"]
    assert sum(shares) == pytest.approx(100, abs=0.3)


def test_flops_of_several_lengths_are_a_list(nemoperf: Any) -> None:
    answers = json.loads(nemoperf("flops", "llama3-8b", "--seq-len", "4096,8192", "--terms", "--json")[1])

    assert [answer["seq_len"] for answer in answers] == [4096, 8192]
    assert all(sum(answer["terms"].values()) == answer["flops_per_token"] for answer in answers)
    assert answers[0]["flops_per_token"] < answers[1]["flops_per_token"]


def test_flops_of_a_hugging_face_config_are_counted(nemoperf: Any) -> None:
    path = Path(__file__).parents[1] / "data" / "hf" / "qwen3" / "config.json"

    assert nemoperf("flops", str(path), "--seq-len", "64")[1].startswith("qwen3-")


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
    ],
)
def test_a_usage_error_is_one_line_and_exits_2(nemoperf: Any, argv: list[str], message: str) -> None:
    code, out, err = nemoperf(*argv)

    assert (code, out) == (2, "")
    assert err.startswith("nemoperf: error: ")
    assert err.count("\n") == 1
    assert message in err


@pytest.mark.parametrize(
    "argv",
    [
        ["--help"],
        ["flops", "--help"],
        ["plan", "--help"],
        ["judge", "--help"],
        ["record", "--help"],
        ["lint", "--help"],
        ["show", "--help"],
    ],
    ids=str,
)
def test_help_is_given(nemoperf: Any, argv: list[str]) -> None:
    code, out, _ = nemoperf(*argv)

    assert code == 0
    assert out.startswith("usage: nemoperf")


def test_help_shows_examples_that_work(nemoperf: Any, tmp_path: Path) -> None:
    layouts = {"h100": Layout(gpus=2, dp_shard=2)}
    store_plan(tmp_path / "baselines", resolve(make_recipe(layouts=layouts), system=find_system("h100")), 1.0, 1.0)
    examples = nemoperf("--help")[1].partition("examples:\n")[2].replace("\\\n", " ").strip().splitlines()

    codes = [
        nemoperf(*example.split()[1:])[0]
        for example in examples
        if not any(word in example for word in ("recipe.json", "judge", "lint"))
    ]

    assert codes == [0] * len(codes)
    assert len(codes) >= 3


@pytest.mark.parametrize("number", [1, 4_000], ids=["short output", "more than a pipe holds"])
def test_output_that_is_read_no_further_ends_the_command_quietly(number: int) -> None:
    lengths = ",".join(["8192"] * number)
    script = "import sys; from pytest_nemoperf.cli.main import main; sys.exit(main())"
    argv = [sys.executable, "-c", script, "flops", "llama3-8b", "--seq-len", lengths]
    reading, writing = os.pipe()
    os.close(reading)

    try:
        process = subprocess.run(argv, stdout=writing, stderr=subprocess.PIPE, check=False)
    finally:
        os.close(writing)

    assert (process.returncode, process.stderr) == (141, b"")


def test_a_path_that_the_system_refuses_is_an_error_in_one_line(nemoperf: Any) -> None:
    words = ["plan", "--model", "llama3-8b", "--system", "h100", "--gpus", "8", "--seq-len", "8192", "--gbs", "128"]

    code, _, err = nemoperf(*words, "--baselines", "x" * 300)

    assert code == 2
    assert err == f"nemoperf: error: {'x' * 300}: File name too long; choose shorter names\n"


@pytest.mark.parametrize(
    ("words", "others"),
    [
        pytest.param((), ("pytest_nemoperf.cli.page", "pytest_nemoperf.recipes", "msgspec"), id="no command"),
        pytest.param(("page", "--check"), ("pytest_nemoperf.cli.judge", "pytest_nemoperf.frameworks"), id="page"),
        pytest.param(("show",), ("pytest_nemoperf.cli.judge", "pytest_nemoperf.session", "jsonschema"), id="show"),
        pytest.param(("flops",), ("pytest_nemoperf.cli.plan", "pytest_nemoperf.baselines"), id="flops"),
    ],
)
def test_a_command_imports_nothing_of_the_others(words: tuple[str, ...], others: tuple[str, ...]) -> None:
    script = (
        "import sys; from pytest_nemoperf.cli.main import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "print(*sys.modules)"
    )

    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, check=True)

    assert set(others).isdisjoint(done.stdout.split())


def test_an_interrupt_while_a_command_is_imported_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(_: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pytest_nemoperf.cli.main.import_module", interrupt)

    code = main(["show"])

    assert (code, capsys.readouterr().err) == (130, "nemoperf: interrupted\n")


def test_a_closed_standard_output_is_no_fault(tmp_path: Path) -> None:
    script = "import sys; from pytest_nemoperf.cli.main import main; sys.exit(main())"
    command = shlex.join([sys.executable, "-c", script, "show", "--published", "h100"])

    done = subprocess.run(["sh", "-c", f"{command} >&-"], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        pytest.param(MemoryError(), "no memory is left; free some", id="memory"),
        pytest.param(RecursionError(), "nested deeper than Python can follow", id="recursion"),
        pytest.param(UnicodeDecodeError("ascii", b"x", 0, 1, "why"), "can't be encoded or decoded", id="encoding"),
        pytest.param(OSError(28, "No space left on device", "x"), "x: No space left on device; free space", id="disk"),
    ],
)
def test_an_error_of_python_or_the_system_has_no_traceback(
    nemoperf: Any, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    def run(_: object) -> int:
        raise error

    monkeypatch.setattr("pytest_nemoperf.cli.flops.run", run)

    code, _, err = nemoperf("flops", "llama3-8b", "--seq-len", "8192")

    assert code == 2
    assert err.startswith("nemoperf: error: ")
    assert message in err


@pytest.mark.parametrize(
    ("redirection", "code"),
    [
        pytest.param("> /dev/full", 2, id="full disk"),
        pytest.param("2> /dev/full", 0, id="errors to a full disk"),
        pytest.param(">&- 2>&-", 0, id="closed"),
    ],
)
def test_output_that_nothing_takes_ends_a_command_without_a_traceback(redirection: str, code: int) -> None:
    script = "import sys; from pytest_nemoperf.cli.main import main; sys.exit(main())"
    command = shlex.join([sys.executable, "-c", script, "flops", "llama3-8b", "--seq-len", "8192"])

    process = subprocess.run(["sh", "-c", f"{command} {redirection}"], capture_output=True, check=False)

    assert process.returncode == code
    assert b"Traceback" not in process.stderr


def test_a_path_of_any_name_is_printed_in_ascii(tmp_path: Path) -> None:
    script = "import sys; from pytest_nemoperf.cli.main import main; sys.exit(main())"
    page = tmp_path / "prüfung.md"
    env = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}

    process = subprocess.run(
        [sys.executable, "-c", script, "page", "nemo-rl", "--output", str(page)],
        env=env,
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )

    assert process.returncode == 0, process.stderr
    assert rb"pr\xfcfung.md: " in process.stdout
    assert page.exists()
