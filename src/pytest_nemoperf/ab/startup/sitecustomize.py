"""Notes of files of the other side, and of modules from neither side, that a Python process of a comparison uses.

Python imports a module of this name at its start. The folder of this one comes first in the PYTHONPATH of both sides;
it then imports the next module of the name, which may be the user's own. It runs in every Python that a command starts,
of any version: it imports only os and sys, keeps to old syntax, and suppresses its errors. ``ab/opened_files.py`` reads
the notes.
"""

import os
import sys

_VARIABLE = "NEMOPERF_AB_WATCH"
"""Lines: the file for the notes, the folder that is watched, a folder inside it that is not, the side's own tree, and
the side's PYTHONPATH entries, one per line."""
_PATH_AT = {"open": 0, "import": 1, "os.chdir": 0, "ctypes.dlopen": 0, "cpython.run_file": 0}
_INSTALLED = ("/site-packages/", "/dist-packages/")
_CODE = (".py", ".pyc", ".so")
_NOT_UNDER_TEST = ("__main__", "conftest", "setup", "sitecustomize", "test", "tests", "usercustomize")
_STANDARD_LIBRARY = os.path.dirname(os.path.realpath(os.__file__)) + "/"
_MAX_FOLDERS = 10000


class _Watch:
    """Audit hook (https://peps.python.org/pep-0578/) that notes each watched path once."""

    def __init__(self) -> None:
        self._setting = self._file = self._watched = self._unwatched = self._own = ""
        self._own_modules: dict[str, str] = {}  # files by module, until the process has imported it
        self._folders: dict[str, str] = {}
        self._noted: dict[str, str] = {}

    def __call__(self, event: str, args: "tuple[object, ...]") -> None:
        place = _PATH_AT.get(event)
        if place is not None:
            try:  # noqa: SIM105 (contextlib is slow to import)
                self._look(event, args[place])
            except Exception:  # noqa: S110 (it would be raised in the program)
                pass

    def _look(self, event: str, path: object) -> None:
        setting = os.environ.get(_VARIABLE, "")
        if setting != self._setting:
            self._setting = setting
            lines = setting.split("\n")
            if not self._own:
                self._own_modules = _modules_in(lines[4:])
            self._file, self._watched, self._unwatched, self._own = lines[:4]
            for noted, how in list(self._noted.items()):  # a fork for another launch uses its parent's modules
                self._write(how, noted)
        if not setting or not isinstance(path, (str, bytes, os.PathLike)):
            return
        name = os.fsdecode(path)
        if event == "import" or name.endswith(_CODE):
            self._look_at_modules()
        if not os.path.isabs(name):
            name = os.path.join(os.getcwd(), name)
        folder, base = os.path.split(name)
        name = os.path.join(self._without_links(folder), base)
        if name not in self._noted and self._is_watched(name):
            self._noted[name] = event
            self._write(event, name)

    def _look_at_modules(self) -> None:
        """Note modules of the side's entries that this process has imported from elsewhere.

        This runs at each import and each opened module: at the end of the process, which may be killed, is too late.
        """
        for name, own in list(self._own_modules.items()):
            file = getattr(sys.modules.get(name), "__dict__", {}).get("__file__")
            if not isinstance(file, str):
                continue
            self._own_modules.pop(name)
            file = os.path.realpath(file)
            if file != os.path.realpath(own) and not self._is_own(file):
                self._noted[file] = "module " + name
                self._write("module " + name, file)

    def _is_own(self, file: str) -> bool:
        """Return whether a module belongs to the side's tree, or to Python itself."""
        for tree in (self._own + "/", _STANDARD_LIBRARY):
            if file.startswith(tree) and not any(part in file[len(tree) - 1 :] for part in _INSTALLED):
                return True
        return False

    def _without_links(self, folder: str) -> str:
        if folder not in self._folders:
            if len(self._folders) >= _MAX_FOLDERS:
                self._folders.clear()
            self._folders[folder] = os.path.realpath(folder)
        return self._folders[folder]

    def _is_watched(self, name: str) -> bool:
        if not (name + "/").startswith(self._watched + "/") or any(part in name for part in _INSTALLED):
            return False
        return not (self._unwatched and name.startswith(self._unwatched + "/"))

    def _write(self, event: str, name: str) -> None:
        file = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.write(file, os.fsencode(event + "\0" + name + "\0"))
        os.close(file)


def _modules_in(entries: "list[str]") -> "dict[str, str]":
    """Return the files of modules in PYTHONPATH entries and in their folders without __init__.py, by module name."""
    found: dict[str, str] = {}
    for entry in entries:
        for name, path in _files_in(entry):
            if os.path.isdir(path):
                for inner, file in _files_in(path):
                    if not os.path.isdir(file):
                        found.setdefault(name + "." + inner, file)
            elif name not in _NOT_UNDER_TEST:
                found.setdefault(name, path)
    return found


def _files_in(folder: str) -> "list[tuple[str, str]]":
    """Return names that can be imported from a folder, each with its file, or its folder if without __init__.py."""
    try:
        names = sorted(os.listdir(folder))
    except OSError:  # missing, or no permission
        return []
    found = []
    for base in names:
        name = base.partition(".")[0]
        path = os.path.join(folder, base)
        if not name.isidentifier():
            continue
        if os.path.isdir(path):
            package = os.path.join(path, "__init__.py")
            found.append((name, package if os.path.exists(package) else path))
        elif base.endswith((".py", ".so")):
            found.append((name, path))
    return found


def _start_watching() -> None:
    if os.environ.get(_VARIABLE) and hasattr(sys, "addaudithook"):
        watch = _Watch()
        for module in list(sys.modules.values()):
            watch("open", (getattr(module, "__file__", None),))
        sys.addaudithook(watch)


def _import_the_next() -> None:
    here = os.path.dirname(__file__)
    sys.path[:] = [entry for entry in sys.path if entry != here]
    own = sys.modules.pop(__name__)
    try:
        __import__(__name__)
    except ImportError as error:
        if error.name != __name__:
            raise
    finally:
        sys.modules.setdefault(__name__, own)


_start_watching()
_import_the_next()
