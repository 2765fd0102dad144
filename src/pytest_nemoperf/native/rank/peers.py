"""Notice among the ranks of a run that one of them has failed: those that wait for it end within seconds.

A rank inside a collective waits for a dead one until the timeout of its group: gloo notices a closed connection, NCCL
does not, and a launcher that would end the others may be missing. Every rank therefore keeps one connection to rank 0,
on which nothing is sent while all is well. The kernel closes it with the process, however that dies, so that no
heartbeat is needed and a rank that is slow, stopped or holds the interpreter's lock is never taken for a dead one. A
thread sleeps in the kernel until the connection has something to say: it takes no time from the steps and touches no
device.
"""

from __future__ import annotations

import os
import secrets
import select
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from torch.distributed import Store  # type: ignore[attr-defined]  # documented, not in __all__

from pytest_nemoperf.errors import RecordError
from pytest_nemoperf.json_codec import from_json, read_data, to_json_line
from pytest_nemoperf.records.step import RankError, error_file

_KEY = "nemoperf/peers"
_WELCOME = b"welcome"
_DONE = b"done"
_SETTLE_SEC = 1.0
"""Time in which a rank that waits for a failed one may still end by itself, with an error that says more."""
_CONNECT_LIMIT_SEC = 10.0
_MAX_LINE = 1 << 16
_MAX_MESSAGE = 2000
"""Characters of an error that the other ranks are told; the error file has all of them."""
_KEEPALIVE_SEC = (20, 10, 3)
"""First probe of an idle connection, between probes (seconds), and their number: notice of a host that is gone."""
_UNNOTICED = "waits until the time limit of the run"
_ERROR_POLL_SEC = 0.5
_ERROR_AGE_SEC = 10.0
"""Age of an error file at the start of this rank up to which it is of this run: ranks don't start at the same time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerFailure:
    """Failure of another rank.

    Attributes:
        rank: Rank that failed.
        message: Its error; empty if it ended without one, as a killed process does.
    """

    rank: int
    message: str = ""

    def __str__(self) -> str:
        if self.message:
            return f"rank {self.rank} failed: {self.message}"
        return f"rank {self.rank} ended without an error of its own (killed? out of memory? the kernel's log tells)"


class Peers:
    """This rank's part in the notice of failures, from its start to its end.

    Before the ranks have joined, they learn of each other's failures by the error files in the run directory; then by
    their connections to rank 0.

    Args:
        rank: This rank.
        world_size: Ranks of the run.
        run_dir: Directory of the ranks' error files.
    """

    def __init__(self, *, rank: int, world_size: int, run_dir: Path) -> None:
        self._rank = rank
        self._world_size = world_size
        self._run_dir = run_dir
        self._started = time.time()
        self._lock = threading.Lock()
        self._connections: dict[int, socket.socket] = {}
        self._failure: PeerFailure | None = None
        self._is_noticed = threading.Event()
        self._is_ended = threading.Event()
        self._has_joined = threading.Event()
        if world_size > 1:
            with suppress(OSError):  # of an earlier run in the same directory
                (run_dir / error_file(rank)).unlink(missing_ok=True)
            _start(self._watch_error_files)

    def join(self, store: Store, *, address: str) -> None:
        """Connect this rank with rank 0; all ranks must call it, before they join a group.

        Where no connection can be made the run goes on without it, and says so in the log.

        Args:
            store: Store of the rendezvous.
            address: Address of the store, which is that of rank 0's host.
        """
        if self._world_size == 1:
            return
        if self._rank == 0:
            self._open(store)
        else:
            self._connect(store, address=address)

    def joined(self) -> None:
        """Note that all ranks are connected: errors reach this one without their files."""
        self._has_joined.set()

    def fail(self, message: str) -> None:
        """Tell the others that this rank has failed; its error file must be there already."""
        self._is_ended.set()
        self._has_joined.set()
        self._tell_all(PeerFailure(rank=self._rank, message=message[:_MAX_MESSAGE]))

    def done(self) -> None:
        """Tell the others that this rank has done its part; from now on it waits for none of them."""
        self._is_ended.set()
        with self._lock:
            for connection in self._connections.values():
                _send(connection, _DONE + b"\n")

    def lost(self) -> PeerFailure | None:
        """Return the rank that ended without an error of its own before this rank's error; None if there is none.

        An error that follows from a lost connection may be a moment ahead of the notice, which is waited for.
        """
        if not self._connections:
            return None
        self._is_noticed.wait(_SETTLE_SEC / 2)
        if self._failure is None or self._failure.message:
            return None
        return self._failure

    def _open(self, store: Store) -> None:
        """Take connections of the other ranks from now on, as rank 0, and tell them of its port."""
        token = secrets.token_hex(16)
        try:
            listener = _listener()
        except OSError as error:
            _log(f"rank 0 can't listen for the other ranks ({error}): a rank that waits for a failed one {_UNNOTICED}")
            store.set(_KEY, f"0 {token}")  # which takes no connection: the others must not wait for the key
            return
        _close_in_forks(listener)
        store.set(_KEY, f"{listener.getsockname()[1]} {token}")
        _start(self._serve, listener, token)

    def _connect(self, store: Store, *, address: str) -> None:
        """Connect with rank 0, as another rank."""
        port, token = store.get(_KEY).decode().split()
        try:
            connection = socket.create_connection((address, int(port)), timeout=_CONNECT_LIMIT_SEC)
            connection.settimeout(None)
            _keep_alive(connection)
            connection.sendall(f"{token} {self._rank}\n".encode())
        except OSError as error:
            self._log_unconnected(f"at {address} port {port} ({error})")
            return
        _close_in_forks(connection)
        self._connections[0] = connection
        _start(self._listen, connection)

    def _log_unconnected(self, detail: str) -> None:
        _log(f"rank {self._rank} has no connection to rank 0 {detail}: if it waits for a failed rank, it {_UNNOTICED}")

    def _tell_all(self, failure: PeerFailure) -> None:
        with self._lock:
            for rank, connection in self._connections.items():
                if rank != failure.rank:
                    _send(connection, to_json_line(failure).encode())

    def _notice(self, failure: PeerFailure) -> None:
        """End this process because another rank failed, unless it ends by itself."""
        self._failure = failure
        self._is_noticed.set()
        if self._is_ended.wait(_SETTLE_SEC):
            return
        _log(
            f"rank {self._rank} ends, since it would wait for {failure.rank}: {failure}; "
            f"the errors of all ranks are in {self._run_dir}"
        )
        # Not by an exception: the main thread is inside a collective, and no handler of Python's runs there. No error
        # file either: the earliest one is the cause of a failure, and this is none.
        os._exit(1)

    def _watch_error_files(self) -> None:
        """Notice errors of other ranks until this one has joined them."""
        paths = {rank: self._run_dir / error_file(rank) for rank in range(self._world_size) if rank != self._rank}
        while not self._has_joined.wait(_ERROR_POLL_SEC):
            for rank, path in paths.items():
                if path.exists() and path.stat().st_mtime > self._started - _ERROR_AGE_SEC:
                    self._notice(PeerFailure(rank=rank, message=_message(path)))
                    return

    def _listen(self, connection: socket.socket) -> None:
        """Wait for a line of rank 0, or for its end."""
        lines = _Lines(connection)
        is_welcome = False
        while True:
            for line in lines.receive():
                if not is_welcome and line != _WELCOME:  # a proxy accepts connections that lead nowhere
                    self._log_unconnected("(the connection ended before it answered)")
                    return
                is_welcome = True
                if line == _DONE:
                    return
                if line is None:
                    self._notice(PeerFailure(rank=0))
                    return
                if line != _WELCOME:
                    self._notice(from_json(PeerFailure, line, subject=_KEY))
                    return

    def _serve(self, listener: socket.socket, token: str) -> None:
        """Take the connections of the other ranks and pass the first failure on."""
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        clients: dict[int, _Client] = {}
        while True:
            for number, _ in poll.poll():
                if number != listener.fileno():
                    if not self._is_awaited(clients[number], token=token):
                        poll.unregister(number)
                    continue
                try:
                    connection, _ = listener.accept()
                    _keep_alive(connection)
                except OSError as error:  # of files, above all: an open one for each rank may be more than allowed
                    _log(f"rank 0 takes no more connections ({error}): a rank that waits for a failed one {_UNNOTICED}")
                    poll.unregister(listener)
                    continue
                _close_in_forks(connection)
                clients[connection.fileno()] = _Client(lines=_Lines(connection))
                poll.register(connection, select.POLLIN)

    def _is_awaited(self, client: _Client, *, token: str) -> bool:
        """Read the lines that have arrived from a client; return False once no more are awaited."""
        for line in client.lines.receive():
            if client.rank is None:
                given, _, rank = (line or b"").partition(b" ")
                if not secrets.compare_digest(given, token.encode()):
                    return False  # no rank of this run
                client.rank = int(rank)
                with self._lock:
                    self._connections[client.rank] = client.lines.connection
                    _send(client.lines.connection, _WELCOME + b"\n")
            elif line == _DONE:
                return False
            else:
                failure = PeerFailure(rank=client.rank)
                if line is not None:
                    failure = from_json(PeerFailure, line, subject=_KEY)
                self._tell_all(failure)
                self._notice(failure)
                return False
        return True


class _Lines:
    """Lines that arrive on a connection.

    Args:
        connection: Connection that they arrive on; it blocks.
    """

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._rest = b""

    def receive(self) -> list[bytes | None]:
        """Wait for bytes; return the lines that end in them, without their ends, and None last if no more can come."""
        try:
            chunk = self.connection.recv(_MAX_LINE)
        except OSError:  # reset, or the host is gone
            chunk = b""
        *ended, self._rest = (self._rest + chunk).split(b"\n")
        lines: list[bytes | None] = [*ended]
        if not chunk or len(self._rest) > _MAX_LINE:
            lines.append(None)
        return lines


@dataclass(slots=True, kw_only=True)
class _Client:
    """Connection to rank 0.

    Attributes:
        lines: Its lines.
        rank: Rank that it belongs to; None until its first line has shown that it is one of the run.
    """

    lines: _Lines
    rank: int | None = None


def _listener() -> socket.socket:
    """Return a socket that listens on all addresses of this host, of both families if possible."""
    if socket.has_dualstack_ipv6():
        with suppress(OSError):
            return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
    return socket.create_server(("", 0), backlog=1024)


def _keep_alive(connection: socket.socket) -> None:
    idle_sec, interval_sec, count = _KEEPALIVE_SEC
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, idle_sec)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, interval_sec)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, count)


def _close_in_forks(connection: socket.socket) -> None:
    """Have forks of this process close a connection: one of theirs that lives on would hide this process's end."""
    os.register_at_fork(after_in_child=connection.close)


def _send(connection: socket.socket, line: bytes) -> None:
    with suppress(OSError):  # the other rank has ended
        connection.sendall(line)


def _start(target: Callable[..., None], *args: object) -> None:
    threading.Thread(target=target, args=args, daemon=True).start()


def _message(path: Path) -> str:
    try:
        return read_data(RankError, path).message
    except RecordError:  # torn
        return f"see {path}"


def _log(text: str) -> None:
    sys.stdout.flush()
    sys.stderr.write(f"nemoperf: {text}\n")
    sys.stderr.flush()
