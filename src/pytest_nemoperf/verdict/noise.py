"""Scatter of runs within and between sessions, and of rounds: measured, and shrunk towards that of their class. Pure.

All values are natural logarithms of costs. docs/verdicts.md has the formulas.

References:
    Smyth 2004, Linear models and empirical Bayes methods (the shrunk variance), https://doi.org/10.2202/1544-6115.1027
    Satterthwaite 1946, the degrees of freedom of a sum of variances, https://doi.org/10.2307/3002019
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pytest_nemoperf.verdict.sequential import SequentialRule

_PRIOR_DOF: Final = 8.0
"""Degrees of freedom of each prior of a system class: the weight of nine baseline runs, or sessions."""
_PRIOR_DOF_OF_ROUNDS: Final = 6.0
"""The same for rounds: how much two sides that take turns scatter is known less well, and two rounds may decide."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """Scatter within and between sessions: measured, and shrunk towards the priors, weighed by degrees of freedom.

    Attributes:
        seen: Measured scatter within sessions; None if no session has two runs.
        typical: Scatter within sessions that further runs are taken to show.
        within: Scatter within sessions.
        within_dof: Its degrees of freedom.
        between: Scatter between sessions.
        between_dof: Its degrees of freedom.
        num_sessions: Sessions of the baseline.
        run_share: Variance of the baseline's mean from scatter within sessions, as a share of a run's.
        session_share: The same from scatter between sessions, as a share of a session's.
    """

    seen: float | None
    typical: float
    within: float
    within_dof: float
    between: float
    between_dof: float
    num_sessions: int
    run_share: float
    session_share: float

    def error(self, num_runs: int) -> tuple[float, float]:
        """Return the standard error of the loss after so many runs of one session, and its degrees of freedom."""
        within = self.within**2 * (self.run_share + 1.0 / num_runs)
        between = 0.0
        if self.num_sessions:
            between = self.between**2 * (self.session_share + 1.0)
        total = within + between
        if not total:
            return 0.0, self.within_dof
        dof = 1.0 / ((within / total) ** 2 / self.within_dof + (between / total) ** 2 / self.between_dof)
        return math.sqrt(total), dof


def noise_of(values: Sequence[float], *, sessions: Sequence[str], rule: SequentialRule) -> Noise:
    """Return the scatter of baseline runs within and between their sessions, each shrunk towards the rule's.

    The variance between the means of sessions, less what scatter within them adds to it, is that between sessions.
    Sessions of one run each, as of what is measured once a session, tell the two apart only where they scatter less
    than the rule expects within a session alone: then the scatter within is no more than that.
    """
    groups = by_session(values, sessions=sessions)
    means = [statistics.fmean(group) for group in groups]
    between_seen_dof = len(groups) - 1
    variance_of_means = statistics.variance(means) if between_seen_dof else 0.0
    prior_variance = (rule.noise_pct / 100.0) ** 2
    within_seen_dof = len(values) - len(groups)
    seen = None
    if within_seen_dof:
        squares = 0.0
        for group, mean in zip(groups, means, strict=True):
            squares += math.fsum((value - mean) ** 2 for value in group)
        seen = math.sqrt(squares / within_seen_dof)
        typical = seen
    else:
        typical = math.sqrt(min(variance_of_means, prior_variance))
    within_dof = _PRIOR_DOF + _within_seen_dof(len(values), num_sessions=len(groups))
    within_variance = _shrunk(typical**2, prior=prior_variance, dof=within_dof)
    between_variance = 0.0
    if between_seen_dof:
        by_chance = within_variance * statistics.fmean(1.0 / len(group) for group in groups)
        between_variance = max(0.0, variance_of_means - by_chance)
    between_dof = _PRIOR_DOF + between_seen_dof
    between_variance = _shrunk(between_variance, prior=(rule.session_noise_pct / 100.0) ** 2, dof=between_dof)
    return Noise(
        seen=seen,
        typical=typical,
        within=math.sqrt(within_variance),
        within_dof=within_dof,
        between=math.sqrt(between_variance),
        between_dof=between_dof,
        num_sessions=len(groups),
        run_share=1.0 / len(values),
        session_share=math.fsum((len(group) / len(values)) ** 2 for group in groups),
    )


def _within_seen_dof(num_runs: int, *, num_sessions: int) -> int:
    """Return the degrees of freedom of the scatter within sessions that runs show, see noise_of."""
    return max(num_runs - num_sessions, 0) or num_sessions - 1


def _shrunk(seen: float, *, prior: float, dof: float) -> float:
    """Return a variance that was seen, shrunk towards its prior.

    Args:
        seen: The variance as seen.
        prior: The variance as expected.
        dof: Degrees of freedom of both together.
    """
    return (_PRIOR_DOF * prior + (dof - _PRIOR_DOF) * seen) / dof


def by_session(values: Sequence[float], *, sessions: Sequence[str]) -> list[list[float]]:
    """Return the values in groups of one session each."""
    groups: dict[str, list[float]] = {}
    for number, value in enumerate(values):
        groups.setdefault(sessions[number] if sessions else "", []).append(value)
    return list(groups.values())


def noise_of_ratios(ratios: Sequence[float], *, rule: SequentialRule) -> Noise:
    """Return the scatter of ratios, shrunk towards the rule's; they have no baseline and no sessions."""
    squares = 0.0
    seen = None
    seen_dof = max(len(ratios) - 1, 0)
    if seen_dof:
        mean = statistics.fmean(ratios)
        squares = math.fsum((ratio - mean) ** 2 for ratio in ratios)
        seen = math.sqrt(squares / seen_dof)
    dof = _PRIOR_DOF_OF_ROUNDS + seen_dof
    return Noise(
        seen=seen,
        typical=seen or 0.0,
        within=math.sqrt((_PRIOR_DOF_OF_ROUNDS * (rule.noise_pct / 100.0) ** 2 + squares) / dof),
        within_dof=dof,
        between=0.0,
        between_dof=_PRIOR_DOF,
        num_sessions=0,
        run_share=0.0,
        session_share=0.0,
    )


def assumed_noise(noise: Noise, *, num_runs: int, num_sessions: int | None, rule: SequentialRule) -> Noise:
    """Return the noise of other numbers of runs and sessions, further ones scattering as the given.

    A single run shows no scatter, so that further ones scatter as the prior. Sessions are taken to be of equally many
    runs.
    """
    if num_sessions is None:
        num_sessions = noise.num_sessions
    prior = rule.noise_pct / 100.0
    typical = noise.typical
    if noise.within_dof == _PRIOR_DOF:
        typical = prior
    within_dof = _PRIOR_DOF + _within_seen_dof(num_runs, num_sessions=num_sessions)
    session_share = noise.session_share
    between_dof = noise.between_dof
    if num_sessions != noise.num_sessions:
        session_share = 1.0 / num_sessions
        between_dof = _PRIOR_DOF + num_sessions - 1
    return Noise(
        seen=noise.seen,
        typical=typical,
        within=math.sqrt(_shrunk(typical**2, prior=prior**2, dof=within_dof)),
        within_dof=within_dof,
        between=noise.between,
        between_dof=between_dof,
        num_sessions=num_sessions,
        run_share=1.0 / num_runs,
        session_share=session_share,
    )
