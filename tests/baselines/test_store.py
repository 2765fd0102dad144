from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pytest_nemoperf.baselines.baseline import find_mismatches
from pytest_nemoperf.baselines.files import read_baseline, write_baseline
from pytest_nemoperf.baselines.store import BaselineStore, other_folders
from pytest_nemoperf.errors import BaselineError
from tests.builders import MACHINE, make_baseline

ELSEWHERE = {**MACHINE, "cores": 64}


@pytest.fixture
def store(tmp_path: Path) -> BaselineStore:
    return BaselineStore(
        committed_dir=tmp_path / "baselines", local_dir=tmp_path / "local", system="cpu", machine=MACHINE
    )


def test_a_committed_baseline_of_this_machine_comes_first(store: BaselineStore) -> None:
    store.record_locally(make_baseline((900.0,)))
    write_baseline(store.committed_dir, baseline=make_baseline((1000.0,)))

    found = store.find("pretrain-test", workload=make_baseline().workload)

    assert found.baseline == make_baseline((1000.0,))
    assert found.path.endswith("baselines/cpu/pretrain-test.json")


def test_the_local_store_stands_in_for_another_machines_baseline(store: BaselineStore) -> None:
    write_baseline(store.committed_dir, baseline=make_baseline(machine=ELSEWHERE))
    path = store.record_locally(make_baseline((900.0,)))

    found = store.find("pretrain-test", workload=make_baseline().workload)

    assert found.baseline == make_baseline((900.0,))
    assert found.path == str(path)


def test_another_machines_baseline_is_found_where_there_is_nothing_better(store: BaselineStore) -> None:
    write_baseline(store.committed_dir, baseline=make_baseline(machine=ELSEWHERE))

    found = store.find("pretrain-test", workload=make_baseline().workload)

    assert found.baseline is not None
    assert found.baseline.machine == ELSEWHERE


CARD: dict[str, str | int] = {"device": "Test GPU", "memory_gib": 80}
HOST_OF_8: dict[str, str | int] = {**CARD, "gpus": 8, "topology": "NV18"}
ONE_GPU = {"seq_len": 64, "layout": {"gpus": 1}}
TWO_GPUS = {"seq_len": 64, "layout": {"gpus": 2, "dp_shard": 2}}


@pytest.mark.parametrize("recorded_on", [CARD, {**CARD, "gpus": 1}, HOST_OF_8], ids=["now", "one of one", "one of 8"])
def test_a_baseline_of_one_gpu_compares_in_every_host_with_that_card(
    store: BaselineStore, recorded_on: dict[str, str | int]
) -> None:
    write_baseline(store.committed_dir, baseline=make_baseline(machine=recorded_on, workload=ONE_GPU))

    here = replace(store, machine=HOST_OF_8).find("pretrain-test", workload=ONE_GPU)
    other_card = store.find("pretrain-test", workload=ONE_GPU, machine={**CARD, "device": "Other GPU"})

    assert here.is_comparable
    assert not other_card.is_comparable


@pytest.mark.parametrize(
    ("recorded_on", "differences"),
    [
        pytest.param({**CARD, "topology": "NV18"}, [], id="now"),
        pytest.param(HOST_OF_8, [], id="with the GPUs of the host"),
        pytest.param({**CARD, "gpus": 8, "topology": "SYS"}, ["topology is 'NV18', 'SYS'"], id="other links"),
    ],
)
def test_a_baseline_of_two_gpus_compares_where_the_links_are_alike(
    store: BaselineStore, recorded_on: dict[str, str | int], differences: list[str]
) -> None:
    write_baseline(store.committed_dir, baseline=make_baseline(machine=recorded_on, workload=TWO_GPUS))

    here: dict[str, str | int] = {**CARD, "topology": "NV18"}
    found = store.find("pretrain-test", workload=TWO_GPUS, machine=here)

    assert found.baseline is not None
    texts = [each.text for each in find_mismatches(found.baseline, machine=here, workload=TWO_GPUS)]
    assert texts == [f"other machine: {text} in the baseline" for text in differences]
    assert found.is_comparable == (not differences)


