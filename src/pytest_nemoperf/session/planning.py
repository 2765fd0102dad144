"""Plan or price the recipe of a test, and give each case to one test."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import pytest

from pytest_nemoperf.errors import (
    BaselineError,
    NoLayoutError,
    PlanError,
    RecipeError,
    UnsupportedError,
    count_text,
    shown,
)
from pytest_nemoperf.frameworks.builtin import builtin_frameworks
from pytest_nemoperf.frameworks.complete import complete_recipe
from pytest_nemoperf.frameworks.interpreter import ANY_FRAMEWORK, check_interpreter
from pytest_nemoperf.frameworks.protocol import CheckpointTimer, LogWriter, StepDelayer, memory_rules_of
from pytest_nemoperf.frameworks.registered import RegisteredFrameworks, checked_frameworks, registered_frameworks
from pytest_nemoperf.machine import identity
from pytest_nemoperf.measure.figures import figure_over_runs
from pytest_nemoperf.measure.measurement import workload_of
from pytest_nemoperf.options.markers import PerfMark
from pytest_nemoperf.options.settings import Settings
from pytest_nemoperf.options.usage import usage_error
from pytest_nemoperf.pricing.memory import host_bytes
from pytest_nemoperf.pricing.price import price_plan
from pytest_nemoperf.published.baselines import published_baselines
from pytest_nemoperf.published.recipes import is_published_case
from pytest_nemoperf.recipes.case_kind import CaseKind, kind_of
from pytest_nemoperf.recipes.other_framework import in_framework, with_framework
from pytest_nemoperf.recipes.overrides import CHANGED_SUFFIX, change_recipe, changes_text
from pytest_nemoperf.recipes.recipe import Recipe
from pytest_nemoperf.recipes.resolve import resolve
from pytest_nemoperf.recipes.rules import NATIVE
from pytest_nemoperf.recipes.time_limit import stored_limit, with_limit
from pytest_nemoperf.records.metrics import STEP_TIME_SEC
from pytest_nemoperf.records.yardstick import YARDSTICK_OFF, YARDSTICK_ON, YARDSTICK_VARIABLE
from pytest_nemoperf.results.by_framework import Unmeasured
from pytest_nemoperf.results.dry_run import AskedCase, PricedCase
from pytest_nemoperf.runs.checkpoint_folder import check_checkpoint_folder, checkpoint_limit_sec
from pytest_nemoperf.session.cases import PlannedCase
from pytest_nemoperf.session.lookup import BaselineLookup
from pytest_nemoperf.verdict.policy import VerdictPolicy, with_layer

if TYPE_CHECKING:
    from pytest_nemoperf.frameworks.protocol import Framework
    from pytest_nemoperf.recipes.recipe import Plan


class Planner:
    """Resolves recipes for the session's system and gives each case to one test.

    Args:
        config: Config of the pytest session, for hooks.
        settings: Settings of the session.
        baselines: Baselines of the session, for the expected time of a price.
    """

    def __init__(self, config: pytest.Config, *, settings: Settings, baselines: BaselineLookup) -> None:
        self.priced: list[PricedCase] = []
        self.asked: dict[str, AskedCase] = {}
        self.without_case: set[str] = set()
        self.systems: set[str] = set()
        self.unmeasured: dict[str, Unmeasured] = {}
        self._config = config
        self._settings = settings
        self._baselines = baselines
        self._owners: dict[str, str] = {}

    def check_frameworks(self) -> None:
        """Check the names of ``--perf-framework``, once every conftest.py has been imported.

        Raises:
            pytest.UsageError: If one is unknown.
        """
        if not self._settings.frameworks:
            return
        try:
            registered = self._registered
        except RecipeError as exc:
            raise usage_error(str(exc)) from None
        for name in self._settings.frameworks:
            if name not in registered.frameworks:
                raise usage_error(f"--perf-framework: {registered.unknown(name)}")

    @property
    def frameworks(self) -> Mapping[str, Framework]:
        """Built-in frameworks, those that hooks add and those of entry points, by name."""
        return self._registered.frameworks

    @cached_property
    def _registered(self) -> RegisteredFrameworks:
        known = builtin_frameworks()
        added: dict[str, Framework] = {}
        for group in self._config.hook.pytest_nemoperf_frameworks(config=self._config):
            for framework in _made_by_hook(group):
                if framework.name in {**known, **added}:
                    raise RecipeError(
                        f"framework {framework.name!r} is registered twice; give the added one another name"
                    )
                added[framework.name] = framework
        return registered_frameworks(added)

    def plan(self, recipe: Recipe, *, mark: PerfMark, framework: str = "") -> PlannedCase:
        """Resolve a recipe for this system and check that it can run here; stored runs are judged wherever they ran.

        Args:
            recipe: Recipe the test asks for.
            mark: The test's markers.
            framework: Framework of ``--perf-framework`` that runs it; empty for the recipe's own.

        Raises:
            NoLayoutError: If the recipe has no layout for the system.
            UnsupportedError: If the framework can't run it here.
            PlanError: If it can't be resolved, or needs more than this machine has.
        """
        settings = self._settings
        plan, policy = self._resolve(recipe, mark=mark, framework=framework)
        adapter = self._framework(plan.framework)
        if settings.replay_dir is None:
            self._check_capacity(plan)
            if reason := _unsupported(plan, framework=adapter):
                self.note_unmeasured(plan, nodeid=mark.nodeid, reason=reason)
                # Hundreds of published rows have one reason, which is listed once for all of them.
                raise UnsupportedError(reason if self._is_of_pages(plan) else f"{plan.case}: {reason}")
            _check_host_memory(plan)
            plan = self._with_checkpoint_dir(plan)
        self.claim(plan.case, nodeid=mark.nodeid)
        return PlannedCase(mark=mark, plan=plan, framework=adapter, num_runs=self.num_runs(mark), policy=policy)

    def _with_checkpoint_dir(self, plan: Plan) -> Plan:
        """Return the plan with the folder of checkpoints and the time to save and load one, if it does.

        Raises:
            PlanError: If no folder is given, or it takes no checkpoint of the plan.
        """
        if not plan.has_checkpoint or self._settings.ab is not None:  # rounds of two revisions save none
            return plan
        folder = self._settings.checkpoint_dir
        check_checkpoint_folder(plan, folder=folder)
        limit_sec = checkpoint_limit_sec(plan)
        return replace(
            plan,
            checkpoint_dir=folder,
            timeout_sec=plan.timeout_sec + limit_sec,
            timeout_basis=f"{plan.timeout_basis}, and {limit_sec:.0f} s for checkpoints",
        )

    def price(self, recipe: Recipe, *, mark: PerfMark, framework: str = "") -> PricedCase:
        """Resolve and price a recipe, and keep the result for the end of a dry run.

        Args:
            recipe: Recipe the test asks for.
            mark: The test's markers.
            framework: As in ``plan``.

        Raises:
            NoLayoutError: If the recipe has no layout for the system.
            UnsupportedError: If only other frameworks can run it.
            PlanError: If it can't be resolved.
            BaselineError: If a stored baseline can't be trusted.
        """
        plan, _ = self._resolve(recipe, mark=mark, framework=framework)
        self.claim(plan.case, nodeid=mark.nodeid)
        adapter = self._framework(plan.framework)
        price = price_plan(
            plan,
            system=self._settings.system,
            baseline=self._baselines.find(plan.case, workload=workload_of(plan), plan=plan).baseline,
            published=next(iter(published_baselines(plan)), None),
            unsupported=adapter.unsupported(plan),
            rules=memory_rules_of(adapter, plan=plan),
        )
        # By a page nothing is stored, so that no launches make a baseline: a verdict may take one.
        num_launches = 1 if self._settings.against == "published" else self.num_runs(mark)
        self.priced.append(PricedCase(nodeid=mark.nodeid, price=price, num_launches=num_launches))
        return self.priced[-1]

    def _check_capacity(self, plan: Plan) -> None:
        """Check that this machine has enough devices for a plan.

        Raises:
            PlanError: If it has not, and the case is the project's own.
            UnsupportedError: If it has not, and the case is of a page, or is judged by one: those print runs of any
                size.
        """
        settings = self._settings
        try:
            identity.check_capacity(plan, devices=settings.devices)
        except PlanError:
            if not self._is_of_pages(plan):
                raise
            here = identity.describe_devices(settings.devices)
            raise UnsupportedError(f"it needs {count_text(plan.layout.total_gpus, 'GPU')}, and {here}") from None

    def _is_of_pages(self, plan: Plan) -> bool:
        """Return whether a plan is a published row's, or is judged by one."""
        return self._settings.against == "published" or is_published_case(plan.case)

    def num_runs(self, mark: PerfMark) -> int:
        """Return the launches that make a baseline: the marker's, but for a trial of --perf-set."""
        if self._settings.changes:
            return self._settings.runs
        return mark.num_runs or self._settings.runs

    def policy(
        self, mark: PerfMark, *, kind: CaseKind, recipe_tolerances: Mapping[str, float] | None = None
    ) -> VerdictPolicy:
        """Return the session's policy of a kind of case with the terms of a marker, and above them a recipe's."""
        policy = with_layer(self._settings.policy_of(kind), tolerances=mark.tolerances, finds=mark.finds)
        return with_layer(policy, tolerances=recipe_tolerances or {})

    def note_case(self, case: str, *, nodeid: str, policy: VerdictPolicy) -> None:
        """Note that a test asks for a case, even if it is never measured."""
        self.asked.setdefault(
            case, AskedCase(case=case, nodeid=nodeid, tolerances=policy.tolerances, finds=policy.finds)
        )

    def note_unmeasured(self, plan: Plan, *, nodeid: str, reason: str) -> None:
        """Note that a case has no figures, for the table of frameworks side by side."""
        self.unmeasured[plan.case] = Unmeasured(nodeid=nodeid, plan=plan, reason=reason)

    def claim(self, case: str, *, nodeid: str) -> None:
        """Give a case to a test.

        Raises:
            RecipeError: If it belongs to another one.
            UnsupportedError: If it does only because an option changes recipes, which may make two of them equal.
        """
        settings = self._settings
        owner = self._owners.setdefault(case, nodeid)
        if owner == nodeid:
            return
        for option, value in (("--perf-set", settings.changes), ("--perf-framework", settings.frameworks)):
            if value:
                self.without_case.add(nodeid)
                raise UnsupportedError(f"under {option} this is the case {case} of {owner}, which runs it already")
        raise RecipeError(
            f"case {case} belongs to {owner} already, so {nodeid} would judge against the same baseline; "
            "give one recipe a variant"
        )

    def _resolve(self, recipe: Recipe, *, mark: PerfMark, framework: str) -> tuple[Plan, VerdictPolicy]:
        """Return a recipe's plan for this system and its verdict policy, and note that the test asks for the case."""
        if not isinstance(recipe, Recipe):
            raise RecipeError(f"{shown(recipe)} is no Recipe; write e.g. perf.check(Recipe(model=..., layouts=...))")
        try:
            plan, recipe = self._plan_in(framework, recipe=recipe, nodeid=mark.nodeid)
        except NoLayoutError:
            self.without_case.add(mark.nodeid)
            raise
        try:
            plan = self._with_interpreter(plan)
        except (PlanError, RecipeError) as error:
            self.note_unmeasured(plan, nodeid=mark.nodeid, reason=str(error))
            raise
        policy = self.policy(mark, kind=kind_of(workload_of(plan)), recipe_tolerances=recipe.tolerances)
        self.note_case(plan.case, nodeid=mark.nodeid, policy=policy)
        return plan, policy

    def _plan_in(self, framework: str, *, recipe: Recipe, nodeid: str) -> tuple[Plan, Recipe]:
        """Return a recipe's plan in a framework, and the completed recipe.

        Raises:
            UnsupportedError: If that framework breaks a rule, and another one that is named does not.
        """
        if not framework:
            return self._plan_of(recipe)
        try:
            return self._plan_of(in_framework(recipe, framework))
        except NoLayoutError:
            raise
        except (PlanError, RecipeError) as error:
            other = self._plan_elsewhere(recipe, framework=framework)
            if other is None:
                raise
            self.without_case.add(nodeid)
            missing = replace(other, framework=framework, case=with_framework(other.case, framework))
            self.note_unmeasured(missing, nodeid=nodeid, reason=str(error))
            raise UnsupportedError(f"{missing.case}: {error}") from None

    def _plan_elsewhere(self, recipe: Recipe, *, framework: str) -> Plan | None:
        """Return a recipe's plan in its own framework or another one of ``--perf-framework``; None if none has one."""
        for name in (recipe.framework, *self._settings.frameworks):
            if name != framework:
                with suppress(PlanError, RecipeError):
                    plan, _ = self._plan_of(in_framework(recipe, name))
                    return plan
        return None

    def _plan_of(self, recipe: Recipe) -> tuple[Plan, Recipe]:
        """Return a recipe's plan for this system, and the recipe as its framework_config and --perf-set complete it."""
        settings = self._settings
        recipe, digest = self._complete(recipe)
        self.systems |= recipe.layouts.keys()
        if settings.changes:
            recipe = change_recipe(recipe, system=settings.system, changes=settings.changes)
        plan = resolve(recipe, system=settings.system, inject_pct=settings.inject_pct, timeout_sec=settings.timeout_sec)
        plan = replace(plan, framework_config_digest=digest)
        if settings.changes:
            plan = replace(plan, case=plan.case + CHANGED_SUFFIX)
        plan = _with_yardstick(plan, has_yardstick=settings.has_yardstick)
        if settings.timeout_sec is None and recipe.timeout_sec is None and settings.replay_dir is None:
            plan = self._with_stored_limit(plan)
        return plan, recipe

    def _with_stored_limit(self, plan: Plan) -> Plan:
        """Return the plan with a time limit by its stored runs on this machine, if there are any."""
        with suppress(BaselineError):  # told when the case is judged
            found = self._baselines.store.unread().find(plan.case, workload=workload_of(plan))
            if found.baseline is not None and found.is_comparable:
                step_time_sec = figure_over_runs(found.baseline.runs, metric=STEP_TIME_SEC.name)
                if step_time_sec is not None:
                    return with_limit(plan, stored_limit(plan, step_time_sec=step_time_sec))
        return plan

    def _with_interpreter(self, plan: Plan) -> Plan:
        """Return the plan with the path of its interpreter: the recipe's, else that of perf_python.

        Raises:
            PlanError: If that can't be executed.
        """
        if plan.framework == NATIVE or self._settings.replay_dir is not None:
            return plan
        pythons = self._settings.pythons
        for name in pythons:
            if name not in (ANY_FRAMEWORK, *self.frameworks):
                raise RecipeError(f"ini perf_python: {self._registered.unknown(name)}")
        python = plan.python or pythons.get(plan.framework, pythons.get(ANY_FRAMEWORK, ""))
        if not python:
            return plan
        try:
            return replace(plan, python=check_interpreter(python, root=self._config.rootpath))
        except PlanError as error:
            subject = "" if plan.python else "ini perf_python: "
            raise PlanError(f"{plan.case}: {subject}{error}") from None

    def _complete(self, recipe: Recipe) -> tuple[Recipe, str]:
        """Return a recipe completed by its framework_config, and the digest of that file.

        Raises:
            UnsupportedError: If --perf-set would change what the file says.
        """
        if recipe.framework_config and self._settings.changes:
            raise UnsupportedError(
                f"--perf-set {changes_text(self._settings.changes)} can't change "
                f"framework_config={recipe.framework_config}, which runs as it is; give the recipe framework_options"
            )
        if recipe.framework_config:
            _check_own_log(recipe)
        framework = None
        if recipe.framework_config or recipe.framework_options:
            framework = self._framework(recipe.framework)
        completed = complete_recipe(recipe, framework=framework, system=self._settings.system)
        return completed.recipe, completed.digest

    def _framework(self, name: str) -> Framework:
        if name not in self.frameworks:
            raise PlanError(self._registered.unknown(name))
        return self.frameworks[name]


