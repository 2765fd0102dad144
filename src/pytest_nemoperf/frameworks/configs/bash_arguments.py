"""Shell scripts that start a training: the command line that they come to, and their run with another end of it.

A script is read by letting bash run it up to its launch, since conditions, arrays and defaults can mean anything; so it
is read only where the recipe allows that. ``read_script`` runs it with a search path of its own, in which launchers
(torchrun, python, srun ...) note their arguments and end, wrappers of them (timeout, env ...) go on to what they wrap,
programs that change something or ask a machine (mkdir, rm, sed, git, nvidia-smi ...) do nothing, and those that look at
files and texts (dirname, cat, date ...) are the real ones. Programs called by a path are noted as well and not started,
and redirections of a command to a file are left out.

What the script does by bash alone really happens, among it redirections of a block of commands or of ``exec``, and
programs that are found through a PATH set for a single command. A script that takes the output of a program that did
not run is refused, since its arguments would be others than those of the launch.
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
    "nohup",
    "timeout",
    "time",
    "stdbuf",
    "nice",
    "setsid",
    "env",
    "taskset",
    "docker",
)
"""Programs that may start a training, noted when a script is read."""
_WRAPPERS: Final = ("nohup", "timeout", "time", "stdbuf", "nice", "setsid", "env")
"""Launchers that start what follows them as it is."""
_HARMLESS: Final = (
    *("basename", "cat", "cut", "date", "dirname", "echo", "expr", "false", "grep", "head", "hostname", "id", "ls"),
    *("nproc", "paste", "printenv", "printf", "pwd", "readlink", "realpath", "seq", "sort", "stat", "tail", "test"),
    *("tr", "true", "uname", "uniq", "wc", "which", "whoami", "yes"),
)
"""Programs that only look, and really run when a script is read."""
_SILENT: Final = (
    *("chmod", "chown", "cp", "kill", "ln", "mkdir", "modprobe", "module", "mount", "mv", "pkill", "rm", "rmdir"),
    *("rsync", "scp", "sleep", "touch", "ulimit"),
)
"""Programs that do nothing when a script is read, and print nothing otherwise."""
_IDLE: Final = (
    *("awk", "bc", "conda", "curl", "find", "git", "mktemp", "nvidia-smi", "perl", "pip", "pip3", "scontrol", "sed"),
    *("ssh", "sudo", "wget", "xargs"),
)
"""Programs that do nothing when a script is read, and whose output a script may need."""
_LIMIT_SEC: Final = 20.0
_MAX_SHOWN: Final = 300

_STARTED: Final = "\1"
_ASKED: Final = "\2"
"""Ends of a note: of a program, and of one whose output goes to a pipe or a command substitution."""

_NOTE: Final = """\
#!/bin/sh
end=$(printf '\\1')
if [ -p /dev/stdout ]; then end=$(printf '\\2'); fi
printf '%s\\0' "${0##*/}" "$@" "$end" >> "$NEMOPERF_NOTES"
"""
_GO_ON: Final = """\
#!/bin/sh
# Goes on to the program behind a wrapper, by its name; one that is called by a path is noted.
name=${0##*/}
takes=
case $name in
  timeout) takes='-k -s --kill-after --signal' ;;
  nice) takes='-n --adjustment' ;;
  stdbuf) takes='-i -o -e --input --output --error' ;;
  env) takes='-u -C --unset --chdir' ;;
  time) takes='-f -o --format --output' ;;
esac
count=$#
index=0
is_value=
is_timed=
for word in "$@"; do
  if [ -n "$is_value" ]; then
    is_value=
  else
    case $word in
      -*) case " $takes " in *" $word "*) is_value=yes ;; esac ;;
      *)
        if [ "$name" = timeout ] && [ -z "$is_timed" ]; then
          is_timed=yes
        else
          case $name$word in
            envPATH=* | envBASH_ENV=*) ;;
            env*=*) case ${word%%=*} in *[!A-Za-z0-9_]*) break ;; *) export "$word" ;; esac ;;
            *) break ;;
          esac
        fi ;;
    esac
  fi
  index=$((index + 1))
