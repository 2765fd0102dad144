"""Policy of verdicts: tolerances, losses to be found, noise and error rates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from pytest_nemoperf.errors import RecipeError, did_you_mean
from pytest_nemoperf.measure.measurement import Run
from pytest_nemoperf.measure.steady_state import drift_noise_pct
from pytest_nemoperf.recipes.case_kind import CaseKind
from pytest_nemoperf.recipes.recipe import check_tolerances
from pytest_nemoperf.recipes.systems import System
from pytest_nemoperf.records.metrics import (
    ENERGY_METRICS,
    JUDGED,
    METRICS,
    PEAK_MEMORY_GIB,
    TOKENS_PER_SEC_PER_GPU,
    Judged,
    Metric,
)
from pytest_nemoperf.verdict.defaults import DEFAULT_ALPHA, DEFAULT_BETA, DEFAULT_MAX_RUNS
from pytest_nemoperf.verdict.sequential import MIN_RUNS_FOR_WORSE, SequentialRule

_WHOLE = 100.0
_MAX_NOISE_PCT: Final = 1000.0  # rounding of a page's figure may add some to what a project may state
_MIN_ERROR_RATE: Final = 1e-12  # quantiles of smaller ones are beyond what a float resolves
_MAX_LAUNCHES: Final = 1_000_000
_PHASE_NOISE_FACTOR: Final = 2.0
"""Scatter of a phase over that of the whole step: 2.3 for generation and 0.7 for training in five launches on a CPU."""
_LAUNCHES_TELL_LITTLE: Final = 2.0
SCREEN_RUNS: Final = 2
"""Launches that a stored baseline gets to clear a case before it is compared side by side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictPolicy:
    """Tolerances, noise and error rates of a verdict.

    Attributes:
        tolerances: Largest worsening that is allowed, percent, by name of metric; of phases see tolerance_pct.
        finds: Worsening that must be found, percent, by name of judged metric; such a metric allows what noise leaves
            below it, and its tolerance does not count.
        run_noise_pct: Expected scatter of rates and times between launches of a session, percent; of the system class.
        session_noise_pct: The same between sessions: days, nodes, boots; 0 where older versions recorded none.
        round_noise_pct: The same between rounds of two sides that take turns.
        memory_noise_pct: Expected scatter of peak memory between launches, percent.
        alpha: Probability to call a loss as large as the tolerance REGRESSED.
        beta: Probability not to find a loss that must be found.
        max_runs: Launches after which a case is INCONCLUSIVE.
        min_runs: Launches that must agree on a change: 1 for what is measured once a session.
        confirming_rounds: Rounds side by side that may decide on what a stored baseline does not pass; 0 for none.
        confirms_anchor: They may do so beside the anchor's commit, too.
        has_given_runs: The runs are given, as logs or folders: to a command, or to a replay, which launches none.
        has_published_value: The baseline is one value of a published page: no further run of it can be made.

    Raises:
        RecipeError: If a value is impossible.
    """

    tolerances: Mapping[str, float]
    finds: Mapping[str, float] = field(default_factory=dict)
    run_noise_pct: float
    session_noise_pct: float = 0.0
    round_noise_pct: float = 0.0
    memory_noise_pct: float
    alpha: float
    beta: float
    max_runs: int
    min_runs: int = MIN_RUNS_FOR_WORSE
    confirming_rounds: int = 0
    confirms_anchor: bool = False
    has_given_runs: bool = False
    has_published_value: bool = False

    def __post_init__(self) -> None:
        check_limits(self.tolerances, finds=self.finds)
        for name in ("run_noise_pct", "session_noise_pct", "round_noise_pct", "memory_noise_pct"):
            value = getattr(self, name)
            if type(value) not in (int, float) or not 0.0 <= value < _MAX_NOISE_PCT:
                raise RecipeError(f"{name}={value!r} must be at least 0% and below {_MAX_NOISE_PCT:g}%")
        for name in ("alpha", "beta"):
            value = getattr(self, name)
            if type(value) is not float or not _MIN_ERROR_RATE <= value < 0.5:  # noqa: PLR2004 (one half is chance)
                raise RecipeError(f"{name}={value!r} must be a probability below 0.5, at least {_MIN_ERROR_RATE:g}")
        for name, least in (("max_runs", 1), ("min_runs", 1), ("confirming_rounds", 0)):
            value = getattr(self, name)
            if type(value) is not int or not least <= value <= _MAX_LAUNCHES:
                raise RecipeError(f"{name}={value!r} must be a whole number from {least} to {_MAX_LAUNCHES:,}")

    def judged_metrics(self) -> list[Metric]:
        """Return the metrics that have a tolerance, in printed order."""
        judged = []
        for metric in JUDGED:
            if metric.judged is not Judged.WHEN_NAMED or metric.name in {*self.tolerances, *self.finds}:
                judged.append(metric)
        return judged

    def tolerance_pct(self, metric: Metric) -> float:
        """Return the tolerance of a judged metric, percent: its own, or that of tokens/sec/GPU."""
        return self.tolerances.get(metric.name, self.tolerances[TOKENS_PER_SEC_PER_GPU.name])

    def follows_tokens_per_sec(self, metric: Metric) -> bool:
        """Return whether the metric has the limits of tokens/sec/GPU, since none is named for it."""
        return metric.judged is Judged.AS_TOKENS_PER_SEC and metric.name not in {*self.tolerances, *self.finds}

    def find_pct(self, metric: Metric) -> float | None:
        """Return the worsening that must be found of a judged metric, percent; None if it has a tolerance instead."""
        if self.follows_tokens_per_sec(metric):
            return self.finds.get(TOKENS_PER_SEC_PER_GPU.name)
        return self.finds.get(metric.name)

    @property
    def num_launches(self) -> int:
        """Launches that a stored baseline judges a case by, at most.

        Where sessions differ by far more than launches, a second launch tells nothing that a first one does not.
        """
        if not self.confirming_rounds:
            return self.max_runs
        if self.session_noise_pct > _LAUNCHES_TELL_LITTLE * self.run_noise_pct:
            return 1
        return min(self.max_runs, SCREEN_RUNS)

    def rule(self, metric: Metric, *, runs: Sequence[Run]) -> SequentialRule:
        """Return the sequential rule of a metric beside a stored baseline; drifts within the runs widen its noise."""
        session_noise_pct = self.session_noise_pct
        if metric is PEAK_MEMORY_GIB:
            noise_pct = self.memory_noise_pct
            session_noise_pct = 0.0
        else:
            noise_pct = self.run_noise_pct
            if metric.phases:
                noise_pct *= _PHASE_NOISE_FACTOR
            noise_pct = max(noise_pct, drift_noise_pct(run.drift_pct for run in runs))
            if metric in ENERGY_METRICS:
                noise_pct = math.hypot(noise_pct, _energy_noise_pct(runs))
        return SequentialRule(
            noise_pct=noise_pct,
            session_noise_pct=session_noise_pct,
            alpha=self.alpha,
            beta=self._beta,
            max_runs=self.num_launches,
            min_runs=self.min_runs,
        )

    def with_rounding(self, rounding_pct: float) -> VerdictPolicy:
        """Return the policy beside a figure that was rounded when it was printed: as far off in every run of a session.

        Args:
            rounding_pct: Largest distance of the true figure from the printed one, percent.
        """
        spread_pct = rounding_pct / math.sqrt(3.0)  # standard deviation of an even spread
        return replace(self, session_noise_pct=math.hypot(self.session_noise_pct, spread_pct))

    def round_rule(
        self, metric: Metric, *, is_by_turns: bool = True, num_rounds: int | None = None, least_noise_pct: float = 0.0
    ) -> SequentialRule:
        """Return the sequential rule of a metric's ratios, side by side.

        Args:
            metric: The metric.
            is_by_turns: Both sides take turns; if not, whole launches alternate, and each side scatters as they do.
            num_rounds: Rounds that there is time for; None for confirming_rounds.
            least_noise_pct: Least noise that is reckoned with, percent.
        """
        if metric is PEAK_MEMORY_GIB:
            noise_pct = math.sqrt(2.0) * self.memory_noise_pct
        elif is_by_turns:
            noise_pct = self.round_noise_pct
        else:
            noise_pct = math.sqrt(2.0) * self.run_noise_pct
        if metric.phases:
            noise_pct *= _PHASE_NOISE_FACTOR
        return SequentialRule(
            noise_pct=max(noise_pct, least_noise_pct),
            alpha=self.alpha,
            beta=self._beta,
            max_runs=num_rounds or self.confirming_rounds,
        )

    @property
    def _beta(self) -> float:
        """Probability not to find a loss by one test: half of it if one test screens and another decides."""
        return self.beta / 2.0 if self.confirming_rounds else self.beta


