"""Command line of this session, for pytest processes that measure one of its tests again."""

from __future__ import annotations

import sys

import pytest

from pytest_nemoperf.ab.pytest_process import PytestInvocation


def invocation_of(config: pytest.Config, *, system: str) -> PytestInvocation:
    """Return the command line, working directory and configuration files of a session.

    Args:
        config: Config of the pytest session.
        system: Its system, so that another process does not detect one.
    """
    paths: tuple[str, ...] = ()
    if config.args_source is pytest.Config.ArgsSource.ARGS:
        paths = tuple(config.args)
    confcutdir = config.option.confcutdir
    return PytestInvocation(
        args=tuple(map(str, config.invocation_params.args)),
        paths=paths,
        started_in=config.invocation_params.dir,
        root=config.rootpath,
        ini_file=config.inipath,
        confcutdir=None if confcutdir is None else config.invocation_params.dir / confcutdir,
        is_module=getattr(sys.modules["__main__"], "__spec__", None) is not None,
        has_cache=config.pluginmanager.has_plugin("cacheprovider"),
        system=system,
    )
