"""``nemoperf page``: a performance page written, refreshed, or checked against the rows it is made of."""

from __future__ import annotations

import argparse
import shlex
from collections import Counter
from pathlib import Path

from pytest_nemoperf.baselines.atomic import write_atomically
from pytest_nemoperf.cli.baselines_folder import baselines_dir
from pytest_nemoperf.cli.terminal import write, write_document, write_error
from pytest_nemoperf.errors import PageError, count_text
from pytest_nemoperf.pages.blocks import fill_page, unshown_rows
from pytest_nemoperf.pages.check import page_differences
from pytest_nemoperf.pages.markers import Page, parse_page
from pytest_nemoperf.pages.releases import check_release_name
from pytest_nemoperf.pages.selection import NATIVE
from pytest_nemoperf.pages.sources import PageRows, read_page_rows
from pytest_nemoperf.pages.templates import TEMPLATES, read_page_text, template_text
from pytest_nemoperf.visible import plain_text

_EPILOG = """\
examples:
  nemoperf page dfm
  nemoperf page nemo-rl --output docs/performance.md
  nemoperf page --output docs/performance.md
  nemoperf page --template my-page.md --output docs/performance.md
  nemoperf page dfm --results results.json --output performance.md
  nemoperf page dfm --release 0.4 --output docs/performance-0.4.md
  nemoperf page --check docs/performance.md

blocks: the text between two comments of a page is generated, the rest is yours:
  <!-- nemoperf:begin tables frameworks=automodel systems=gb200,b200,h100 -->
  <!-- nemoperf:end -->

exit code:
  0 if the page is written, or --check finds nothing
  1 if --check finds differences
  2 if an option or a marker is wrong, or a file can't be trusted or written
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options, its examples and exit codes."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    parser.add_argument(
        "pages",
        nargs="*",
        metavar="PAGE",
        help=f"template of the package: {', '.join(TEMPLATES)}; with --check the files to check",
    )
    parser.add_argument(
        "--template", type=Path, metavar="FILE", help="page with empty blocks, instead of the package's"
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="write the page there; a file that is there keeps its own text, and gets its blocks filled anew "
        "(default: print the page)",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="write nothing; list the cells, rows and lines in which pages and rows differ",
    )
    parser.add_argument(
        "--baselines",
        type=Path,
        metavar="DIR",
        help="folder of baselines and releases (default: baselines)",
    )
    parser.add_argument(
        "--results",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="results.json of sessions; without --baselines no stored baseline is shown beside them",
    )
    parser.add_argument(
        "--release", default="", metavar="NAME", help="tables show the frozen rows of that release, and no other one"
    )


def run(arguments: argparse.Namespace) -> int:
    """Write, print or check pages; return the exit code.

    Raises:
        NemoPerfError: If a page, a marker or a file of rows can't be trusted, or the page can't be written.
    """
    _check_options(arguments)
    if arguments.release:
        check_release_name(arguments.release)
    rows = read_page_rows(
        baselines_dir(arguments.baselines),
        results=arguments.results,
        has_baselines=arguments.baselines is not None or not arguments.results,
        release=arguments.release,
    )
    for sentence in rows.warnings:
        _warn(sentence)
    if arguments.check:
        return _check(arguments, rows=rows)
    page, subject = _source_page(arguments)
    _warn_of_unshown(page, rows=rows, subject=subject)
    renewed = fill_page(page, rows=rows, subject=subject)
    if arguments.output is None:
        write_document(renewed.text)
        return 0
    blocks = count_text(len(renewed.blocks), "block")
    if arguments.output.exists() and renewed.text == page.text:
        write(f"{arguments.output}: {blocks}, nothing has changed\n")
        return 0
    try:
        write_atomically(arguments.output, text=renewed.text)
    except OSError as exc:
        reason = exc.strerror or exc
        raise PageError(f"{arguments.output}: cannot be written: {reason}; what was there before is untouched") from exc
    write(f"{arguments.output}: {blocks} written\n")
    return 0


def _check_options(arguments: argparse.Namespace) -> None:
    names = [str(name) for name in arguments.pages]
    if arguments.check:
        if arguments.template is not None:
            raise PageError(f"--check with --template={arguments.template}: a check needs the page alone; drop it")
        files = [name for name in names if name not in TEMPLATES]
        if not files and arguments.output is None:
            raise PageError("--check: no page to check; give its file, e.g. nemoperf page --check docs/performance.md")
        return
    if arguments.template is not None and names:
        raise PageError(f"{names[0]} with --template={arguments.template}: a page has one template; drop one")
    if len(names) > 1:
        raise PageError(f"{' '.join(names)}: one page at a time; only --check takes several files")
    if names and names[0] not in TEMPLATES and Path(names[0]).exists():
        raise PageError(
            f"{names[0]}: is a file; to refresh its blocks give --output {names[0]}, to check them --check {names[0]}, "
            f"to take it as template --template {names[0]}"
        )
    if not names and arguments.template is None and not _is_there(arguments.output):
        raise PageError(
            f"no page to fill; give a template, {' or '.join(TEMPLATES)}, a --template FILE of your own, or the "
            "--output FILE of a page that is there"
        )


def _is_there(path: Path | None) -> bool:
    return path is not None and path.exists()


def _source_page(arguments: argparse.Namespace) -> tuple[Page, str]:
    """Return the page to fill, and its name in messages: the file that is there, else the template."""
    if _is_there(arguments.output):
        if arguments.template is not None:
            unused = f"--template={arguments.template} is not used"
            _warn(f"{arguments.output} is there: its own blocks are filled, and {unused}")
        return _read_page(arguments.output)
    if arguments.template is not None:
        return _read_page(arguments.template)
    (name,) = arguments.pages
    return parse_page(template_text(name), subject=f"template {name}"), f"template {name}"


def _read_page(path: Path) -> tuple[Page, str]:
    return parse_page(read_page_text(path), subject=str(path)), str(path)


def _warn(sentence: str) -> None:
    write_error(f"nemoperf: warning: {plain_text(sentence)}")


def _warn_of_unshown(page: Page, *, rows: PageRows, subject: str) -> None:
    """Warn of measured rows that no block of the page shows, with a block that would."""
    counts = Counter(
        (row.workload, row.framework, row.system) for row in unshown_rows(page, rows=rows, subject=subject)
    )
    for (workload, framework, system), count in counts.items():
        kind = "native" if framework == NATIVE else f"tables frameworks={framework}"
        marker = f"<!-- nemoperf:begin {kind} workload={workload} systems={system} -->"
        found = f"{count_text(count, 'measured row')} of {framework} on {system}"
        _warn(f"{subject}: no block shows {found}; a block for them begins with {marker}")


def _check(arguments: argparse.Namespace, *, rows: PageRows) -> int:
    """Print the differences of each page from the rows; return the exit code."""
    paths = [Path(name) for name in arguments.pages if name not in TEMPLATES]
    if arguments.output is not None:
        paths.append(arguments.output)
    num_blocks = 0
    num_differences = 0
    remedies = []
    for path in dict.fromkeys(paths):
        page, subject = _read_page(path)
        _warn_of_unshown(page, rows=rows, subject=subject)
        num_blocks += len(page.blocks)
        renewed = fill_page(page, rows=rows, subject=subject)
        found = page_differences(page, renewed=renewed, subject=subject)
        for each in found:
            write(f"{each}\n")
        if found:
            num_differences += len(found)
            remedies.append(_refresh_command(arguments, path=path))
    if remedies:
        differences = count_text(num_differences, "difference")
        write(f"\n{differences}; if the rows are right: {' && '.join(remedies)}\n")
        return 1
    write(f"{count_text(num_blocks, 'block')} ok\n")
    return 0


def _refresh_command(arguments: argparse.Namespace, *, path: Path) -> str:
    """Return the command that fills a page from the same rows."""
    words = ["nemoperf", "page"]
    if arguments.baselines is not None:
        words += ["--baselines", str(arguments.baselines)]
    if arguments.results:
        words += ["--results", *map(str, arguments.results)]
    if arguments.release:
        words += ["--release", arguments.release]
    return shlex.join([*words, "--output", str(path)])
