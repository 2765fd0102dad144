"""Options that the texts of a verdict recommend: of a session, or of a command that is given runs. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pytest_nemoperf.verdict.policy import VerdictPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class Remedies:
    """Phrases with options.

    Attributes:
        as_many: Record ``{num}`` runs, as a half sentence.
        more_runs: The same after "would do: ".
        other_days: Record runs of other days beside the stored ones.
        add_session: Option that adds a session.
        side_by_side: Compare with another revision in turns; empty where nothing is launched.
        more_launches: Judge by ``{num}`` launches instead of fewer; empty where nothing is launched.
        accept: Options that accept a loss.
        anchor: Options that make another anchor.
    """

    as_many: str
    more_runs: str
    other_days: str
    add_session: str
    side_by_side: str
    more_launches: str
    accept: str
    anchor: str


_SESSION: Final = Remedies(
    as_many="launch as many with --perf-runs={num}",
    more_runs="--update-baselines --perf-runs={num}",
    other_days="add other days (--update-baselines --perf-add-session)",
    add_session="--perf-add-session",
    side_by_side="compare side by side (--perf-ab)",
    more_launches="judge by up to {num} launches (--perf-max-runs={num})",
    accept="--perf-accept-regression --perf-reason=TEXT",
    anchor="--update-baselines --perf-anchor=RELEASE",
)
_GIVEN_RUNS: Final = Remedies(
    as_many="give as many",
    more_runs="nemoperf record with {num} of them",
    other_days="add other days (nemoperf record --add-session)",
    add_session="--add-session",
    side_by_side="",
    more_launches="",
    accept="--accept-regression --reason=TEXT",
    anchor="nemoperf record --anchor=RELEASE",
)


def remedies_of(policy: VerdictPolicy) -> Remedies:
    """Return the phrases for the runs that a policy is for."""
    if policy.has_given_runs:
        return _GIVEN_RUNS
    return _SESSION
