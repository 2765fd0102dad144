"""Built-in frameworks; a pytest session adds those of plugins."""

from __future__ import annotations

from pytest_nemoperf.frameworks.automodel import AutomodelFramework
from pytest_nemoperf.frameworks.command import CommandFramework
from pytest_nemoperf.frameworks.megatron import MegatronFramework
from pytest_nemoperf.frameworks.megatron_bridge import MegatronBridgeFramework
from pytest_nemoperf.frameworks.megatron_lm import MegatronLMFramework
from pytest_nemoperf.frameworks.nemo_rl import NemoRLFramework
from pytest_nemoperf.frameworks.protocol import Framework
from pytest_nemoperf.frameworks.torch import TorchFramework
from pytest_nemoperf.frameworks.torchtitan import TorchtitanFramework
from pytest_nemoperf.frameworks.trl import TRLFramework


def builtin_frameworks() -> dict[str, Framework]:
    """Return the built-in frameworks by name."""
    frameworks: tuple[Framework, ...] = (
        TorchFramework(),
        CommandFramework(),
        AutomodelFramework(),
        MegatronFramework(),
        MegatronBridgeFramework(),
        MegatronLMFramework(),
        NemoRLFramework(),
        TorchtitanFramework(),
        TRLFramework(),
    )
    return {framework.name: framework for framework in frameworks}
