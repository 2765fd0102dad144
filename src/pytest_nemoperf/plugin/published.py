"""Tests of published rows: a test with the fixture ``published_recipe`` becomes one for each row of the system."""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path
from typing import Final

import pytest

from pytest_nemoperf.errors import BaselineError
from pytest_nemoperf.options.settings import Settings
from pytest_nemoperf.published.files import published_rows
from pytest_nemoperf.visible import visible_text

_FIXTURE: Final = "published_recipe"


class PublishedTests:
    """Hooks of pytest: make tests of published rows, or leave them out.

    Hundreds of tests of layouts that others published are no part of a suite. They take part with
    ``--perf-against=published``, and when their file, or the folder it lies in, is named on the command line.

    Args:
        config: Config of the pytest session.
        settings: Settings of the perf session.
        fitted: Breaks a line to the width of the terminal.
    """

    def __init__(self, config: pytest.Config, *, settings: Settings, fitted: Callable[[str], str]) -> None:
        self._config = config
        self._settings = settings
        self._fitted = fitted
        self._left_out: list[str] = []

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Make a test of each row that has a recipe."""
        if _FIXTURE not in metafunc.fixturenames or not self._is_asked(metafunc.definition.path):
            return
        from pytest_nemoperf.published.suite import published_recipes  # noqa: PLC0415 (most sessions need no pricing)

        try:
            names = list(published_recipes(self._settings.system.name))
        except BaselineError as exc:
            raise pytest.Collector.CollectError(visible_text(str(exc))) from None
        if names:
            metafunc.parametrize(_FIXTURE, names, ids=names, indirect=True)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> Generator[None, None, None]:
        """Leave out the tests that nobody asked for; first of all, since they are no part of the suite."""
        for item in list(items):
            if _FIXTURE in getattr(item, "fixturenames", ()) and not self._is_asked(item.path):
                items.remove(item)
                self._left_out.append(item.nodeid)
        return (yield)

    def pytest_report_collectionfinish(self) -> str | None:
        """Return a line on the tests that were left out."""
        if not self._left_out:
            return None
        left_out = f"perf: tests of published rows left out ({', '.join(self._left_out)})"
        if not self._has_rows():
            return self._fitted(f"{left_out}: no row is of system {self._settings.system.name}")
        return self._fitted(f"{left_out}; name their folder, or give --perf-against=published")

    def _has_rows(self) -> bool:
        try:
            return bool(published_rows(self._settings.system.name).rows)
        except BaselineError:  # told where rows are asked for; this session may need none
            return True

    def _is_asked(self, path: Path) -> bool:
        """Whether the tests of a file take part."""
        if self._settings.against == "published":
            return True
        if self._config.args_source is not pytest.Config.ArgsSource.ARGS:
            return False
        named = {path.resolve(), path.resolve().parent}
        for argument in self._config.args:
            place, _, _ = argument.partition("::")
            if (self._config.invocation_params.dir / place).resolve() in named:
                return True
        return False
