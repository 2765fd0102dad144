"""Files of the public repositories, written out once a session."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.recipes_elsewhere.sources import check_out, source_of


@pytest.fixture(scope="session")
def checkout_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function from a framework to the folder of its files."""
    root = tmp_path_factory.mktemp("elsewhere")
    return lambda framework: check_out(source_of(framework), root=root)
