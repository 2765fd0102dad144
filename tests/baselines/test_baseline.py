from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_nemoperf.baselines.baseline import Anchor, Baseline, find_mismatches, from_measurement
from pytest_nemoperf.baselines.files import baseline_path, find_baseline, read_baseline, write_baseline
from pytest_nemoperf.errors import BaselineError
from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.measure.measurement import workload_of
from pytest_nemoperf.records.profile import Profile
from tests.builders import MACHINE, make_baseline, make_measurement, make_plan, make_profile, make_provenance

BASELINE = make_baseline(
    anchor=Anchor(name="r1", runs=make_baseline((1000.0, 1001.0)).runs, provenance=make_provenance())
)

RUN = BASELINE.runs[0]


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    write_baseline(tmp_path, baseline=BASELINE)
    return baseline_path(tmp_path, system="cpu", case="pretrain-test")


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    baseline = make_baseline()

    assert write_baseline(tmp_path, baseline=baseline) is None
    assert find_baseline(tmp_path, system="cpu", case="pretrain-test") == baseline


def test_a_missing_file_is_no_baseline(tmp_path: Path) -> None:
    assert find_baseline(tmp_path, system="cpu", case="other") is None


def test_writing_again_returns_the_old_one_and_changes_few_lines(tmp_path: Path, stored: Path) -> None:
    before = stored.read_text().splitlines()
    runs = make_baseline((1000.0, 1000.0, 1100.0)).runs

    old = write_baseline(tmp_path, baseline=replace(BASELINE, runs=runs))

    after = stored.read_text().splitlines()
    assert old == BASELINE
    assert len(before) == len(after)
    assert sum(a != b for a, b in zip(before, after, strict=True)) <= 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda d: d["runs"][0].pop("num_steps"), r"\$\.runs\[0\] lacks the key 'num_steps'", id="key"),
        pytest.param(lambda d: d.update(runs="none"), r'\$\.runs is "none"; it must be a list', id="type"),
        pytest.param(lambda d: d.update(run=1), r"\$\.run: unknown key; did you mean runs\?", id="unknown-key"),
        pytest.param(
            lambda d: d.update(schema_version=2), r"\$\.schema_version is 2, newer than the 1 .*upgrade", id="newer"
        ),
        pytest.param(
            lambda d: d.update(schema_version=0), r"\$\.schema_version is 0, older than the 1 .*delete it", id="older"
        ),
        pytest.param(
            lambda d: d["runs"][1]["metrics"].update(tflops_per_sec_per_gpu=7.0),
            r"\$\.runs\[1\]\.metrics: tflops_per_sec_per_gpu=7 is not FLOPs per token x tokens/sec/GPU",
            id="identity",
        ),
        pytest.param(
            lambda d: d["anchor"]["runs"][0]["metrics"].update(tflops_per_sec_per_gpu=7.0),
            r"\$\.anchor\.runs\[0\]\.metrics: tflops_per_sec_per_gpu=7 is not FLOPs per token",
            id="identity-of-the-anchor",
        ),
        pytest.param(
            lambda d: d["runs"][2]["metrics"].update(tokens_per_sec_per_gpu=0.0, tflops_per_sec_per_gpu=0.0),
            r"\$\.runs\[2\]\.metrics\.tokens_per_sec_per_gpu is 0; only positive figures",
            id="zero",
        ),
        pytest.param(
            lambda d: d["anchor"]["runs"][1]["metrics"].update(peak_memory_gib=-1.0),
            r"\$\.anchor\.runs\[1\]\.metrics\.peak_memory_gib is -1; only positive figures",
            id="negative",
        ),
        pytest.param(
            lambda d: d["runs"][0]["phases"].update(forward=math.nan),
            r"\$\.runs\[0\]\.phases\.forward is NaN; it must be a finite number",
            id="not-a-number",
        ),
        pytest.param(
            lambda d: d.update(flops_per_token=math.inf),
            r"\$\.flops_per_token is Infinity; it must be a finite",
            id="endless",
        ),
        pytest.param(
            lambda d: d["runs"][1]["metrics"].update(peak_memory_gib=1e30),
            r"\$\.runs\[1\]\.metrics\.peak_memory_gib is 1e\+30, the median of the other 2 runs is 1; no machine has "
            r"more than 1e\+06 GiB; restore it \(git checkout\), or delete it and record the case again",
            id="more-than-any-machine",
        ),
        pytest.param(
            lambda d: d["anchor"]["runs"][0]["metrics"].update(peak_memory_gib=11.0),
            r"\$\.anchor\.runs\[0\]\.metrics\.peak_memory_gib is 11, that of the other run is 1; runs of one baseline "
            r"are at most a factor of 10 apart; restore it",
            id="far-from-the-other",
        ),
        pytest.param(
            lambda d: d["runs"][1].update(yardsticks=[{"matmul_sec": 1e-3, "copy_sec": 1e308}]),
            r"\$\.runs\[1\]\.yardsticks\[0\]: copy_sec=1e\+308 of a yardstick must be",
            id="absurd-yardstick",
        ),
        pytest.param(
            lambda d: d.update(published=dict.fromkeys(("row", "release", "source", "url", "framework"), "x")),
            "holds a published figure, and the runs of a baseline are measured; --perf-against=published",
            id="published",
        ),
        pytest.param(lambda d: d.update(runs=[]), r"\$\.runs is empty; .* at least one run", id="no-runs"),
        pytest.param(lambda d: d.update(case="other"), "folder and file name must say the same", id="moved"),
        pytest.param(
            lambda d: d.update(case="Pretrain-test"), "'Pretrain-test', which a file system that .* id", id="capital"
        ),
    ],
)
def test_a_file_that_cannot_be_trusted_is_named_with_its_fault(
    stored: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    edit(stored, change)

    with pytest.raises(BaselineError, match=message) as caught:
        read_baseline(stored)
    assert str(stored) in str(caught.value)


@pytest.mark.parametrize("content", ["", "{", '{"case": "pretr', "\x00\x01", "[1, 2]", "[" * 100_000])
def test_a_corrupt_file_is_never_overwritten(tmp_path: Path, stored: Path, content: str) -> None:
    stored.write_text(content)

    with pytest.raises(BaselineError, match=r"pretrain-test\.json"):
        write_baseline(tmp_path, baseline=make_baseline())
    assert stored.read_text() == content


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"problems": ("steps missing",)}, "only complete, valid runs.*steps missing", id="invalid"),
        pytest.param({"runs": ()}, "no run was measured", id="empty"),
        pytest.param({"inject_pct": 20.0}, "injected delay is never stored", id="injected"),
    ],
)
def test_only_sound_runs_become_a_baseline(changes: dict[str, Any], message: str) -> None:
    measurement = make_measurement(**changes)

    with pytest.raises(BaselineError, match=message):
        from_measurement(measurement, machine=MACHINE, provenance=make_provenance(), reason="test")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metrics": {**RUN.metrics, "kl": math.inf}}, r"\$\.runs\[0\]\.metrics\.kl is inf; .*it is not stored"),
        ({"metrics": {**RUN.metrics, "tokens_per_sec_per_gpu": 1.0}}, "is not FLOPs per token"),
    ],
)
def test_what_would_not_be_read_is_not_written(
    tmp_path: Path, stored: Path, changes: dict[str, Any], message: str
) -> None:
    before = stored.read_bytes()

    with pytest.raises(BaselineError, match=message):
        write_baseline(tmp_path, baseline=replace(BASELINE, runs=(replace(RUN, **changes),)))
    assert stored.read_bytes() == before


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "cpu").write_text("a file where the folder should be")

    with pytest.raises(BaselineError, match=r"pretrain-test\.json: cannot be written: File exists"):
        write_baseline(tmp_path, baseline=make_baseline())