def _energy_noise_pct(runs: Sequence[Run]) -> float:
    """Return the scatter of the runs' energy by the age of its readings, percent: the largest of any run."""
    return max((run.energy_noise_pct or 0.0 for run in runs), default=0.0)


def system_policy(system: System, *, kind: CaseKind | None = None) -> VerdictPolicy:
    """Return the policy of a kind of case on a system as the catalog has it; None for any other kind."""
    noise = system.noise if kind is None else system.noise_of(kind)
    return VerdictPolicy(
        tolerances=default_tolerances(system),
        run_noise_pct=noise.run_pct,
        session_noise_pct=noise.session_pct,
        round_noise_pct=noise.round_pct,
        memory_noise_pct=noise.memory_pct,
        alpha=DEFAULT_ALPHA,
        beta=DEFAULT_BETA,
        max_runs=DEFAULT_MAX_RUNS,
    )


def of_kind(policy: VerdictPolicy, *, system: System, kind: CaseKind) -> VerdictPolicy:
    """Return a policy with the noise that the catalog expects of a kind of case on a system."""
    expected = system_policy(system, kind=kind)
    return replace(
        policy,
        run_noise_pct=expected.run_noise_pct,
        session_noise_pct=expected.session_noise_pct,
        round_noise_pct=expected.round_noise_pct,
        memory_noise_pct=expected.memory_noise_pct,
    )


