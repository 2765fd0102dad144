"""Check before the first launch that the folders a session writes into take a file."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_nemoperf.errors import os_error_text
from pytest_nemoperf.options.declare import STATE_DIR
from pytest_nemoperf.options.usage import usage_error

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest

    from pytest_nemoperf.options.settings import Settings

_PROBE_BYTES = 4096  # a block: a full disk still takes an empty file


def check_outputs(config: pytest.Config, *, settings: Settings) -> None:
    """Check that everything the session would write can be written: found after the launches, it would cost them.

    Raises:
        pytest.UsageError: If a folder takes no file; the message has the option, the path, the reason and a remedy.
    """
    for subject, folder in _folders(config, settings=settings):
        problem = write_problem(folder)
        if problem:
            raise usage_error(f"{subject}: can't be written: {problem} (nothing was launched)")


def _folders(config: pytest.Config, *, settings: Settings) -> Iterator[tuple[str, Path]]:
    """Yield the folders that the session would write into, each with its name in messages."""
    option = config.option
    if option.collectonly or settings.measure_into is not None:
        return
    if not (settings.is_dry_run or settings.replay_dir is not None):
        yield f"{STATE_DIR}, the folder of runs, in the root directory {config.rootpath}", settings.state_dir / "runs"
    subject = f"{STATE_DIR}, the folder of results, in the root directory {config.rootpath}"
    if option.perf_output:
        subject = f"--perf-output={option.perf_output}"
    yield subject, settings.output_dir
    if settings.updating is not None:
        subject = f"the folder of baselines {settings.baselines_dir}"
        if option.perf_baselines is not None:
            subject = f"--perf-baselines={option.perf_baselines}"
        yield subject, settings.baselines_dir / settings.system.name


def write_problem(folder: Path) -> str:
    """Return the reason why a folder, there or still to be made, takes no file; empty if it takes one.

    The file has no name, or loses it at once, so that nothing stays even of a killed session; missing folders are not
    made.
    """
    place = Path(os.path.realpath(folder))  # not resolve, which raises no OSError for a circle of links
    try:
        while not (place.exists() or place.is_symlink()):
            place = place.parent
        if not place.is_dir():
            return f"{place} is no folder; name another, or move it away"
        with tempfile.TemporaryFile(dir=place) as probe:
            probe.write(b"\0" * _PROBE_BYTES)
            probe.flush()
    except OSError as exc:
        if exc.errno == errno.ENOENT:  # of /proc and its like, which has no file by that name and makes none
            return f"{place} takes no files; name another folder"
        text = os_error_text(OSError(exc.errno, exc.strerror, str(place)))
        return text if ";" in text else f"{text}; name a folder that takes files"
    return ""
