"""Parse the texts of options and ini keys; an error names the option."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_nemoperf.bounds import whole_number
from pytest_nemoperf.errors import RecipeError, did_you_mean
from pytest_nemoperf.frameworks.interpreter import parse_interpreters
from pytest_nemoperf.options.usage import usage_error
from pytest_nemoperf.verdict.comparison import FAILING_BY_DEFAULT, VerdictKind


def parse_fail_on(text: str) -> frozenset[VerdictKind]:
    """Return the verdicts that fail a test; an empty text means the usual ones.

    Raises:
        pytest.UsageError: If a verdict is unknown.
    """
    if not text:
        return frozenset(FAILING_BY_DEFAULT)
    if text.strip().lower() == "none":
        return frozenset()
    words = {kind.value.lower().replace(" ", "_"): kind for kind in VerdictKind}
    chosen = set()
    for part in text.split(","):
        word = part.strip().lower()
        if not word:
            continue
        if word not in words:
            raise usage_error(f"--perf-fail-on: unknown verdict {word!r}; {did_you_mean(word, {*words, 'none'})}")
        chosen.add(words[word])
    return frozenset(chosen)


def parse_count(text: str, *, subject: str) -> int:
    """Return a whole number >= 1.

    Raises:
        pytest.UsageError: If it is none.
    """
    count = whole_number(text.strip())
    if not count:
        raise usage_error(f"{subject}={text} must be a whole number >= 1: a verdict needs at least one launch")
    return count


def parse_probability(text: str, *, subject: str) -> float:
    """Return an error rate.

    Raises:
        pytest.UsageError: If it is not within (0, 0.5).
    """
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 < value < 0.5:  # noqa: PLR2004 (an error rate of one half is chance)
        raise usage_error(f"{subject}={text} must be a probability above 0 and below 0.5, e.g. 0.005")
    return value


def parse_on_off(text: str, *, subject: str) -> bool:
    """Return whether a text says on.

    Raises:
        pytest.UsageError: If it says neither on nor off.
    """
    word = text.strip().lower()
    if word not in ("on", "off"):
        raise usage_error(f"{subject}={text} must be on or off")
    return word == "on"


def parse_percent(text: str, *, subject: str) -> float:
    """Return a percentage above 0, with or without its sign.

    Raises:
        pytest.UsageError: If it is none.
    """
    try:
        percent = float(text.strip().removesuffix("%"))
    except ValueError:
        raise usage_error(f"{subject}={text!r} is not a percentage; write e.g. 5%") from None
    if not 0 < percent < float("inf"):
        raise usage_error(f"{subject}={text} must be a percentage above 0")
    return percent


def parse_seconds(text: str, *, subject: str) -> float:
    """Return positive seconds.

    Raises:
        pytest.UsageError: If they are not.
    """
    try:
        seconds = float(text)
    except ValueError:
        seconds = float("nan")
    if not 0 < seconds < float("inf"):
        raise usage_error(f"{subject}={text} must be positive seconds, e.g. 600")
    return seconds


def parse_frameworks(text: str, *, subject: str) -> tuple[str, ...]:
    """Return names of frameworks from a text with commas between them; they are looked up once plugins are known.

    Raises:
        pytest.UsageError: If one is empty or given twice.
    """
    names: list[str] = []
    for part in text.split(","):
        name = part.strip()
        if not name:
            raise usage_error(f"{subject}={text}: a name is empty; write e.g. torch,megatron")
        if name in names:
            raise usage_error(f"{subject}={text}: {name} is given twice; give each framework once")
        names.append(name)
    return tuple(names)


def parse_pythons(texts: Sequence[str], *, subject: str) -> dict[str, str]:
    """Return interpreters by framework from texts ``FRAMEWORK=PATH``; ANY_FRAMEWORK for a text that is a path alone.

    Raises:
        pytest.UsageError: If a path is missing, or a framework is named twice or is the native engine.
    """
    try:
        return parse_interpreters(texts, subject=subject)
    except RecipeError as error:
        raise usage_error(str(error)) from None
