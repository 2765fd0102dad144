"""One warm server for every test that runs ranks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.native.engine import Engine


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    engine = Engine(tmp_path_factory.mktemp("engine"))
    yield engine
    engine.close()
