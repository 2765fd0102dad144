"""Checks that the options of a session go together."""

from __future__ import annotations

import pytest

from pytest_nemoperf.options.declare import EXCLUSIONS, OPTIONS, is_perf_selected
from pytest_nemoperf.options.usage import usage_error


def check_combination(config: pytest.Config) -> None:
    """Check that the options of a session go together.

    Raises:
        pytest.UsageError: If one is empty, lacks another that it needs, or excludes another.
    """
    given = {option.name: option for option in OPTIONS if option.is_given(config)}
    has_tests = is_perf_selected(config)
    for name, option in given.items():
        if option.is_empty(config):
            raise usage_error(f"{name} has an empty value; give it one, or drop {name}")
        if option.needs_tests and not has_tests:
            raise usage_error(f"{name} needs perf tests to apply to: add -m perf")
        if option.needs and option.needs not in given:
            raise usage_error(f"{name} only counts with {option.needs}; add it, or drop {name}")
    if "--perf-accept-regression" in given and "--perf-reason" not in given:
        raise usage_error("--perf-accept-regression needs --perf-reason=TEXT: say why the loss is acceptable")
    for first, second, why in EXCLUSIONS:
        if first in given and second in given:
            raise usage_error(f"{first} with {second}: {why}")
    is_parallel = getattr(config.option, "numprocesses", None) or getattr(config.option, "tx", None)
    if has_tests and is_parallel:
        raise usage_error(
            "-n runs tests side by side, and perf tests need the machine to themselves: drop -n, or run -m perf apart"
        )
