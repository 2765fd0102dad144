"""Published rows as the package ships them: one file a system in ``catalog/published/``."""

from __future__ import annotations

from functools import cache
from importlib import resources

from pytest_nemoperf.errors import BaselineError
from pytest_nemoperf.json_codec import parse_json
from pytest_nemoperf.published.row import PublishedRows
from pytest_nemoperf.schema import from_valid_data


@cache
def published_rows(system: str) -> PublishedRows:
    """Return the published rows of a system; none for a system without a file.

    Raises:
        BaselineError: If the shipped file breaks its schema.
    """
    path = resources.files("pytest_nemoperf").joinpath("catalog", "published", f"{system}.json")
    if not path.is_file():
        return PublishedRows()
    try:
        data = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise BaselineError(f"{path}: cannot be read: {exc}; install the package again") from None
    return from_valid_data(PublishedRows, data, subject=str(path), error=BaselineError)
