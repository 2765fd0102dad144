"""Values in the grammar of Hydra's overrides, ``key=value``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

_PLAIN: Final = re.compile(r"[A-Za-z0-9_./:+-]+")
"""Texts that the grammar takes without quotes."""
_WORD: Final = re.compile(r"null|true|false|[+-]?(inf|nan)|[+-]?[\d._]+(e[+-]?\d+)?", re.IGNORECASE)
"""Texts that it takes for something else without quotes."""
_BEFORE_QUOTE: Final = re.compile(r"(\\*)('|\Z)")
"""Quotes, and backslashes before one, which alone are escaped."""


def hydra_text(value: Any) -> str:
    """Return a value as an override's right side.

    References:
        https://hydra.cc/docs/advanced/override_grammar/basic/
    """
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(hydra_text, value))}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{key}:{hydra_text(each)}' for key, each in value.items())}}}"
    if isinstance(value, str):
        return _quoted(value)
    return "null" if value is None else str(value).lower()


def _quoted(text: str) -> str:
    if _PLAIN.fullmatch(text) and not _WORD.fullmatch(text):
        return text
    escaped = _BEFORE_QUOTE.sub(lambda match: 2 * match[1] + match[2].replace("'", "\\'"), text)
    return f"'{escaped}'"