_NOISES: Final = ("run", "session", "round", "memory")


def with_noise(policy: VerdictPolicy, *, texts: Sequence[str], subject: str) -> VerdictPolicy:
    """Return a policy with the noise that a project knows of its machines, from ``KIND=PCT``.

    Raises:
        RecipeError: If a text has another form, a kind is unknown, or a percentage is not within [0, 100).
    """
    noises: dict[str, float] = {}
    for text in texts:
        kind, _, percent = text.partition("=")
        kind = kind.strip()
        if kind not in _NOISES:
            raise RecipeError(f"{subject}={text!r} is not KIND=PCT; {did_you_mean(kind, _NOISES)}")
        try:
            noises[kind] = float(percent.strip().removesuffix("%"))
        except ValueError:
            raise RecipeError(f"{subject}={text!r} is not KIND=PCT; write e.g. session=1.5%") from None
        if not 0.0 <= noises[kind] < _WHOLE:
            raise RecipeError(f"{subject}={text!r}: a noise must be at least 0% and below 100%")
    return replace(
        policy,
        run_noise_pct=noises.get("run", policy.run_noise_pct),
        session_noise_pct=noises.get("session", policy.session_noise_pct),
        round_noise_pct=noises.get("round", policy.round_noise_pct),
        memory_noise_pct=noises.get("memory", policy.memory_noise_pct),
    )


