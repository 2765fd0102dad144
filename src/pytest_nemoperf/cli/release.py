"""``nemoperf release``: rows of tables frozen under the name of a release, with the delta from the one before."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, TextIO

from pytest_nemoperf.cli.baselines_folder import baselines_dir
from pytest_nemoperf.cli.terminal import has_color, terminal_width, write
from pytest_nemoperf.errors import BaselineError, count_text, did_you_mean
from pytest_nemoperf.json_codec import to_printed_json
from pytest_nemoperf.pages.release_rows import ReleaseRows, cautions, rows_of_baselines, rows_of_sessions
from pytest_nemoperf.pages.releases import (
    check_release_name,
    frozen,
    list_releases,
    release_path,
    write_release,
)
from pytest_nemoperf.report.console import indented, section, to_text
from pytest_nemoperf.report.markdown.release_delta import delta_table
from pytest_nemoperf.report.terminal.release_delta import delta_parts
from pytest_nemoperf.results.release_delta import ReleaseDelta, compare_releases
from pytest_nemoperf.results.row import Release, Row
from pytest_nemoperf.visible import plain_text

if TYPE_CHECKING:
    from rich.console import RenderableType

_IN_PROCESS: Final = "in the test process"
_EPILOG = """\
examples:
  nemoperf release 0.4
  nemoperf release 0.5 --dry-run
  nemoperf release 0.5 --system h100 --system b200 --against 0.4
  nemoperf release 0.5 --results mon/results.json tue/results.json
  nemoperf release 0.5 --replace
  nemoperf release --list
  nemoperf release --show 0.5 --format markdown