done
[ "$index" -lt "$count" ] || exec "$NEMOPERF_PROGRAMS/note" "$name" "$@"
case $word in
  */*) exec "$NEMOPERF_PROGRAMS/note" "$name" "$@" ;;
esac
command -v "$word" > /dev/null || exec "$NEMOPERF_PROGRAMS/note" "$name" "$@"
shift "$index"
exec "$@"
"""
_BASH: Final = '#!/bin/sh\nexec "$NEMOPERF_BASH" "$@"\n'
_TEE: Final = "#!/bin/sh\nexec cat\n"
_NOTHING: Final = "#!/bin/sh\nexit 0\n"
_WATCH: Final = r"""
ulimit -f 65536
set -CT
__nemoperf_split() {
  local text=$1 open= char= at= start= target=
  kept=
  for ((at = 0; at < ${#text}; at++)); do
    char=${text:at:1}
    case ${open: -1}$char in
      "''") open=${open%?} ;;
      "'"?) ;;
      *\\) at=$((at + 1)) ;;
      '""') open=${open%?} ;;
      *'"') open+='"' ;;
      "\"'") ;;
      *"'") open+="'" ;;
      *'(') case ${text:at-1:1}${open: -1} in [\$\<\>]* | ?'(') open+='(' ;; esac ;;
      '()') open=${open%?} ;;
      '>')
        target=${text:at+1}
        target=${target#[>|&]}
        target=${target# }
        case $target in
          '('* | [0-9]* | -* | /dev/*) ;;
          *)
            start=${text:0:at}
            kept=${start%[[:space:]]*}
            return 0 ;;
        esac ;;
    esac
  done
  return 1
}
__nemoperf_watch() {
  shopt -s extdebug
  set +eu
  PATH=$NEMOPERF_PROGRAMS
  local kept= text=$BASH_COMMAND lead= is_exec=
  local -a words=()
  local set='^([A-Za-z_][A-Za-z_0-9]*=([^[:space:]"'"'"']*|"[^"]*"|'"'[^']*'"')[[:space:]]+)(.+)$'
  while [[ $text =~ $set && ${BASH_REMATCH[2]} != *['(`']* ]]; do
    lead+=${BASH_REMATCH[1]} text=${BASH_REMATCH[3]}
  done
  case $text in
    'exec '*'>('*) return 1 ;;
    'exec '[!-]*) is_exec=yes text=${text#exec } ;;
    'command '[!-]*) text=${text#command } ;;
  esac
  local first=${text%%[[:space:]]*}
  case $first in '[['* | '(('* | case | for | select | function) return 0 ;; esac
  case $text in
    *'>'*) if __nemoperf_split "$text"; then text=$kept; fi ;;
  esac
  case $first in
    *'$('* | *'`'* | *=*) first= ;;
    */* | '$'* | '"$'*) eval "words=($first)" 2> /dev/null ;;
  esac
  case ${words[0]-} in
    *.sh) eval "$lead\"$NEMOPERF_BASH\" $text" ;;
    */*) eval "$lead\"$NEMOPERF_PROGRAMS/note\" $text" ;;
    *)
      if [ -z "$kept" ]; then return 0; fi
      eval "$lead$kept" ;;
  esac
  if [ -n "$is_exec" ]; then exit 0; fi
  return 1
}
command_not_found_handle() {
  note "$@"
  return 127
}
trap '__nemoperf_watch "$@"' DEBUG
"""
"""Start of each bash while a script is read.

It bounds a file that is written at 64 MiB, keeps the search path, notes programs that are called by a path instead of
starting them, and runs commands without their redirections to files. A command is skipped where its DEBUG trap fails
under extdebug, which set here at once would look for a debugger. A command that failed, or was skipped, does not end
the script.
"""
_STAY: Final = r"""
set -T
trap 'case ${PATH-} in "$NEMOPERF_PROGRAMS":*) ;; *) PATH=$NEMOPERF_PROGRAMS:${PATH-} ;; esac' DEBUG
"""
"""End of the start of each bash while a script really runs: it keeps the wrappers of launchers first in PATH."""
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
echo "$name" >> "$NEMOPERF_PROGRAMS/edited"
out=' '
while IFS= read -r word; do out="$out$word "; done < "$NEMOPERF_PROGRAMS/dropped"
count=$#
dropped=
while [ "$count" -gt 0 ]; do
  word=$1
  shift
  count=$((count - 1))
  case $word in
    --*) dropped=; case $out in *" ${word%%=*} "*) dropped=yes ;; esac ;;
  esac
  [ -n "$dropped" ] || set -- "$@" "$word"
done
while IFS= read -r word; do set -- "$@" "$word"; done < "$NEMOPERF_PROGRAMS/added"
exec "$found" "$@"
"""


def read_script(
    path: Path, *, words: Sequence[str], directory: Path, env: Mapping[str, str], marks: Sequence[str], subject: str
) -> tuple[str, ...]:
    """Return the words with which a script starts its training, the launcher's first; nothing is trained.

    Args:
        path: The script.
        words: Its arguments.
        directory: Directory in which it is run.
        env: Variables on top of this process's.
        marks: Arguments by which a training is known, one of them is enough.
        subject: Beginning of messages.

    Raises:
        RecipeError: If it starts none or several, takes the output of a program that is not run, or does not end in
            time, or there is no bash.
    """
    bash = shutil.which("bash")
    if bash is None:
        raise RecipeError(
            f"{subject} is a shell script, and there is no bash here to read it; give the training's arguments as YAML"
        )
    with tempfile.TemporaryDirectory(prefix="nemoperf-") as folder:
        programs = Path(folder) / "bin"
        notes = Path(folder) / "notes"
        _make_programs(programs)
        start = Path(folder) / "start"
        start.write_text(_WATCH, encoding="utf-8")
        variables = {
            **os.environ,
            **env,
            "PATH": str(programs),
            "BASH_ENV": str(start),
            "NEMOPERF_BASH": bash,
            "NEMOPERF_PROGRAMS": str(programs),
            "NEMOPERF_NOTES": str(notes),
        }
        argv = [bash, str(path.resolve()), *words]
        said = _run(argv, directory=directory, env=variables, subject=subject, folder=Path(folder))
        started = _noted(notes, programs=programs)
    trainings = [each for each in started if any(mark in word for word in each.words for mark in marks)]
    before = started.index(trainings[0]) if trainings else len(started)
    for each in started[:before]:
        if each.is_asked:
            raise RecipeError(
                f"{subject} takes the output of {' '.join(each.words)[:_MAX_SHOWN]}, and {each.words[0]} is not run "
                "while a script is read, so that its arguments can't be told; give the training's own arguments as "
                "YAML or text, or let the script take that value from a variable and give it in env"
            )
    if len(trainings) > 1:
        raise RecipeError(
            f"{subject} starts {len(trainings)} trainings, and a run measures one; give the arguments of one of them "
            "as YAML or text, or let the script's arguments or variables choose it"
        )
    if trainings:
        return trainings[0].words
    seen = ""
    if started:
        seen = f", it started {' and '.join(dict.fromkeys(each.words[0] for each in started))}"
    raise RecipeError(
        f"{subject} came to no command line with {' or '.join(marks)}{seen} and said: "
        f"{said[-_MAX_SHOWN:].strip() or 'nothing'}; give its arguments in framework_options={{'script_args': [...]}} "
        "and its variables in env, or the training's own arguments as YAML or text"
    )


def _make_programs(programs: Path) -> None:
    programs.mkdir()
    texts = dict.fromkeys(_SILENT, _NOTHING) | dict.fromkeys((*_IDLE, *LAUNCHERS, "note"), _NOTE)
    texts |= dict.fromkeys(_WRAPPERS, _GO_ON)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Started:
    """Program that a script started while it was read.

    Attributes:
        words: Its name and arguments.
        is_asked: Its output went to a pipe or a command substitution.
    """

    words: tuple[str, ...]
    is_asked: bool


def _noted(notes: Path, *, programs: Path) -> list[_Started]:
    """Return the noted command lines, except those of programs that print nothing of their own."""
    if not notes.exists():
        return []
    started = []
    words: list[str] = []
    for word in notes.read_bytes().decode(errors="replace").split("\0"):
        if word not in (_STARTED, _ASKED):
            words.append(word)
            continue
        if words[0] == "note":
            del words[0]
        words[0] = words[0].removeprefix(f"{programs}/")  # found by which
        is_asked = word == _ASKED
        if is_asked or words[0] not in _IDLE:
            started.append(_Started(words=tuple(words), is_asked=is_asked))
        words = []
    return started


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
        if name == "time":  # a word of bash
            continue
        functions.append(f'{name}() {{ "$NEMOPERF_PROGRAMS/{name}" "$@"; }}\n')
    (folder / "start").write_text("".join([*functions, _STAY]), encoding="utf-8")
    path = env.get("PATH", os.environ.get("PATH", os.defpath))
    return {
        "NEMOPERF_PROGRAMS": str(folder),
        "NEMOPERF_SCRIPT": training,
        "BASH_ENV": str(folder / "start"),
        "PATH": os.pathsep.join([str(folder), path]),
    }


def was_edited(folder: Path) -> bool:
    """Return whether a script started its training with the other arguments that ``edited_launch`` put in a folder."""
    return (folder / "edited").exists()
