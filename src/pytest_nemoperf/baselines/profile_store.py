"""Profiles stored beside baselines: ``profiles/<case>.json`` in the same folder."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pytest_nemoperf.baselines.atomic import write_atomically
from pytest_nemoperf.errors import RecordError
from pytest_nemoperf.json_codec import is_there, to_json
from pytest_nemoperf.records.profile import Profile
from pytest_nemoperf.schema import read_contract

PROFILES_DIR: Final = "profiles"


def profile_path(baseline_path: Path) -> Path:
    """Return the file of a baseline's profile: ``profiles/<case>.json`` beside it."""
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
    return read_contract(Profile, path, error=RecordError, corrupt_hint=hint)


def write_profile(baseline_path: Path, *, profile: Profile) -> Path:
    """Store a profile beside a baseline, in place of the old one; return its path.

    Raises:
        RecordError: If it can't be written; the old one stays.
    """
    path = profile_path(baseline_path)
    try:
        write_atomically(path, text=to_json(profile))
    except OSError as exc:
        raise RecordError(
            f"{path}: cannot be written: {exc.strerror or exc}; what was stored before is untouched"
        ) from exc
    return path


def delete_profile(baseline_path: Path) -> None:
    """Delete the profile of a deleted baseline, if there is one.

    Raises:
        OSError: If it can't be deleted.
    """
    path = profile_path(baseline_path)
    path.unlink(missing_ok=True)
    if path.parent.is_dir() and not any(path.parent.iterdir()):
        path.parent.rmdir()
