from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from pytest_nemoperf.session.signals import OrderlyEnd


@pytest.fixture(autouse=True)
def usual_handlers() -> Iterator[None]:
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGHUP)}
    for signum in before:
        signal.signal(signum, signal.SIG_DFL)
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


def test_the_first_signal_ends_the_session_and_further_ones_leave_its_clean_up_alone() -> None:
    end = OrderlyEnd()
    end.begin()

    with pytest.raises(pytest.exit.Exception, match="SIGTERM") as caught:
        signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGHUP)

    assert (end.exit_code, caught.value.returncode) == (143, None)
    end.close()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_signal_that_somebody_else_handles_stays_theirs() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    end = OrderlyEnd()

    end.begin()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # meanwhile, by a test
    end.close()

    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN


def test_a_fork_of_the_session_is_ended_at_once() -> None:
    end = OrderlyEnd()
    end.begin()

    child = os.fork()
    if child == 0:
        signal.raise_signal(signal.SIGTERM)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    end.close()

    assert os.waitstatus_to_exitcode(status) == -signal.SIGTERM
