"""The pytest plugin: options, markers, the ``perf`` fixture, and the start of a perf session.

Kept small on purpose: every pytest start pays for this module's imports, so a session is imported only when
``-m perf`` or one of the plugin's options asks for it.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

import pytest

from pytest_nemoperf.options import declare, hookspecs, selection
from pytest_nemoperf.options.usage import usage_error

if TYPE_CHECKING:
    from pytest_nemoperf.plugin.fixture import Perf
    from pytest_nemoperf.plugin.hooks import PerfPlugin
    from pytest_nemoperf.recipes.recipe import Recipe

_PERF_PLUGIN: pytest.StashKey[PerfPlugin] = pytest.StashKey()
_DESELECTED = pytest.StashKey[int]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Register options and ini keys."""
    declare.add_options(parser)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Register the hooks others may implement."""
    pluginmanager.add_hookspecs(hookspecs)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Point the collection at the perf tests, before the conftest files of their folders are imported."""
    selection.collect_perf_testpaths(early_config)


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers; start a perf session if one is asked for."""
    config.addinivalue_line(
        "markers",
        "perf(tolerance=PCT, tolerances={METRIC: PCT}, find=PCT, finds={METRIC: PCT}, runs=N): performance-regression "
        "test; runs only with -m perf",
    )
    config.addinivalue_line(
        "markers",
        "perf_waive(reason=TEXT, until=DAY_OR_RELEASE, floor=PCT): a perf test's known loss passes until then, down to "
        "so many percent of the baseline; afterwards the test fails",
    )
    if hasattr(config, "workerinput"):  # a worker of pytest-xdist: the controller has refused perf tests already
        return
    if declare.is_perf_selected(config) or declare.is_perf_configured(config):
        from pytest_nemoperf.options.settings import read_settings

        settings = read_settings(config)
        if declare.is_perf_selected(config):
            from pytest_nemoperf.plugin.hooks import PerfPlugin

            plugin = PerfPlugin(config, settings=settings)
            config.stash[_PERF_PLUGIN] = plugin
            config.pluginmanager.register(plugin, "nemoperf-session")
            plugin.register_companions()


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop the processes of a perf session."""
    plugin = config.stash.get(_PERF_PLUGIN, None)
    if plugin is not None:
        plugin.session.close()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Generator[None, None, None]:
    """Deselect perf tests unless ``-m`` asks for them; last of all, since every other hook may add the marker."""
    result = yield
    if not declare.is_perf_selected(config):
        perf = [item for item in items if item.get_closest_marker("perf")]
        if perf:
            config.hook.pytest_deselected(items=perf)
            kept = set(map(id, perf))
            items[:] = [item for item in items if id(item) not in kept]
            config.stash[_DESELECTED] = len(perf)
    return result


def pytest_report_collectionfinish(config: pytest.Config) -> str | None:
    """Return a line with the number of deselected perf tests and the way to run them."""
    count = config.stash.get(_DESELECTED, 0)
    if not count:
        return None
    from pytest_nemoperf.errors import plural

    return f"perf: {count} {plural('perf test', number=count)} deselected; run with -m perf"


@pytest.fixture
def perf(request: pytest.FixtureRequest) -> Perf:
    """Run recipes and judge them: ``perf.check(recipe)``, ``perf.run``, ``perf.compare``, ``perf.measure``."""
    item: pytest.Item = request.node
    if item.get_closest_marker("perf") is None:
        raise usage_error(
            f"{item.nodeid} uses the perf fixture without the marker, so plain pytest would measure; "
            "add @pytest.mark.perf"
        )
    plugin = request.config.stash.get(_PERF_PLUGIN, None)
    if plugin is None:
        raise usage_error(f"{item.nodeid} is a perf test; run it with -m perf")
    return plugin.perf_of(item, framework=getattr(request, "param", ""))


@pytest.fixture
def published_recipe(request: pytest.FixtureRequest) -> Recipe:
    """Recipe of a published row of the session's system: the test runs once for each row that has one.

    It takes part when its file or its folder is named, or with --perf-against=published.
    """
    plugin = request.config.stash.get(_PERF_PLUGIN, None)
    if plugin is None:
        raise usage_error(f"{request.node.nodeid} is a perf test; mark it perf, and run it with -m perf")
    system = plugin.session.settings.system.name
    if not hasattr(request, "param"):
        pytest.skip(f"no published row of {system} has a recipe")
    from pytest_nemoperf.published.suite import published_recipes

    return published_recipes(system)[request.param]
