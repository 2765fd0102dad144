from __future__ import annotations

import time
from pathlib import Path

import pytest

from pytest_nemoperf.launches import Launches


def test_sessions_of_the_same_second_have_folders_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "strftime", lambda _: "20261123-101500")
    sessions = [Launches(tmp_path / "runs") for _ in range(3)]

    folders = [session.case_dir("pretrain-a") for session in sessions]

    names = [folder.relative_to(tmp_path).as_posix() for folder in folders]
    assert names == [f"runs/20261123-101500{end}/pretrain-a" for end in ("", "-2", "-3")]
    assert sessions[0].case_dir("pretrain-b").parent == folders[0].parent


def test_a_session_that_launches_nothing_makes_no_folder(tmp_path: Path) -> None:
    Launches(tmp_path / "runs").close()

    assert not (tmp_path / "runs").exists()
