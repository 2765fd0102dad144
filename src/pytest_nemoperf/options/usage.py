"""Errors of usage, which pytest prints as they are."""

from __future__ import annotations

import pytest

from pytest_nemoperf.visible import visible_text


def usage_error(message: str) -> pytest.UsageError:
    """Return an error of usage without characters that a terminal obeys or hides: options and files may hold some."""
    return pytest.UsageError(visible_text(message))
