"""Shell scripts that start a training: the command line that they come to, and their run with another end of it.

A script is read by letting bash run it, since conditions, arrays and defaults can mean anything: ``read_script`` runs
it with a search path of its own, in which launchers (torchrun, python, srun ...) note their arguments and end, commands
that change something (mkdir, rm, pip ...) do nothing, and those that only look (dirname, cat, date ...) are the real
ones. Programs called by a path are noted as well and not started. The shell itself is the real one: files that a script
redirects to, if they don't exist yet, are made.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pytest_nemoperf.errors import PlanError, RecipeError

LAUNCHERS: Final = (
    "torchrun",
    "python",
    "python3",
    "ft_launcher",
    "accelerate",
    "deepspeed",
    "srun",
    "sbatch",
    "salloc",
    "mpirun",
    "mpiexec",
    "uv",
    "nsys",
    "numactl",
    "docker",
)
"""Programs that may start a training, noted when a script is read."""
_HARMLESS: Final = (
    *("awk", "basename", "cat", "cut", "date", "dirname", "echo", "env", "expr", "false", "find", "grep", "head"),
    *("hostname", "id", "ls", "nproc", "paste", "printenv", "printf", "pwd", "readlink", "realpath", "sed", "seq"),
    *("sort", "stat", "tail", "test", "tr", "true", "uname", "uniq", "wc", "which", "whoami", "yes"),
)
"""Programs that only look, and really run when a script is read."""
_IDLE: Final = (
    *("chmod", "chown", "conda", "cp", "curl", "git", "kill", "ln", "mkdir", "mktemp", "modprobe", "module", "mount"),
    *("mv", "nvidia-smi", "pip", "pip3", "pkill", "rm", "rmdir", "rsync", "scontrol", "scp", "sleep", "ssh", "sudo"),
    *("touch", "ulimit", "wget"),
)
"""Programs that do nothing when a script is read."""
_LIMIT_SEC: Final = 20.0
_MAX_SHOWN: Final = 300

_NOTE: Final = """\
#!/bin/sh
for word in "${{0##*/}}" "$@"; do printf '%s\\0' "$word" >> '{notes}'; done
printf '\\1\\0' >> '{notes}'
"""
_BASH: Final = '#!/bin/sh\nexec "$NEMOPERF_BASH" "$@"\n'
_TEE: Final = "#!/bin/sh\nexec cat\n"
_NOTHING: Final = "#!/bin/sh\nexit 0\n"
_WATCH: Final = """\
set -CT
__nemoperf_watch() {
  shopt -s extdebug
  set +eu
  PATH=$NEMOPERF_PROGRAMS
  local first=${BASH_COMMAND%%[[:space:]]*}
  case $first in
    *'$('* | *'`'* | *=*) return 0 ;;
    */* | '$'* | '"$'*) ;;
    *) return 0 ;;
  esac
  eval "set -- $first" 2> /dev/null || return 0
  case ${1-} in
    *.sh) eval "\\"$NEMOPERF_BASH\\" $BASH_COMMAND"; return 1 ;;
    */*) eval "\\"$NEMOPERF_PROGRAMS/note\\" $BASH_COMMAND"; return 1 ;;
  esac
  return 0
}
trap __nemoperf_watch DEBUG
"""
"""Start of each bash while a script is read: keeps the search path, and skips programs that are called by a path.

A command is skipped where its DEBUG trap fails under extdebug, which set here at once would look for a debugger. A
command that failed, or was skipped, does not end the script.
"""
_EDIT: Final = """\
#!/bin/sh
# Real program behind this one, its training arguments changed as the files beside this one say.
name=${0##*/}
found=
IFS=:
for folder in $PATH; do
  if [ "$folder" != "$NEMOPERF_PROGRAMS" ] && [ -x "$folder/$name" ]; then found=$folder/$name; break; fi
done
unset IFS
[ -n "$found" ] || { echo "$name: not found" >&2; exit 127; }
is_training=
for word in "$@"; do
  case $word in "$NEMOPERF_SCRIPT" | */"$NEMOPERF_SCRIPT") is_training=yes ;; esac
done
[ -n "$is_training" ] && [ -z "$NEMOPERF_EDITED" ] || exec "$found" "$@"
export NEMOPERF_EDITED=yes
count=$#
dropped=
while [ "$count" -gt 0 ]; do
  word=$1
  shift
  count=$((count - 1))
  case $word in
    --*) dropped=; if grep -qxF -e "${word%%=*}" "$NEMOPERF_PROGRAMS/dropped"; then dropped=yes; fi ;;
  esac
  [ -n "$dropped" ] || set -- "$@" "$word"
done
while IFS= read -r word; do set -- "$@" "$word"; done < "$NEMOPERF_PROGRAMS/added"
exec "$found" "$@"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptLaunch:
    """Command line of a training that a script comes to.

    Attributes:
        words: Launcher and arguments.
    """

    words: tuple[str, ...]


