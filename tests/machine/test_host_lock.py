from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

from pytest_nemoperf.machine.host_lock import HostLock

HOLDER = """
import sys, time
from pathlib import Path
from pytest_nemoperf.machine.host_lock import HostLock
HostLock(Path(sys.argv[1])).acquire(report=print)
print("held", flush=True)
time.sleep(600)
"""


def test_the_second_session_waits_and_says_for_whom(tmp_path: Path) -> None:
    path = tmp_path / "host.lock"
    said: list[str] = []
    first, second = HostLock(path), HostLock(path)
    first.acquire(report=said.append)

    waiting = threading.Thread(target=second.acquire, kwargs={"report": said.append})
    waiting.start()
    while not said:
        waiting.join(timeout=0.05)
    first.release()
    waiting.join(timeout=10)

    assert not waiting.is_alive()
    assert said[0].startswith("waiting for another perf session on this host (pid ")
    second.release()


def test_a_session_that_was_killed_holds_nobody_up(tmp_path: Path) -> None:
    path = tmp_path / "host.lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"

    holder.kill()
    holder.wait()
    holder.stdout.close()

    said: list[str] = []
    lock = HostLock(path)
    lock.acquire(report=said.append)
    lock.release()
    assert said == []


def test_acquiring_twice_and_releasing_twice_do_no_harm(tmp_path: Path) -> None:
    lock = HostLock(tmp_path / "host.lock")

    lock.acquire(report=print)
    lock.acquire(report=print)
    lock.release()
    lock.release()