exit code:
  0 if the release is written, or shown
  2 if the name is taken or no file's name, an option is wrong, or a file can't
    be trusted; then nothing is written
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options, its examples and exit codes."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    parser.add_argument("name", nargs="?", metavar="NAME", help="name of the release, and of its file: 0.4, 26.02-rc1")
    parser.add_argument(
        "--baselines",
        type=Path,
        metavar="DIR",
        help="folder of the baselines to freeze, and of releases/ (default: baselines)",
    )
    parser.add_argument(
        "--results", type=Path, nargs="+", metavar="FILE", help="freeze sessions' results.json instead of the baselines"
    )
    parser.add_argument("--system", action="append", default=[], metavar="NAME", help="only this one; may be repeated")
    parser.add_argument(
        "--against", metavar="NAME", help="release that the delta is from (default: the one before, or else the newest)"
    )
    parser.add_argument("--replace", action="store_true", help="write a release that is there anew; say what changes")
    parser.add_argument("--dry-run", action="store_true", help="print what would be frozen; write nothing")
    parser.add_argument("--list", action="store_true", help="list the releases, the newest last")
    parser.add_argument("--show", metavar="NAME", help="print a release's counts and its delta; write nothing")
    parser.add_argument("--all", action="store_true", help="also list the cases that are the same within noise")
    parser.add_argument(
        "--format", choices=("text", "markdown", "json"), default="text", help="of the delta (default: text)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Freeze, list or show releases; return the exit code.

    Raises:
        NemoPerfError: If an option is wrong, or a file can't be trusted or written.
    """
    named = [arguments.name is not None, arguments.list, arguments.show is not None]
    if sum(named) != 1:
        raise BaselineError("give one of NAME to freeze a release, --list, and --show NAME")
    _check_unused(arguments)
    folder = baselines_dir(arguments.baselines)
    if arguments.list:
        releases = list_releases(folder)
        _print(map(_listed, releases) if releases else [f"no release in {folder}"], file=sys.stdout)
    elif arguments.show is not None:
        _show(arguments, folder=folder)
    else:
        _freeze(arguments, folder=folder)
    return 0


def _check_unused(arguments: argparse.Namespace) -> None:
    """Check that no option is given that counts for nothing.

    Raises:
        BaselineError: If one is.
    """
    if arguments.name is not None:
        return
    unused = ["results", "system", "replace", "dry_run"]
    if arguments.list:
        unused += ["against", "all"]
    for name in unused:
        if getattr(arguments, name):
            option = f"--{name.replace('_', '-')}"
            raise BaselineError(f"{option} with {'--list' if arguments.list else '--show'} counts for nothing; drop it")
    if arguments.list and arguments.format != "text":
        raise BaselineError(f"--format={arguments.format} is of a delta, and --list shows none; use --show NAME")


def _freeze(arguments: argparse.Namespace, *, folder: Path) -> None:
    name: str = arguments.name
    check_release_name(name)
    releases = list_releases(folder)
    old = next((release for release in releases if release.name == name), None)
    path = release_path(folder, name=name)
    if old is not None and not arguments.replace:
        raise BaselineError(
            f"{path}: release {name} of {old.date} is there already, and a release does not change; choose another "
            "name, or --replace to write it anew"
        )
    source = _source(arguments, folder=folder)
    previous = _previous(arguments.against, releases=releases, name=name, old=old)
    release = frozen(
        source.rows,
        name=name,
        date=datetime.now(UTC).date().isoformat(),
        previous=previous.name if previous is not None else "",
    )
    if not arguments.dry_run:
        write_release(path, release=release, is_replaced=arguments.replace)
    verb = "would be frozen" if arguments.dry_run else "frozen"
    lines: list[RenderableType] = [f"release {name}: {count_text(len(release.rows), 'case')} {verb} in {path}"]
    lines += map(indented, _counts(release.rows))
    warnings = [*source.warnings, *cautions(source.rows)]
    if warnings:
        lines += [section("warnings"), *map(indented, map(plain_text, warnings))]
    _print_head(lines, arguments=arguments)
    if old is not None:
        changes = compare_releases(release, then=replace(old, name=f"{name} as it was"))
        if changes.is_empty:
            _print_head([f"\nrelease {name} holds the rows that it held"], arguments=arguments)
        else:
            _print_delta(changes, arguments=arguments)
    elif previous is not None:
        _print_delta(compare_releases(release, then=previous), arguments=arguments)


def _show(arguments: argparse.Namespace, *, folder: Path) -> None:
    releases = list_releases(folder)
    release = _named(arguments.show, releases=releases, subject="--show")
    lines: list[RenderableType] = [_listed(release), *map(indented, _counts(release.rows))]
    _print_head(lines, arguments=arguments)
    previous = None
    if arguments.against is not None:
        previous = _named(arguments.against, releases=releases, subject="--against")
    elif release.previous in {each.name for each in releases}:
        previous = _named(release.previous, releases=releases, subject="the previous one")
    elif release.previous:
        gone = f"\nrelease {release.previous}, the previous one, is not there; --against names another"
        _print_head([plain_text(gone)], arguments=arguments)
    if previous is not None:
        _print_delta(compare_releases(release, then=previous), arguments=arguments)


def _named(name: str, *, releases: Sequence[Release], subject: str) -> Release:
    for release in releases:
        if release.name == name:
            return release
    known = [release.name for release in releases]
    hint = did_you_mean(name, known) if known else "there is none yet"
    raise BaselineError(f"{subject} {name}: no such release; {hint}")


def _previous(against: str | None, *, releases: Sequence[Release], name: str, old: Release | None) -> Release | None:
    """Return the release before one that is made: the named one, that of the replaced file, or the newest."""
    others = [release for release in releases if release.name != name]
    if against is not None:
        return _named(against, releases=others, subject="--against")
    if old is not None:
        return _named(old.previous, releases=others, subject="the previous one") if old.previous else None
    return others[-1] if others else None


def _source(arguments: argparse.Namespace, *, folder: Path) -> ReleaseRows:
    """Return the rows to freeze.

    Raises:
        BaselineError: If there are none, or a file can't be trusted.
    """
    if arguments.results:
        where = ", ".join(map(str, arguments.results))
        source = rows_of_sessions(arguments.results)
    else:
        where = str(folder)
        source = rows_of_baselines(folder)
    known = sorted({row.system for row in source.rows})
    for name in arguments.system:
        if name not in known:
            hint = did_you_mean(name, known) if known else "nothing of any"
            raise BaselineError(f"--system={name}: {where} has nothing of it; {hint}")
    if arguments.system:
        source = source.of_systems(arguments.system)
    if not source.rows:
        found = f" ({'; '.join(source.warnings)})" if source.warnings else ""
        remedy = "run their tests again" if found else "record baselines with pytest -m perf --update-baselines"
        raise BaselineError(f"{where}: nothing to freeze{found}; {remedy}")
    return source


def _counts(rows: Sequence[Row]) -> Iterator[str]:
    systems = Counter([row.system for row in rows])
    frameworks = Counter([row.framework or _IN_PROCESS for row in rows])
    yield plain_text(f"by system: {_counted(systems)}")
    yield plain_text(f"by framework: {_counted(frameworks)}")


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join([f"{name} {number:,}" for name, number in counts.items()])


def _listed(release: Release) -> str:
    systems = Counter([row.system for row in release.rows])
    text = f"{release.name}  {release.date}  {count_text(len(release.rows), 'case')} ({_counted(systems)})"
    if release.previous:
        text += f", after {release.previous}"
    return plain_text(text)


def _print_head(parts: Iterable[RenderableType], *, arguments: argparse.Namespace) -> None:
    """Print parts above a delta; to standard error if standard output holds another format."""
    _print(parts, file=sys.stdout if arguments.format == "text" else sys.stderr)


def _print_delta(delta: ReleaseDelta, *, arguments: argparse.Namespace) -> None:
    if arguments.format == "json":
        write(to_printed_json(delta))
    elif arguments.format == "markdown":
        write("\n".join(delta_table(delta)) + "\n")
    else:
        _print(["", *delta_parts(delta, is_whole=arguments.all)], file=sys.stdout)


def _print(parts: Iterable[RenderableType], *, file: TextIO) -> None:
    write(to_text(parts, width=terminal_width(), color=has_color()) + "\n", file=file)
