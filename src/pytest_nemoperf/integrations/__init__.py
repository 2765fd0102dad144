"""Lines that a training script adds to be measured: StepWriter of a plain loop, callbacks of trainers.

Outside of a perf run they do nothing, so that they can stay in the script::

    from pytest_nemoperf.integrations import StepWriter
    from pytest_nemoperf.integrations import TrainerSteps  # Hugging Face's Trainer, TRL's trainers
    from pytest_nemoperf.integrations import LightningSteps

A trainer's environment needs this package alone, without what it depends on: ``pip install --no-deps``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_nemoperf.integrations.lightning import LightningSteps
    from pytest_nemoperf.integrations.step_writer import StepError, StepWriter
    from pytest_nemoperf.integrations.transformers import TrainerSteps

__all__ = ["LightningSteps", "StepError", "StepWriter", "TrainerSteps"]

_HOME = {
    "LightningSteps": "lightning",
    "StepError": "step_writer",
    "StepWriter": "step_writer",
    "TrainerSteps": "transformers",
}


def __getattr__(name: str) -> object:
    """Import a name when it is first used: a script has one of the libraries, seldom all."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
