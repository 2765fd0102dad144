"""Build an environment for each framework and run its tests with it; ``make test-frameworks`` runs this.

Names of frameworks are arguments; none means all. An environment that is there already is kept unless its list of
packages has changed. A framework that can't be installed here is named, and the others are tested all the same.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parent.parent
ENVIRONMENTS: Final = ROOT / ".venv-frameworks"
_LAST_LINES: Final = 5


def main(names: Sequence[str]) -> int:
    """Return 0 if every framework could be installed and its tests pass."""
    known = sorted(path.stem for path in (HERE / "packages").glob("*.txt") if not path.stem.endswith(".no-deps"))
    for name in names:
        if name not in known:
            print(f"unknown framework {name!r}; choose among {', '.join(known)}", file=sys.stderr)
            return 2
    problems = []
    is_built = False
    for name in names or known:
        problem = build(name)
        if problem:
            problems.append(f"{name} can't be installed on this machine:\n{problem}")
            continue
        is_built = True
        if not _passes(f"test_{name}.py"):
            problems.append(f"{name}: its tests failed")
    if is_built and not _passes("test_side_by_side.py"):
        problems.append("the frameworks that are installed do not train the same side by side")
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def _passes(file: str) -> bool:
    """Return whether the tests of a file pass."""
    command = [sys.executable, "-m", "pytest", "-m", "frameworks", str(HERE / file)]
    return subprocess.run(command, cwd=ROOT, check=False).returncode == 0


def build(name: str) -> str:
    """Install a framework and this plugin into an environment of their own; return the reason if that fails."""
    folder = ENVIRONMENTS / name
    lists = (HERE / "packages" / f"{name}.txt", HERE / "packages" / f"{name}.no-deps.txt")
    content = b"".join(path.read_bytes() for path in lists if path.exists())
    digest = hashlib.sha256(content + (ROOT / "pyproject.toml").read_bytes()).hexdigest()
    done = folder / "packages.sha256"
    if done.exists() and done.read_text() == digest:
        return ""
    print(f"{name}: installing into {folder}", flush=True)
    start = time.monotonic()
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check", "-q", "--no-compile"]
    commands = [[sys.executable, "-m", "venv", "--clear", str(folder)], [*pip, "-r", str(lists[0])]]
    if lists[1].exists():
        commands.append([*pip, "--no-deps", "-r", str(lists[1])])
    commands.append([*pip, "-e", str(ROOT)])
    for command in commands:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            last = result.stderr.strip().splitlines()[-_LAST_LINES:]
            return "\n".join([f"  {' '.join(command)}", *(f"    {line}" for line in last)])
    done.write_text(digest)
    print(f"{name}: installed in {time.monotonic() - start:.0f} s", flush=True)
    return ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
