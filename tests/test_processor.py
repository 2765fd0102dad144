from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_nemoperf.processor import available_cores, cpu_model


def _write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def test_the_processors_name_is_read_from_the_kernel(tmp_path: Path) -> None:
    _write(tmp_path, {"proc/cpuinfo": "processor\t: 0\nmodel name\t: A CPU @ 2: fast\nmodel name\t: B\n"})

    assert cpu_model(root=tmp_path) == "A CPU @ 2: fast"


@pytest.mark.parametrize("text", ["processor\t: 0\nBogoMIPS\t: 50\n", None], ids=["arm", "no file"])
def test_without_a_name_the_architecture_stands_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    _write(tmp_path, {} if text is None else {"proc/cpuinfo": text})

    assert cpu_model(root=tmp_path) == "aarch64"


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        pytest.param({}, 16, id="no groups: affinity"),
        pytest.param({"sys/fs/cgroup/cpu.max": "max 100000"}, 16, id="no quota"),
        pytest.param({"sys/fs/cgroup/cpu.max": "250000 100000"}, 3, id="version 2, part of a core counts"),
        pytest.param({"sys/fs/cgroup/cpu.max": "10000 100000"}, 1, id="less than a core"),
        pytest.param({"sys/fs/cgroup/cpu.max": "6400000 100000"}, 16, id="quota above the affinity"),
        pytest.param(
            {
                "proc/self/cgroup": "1:cpu:/x\n0::/pods/mine\n",
                "sys/fs/cgroup/pods/cpu.max": "400000 100000",
                "sys/fs/cgroup/pods/mine/cpu.max": "max 100000",
            },
            4,
            id="an ancestor's quota",
        ),
        pytest.param(
            {
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "200000",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            2,
            id="version 1",
        ),
        pytest.param(
            {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"},
            16,
            id="version 1 without a quota",
        ),
    ],
)
def test_cores_are_counted_by_affinity_and_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], cores: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    _write(tmp_path, files)

    assert available_cores(root=tmp_path) == cores
