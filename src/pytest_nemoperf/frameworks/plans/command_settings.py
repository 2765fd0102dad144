"""Settings of commands, refused in plans of frameworks that start their ranks and find their records themselves."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_nemoperf.recipes.recipe import RANK_VARIABLES, Plan


def command_setting_problems(plan: Plan, *, instead: str = "use framework='command'") -> Iterator[str]:
    """Yield the settings of a plan that only commands have, and variables that the launcher sets for each rank.

    Args:
        plan: Plan of a run whose ranks and records are the framework's own affair.
        instead: Advice for a user who wants what the setting does.
    """
    for name in ("log_format", "log_file", "is_command_per_rank"):
        value = getattr(plan, name)
        if value:
            yield (
                f"{name}={value!r} is for commands, and framework={plan.framework!r} starts its ranks and finds its "
                f"records itself; leave {name} out, or {instead}"
            )
    for name in RANK_VARIABLES:
        if name in plan.env:
            yield (
                f"env: {name}={plan.env[name]!r} clashes with the launcher, which sets {name} for each rank; "
                "leave it out"
            )
