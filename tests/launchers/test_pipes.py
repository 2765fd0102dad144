from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator

import pytest

from pytest_nemoperf.process.supervise import Request, is_readable, request_line, request_of

FAR_FD = 1500
"""Beyond the descriptors that select can wait for."""


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Reading end with a high number, and writing end."""
    low, writer = os.pipe()
    reader = fcntl.fcntl(low, fcntl.F_DUPFD, FAR_FD)
    os.close(low)
    yield reader, writer
    os.close(reader)
    os.close(writer)


def test_data_on_a_descriptor_of_any_number_is_noticed(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    os.write(writer, b"x")

    assert reader >= FAR_FD
    assert is_readable(reader, timeout_sec=0)


def test_an_empty_pipe_is_not_readable(pipe: tuple[int, int]) -> None:
    assert not is_readable(pipe[0], timeout_sec=0.01)


@pytest.mark.parametrize("text", ["plain", "prüfung-日本", "bad-\udcff", "pr\udcc3\udcbcfung"])
def test_a_request_keeps_the_bytes_of_every_argument_and_path(text: str) -> None:
    request = Request(action="launch", argv=(text,), env={"NAME": text}, cwd=text)

    received = request_of(request_line(request))

    assert os.fsencode(received.argv[0]) == os.fsencode(text)
    assert os.fsencode(received.env["NAME"]) == os.fsencode(received.cwd) == os.fsencode(text)
