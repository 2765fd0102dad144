from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_nemoperf.launchers.local import LocalLauncher

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="package")
def launcher() -> Iterator[LocalLauncher]:
    """One launcher for all tests: its helpers must survive every launch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        launcher = LocalLauncher(grace_sec=0.5)
        yield launcher
        launcher.close()