def parse_tolerances(texts: Sequence[str], *, subject: str) -> dict[str, float]:
    """Return tolerances in percent by metric name from ``[METRIC=]PCT``; ``all`` stands for a missing name.

    Raises:
        RecipeError: If a text has another form, a metric is not judged, or a percentage is not within (0, 100).
    """
    parsed = {}
    for text in texts:
        name, _, percent = text.rpartition("=")
        try:
            parsed[name.strip() or "all"] = float(percent.strip().removesuffix("%"))
        except ValueError:
            raise RecipeError(f"{subject}={text!r} is not [METRIC=]PCT; write e.g. 5% or peak_memory_gib=10") from None
    check_tolerances(parsed, subject=subject)
    return parsed


def default_tolerances(system: System) -> dict[str, float]:
    """Return a system's default tolerances in percent, by name of each metric that has one of its own by default."""
    tolerances = {}
    for metric in JUDGED:
        if metric.judged is Judged.BY_DEFAULT:
            tolerances[metric.name] = system.tolerance_pct
    tolerances[PEAK_MEMORY_GIB.name] = system.memory_tolerance_pct
    return tolerances


def check_limits(tolerances: Mapping[str, float], *, finds: Mapping[str, float]) -> None:
    """Check the tolerances and the losses to be found of a policy, by name of metric.

    Raises:
        RecipeError: If a metric is not judged, a percentage is not within (0, 100), or a tolerance is missing that
            others follow.
    """
    check_tolerances(tolerances, subject="tolerances")
    check_tolerances(finds, subject="finds")
    for subject, limits in (("tolerances", tolerances), ("finds", finds)):
        if "all" in limits:
            raise RecipeError(f"{subject}: 'all' stands for metrics in options and recipes; a policy names each")
    if TOKENS_PER_SEC_PER_GPU.name not in tolerances:
        raise RecipeError(
            f"tolerances={dict(tolerances)} lack {TOKENS_PER_SEC_PER_GPU.name}, which metrics without a tolerance of "
            "their own follow; name it"
        )


def check_one_of_each(tolerances: Mapping[str, float], *, finds: Mapping[str, float], subject: str) -> None:
    """Check that no metric has both a tolerance and a loss to be found: one follows from the other.

    Raises:
        RecipeError: If one has.
    """
    for name in tolerances.keys() & finds.keys():
        metric = "" if name == "all" else f"{name}="
        raise RecipeError(
            f"{subject}: both {metric}{tolerances[name]:g}% allowed and {metric}{finds[name]:g}% to be found, but one "
            "follows from the other by the noise; drop one of them"
        )


def with_layer(
    policy: VerdictPolicy, *, tolerances: Mapping[str, float], finds: Mapping[str, float] | None = None
) -> VerdictPolicy:
    """Return a policy with a further layer of tolerances and of losses to be found, which wins over those before.

    A metric has one or the other: a tolerance takes back a loss to be found of the layers below, and one that names its
    metric also that of ``all`` in its own layer.

    Args:
        policy: Policy of the layers below.
        tolerances: Allowed worsening in percent by metric, or ``all``.
        finds: Worsening to be found in percent by metric, or ``all``.
    """
    finds = finds or {}
    below: dict[str, float] = {}
    for name, percent in policy.finds.items():
        is_taken_back = "all" in tolerances and METRICS[name].judged is not Judged.WHEN_NAMED
        if not is_taken_back:
            below[name] = percent
    merged: dict[str, float] = {}
    for name, percent in merge_tolerances([below, finds]).items():
        if name in finds or name not in tolerances:
            merged[name] = percent
    return replace(policy, tolerances=merge_tolerances([policy.tolerances, tolerances]), finds=merged)


def merge_tolerances(layers: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the tolerances by metric; later layers win.

    ``all`` in a layer stands for every metric that is judged by default, and replaces the tolerances that weaker layers
    name for these. A metric that is judged only when named keeps the tolerance that named it.
    """
    merged: dict[str, float] = {}
    for layer in layers:
        if "all" in layer:
            for metric in JUDGED:
                if metric.judged is Judged.BY_DEFAULT:
                    merged[metric.name] = layer["all"]
                elif metric.judged is Judged.AS_TOKENS_PER_SEC:
                    merged.pop(metric.name, None)
        merged |= layer
    merged.pop("all", None)
    return merged