def read_script(
    path: Path, *, words: Sequence[str], directory: Path, env: Mapping[str, str], marks: Sequence[str], subject: str
) -> ScriptLaunch:
    """Return the first command line of a script that starts a training; nothing is trained.

    Args:
        path: The script.
        words: Its arguments.
        directory: Directory in which it is run.
        env: Variables on top of this process's.
        marks: Arguments by which a training is known, one of them is enough.
        subject: Beginning of messages.

    Raises:
        RecipeError: If it starts none, does not end in time, or there is no bash.
    """
    bash = shutil.which("bash")
    if bash is None:
        raise RecipeError(
            f"{subject} is a shell script, and there is no bash here to read it; give the training's arguments as YAML"
        )
    with tempfile.TemporaryDirectory(prefix="nemoperf-") as folder:
        programs = Path(folder) / "bin"
        notes = Path(folder) / "notes"
        _make_programs(programs, notes=notes)
        start = Path(folder) / "start"
        start.write_text(_WATCH, encoding="utf-8")
        variables = {
            **os.environ,
            **env,
            "PATH": str(programs),
            "BASH_ENV": str(start),
            "NEMOPERF_BASH": bash,
            "NEMOPERF_PROGRAMS": str(programs),
        }
        argv = [bash, str(path.resolve()), *words]
        said = _run(argv, directory=directory, env=variables, subject=subject, folder=Path(folder))
        launches = _noted(notes)
    for launch in launches:
        if any(mark in word for word in launch for mark in marks):
            return ScriptLaunch(words=launch)
    seen = ""
    if launches:
        seen = f", it started {' and '.join(dict.fromkeys(launch[0] for launch in launches))}"
    raise RecipeError(
        f"{subject} came to no command line with {' or '.join(marks)}{seen} and said: "
        f"{said[-_MAX_SHOWN:].strip() or 'nothing'}; give its arguments in framework_options={{'script_args': [...]}} "
        "and its variables in env, or the training's own arguments as YAML or text"
    )


def _make_programs(programs: Path, *, notes: Path) -> None:
    programs.mkdir()
    note = _NOTE.format(notes=notes)
    texts = dict.fromkeys(_IDLE, _NOTHING) | dict.fromkeys((*LAUNCHERS, "note"), note)
    texts |= {"bash": _BASH, "sh": _BASH, "tee": _TEE}
    for name, text in texts.items():
        _write_program(programs / name, text)
    for name in _HARMLESS:
        found = shutil.which(name)
        if found is not None:
            (programs / name).symlink_to(found)


def _write_program(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)


def _run(argv: Sequence[str], *, directory: Path, env: Mapping[str, str], subject: str, folder: Path) -> str:
    """Run a command to its end or the limit, and return its output."""
    output = folder / "output"
    with output.open("wb") as file:
        process = subprocess.Popen(  # noqa: S603 (the user's own script)
            argv,
            cwd=directory,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            process.wait(timeout=_LIMIT_SEC)
        except subprocess.TimeoutExpired:
            raise RecipeError(
                f"{subject} did not come to its training within {_LIMIT_SEC:.0f} s; give the training's own arguments "
                "as YAML or text"
            ) from None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # what it left in the background
            process.wait()
    return output.read_text(encoding="utf-8", errors="replace")


def _noted(notes: Path) -> list[tuple[str, ...]]:
    """Return the noted command lines, the launcher's name first."""
    if not notes.exists():
        return []
    launches = []
    words: list[str] = []
    for word in notes.read_bytes().decode(errors="replace").split("\0"):
        if word == "\1":
            launches.append(tuple(words[1:] if words[0] == "note" else words))
            words = []
        else:
            words.append(word)
    return launches


def edited_launch(
    folder: Path, *, training: str, dropped: Sequence[str], added: Sequence[str], env: Mapping[str, str]
) -> dict[str, str]:
    """Return variables under which a script starts its training with other arguments; their files go to a folder.

    Args:
        folder: New folder, kept until the run has ended.
        training: Name of the Python script that trains, by which the command line is known.
        dropped: Arguments that are left out with their values, with dashes.
        added: Words behind the others.
        env: Variables of the run.

    Raises:
        PlanError: If a word holds a line break.
    """
    folder.mkdir(parents=True)
    for word in (*dropped, *added):
        if "\n" in word:
            raise PlanError(f"{word!r} holds a line break; arguments of a shell script are one line each")
    (folder / "dropped").write_text("".join(f"{word}\n" for word in dropped), encoding="utf-8")
    (folder / "added").write_text("".join(f"{word}\n" for word in added), encoding="utf-8")
    functions = []
    for name in LAUNCHERS:
        _write_program(folder / name, _EDIT)
        functions.append(f'{name}() {{ "$NEMOPERF_PROGRAMS/{name}" "$@"; }}\n')
    (folder / "start").write_text("".join(functions), encoding="utf-8")
    path = env.get("PATH", os.environ.get("PATH", os.defpath))
    return {
        "NEMOPERF_PROGRAMS": str(folder),
        "NEMOPERF_SCRIPT": training,
        "BASH_ENV": str(folder / "start"),
        "PATH": os.pathsep.join([str(folder), path]),
    }
