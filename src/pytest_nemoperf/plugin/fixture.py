"""The ``perf`` fixture."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NoReturn

import pytest

from pytest_nemoperf.errors import (
    NemoPerfError,
    NoLayoutError,
    RecipeError,
    UnsupportedError,
    check_flag,
    shown,
)
from pytest_nemoperf.measure.expected_records import ExpectedRecords
from pytest_nemoperf.measure.measurement import Measurement
from pytest_nemoperf.options.markers import perf_mark
from pytest_nemoperf.recipes.case_kind import CaseKind
from pytest_nemoperf.recipes.recipe import is_safe_name
from pytest_nemoperf.records.fingerprint import watched_variables
from pytest_nemoperf.report.ci.junit import properties
from pytest_nemoperf.report.terminal.failure import render_failure
from pytest_nemoperf.results.cases import NotRun
from pytest_nemoperf.runs.loop import MeasuredLoop
from pytest_nemoperf.runs.passes import MIN_PASS_SEC, Passes
from pytest_nemoperf.session.collectives import check_devices, collective_of
from pytest_nemoperf.verdict.comparison import VerdictKind
from pytest_nemoperf.verdict.judge import Verdict
from pytest_nemoperf.verdict.workload import loop_workload
from pytest_nemoperf.visible import visible_text

if TYPE_CHECKING:
    from pytest_nemoperf.recipes.recipe import Plan, Recipe
    from pytest_nemoperf.session.cases import PlannedCase
    from pytest_nemoperf.session.perf_session import PerfSession

PRICED: Final = "dry run: priced, not launched"
NOT_LAUNCHED: Final = "not launched: this process measures loops and benchmarks alone, for another session"


class Perf:
    """Runs recipes, measures loops, and turns verdicts into the test's outcome."""

    def __init__(self, session: PerfSession, *, item: pytest.Item, framework: str = "") -> None:
        self._session = session
        self._item = item
        self._framework = framework

    def check(self, recipe: Recipe) -> Verdict:
        """Run a recipe on this system and judge it: ``compare(run(recipe))``.

        The test skips if the recipe has no layout for the system, and fails if the verdict does. In a dry run the
        recipe is priced and the test goes on, for it may ask for more.
        """
        if self._session.settings.is_dry_run:
            return Verdict(kind=VerdictKind.NO_BASELINE, case=self._price(recipe), reasons=("a dry run",))
        if self._session.settings.measure_into is not None:
            with self.as_outcome():
                case = self._planned(recipe).plan.case
            return Verdict(kind=VerdictKind.NO_BASELINE, case=case, reasons=(NOT_LAUNCHED,))
        return self.compare(self.run(recipe))

    def run(self, recipe: Recipe) -> Measurement:
        """Launch a recipe until it can be judged, or a baseline is complete, and return its measurement.

        A dry run prices the recipe instead, and the test ends here, skipped.
        """
        if self._session.settings.is_dry_run:
            self._price(recipe)
            pytest.skip(PRICED)
        if self._session.settings.measure_into is not None:
            pytest.skip(NOT_LAUNCHED)
        with self.as_outcome():
            return self._session.measure(self._planned(recipe))

    def compare(self, measurement: Measurement) -> Verdict:
        """Judge a measurement against the stored baseline; fail the test if the verdict does.

        Returns:
            The verdict, where it does not fail.
        """
        session = self._session
        item = self._item
        with self.as_outcome():
            if not isinstance(measurement, Measurement):
                raise RecipeError(f"compare({shown(measurement)}) needs a Measurement, as perf.run(recipe) returns")
        if session.settings.measure_into is not None:
            with self.as_outcome():
                session.keep_measurement(measurement, nodeid=item.nodeid)
            return Verdict(kind=VerdictKind.NO_BASELINE, case=measurement.case, reasons=("another session judges it",))
        with self.as_outcome():
            report = session.judge(measurement, mark=perf_mark(item))
        item.user_properties += properties(report)
        if report.result.is_failure:
            text = render_failure(report, width=session.progress.width, color=False)
            session.verdict_failure = pytest.fail.Exception(text, pytrace=False)
            raise session.verdict_failure
        return report.result.verdict

    def _planned(self, recipe: Recipe) -> PlannedCase:
        """Return a recipe planned in the framework of this test."""
        case = self._session.planner.plan(recipe, mark=perf_mark(self._item), framework=self._framework)
        self._note_left_out(recipe, plan=case.plan)
        return case

    def _note_left_out(self, recipe: Recipe, *, plan: Plan) -> None:
        """Write a line on a test, or options of a recipe, that --perf-framework leaves out."""
        session = self._session
        if session.settings.frameworks and not self._framework:
            session.progress.write_line(
                f"{self._item.nodeid} runs in its recipe's framework, {recipe.framework}: --perf-framework makes tests "
                "of functions that take the fixture perf as an argument"
            )
        elif recipe.framework_options and plan.framework != recipe.framework:
            session.progress.write_line(
                f"{plan.case} runs without framework_options={dict(recipe.framework_options)}, which are settings "
                f"of {recipe.framework} (--perf-framework)"
            )

    def _price(self, recipe: Recipe) -> str:
        """Price a recipe and return its case."""
        with self.as_outcome():
            priced = self._session.planner.price(recipe, mark=perf_mark(self._item), framework=self._framework)
        self._note_left_out(recipe, plan=priced.price.plan)
        return priced.price.plan.case

    @contextmanager
    def measure(
        self,
        name: str,
        *,
        tokens_per_step: int,
        steps: int = 10,
        warmup_steps: int = 3,
        num_gpus: int = 1,
        flops_per_token: float | None = None,
        flops_convention: str | None = None,
        synchronize: Callable[[], object] | None = None,
        workload: Mapping[str, Any] | None = None,
        has_varying_lengths: bool = False,
    ) -> Iterator[MeasuredLoop]:
        """Time a training loop of this process and judge it when the block ends.

        ``with perf.measure("my-loop", tokens_per_step=4096) as steps: for step in steps: ...``; the body may call
        ``step.record(loss=..., grad_norm=...)``, and where lengths vary must call ``step.record(tokens=...)``.

        All steps are repeated, from index 0, until half a second was measured and a pass of them is sound: settled, on
        a machine that was not busy otherwise. A loop whose data ends before half a second is INVALID.

        Args:
            name: Names the case, e.g. ``loop-<name>``; lower-case letters, digits, '.', '_' and '-'.
            tokens_per_step: Tokens all GPUs process in one step; the most there can be where lengths vary.
            steps: Measured steps.
            warmup_steps: Steps before them, run but not counted.
            num_gpus: GPUs the tokens are divided by.
            flops_per_token: Model FLOPs per token, forward plus backward; without it there is no TFLOP/s.
            flops_convention: How these FLOPs are counted.
            synchronize: Waits until the device is idle, e.g. ``torch.cuda.synchronize``.
            workload: What else must be equal for two measurements to compare, as plain data: texts, numbers, and lists
                and dicts of these. The arguments above belong to it already.
            has_varying_lengths: Steps differ in their tokens, and each records its own; tokens/s are over all steps
                then.
        """
        session = self._session
        case = f"loop-{name}"
        self.begin_in_process(case, kind="a loop of the test process", subject=case)
        with self.as_outcome():
            if not is_safe_name(name):
                raise RecipeError(
                    f"name {shown(name)} of a loop names a file: use lower-case letters, digits, '.', '_', '-'"
                )
            check_flag(has_varying_lengths, subject="has_varying_lengths")
            if synchronize is not None and not callable(synchronize):
                raise RecipeError(
                    f"synchronize={shown(synchronize)} must be a function, e.g. torch.cuda.synchronize, or None"
                )
            expected = ExpectedRecords(
                num_gpus=num_gpus,
                warmup_steps=warmup_steps,
                steps=steps,
                tokens_per_step=tokens_per_step,
                has_exact_tokens=not has_varying_lengths,
                flops_per_token=flops_per_token,
                flops_convention=flops_convention,
            )
            whole_workload = loop_workload(name, expected=expected, added=workload)
            session.check_once(case, nodeid=self._item.nodeid)
            passes = self.passes(case, num_gpus=num_gpus)
            loop = MeasuredLoop(
                expected, passes=passes, synchronize=synchronize, inject_pct=session.settings.inject_pct
            )
            session.take_turn()
        try:
            yield loop
        except BaseException as exc:  # a Ctrl-C too
            loop.end()
            if loop.has_units and not isinstance(exc, pytest.skip.Exception):
                measurement = self._loop_measurement(case, expected, loop, whole_workload)
                session.note_left(measurement, mark=perf_mark(self._item), error=exc)
            raise
        loop.end()
        self.compare(self._loop_measurement(case, expected, loop, whole_workload))

    def collective(
        self,
        kind: str,
        *,
        gpus: Mapping[str, int],
        size_mib: float | Mapping[str, float],
        dtype: str | None = None,
    ) -> Verdict:
        """Time a collective over ranks of one node, and judge it.

        ``perf.collective("all_reduce", gpus={"h100": 8, "cpu": 2}, size_mib={"h100": 512, "cpu": 4})``. The ranks are
        started by the launcher, with NCCL on GPUs and gloo on a CPU. Bandwidths are those of nccl-tests.

        Args:
            kind: ``all_reduce``, ``all_gather``, ``reduce_scatter``, ``all_to_all`` or ``send_recv``.
            gpus: Ranks by system; the test skips on others, and where there are fewer GPUs.
            size_mib: Message, as nccl-tests counts it; of any system, or by system.
            dtype: ``bf16`` or ``fp32``; None for bf16 on GPUs and fp32 on a CPU.

        Returns:
            The verdict, where it does not fail.
        """
        session = self._session
        with self.as_outcome():
            collective = collective_of(kind, gpus=gpus, size_mib=size_mib, dtype=dtype, settings=session.settings)
        self.begin_in_process(collective.case, kind="a collective", subject=collective.case)
        with self.as_outcome():
            check_devices(collective, settings=session.settings)
            session.check_once(collective.case, nodeid=self._item.nodeid)
            session.planner.claim(collective.case, nodeid=self._item.nodeid)
            session.take_turn()
            measurement = session.measure_collective(collective, mark=perf_mark(self._item))
        return self.compare(measurement)

    def passes(self, case: str, *, num_gpus: int) -> Passes:
        """Return the passes of a case that this process measures itself."""
        settings = self._session.settings
        return Passes(
            case,
            num_gpus=num_gpus if settings.system.device == "cuda" else 0,
            report=self._session.progress.write_line,
            min_sec=MIN_PASS_SEC,
            is_watched=settings.measure_into is None,
        )

    def begin_in_process(self, case: str, *, kind: str, subject: str) -> None:
        """Note that the test asks for a case of this process; skip the test if the session has no use for it.

        Args:
            case: Case id.
            kind: Phrase for such cases, as ``a loop of the test process``.
            subject: Name of this one in messages.
        """
        first, *others = self._session.settings.frameworks or ("",)
        if self._framework in others:
            self._session.planner.without_case.add(self._item.nodeid)
            self._leave_out(
                f"{kind} is of no framework, and runs once: in the test of {first}, the first one of --perf-framework"
            )
        with self.as_outcome():
            policy = self._session.planner.policy(perf_mark(self._item), kind=CaseKind.CALLS)
            self._session.planner.note_case(case, nodeid=self._item.nodeid, policy=policy)
        settings = self._session.settings
        if settings.is_dry_run:
            self._leave_out(f"{kind} has no recipe to price", prefix="dry run: ")
        if settings.ab:
            self._leave_out(f"{kind} can't have its code swapped for another revision's (--perf-ab)")
        if settings.replay_dir is not None:
            self._leave_out(f"replay: {kind} leaves no runs that could be judged again")
        if settings.changes:
            self._session.progress.write_line(f"{subject} runs as ever: --perf-set changes recipes, and it has none")

    def _leave_out(self, reason: str, *, prefix: str = "") -> NoReturn:
        """Skip the test, and list it with the reason at the end of the session."""
        self._session.not_run.append(NotRun(nodeid=self._item.nodeid, reason=reason))
        pytest.skip(visible_text(f"{prefix}{reason}"))

    def _loop_measurement(
        self, case: str, expected: ExpectedRecords, loop: MeasuredLoop, workload: Mapping[str, Any]
    ) -> Measurement:
        runs, problems = loop.result()
        settings = self._session.settings
        return Measurement(
            case=case,
            system=settings.system.name,
            workload=workload,
            runs=runs,
            environment=watched_variables(os.environ),
            flops_per_token=expected.flops_per_token,
            flops_convention=expected.flops_convention,
            problems=problems,
            inject_pct=settings.inject_pct,
        )

    @contextmanager
    def as_outcome(self) -> Iterator[None]:
        """Turn errors of this package into the test's outcome, without a traceback through this package."""
        try:
            yield
        except (NemoPerfError, OSError, MemoryError) as exc:
            # OSError, as of a full disk or too few open files: the traceback would be of this package alone.
            text = self._session.note_failure(exc, nodeid=self._item.nodeid)
            # From None, or pytest would show the error twice: as the outcome's cause and as its text.
            if isinstance(exc, (NoLayoutError, UnsupportedError)):
                raise pytest.skip.Exception(visible_text(str(exc))) from None
            raise pytest.fail.Exception(visible_text(text), pytrace=False) from None
