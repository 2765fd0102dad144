from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pytest_nemoperf.machine.git import CodeVersion
from pytest_nemoperf.machine.identity import provenance
from pytest_nemoperf.recipes.systems import find_system
from tests.machine.test_identity import B200S, NO_GPU

CODE = CodeVersion(commit="0123456789abcdef0123456789abcdef01234567", is_dirty=True)


@pytest.mark.parametrize("code", [CODE, replace(CODE, is_dirty=None), CodeVersion(commit=None, is_dirty=None)])
def test_provenance_holds_which_code_it_is_and_what_is_unknown(code: CodeVersion) -> None:
    found = provenance(find_system("cpu"), devices=NO_GPU, code=code)

    assert (found.git_commit, found.git_dirty) == (code.commit, code.is_dirty)


def test_provenance_tells_when_with_what_and_by_which_command() -> None:
    argv = ["/usr/lib/python3/site-packages/pytest/__main__.py", "-m", "perf", "-k", "a b"]

    found = provenance(find_system("b200"), devices=B200S, code=CODE, argv=argv)

    assert datetime.fromisoformat(found.date).tzinfo == UTC
    assert found.versions["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {"platform", "pytest", "pytest-nemoperf"} <= set(found.versions)
    assert (found.device, found.driver) == ("8x NVIDIA B200", "580.1")
    assert found.command == "pytest -m perf -k 'a b'"


def test_provenance_of_a_cpu_run_does_not_name_idle_gpus() -> None:
    found = provenance(find_system("cpu"), devices=B200S, code=CODE)

    assert "NVIDIA" not in found.device
    assert found.driver == ""


def test_asking_about_the_machine_does_not_import_torch(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from pytest_nemoperf.machine import git, identity as m;"
        "d = m.detect_devices();"
        "s = m.find_system('cpu'); m.machine_key(s, devices=d); code = git.code_version(Path('.'));"
        "m.provenance(s, devices=d, code=code);"
        "sys.exit('torch' in sys.modules)"
    )

    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=False)

    assert done.returncode == 0
