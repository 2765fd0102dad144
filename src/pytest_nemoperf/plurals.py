"""Counts with their nouns: ``1 run``, ``3 runs``, ``2 launches``."""


def count_text(number: int, noun: str) -> str:
    """Return a count with its noun: ``1 case``, ``2 cases``, ``12,000 cases``."""
    return f"{number:,} {plural(noun, number=number)}"


def plural(noun: str, *, number: int) -> str:
    """Return the noun as it follows a number: ``launch`` after 1, else ``launches``."""
    if number == 1:
        return noun
    return f"{noun}es" if noun.endswith(("ch", "ss")) else f"{noun}s"
