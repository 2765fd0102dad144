from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_nemoperf.baselines.baseline import Baseline
from pytest_nemoperf.baselines.files import find_baseline, write_baseline
from pytest_nemoperf.baselines.store import BaselineStore
from pytest_nemoperf.errors import BaselineError
from pytest_nemoperf.runs.storing import BaselineWriter, StoreOutcome
from pytest_nemoperf.verdict.comparison import VerdictKind
from pytest_nemoperf.verdict.judge import judge
from pytest_nemoperf.verdict.updates import UpdateOptions
from tests.builders import MACHINE, make_baseline, make_measurement, make_policy, make_provenance, make_runs

UPDATING = UpdateOptions(reason="why")
TODAY = make_provenance(date="2026-11-30T12:00:00Z")


class Sessions:
    """Sessions of one case of the test process, each judged against the baseline the last one left."""

    def __init__(self, folder: Path, *, noise_pct: float = 0.5) -> None:
        self.committed = folder / "baselines"
        self.policy = make_policy(max_runs=1, min_runs=1, run_noise_pct=noise_pct)
        self.kind: VerdictKind | None = None
        self._folder = folder
        self._num_sessions = 0

    def record(self, rates: Sequence[float], **changes: Any) -> Baseline:
        baseline = make_baseline(rates, **changes)
        write_baseline(self.committed, baseline=baseline)
        return baseline

    def session(self, rate: float, *, updating: UpdateOptions | None = UPDATING) -> StoreOutcome:
        measurement = make_measurement((rate,))
        store = self._store()
        found = store.find(measurement.case, workload=measurement.workload)
        verdict = judge(measurement, baseline=found.baseline, machine=MACHINE, policy=self.policy)
        self.kind = verdict.kind
        self._num_sessions += 1
        runs = make_runs((rate,), sessions=(f"session {self._num_sessions}",))
        new = make_baseline(runs=runs, provenance=TODAY, environment={"torch": "new"})
        keeper = BaselineWriter(store, runs=5, updating=updating)
        kept = keeper.choose(new, verdict=verdict, found=found, policy=self.policy, is_in_process=True)
        if kept.stored is not None:
            write = store.record_locally if kept.is_local else store.update
            write(kept.stored)
        return kept

    def _store(self) -> BaselineStore:
        return BaselineStore(
            committed_dir=self.committed, local_dir=self._folder / "local", system="cpu", machine=MACHINE
        )

    @property
    def stored(self) -> Baseline:
        baseline = find_baseline(self.committed, system="cpu", case="pretrain-test")
        assert baseline is not None
        return baseline

    def local(self) -> Baseline:
        found = self._store().find("pretrain-test", workload=make_measurement().workload)
        assert found.baseline is not None
        assert found.is_local
        return found.baseline


def rates_of(baseline: Baseline) -> list[float]:
    return [run.metrics["tokens_per_sec_per_gpu"] for run in baseline.runs]


@pytest.fixture
def sessions(tmp_path: Path) -> Sessions:
    return Sessions(tmp_path)


def test_a_passed_session_adds_its_run(sessions: Sessions) -> None:
    sessions.record((1000.0, 1001.0))

    sessions.session(999.0)

    assert rates_of(sessions.stored) == [1000.0, 1001.0, 999.0]


def test_a_grown_baseline_keeps_the_commit_that_a_suspect_is_compared_with(sessions: Sessions) -> None:
    first = sessions.record((1000.0, 1001.0))

    kept = sessions.session(999.0)

    stored = sessions.stored
    assert (stored.provenance, stored.environment, stored.reason) == (first.provenance, first.environment, "why")
    assert first.provenance != TODAY
    assert kept.stored == stored


def test_a_full_baseline_that_moved_keeps_its_newest_runs(sessions: Sessions) -> None:
    sessions.record((1000.0, 1001.0, 999.0, 1000.0, 1002.0))

    sessions.session(977.0)

    assert sessions.kind is VerdictKind.PASSED
    assert rates_of(sessions.stored) == [1001.0, 999.0, 1000.0, 1002.0, 977.0]


def test_the_old_runs_of_a_full_baseline_become_its_anchor(sessions: Sessions) -> None:
    old = sessions.record((1000.0, 1001.0, 999.0, 1000.0, 1002.0))

    sessions.session(977.0)

    assert sessions.stored.anchor is not None
    assert sessions.stored.anchor.runs == old.runs


def test_a_gain_begins_afresh_and_does_not_join_slower_runs(sessions: Sessions) -> None:
    sessions.record((1000.0, 1001.0))

    sessions.session(1200.0)

    assert rates_of(sessions.stored) == [1200.0]