def test_what_an_older_version_stored_on_this_gpu_machine_is_still_found(store: BaselineStore) -> None:
    former = store.local_dir / "714945d4bcae"  # the digest that it gave this machine
    write_baseline(former, baseline=make_baseline((900.0,), machine=HOST_OF_8, workload=ONE_GPU))
    here = replace(store, machine=HOST_OF_8)

    found = here.find("pretrain-test", workload=ONE_GPU, machine=CARD)
    path = here.record_locally(make_baseline((950.0,), machine=CARD, workload=ONE_GPU))

    assert (found.is_local, found.is_comparable) == (True, True)
    assert found.path.startswith(str(former))
    assert here.find("pretrain-test", workload=ONE_GPU).path == found.path  # read once a session
    assert replace(here, _read={}).find("pretrain-test", workload=ONE_GPU, machine=CARD).path == str(path)
    assert here.num_local() == 1


def test_a_link_to_a_baseline_that_is_not_there_is_no_missing_baseline(store: BaselineStore) -> None:
    link = store.committed_dir / "cpu" / "pretrain-test.json"
    link.parent.mkdir(parents=True)
    link.symlink_to("../../elsewhere/pretrain-test.json")

    with pytest.raises(BaselineError, match=r"is a link to \.\./\.\./elsewhere/pretrain-test.json, which is not there"):
        store.find("pretrain-test", workload=make_baseline().workload)


def test_an_update_makes_the_file_that_a_link_leads_to(store: BaselineStore, tmp_path: Path) -> None:
    link = store.committed_dir / "cpu" / "pretrain-test.json"
    link.parent.mkdir(parents=True)
    link.symlink_to("../../elsewhere/pretrain-test.json")
    updating = replace(store, is_updating=True)

    found = updating.find_committed("pretrain-test")
    updating.update(make_baseline())

    assert found is None
    assert link.is_symlink()
    assert (tmp_path / "elsewhere" / "pretrain-test.json").is_file()
    assert read_baseline(updating.committed_path("pretrain-test")) == make_baseline()


def test_no_update_overwrites_the_baseline_of_another_test(store: BaselineStore) -> None:
    mine = make_baseline(workload={"workload": "benchmark", "test": "test_a.py::test_b[C]"})
    theirs = make_baseline(workload={"workload": "benchmark", "test": "test_a.py::test_b[C++]"})
    store.update(theirs)

    with pytest.raises(
        BaselineError, match=r"is the baseline of test_a\.py::test_b\[C\+\+\], and test_a\.py::test_b\[C\] has"
    ):
        store.update(mine)

    assert store.find_committed("pretrain-test") == theirs


def test_what_a_loop_says_of_its_work_names_no_test(store: BaselineStore) -> None:
    first = make_baseline(workload={"workload": "loop", "name": "a", "test": "short"})
    store.update(first)

    second = replace(first, workload={**first.workload, "test": "long"})

    store.update(second)

    assert read_baseline(store.committed_path(second.case)) == second


def test_machines_that_share_a_store_do_not_overwrite_each_other(store: BaselineStore) -> None:
    other = replace(store, machine=ELSEWHERE)

    mine = store.record_locally(make_baseline())
    theirs = other.record_locally(make_baseline(machine=ELSEWHERE))

    assert mine != theirs


def test_other_folders_are_those_nearby_that_hold_baselines_of_the_system(tmp_path: Path) -> None:
    project = tmp_path
    sub = tmp_path / "sub"
    for place in (project, sub):
        write_baseline(place / "baselines", baseline=make_baseline())
    (tmp_path / "empty" / "baselines" / "cpu").mkdir(parents=True)
    near = [tmp_path / "empty", sub, project, sub / "none"]

    others = {system: other_folders(sub / "baselines", system=system, near=near) for system in ("cpu", "h100")}

    assert others == {"cpu": [project / "baselines"], "h100": []}


def test_a_folder_reached_by_two_ways_is_one(tmp_path: Path) -> None:
    write_baseline(tmp_path / "baselines", baseline=make_baseline())
    (tmp_path / "link").symlink_to(tmp_path)

    assert not other_folders(tmp_path / "baselines", system="cpu", near=[tmp_path / "link"])
    assert other_folders(tmp_path / "none", system="cpu", near=[tmp_path, tmp_path / "link"]) == [
        tmp_path / "baselines"
    ]
