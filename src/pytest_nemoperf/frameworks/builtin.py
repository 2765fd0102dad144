"""Built-in frameworks; a pytest session adds those of plugins."""

from __future__ import annotations

from pytest_nemoperf.frameworks.command import CommandFramework
from pytest_nemoperf.frameworks.protocol import Framework
from pytest_nemoperf.frameworks.torch import TorchFramework


def builtin_frameworks() -> dict[str, Framework]:
    """Return the built-in frameworks by name."""
    return {framework.name: framework for framework in (TorchFramework(), CommandFramework())}
