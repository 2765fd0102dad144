"""Runs of reinforcement learning that several tests look at."""

from __future__ import annotations

import pytest

from tests.native.engine import Engine
from tests.native.rl_plans import KeptRuns


@pytest.fixture(scope="session")
def runs(engine: Engine) -> KeptRuns:
    return KeptRuns(engine)
