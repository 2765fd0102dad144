"""Plugin of a pytest process that measures one test for another session, which judges it.

Registered with ``-p`` by ``ab/pytest_process.py``. The command line is that session's own, as it may hold options of
the project; here those are put back that choose tests, write files or stop for a person.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from pytest_nemoperf.ab.measure_request import (
    FOUND,
    MEASURE_INTO_VARIABLE,
    NOT_IMPORTED,
    STARTED,
    MeasureRequest,
    read_request,
    write_stage,
)
from pytest_nemoperf.launchers.protocol import LAUNCHER_VARIABLES
from pytest_nemoperf.options.declare import OPTIONS
from pytest_nemoperf.options.settings import MEASURE_INTO

_REQUEST: Final = pytest.StashKey[MeasureRequest]()
_NEUTRAL: Final[Mapping[str, Any]] = {
    # choice of tests
    "markexpr": "perf",
    "keyword": "",
    "deselect": None,
    "ignore": None,
    "ignore_glob": None,
    "pyargs": False,
    "maxfail": 0,
    "lf": False,
    "failedfirst": False,
    "newfirst": False,
    "stepwise": False,
    "stepwise_skip": False,
    "collectonly": False,
    "setuponly": False,
    "setupplan": False,
    "setupshow": False,
    # output, and a person at the terminal
    "usepdb": False,
    "trace": False,
    "color": "no",
    "reportchars": "fEs",
    "pastebin": None,
    # files that the asking session writes
    "xmlpath": None,
    "log_file": os.devnull,
    "report_log": None,
    "htmlpath": None,
    "benchmark_json": None,
    "benchmark_autosave": False,
    "benchmark_save": None,
    "benchmark_compare": None,
    "benchmark_compare_fail": [],
    "benchmark_histogram": None,
}
"""Values of pytest's options and of common plugins', by attribute of ``config.option``."""


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Read the request, and restore the environment, before code of the project is imported."""
    text = os.environ.pop(MEASURE_INTO_VARIABLE, "")  # sessions that a test starts are ordinary ones
    if not text:
        return
    folder = Path(text)
    request = read_request(folder)
    for name in LAUNCHER_VARIABLES:
        os.environ.pop(name, None)
    os.environ.update(request.variables)
    early_config.stash[MEASURE_INTO] = folder
    early_config.stash[_REQUEST] = request


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Choose the test, and put options back, before other plugins read them."""
    request = config.stash.get(_REQUEST, None)
    if request is None:
        return
    values: dict[str, Any] = {**_NEUTRAL, "basetemp": str(config.stash[MEASURE_INTO] / "tmp")}
    for name, value in values.items():
        if hasattr(config.option, name):
            setattr(config.option, name, value)
    for option in OPTIONS:
        setattr(config.option, option.dest, option.initial)
    config.option.system = request.system
    if request.inject_pct:
        config.option.perf_inject = f"{request.inject_pct!r}%"
    file, separator, name = request.nodeid.partition("::")
    config.args = [f"{config.rootpath / file}{separator}{name}"]
    config.args_source = pytest.Config.ArgsSource.ARGS
    config.pluginmanager.register(_Stages(config.stash[MEASURE_INTO]), "nemoperf-measure-only")


class _Stages:
    """Notes how far the session came: a test that is missing ends it as wrong options do."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def pytest_sessionstart(self) -> None:
        """Note that the options and settings are sound."""
        write_stage(self._folder, STARTED)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Note a file that could not be imported."""
        if report.failed:
            write_stage(self._folder, NOT_IMPORTED)

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Note that the test was found."""
        if items:
            write_stage(self._folder, FOUND)
