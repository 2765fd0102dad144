"""Which options go together."""

from __future__ import annotations

import pytest

from pytest_nemoperf.options import NEVER_EMPTY, is_perf_selected

_NEED_UPDATE = {
    "--perf-accept-regression": "perf_accept_regression",
    "--perf-reason": "perf_reason",
    "--perf-update-new-only": "perf_update_new_only",
    "--perf-prune": "perf_prune",
    "--perf-anchor": "perf_anchor",
}
_MEASURE_NOTHING = {"--perf-dry-run": "perf_dry_run", "--perf-replay": "perf_replay"}
_NEED_TESTS = {"--perf-set": "perf_set", "--perf-ab": "perf_ab", "--perf-profile": "perf_profile", **_MEASURE_NOTHING}
_NEVER_STORED = {
    "--perf-set": (
        "perf_set",
        "a trial is never stored among the project's baselines, for no recipe says how to repeat it; write the layout "
        "into a recipe",
    ),
    "--perf-ab": ("perf_ab", "a comparison of two revisions is no baseline; store one in a session of its own"),
    "--perf-replay": ("perf_replay", "stored runs say nothing of this machine; launch them"),
}


def check_combination(config: pytest.Config, *, inject_pct: float) -> None:
    """Check that the options of a session go together.

    Raises:
        pytest.UsageError: If two contradict each other, or one lacks what it needs.
    """
    for name, attribute in NEVER_EMPTY.items():
        value = getattr(config.option, attribute)
        if value is not None and not value.strip():
            raise pytest.UsageError(f"{name} has an empty value; give it one, or drop {name}")
    _check_update(config, inject_pct=inject_pct)
    _check_trials(config, inject_pct=inject_pct)
    option = config.option
    parallel = getattr(option, "numprocesses", None) or getattr(option, "tx", None)
    if is_perf_selected(config) and parallel:
        raise pytest.UsageError(
            "-n runs tests side by side, and perf tests need the machine to themselves: drop -n, or run -m perf apart"
        )


def _check_update(config: pytest.Config, *, inject_pct: float) -> None:
    option = config.option
    if option.update_baselines and not is_perf_selected(config):
        raise pytest.UsageError("--update-baselines needs perf tests to run: add -m perf")
    if option.update_baselines and inject_pct:
        raise pytest.UsageError(
            f"--perf-inject={inject_pct:g}% with --update-baselines: an injected run is never stored; drop one of them"
        )
    for name, attribute in _NEED_UPDATE.items():
        if getattr(option, attribute) and not option.update_baselines:
            raise pytest.UsageError(f"{name} only counts with --update-baselines; add it, or drop {name}")
    if option.perf_accept_regression and not option.perf_reason:
        raise pytest.UsageError("--perf-accept-regression needs --perf-reason=TEXT: say why the loss is acceptable")
    if option.perf_anchor and option.perf_update_new_only:
        raise pytest.UsageError(
            "--perf-anchor with --perf-update-new-only: an anchor is written into every case's file, new or not; drop "
            "one of them"
        )
    if option.perf_accept_regression and option.perf_update_new_only:
        raise pytest.UsageError(
            "--perf-accept-regression with --perf-update-new-only: new cases have nothing to lose; drop one of them"
        )


def _check_trials(config: pytest.Config, *, inject_pct: float) -> None:
    """Check what makes a session something else than measuring against baselines."""
    option = config.option
    for name, attribute in _NEED_TESTS.items():
        if getattr(option, attribute) and not is_perf_selected(config):
            raise pytest.UsageError(f"{name} needs perf tests to apply to: add -m perf")
    for name, (attribute, why) in _NEVER_STORED.items():
        if getattr(option, attribute) and option.update_baselines:
            raise pytest.UsageError(f"{name} with --update-baselines: {why}, or drop one of them")
    for name, attribute in _MEASURE_NOTHING.items():
        others = {
            "--update-baselines": option.update_baselines,
            "--perf-inject": inject_pct,
            "--perf-ab": option.perf_ab,
            "--perf-profile": option.perf_profile,
        }
        given = [other for other, is_given in others.items() if is_given]
        if getattr(option, attribute) and given:
            raise pytest.UsageError(f"{name} with {given[0]}: nothing is launched and measured; drop one of them")
    if option.perf_dry_run and option.perf_replay:
        raise pytest.UsageError("--perf-dry-run with --perf-replay: one prices, one judges; drop one of them")
    if option.perf_ab and option.perf_profile:
        raise pytest.UsageError(
            "--perf-ab with --perf-profile: a profile is compared with a stored one; drop --perf-ab, or profile each "
            "revision in a session of its own"
        )
    if option.perf_ab_limit is not None and not option.perf_ab:
        raise pytest.UsageError("--perf-ab-limit only counts with --perf-ab=REV; add it, or drop the limit")
