"""Interpreters with invented packages: a distribution's metadata, and a module that can be imported or not."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path


def write_distribution(site: Path, *, name: str, version: str, entry_points: str = "") -> None:
    """Write the metadata of an installed distribution."""
    folder = site / f"{name.replace('-', '_')}-{version}.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")
    if entry_points:
        (folder / "entry_points.txt").write_text(entry_points, encoding="utf-8")


def write_interpreter(
    folder: Path, *, distributions: Mapping[str, str], modules: Mapping[str, str] | None = None
) -> str:
    """Write a program that is this Python with further packages, and return its path."""
    site = folder / "site"
    site.mkdir()
    for name, version in distributions.items():
        write_distribution(site, name=name, version=version)
    for name, source in (modules or {}).items():
        (site / f"{name}.py").write_text(source, encoding="utf-8")
    program = folder / "python"
    program.write_text(f'#!/bin/sh\nPYTHONPATH={site} exec {sys.executable} "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    return str(program)