def test_sessions_that_write_at_once_leave_one_whole_file(tmp_path: Path, stored: Path) -> None:
    rates = [float(rate) for rate in range(1000, 1012)]
    threads = [
        threading.Thread(target=write_baseline, args=(tmp_path,), kwargs={"baseline": make_baseline((rate,))})
        for rate in rates
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    kept: Baseline = read_baseline(stored)
    assert kept.runs[0].metrics["tokens_per_sec_per_gpu"] in rates
    assert [path.name for path in stored.parent.iterdir()] == [stored.name]


@pytest.mark.parametrize("file", [make_baseline(), make_profile()], ids=["baseline", "profile"])
@pytest.mark.parametrize(
    ("changes", "subjects"),
    [
        ({}, []),
        ({"machine": {**MACHINE, "cores": 4}}, ["machine"]),
        ({"workload": {"seq_len": 9}}, ["workload", "workload"]),
        ({"machine": {}, "workload": {"seq_len": 64}}, ["machine", "machine", "workload"]),
    ],
    ids=["the same", "machine", "workload", "both"],
)
def test_only_the_same_machine_and_workload_compare(
    file: Baseline | Profile, changes: dict[str, Any], subjects: list[str]
) -> None:
    now = {"machine": file.machine, "workload": file.workload, **changes}

    assert [mismatch.subject for mismatch in find_mismatches(file, **now)] == subjects


def test_a_layout_that_was_stored_before_one_of_its_fields_was_added_is_the_same() -> None:
    now = workload_of(make_plan())
    assert now["layout"].pop("shard_optimizer") is False
    older = make_baseline(workload=now)

    assert find_mismatches(older, machine=MACHINE, workload=workload_of(make_plan())) == []
    plan = make_plan()
    sharing = workload_of(replace(plan, layout=Layout(gpus=2, dp_replicate=2, shard_optimizer=True)))
    texts = [each.text for each in find_mismatches(older, machine=MACHINE, workload=sharing)]
    assert any("shard_optimizer is True, False in the baseline" in text for text in texts)
