"""The frameworks that come with this package; plugins' own are known to a pytest session alone."""

from __future__ import annotations

from pytest_nemoperf.frameworks.command import CommandFramework
from pytest_nemoperf.frameworks.protocol import Framework
from pytest_nemoperf.frameworks.torch import TorchFramework


def builtin_frameworks() -> dict[str, Framework]:
    """Return them by name."""
    return {each.name: each for each in (TorchFramework(), CommandFramework())}