def _made_by_hook(group: object) -> list[Framework]:
    try:
        return list(checked_frameworks(group))
    except TypeError as error:
        raise RecipeError(f"hook pytest_nemoperf_frameworks: {error}; return a list of frameworks") from None


def _check_own_log(recipe: Recipe) -> None:
    """Check that a recipe leaves the log to its framework.

    Raises:
        RecipeError: If it names one.
    """
    for name in ("log_format", "log_file", "is_command_per_rank"):
        value = getattr(recipe, name)
        if value:
            raise RecipeError(
                f"{name}={value!r} with framework_config={recipe.framework_config}: the framework {recipe.framework} "
                "starts its own ranks and its own log is read; leave it out"
            )


def _unsupported(plan: Plan, *, framework: Framework) -> str | None:
    """Return the reason that a framework can't run a plan here, or None."""
    is_own_log = isinstance(framework, LogWriter) and not isinstance(framework, StepDelayer)
    is_logged = plan.log_format or plan.framework_config or is_own_log
    if plan.inject_pct and is_logged:
        return "--perf-inject delays steps from inside, and this case is measured by its log"
    if plan.has_checkpoint and not isinstance(framework, CheckpointTimer):
        return (
            f"extra_metrics={', '.join(plan.extra_metrics)}: framework {plan.framework} does not time checkpoints; "
            f"leave them out, or use framework={NATIVE!r}"
        )
    return framework.unsupported(plan)


def _with_yardstick(plan: Plan, *, has_yardstick: bool) -> Plan:
    """Return the plan with the variable of the yardstick, unless its ranks inherit the value already.

    Variables are no part of the workload.
    """
    wanted = YARDSTICK_ON if has_yardstick else YARDSTICK_OFF
    inherited = os.environ.get(YARDSTICK_VARIABLE) or YARDSTICK_ON
    if wanted == plan.env.get(YARDSTICK_VARIABLE, inherited):
        return plan
    return replace(plan, env={**plan.env, YARDSTICK_VARIABLE: wanted})


def _check_host_memory(plan: Plan) -> None:
    """Check that ranks of the native engine on a CPU don't take more memory than the host has.

    Raises:
        PlanError: If they would.
    """
    if plan.device != "cpu" or plan.framework != NATIVE:
        return
    needed_gib = host_bytes(plan) / 2**30
    there_gib = identity.host_memory_bytes() / 2**30
    if needed_gib > there_gib:
        raise PlanError(
            f"{plan.case}: its {plan.layout.total_gpus} ranks need about {needed_gib:,.0f} GiB, and this host has "
            f"{there_gib:,.0f} GiB; use a smaller model, such as {plan.model.name}-twin, or a smaller batch"
        )
