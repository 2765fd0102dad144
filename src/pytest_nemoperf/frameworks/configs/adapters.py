"""Training of adapters (LoRA and others) on frozen weights, which no recipe is read as."""

from __future__ import annotations

from typing import NoReturn

from pytest_nemoperf.errors import RecipeError


def refuse_adapters(key: str, *, subject: str, log_format: str) -> NoReturn:
    """Refuse a recipe that trains adapters: its FLOPs and tokens are not those of full training.

    Args:
        key: Setting that asks for them.
        subject: Beginning of the message.
        log_format: Preset of the framework's log.

    Raises:
        RecipeError: Always.
    """
    raise RecipeError(
        f"{subject}: {key} trains adapters on frozen weights, and no FLOPs convention here counts that; measure it by "
        f"framework='command' and log_format={log_format!r} with has_varying_lengths=True, which gives tokens/s "
        "without TFLOP/s"
    )
