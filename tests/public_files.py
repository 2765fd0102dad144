"""Files of public repositories that tests use and that are not copied here: found by content, the blob's hash."""

from __future__ import annotations

import hashlib
import os
import subprocess
import urllib.request
from dataclasses import dataclass
from typing import Final

import pytest

MIRRORS_VARIABLE: Final = "NEMOPERF_GIT_MIRRORS"
"""Git directories that are searched before the network, separated as in PATH."""
_TIMEOUT_SEC: Final = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicFile:
    """A file as one commit has it.

    Attributes:
        repo: ``owner/name`` on GitHub.
        commit: Commit that has it.
        path: Path in the repository.
        blob: Hash of its content, as ``git hash-object`` prints it.
    """

    repo: str
    commit: str
    path: str
    blob: str

    def read(self) -> bytes:
        """Return the content; without a mirror or a network that has it, skip the test and say so."""
        reasons = []
        for mirror in filter(None, os.environ.get(MIRRORS_VARIABLE, "").split(os.pathsep)):
            command = ["git", "--git-dir", mirror, "cat-file", "blob", self.blob]
            shown = subprocess.run(command, capture_output=True, check=False)
            if shown.returncode == 0:
                return shown.stdout
            reasons.append(f"{mirror}: {shown.stderr.decode(errors='replace').strip()}")
        url = f"https://raw.githubusercontent.com/{self.repo}/{self.commit}/{self.path}"
        try:
            with urllib.request.urlopen(url, timeout=_TIMEOUT_SEC) as response:
                content: bytes = response.read()
        except OSError as error:
            reasons.append(f"{url}: {error}")
            pytest.skip(
                f"{self.path} of {self.repo} is not to be had ({'; '.join(reasons)}); name git directories that have "
                f"blob {self.blob} in {MIRRORS_VARIABLE}"
            )
        assert blob_hash(content) == self.blob, f"{url} is not the file that this test was written for"
        return content


def blob_hash(content: bytes) -> str:
    """Return the hash by which git names a content."""
    return hashlib.sha1(b"blob %d\0%b" % (len(content), content)).hexdigest()  # noqa: S324 (git's own)
