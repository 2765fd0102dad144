"""Interpreter of a command: its place, its environment, and the versions in it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Final

from pytest_nemoperf.errors import LaunchError, PlanError, RecipeError
from pytest_nemoperf.frameworks.protocol import RankCommand
from pytest_nemoperf.machine.identity import DISTRIBUTIONS
from pytest_nemoperf.machine.processor import IMAGE_VARIABLES
from pytest_nemoperf.recipes.rules import NATIVE

ANY_FRAMEWORK: Final = "*"
"""Key of the interpreter for commands of every framework without its own."""
_PROBE_LIMIT_SEC: Final = 60.0  # a cold network file system, or a container that has to start
_PYTHONS: Final = ("python", "python3")
_FIRST_LINE_BYTES: Final = 256
_PROBE: Final = """
import json, os, platform, sys
from importlib import metadata
found = {"python": platform.python_version()}
distributions, images = json.loads(sys.argv[1])
for name in distributions:
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        continue
    if version:  # none in what an interrupted installation leaves
        found[name] = version
marks = {"/.dockerenv": "docker", "/run/.containerenv": "podman", "/.singularity.d": "apptainer"}
container = [name for mark, name in marks.items() if os.path.exists(mark)]
container += [name + "=" + os.environ[name] for name in images if name in os.environ]
if container:
    found["container"] = ", ".join(container)
print(json.dumps(found))
"""
"""Program that any Python 3.8 or later runs without our packages."""


def parse_interpreters(texts: Sequence[str], *, subject: str) -> dict[str, str]:
    """Return interpreters by framework from texts ``FRAMEWORK=PATH``; ANY_FRAMEWORK for a text that is a path alone.

    Raises:
        RecipeError: If a path is missing, or a framework is named twice or is the native engine.
    """
    pythons: dict[str, str] = {}
    for text in texts:
        name, separator, path = text.partition("=")
        if not separator:
            path = name
            name = ANY_FRAMEWORK
        name = name.strip()
        path = path.strip()
        if not name or not path:
            raise RecipeError(f"{subject}: {text!r} must be FRAMEWORK=PATH, or a PATH for all commands")
        if name == NATIVE:
            raise RecipeError(f"{subject}: {text!r}: the native engine runs in pytest's interpreter; drop it")
        if name in pythons:
            raise RecipeError(f"{subject}: two interpreters for {name}: {pythons[name]} and {path}; keep one")
        pythons[name] = path
    return pythons


def check_interpreter(python: str, *, root: Path) -> str:
    """Return the absolute path of an interpreter; relative ones and ``~`` count from the root directory and the home.

    Raises:
        PlanError: If it can't be executed.
    """
    path = root / Path(python).expanduser()  # not resolved: a virtual environment's python is a link
    if not os.access(path, os.X_OK) or path.is_dir():
        raise PlanError(
            f"python={python!r}: {path} is no program that can be executed; give the path of an interpreter, such as "
            "the bin/python of a virtual environment"
        )
    return str(path)


def with_interpreter(command: RankCommand, *, python: str) -> RankCommand:
    """Return a command that runs in an interpreter's environment.

    ``python`` as its first word becomes the interpreter; programs installed beside it, such as torchrun, come before
    others of PATH.

    Args:
        command: The command.
        python: Absolute path of the interpreter; empty to leave the command as it is.
    """
    if not python:
        return command
    words = list(command.argv)
    if words[0] in _PYTHONS:
        words[0] = python
    folder = Path(python).parent
    inherited = command.env.get("PATH", os.environ.get("PATH", os.defpath))
    env = {**command.env, "PATH": os.pathsep.join([str(folder), inherited])}
    if (folder.parent / "pyvenv.cfg").exists():
        env["VIRTUAL_ENV"] = str(folder.parent)
    return replace(command, argv=tuple(words), env=env)


def find_interpreter(command: RankCommand) -> str:
    """Return the path of the interpreter that a command runs in; empty if it can't be told.

    That is the command itself if it is a Python, else the one that its script's first line names, as in torchrun.
    """
    path = command.env.get("PATH", os.environ.get("PATH", os.defpath))
    program = shutil.which(command.argv[0], path=path)
    if program is None:
        return ""
    if PurePath(program).name.startswith("python"):
        return program
    try:
        with open(program, "rb") as file:  # noqa: PTH123 (a plain name, used once)
            first_line = file.read(_FIRST_LINE_BYTES).partition(b"\n")[0]
    except OSError:
        return ""
    if not first_line.startswith(b"#!"):
        return ""
    words = first_line[2:].decode(errors="replace").split()
    if words and PurePath(words[0]).name == "env":
        words = words[1:]
    if words and PurePath(words[0]).name.startswith("python"):
        return shutil.which(words[0], path=path) or ""
    return ""


def versions_in(python: str, *, env: Mapping[str, str], also: Sequence[str] = ()) -> dict[str, str]:
    """Return the versions of Python and of known packages in an interpreter, and the container it runs in.

    Empty for this process's own interpreter, whose versions a session records anyway.

    Args:
        python: Path of the interpreter.
        env: Variables on top of this process's.
        also: Distributions to look up beside the known ones.

    Raises:
        LaunchError: If it does not answer.
    """
    if not python or os.path.abspath(python) == os.path.abspath(sys.executable):  # noqa: PTH100 (links must stay)
        return {}
    request = json.dumps([[*DISTRIBUTIONS, *also], IMAGE_VARIABLES])
    try:
        answer = subprocess.run(  # noqa: S603 (the user's own interpreter)
            [python, "-c", _PROBE, request],
            env={**os.environ, **env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PROBE_LIMIT_SEC,
            check=True,
            text=True,
            errors="surrogateescape",
        )
        found = json.loads(answer.stdout.strip().rpartition("\n")[2])  # a container may print a banner first
    except subprocess.CalledProcessError as error:
        last = (error.stderr or "").strip().splitlines()[-1:] or [f"exit code {error.returncode}"]
        raise LaunchError(f"{python} can't be asked for its versions: {last[0]}; give a Python interpreter") from None
    except ValueError:
        raise LaunchError(f"{python} can't be asked for its versions: it runs no Python; give an interpreter") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LaunchError(f"{python} can't be asked for its versions: {error}; give a Python interpreter") from None
    return {str(name): str(version) for name, version in found.items()}
