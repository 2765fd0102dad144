from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from pytest_nemoperf.frameworks.registered import GROUP
from tests.frameworks.fake_packages import write_distribution, write_interpreter


def by_name(out: str) -> dict[str, dict[str, Any]]:
    return {status["name"]: status for status in json.loads(out)["frameworks"]}


def is_over(pid: int) -> bool:
    """Return whether a process that was killed ends; in a container nobody may take its exit code."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        while process.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.05)
    return True


def test_a_framework_that_runs_is_shown_with_version_and_interpreter(nemoperf: Any, tmp_path: Path) -> None:
    folder = tmp_path / "there"
    folder.mkdir()
    titan = "import sys\nsys.modules['torchtitan.trainer'] = sys\n__path__ = []\n"
    own = {"pytest-nemoperf": "0.1.0"}
    python = write_interpreter(
        folder, distributions={"torchtitan": "0.3.0", "triton": "3.6.0", **own}, modules={"torchtitan": titan}
    )

    code, out, _ = nemoperf("frameworks", "torchtitan", "--python", f"torchtitan={python}", "--json")

    status = by_name(out)["torchtitan"]
    assert code == 0, out
    assert (status["is_runnable"], status["version"], status["python"]) == (True, "0.3.0", python)
    assert status["origin"] == "built in"


def test_a_framework_that_is_missing_is_shown_with_the_command(nemoperf: Any, tmp_path: Path) -> None:
    python = write_interpreter(tmp_path, distributions={})

    code, out, _ = nemoperf("frameworks", "nemo_rl", "nemo_rl", "--python", python)

    assert code == 1
    assert out.count("nemo_rl    NO") == 1
    assert "install it with: git clone --recurse-submodules https://github.com/NVIDIA-NeMo/RL" in out


def test_interpreters_are_those_of_the_project_s_ini_file(nemoperf: Any, tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    write_interpreter(there, distributions={"nemo-rl": "0.6.0"}, modules={"nemo_rl": ""})
    nemoperf("--help")
    (tmp_path / "pytest.ini").write_text("[pytest]\nperf_python =\n    nemo_rl=there/python\n", encoding="utf-8")

    code, out, _ = nemoperf("frameworks", "nemo_rl", "--json")

    assert code == 0
    assert by_name(out)["nemo_rl"]["python"] == str(there / "python")


def test_the_ini_file_may_name_frameworks_of_a_conftest_and_interpreters_of_another_machine(
    nemoperf: Any, tmp_path: Path
) -> None:
    nemoperf("--help")
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nperf_python =\n    mine=x/python\n    trl=gone/python\n", encoding="utf-8"
    )

    code, out, err = nemoperf("frameworks", "command", "trl", "--json")

    assert code == 1
    assert by_name(out)["command"]["is_runnable"]
    assert f"{tmp_path / 'gone/python'} can't be asked for its versions" in by_name(out)["trl"]["reason"]
    assert "perf_python names 'mine', which is not known here" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("torhc",), "unknown framework 'torhc'; did you mean torch"),
        (("--python", "torhc=/bin/sh"), "--python: unknown framework 'torhc'"),
        (("--python", "torch=/bin/sh"), "the native engine runs in pytest's interpreter; drop it"),
        (("--python", "nemo_rl="), "must be FRAMEWORK=PATH"),
        (("--python", "nemo_rl=/not/there"), "is no program that can be executed"),
        (("--timeout", "0"), "0 must be positive seconds"),
    ],
)
def test_what_is_misspelt_is_refused(nemoperf: Any, words: tuple[str, ...], message: str) -> None:
    code, _, err = nemoperf("frameworks", *words)

    assert code == 2
    assert message in err


def test_a_broken_entry_point_is_named_and_fails(
    nemoperf: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_distribution(tmp_path, name="theirs", version="2.0", entry_points=f"[{GROUP}]\nx = not_there:X\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    code, out, _ = nemoperf("frameworks", "command")

    assert code == 1
    assert "problem: entry point x = not_there:X of theirs 2.0 gives no framework" in out


def test_ctrl_c_ends_the_import_and_leaves_no_traceback(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    hanging = f"import os, pathlib, time\npathlib.Path({str(pid)!r}).write_text(str(os.getpid()))\ntime.sleep(600)\n"
    python = write_interpreter(tmp_path, distributions={"nemo-rl": "0.6.0"}, modules={"nemo_rl": hanging})
    main = (  # background jobs of a shell inherit that the signal is ignored
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from pytest_nemoperf.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", main, "frameworks", "nemo_rl", "--python", python]

    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while not pid.exists() or not pid.read_text():
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()

    assert process.returncode == 130
    assert err == "nemoperf: interrupted\n"
    assert is_over(int(pid.read_text()))
