"""Shell commands on lines of limited width that still work when copied."""

from __future__ import annotations

import shlex

_CONTINUED = " \\"
_CUT = "\\"
_INDENT = "  "


def command_lines(command: str, *, width: int) -> list[str]:
    r"""Return a shell command on lines of at most width characters, continued by ``\`` at their ends.

    Words stay whole if they fit. A longer one is cut into quoted pieces that a shell joins again; then no line is
    indented, because a shell joins them without a space.

    Args:
        command: One command, no pipes or lists; returned unchanged if a shell can't parse it.
        width: At least 20 characters are used.
    """
    try:
        words = shlex.split(command)
    except ValueError:
        return [command]
    room = max(width, 20) - len(_INDENT) - len(_CONTINUED)
    lines: list[str] = []
    is_cut = False
    for word in words:
        *whole, last = _pieces(word, room=room)
        is_cut = is_cut or bool(whole)
        if lines and not whole and len(f"{lines[-1]} {last}") <= room:
            lines[-1] += f" {last}"
            continue
        if lines:
            lines[-1] += _CONTINUED
        lines += [piece + _CUT for piece in whole]
        lines.append(last)
    if is_cut:
        return lines
    return [_INDENT + line for line in lines]


def _pieces(word: str, *, room: int) -> list[str]:
    """Cut a word so that every piece fits when quoted."""
    pieces = []
    while len(shlex.quote(word)) > room:
        size = room
        while len(shlex.quote(word[:size])) > room:
            size -= 1
        pieces.append(shlex.quote(word[:size]))
        word = word[size:]
    return [*pieces, shlex.quote(word)]
