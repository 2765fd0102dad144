"""Profiles that lie beside the stored baselines: ``profiles/<case>.json`` in the same folder."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pytest_nemoperf.baseline import write_atomically
from pytest_nemoperf.errors import RecordError
from pytest_nemoperf.jsontext import is_there, to_json
from pytest_nemoperf.profiles import Profile
from pytest_nemoperf.schema import read_contract

PROFILES_DIR: Final = "profiles"


def profile_path(baseline_path: Path) -> Path:
    """Return where the profile is kept that belongs to a baseline: ``profiles/<case>.json`` beside it."""
    return baseline_path.parent / PROFILES_DIR / baseline_path.name


def find_profile(baseline_path: Path) -> Profile | None:
    """Return the profile stored with a baseline, or None if there is none.

    Raises:
        RecordError: If it can't be read or breaks the schema; it names the file.
    """
    path = profile_path(baseline_path)
    if not is_there(path, error=RecordError):
        return None
    hint = "delete it and store a new one"
    return read_contract(Profile, path, name="profile", error=RecordError, corrupt_hint=hint)


def write_profile(baseline_path: Path, *, profile: Profile) -> Path:
    """Store a profile with a baseline, in place of the old one; return its path.

    Raises:
        RecordError: If the folder or the disk does not take it; the old one is still there then.
    """
    path = profile_path(baseline_path)
    try:
        write_atomically(path, text=to_json(profile))
    except OSError as exc:
        raise RecordError(
            f"{path}: cannot be written: {exc.strerror or exc}; what was stored before is untouched"
        ) from exc
    return path


def forget_profile(baseline_path: Path) -> None:
    """Delete the profile of a baseline that is deleted; nothing happens where there is none.

    Raises:
        OSError: If the folder does not let it go.
    """
    path = profile_path(baseline_path)
    path.unlink(missing_ok=True)
    if path.parent.is_dir() and not any(path.parent.iterdir()):
        path.parent.rmdir()