def test_a_session_that_is_undecided_for_its_loss_does_not_join(tmp_path: Path) -> None:
    sessions = Sessions(tmp_path, noise_pct=1.0)
    sessions.record((1000.0, 1001.0, 1000.0))

    kept = sessions.session(930.0)

    assert sessions.kind is VerdictKind.INCONCLUSIVE
    assert rates_of(sessions.stored) == [1000.0, 1001.0, 1000.0]
    assert "stored only with --perf-accept-regression" in kept.note


@pytest.mark.parametrize(
    ("rate", "stored"),
    [
        pytest.param(990.0, [1000.0, 990.0], id="next-to-nothing"),
        pytest.param(970.0, [1000.0], id="more-than-half-of-the-tolerance"),
    ],
)
def test_too_few_runs_for_the_tolerance_gather_more_unless_much_is_lost(
    tmp_path: Path, rate: float, stored: list[float]
) -> None:
    sessions = Sessions(tmp_path, noise_pct=4.0)
    sessions.record((1000.0,))

    sessions.session(rate)

    assert sessions.kind is VerdictKind.INCONCLUSIVE
    assert rates_of(sessions.stored) == stored


def test_a_release_names_a_growing_baseline_its_anchor(sessions: Sessions) -> None:
    sessions.record((1000.0, 1001.0))

    kept = sessions.session(999.0, updating=replace(UPDATING, anchor="1.4"))

    assert sessions.stored.anchor is not None
    assert sessions.stored.anchor.name == "1.4"
    assert sessions.stored.anchor.runs == sessions.stored.runs
    assert "the anchor is 1.4 now, with 3 runs" in kept.note


def test_a_stored_baseline_stays_unchanged_if_only_new_cases_are_stored(sessions: Sessions) -> None:
    sessions.record((1000.0, 1001.0))

    sessions.session(700.0, updating=replace(UPDATING, is_new_only=True, anchor="1.4"))

    assert rates_of(sessions.stored) == [1000.0, 1001.0]


@pytest.mark.parametrize(("num_runs", "is_said"), [pytest.param(3, 0, id="growing"), pytest.param(4, 1, id="full")])
def test_a_full_baseline_that_finds_little_says_so(tmp_path: Path, num_runs: int, is_said: int) -> None:
    sessions = Sessions(tmp_path, noise_pct=2.0)
    sessions.record((1000.0,) * num_runs)

    kept = sessions.session(1000.0)

    assert f"{num_runs + 1} of 5" in kept.note
    assert kept.note.count("tokens/sec/GPU: 5% is allowed") == is_said


def test_a_machines_own_baseline_gathers_sound_runs_only(sessions: Sessions) -> None:
    for rate in (1000.0, 1001.0, 700.0, 1200.0, 999.0):
        sessions.session(rate, updating=None)

    assert rates_of(sessions.local()) == [1000.0, 1001.0, 999.0]
    assert sessions.local().provenance == TODAY


def choose_with_a_run_far_off(folder: Path, *, updating: UpdateOptions | None) -> tuple[BaselineStore, StoreOutcome]:
    """Return a store and the choice for a first baseline of three runs, of which the third is far off."""
    store = BaselineStore(committed_dir=folder / "a", local_dir=folder / "b", system="cpu", machine=MACHINE)
    new = make_baseline((1000.0, 1001.0, 30.0))
    policy = make_policy()
    outcome = BaselineWriter(store, runs=3, updating=updating).choose(
        new,
        verdict=judge(make_measurement((1000.0, 1001.0, 30.0)), baseline=None, machine=MACHINE, policy=policy),
        found=store.find(new.case, workload=new.workload),
        policy=policy,
        is_in_process=False,
    )
    return store, outcome


def test_a_run_that_is_far_off_does_not_begin_this_machines_record(tmp_path: Path) -> None:
    _, outcome = choose_with_a_run_far_off(tmp_path, updating=None)

    assert outcome.stored is None
    assert outcome.note.startswith("not stored: run 3: tokens_per_sec_per_gpu is 30, the median of the other 2 runs")


def test_an_update_with_a_run_that_is_far_off_is_refused(tmp_path: Path) -> None:
    store, outcome = choose_with_a_run_far_off(tmp_path, updating=UPDATING)

    assert outcome.stored is not None
    with pytest.raises(BaselineError, match=r"\$\.runs\[2\]\.metrics\.tokens_per_sec_per_gpu is 30, .* is not stored"):
        store.update(outcome.stored)
