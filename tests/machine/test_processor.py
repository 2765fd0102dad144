from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_nemoperf.machine.processor import available_cores, cpu_model, cpu_topology, host_settings, throttled_sec


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


def test_sockets_and_numa_nodes_are_counted(tmp_path: Path) -> None:
    for core, socket in enumerate("0011"):
        _write(tmp_path, {f"sys/devices/system/cpu/cpu{core}/topology/physical_package_id": f"{socket}\n"})
    for node in range(4):
        _write(tmp_path, {f"sys/devices/system/node/node{node}/cpulist": ""})

    assert cpu_topology(root=tmp_path) == "2 sockets, 4 NUMA nodes"
    assert cpu_topology(root=tmp_path / "nothing told") == "1 socket, 1 NUMA node"


def test_what_an_administrator_chose_is_told_and_what_is_not_known_is_left_out(tmp_path: Path) -> None:
    _write(tmp_path, {"sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "powersave\n", ".dockerenv": ""})
    environ = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "NVIDIA_PYTORCH_VERSION": "25.09", "PATH": "/bin"}

    assert host_settings(root=tmp_path, environ=environ) == {
        "cpu.governor": "powersave",
        "container": "docker, kubernetes, NVIDIA_PYTORCH_VERSION=25.09",
    }
    assert host_settings(root=tmp_path / "bare", environ={}) == {}


@pytest.mark.parametrize(
    ("files", "seconds"),
    [
        pytest.param({}, {}, id="no groups"),
        pytest.param(
            {"sys/fs/cgroup/cpu.stat": "usage_usec 9000000\nthrottled_usec 2500000\n"}, {"": 2.5}, id="version 2"
        ),
        pytest.param(
            {"sys/fs/cgroup/cpu/cpu.stat": "nr_throttled 3\nthrottled_time 1500000000\n"},
            {"cpu": 1.5},
            id="version 1",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "0::/pods/mine\n",
                "sys/fs/cgroup/pods/cpu.stat": "throttled_usec 4000000\n",
                "sys/fs/cgroup/pods/mine/cpu.stat": "throttled_usec 1000000\n",
            },
            {"pods": 4.0, "pods/mine": 1.0},
            id="a group and its ancestor",
        ),
        pytest.param({"sys/fs/cgroup/cpu.stat": "usage_usec 9000000\n"}, {}, id="no quota"),
    ],
)
def test_time_lost_to_a_quota_is_read_group_by_group(
    tmp_path: Path, files: dict[str, str], seconds: dict[str, float]
) -> None:
    _write(tmp_path, files)

    groups = tmp_path / "sys/fs/cgroup"
    assert throttled_sec(root=tmp_path) == {str(groups / name): each for name, each in seconds.items()}
