"""Hooks other plugins and a project's conftest.py may implement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_nemoperf.frameworks.protocol import Framework


@pytest.hookspec
def pytest_nemoperf_frameworks(config: pytest.Config) -> Sequence[Framework]:  # type: ignore[empty-body]  # a hook's specification has no body
    """Return frameworks recipes may name, beside the built-in ``torch`` and ``command``.

    The framework protocol is ``pytest_nemoperf.frameworks.protocol.Framework``. A name that is taken already is
    an error.
    """
