"""Processes that score while the trainer samples and updates.

A piece of work is a function of the package or of the user, and its arguments; `submit` does not wait, and its future
gives the result. A worker that dies or does not answer in time is killed with all that it started, another one takes
its place, and its piece of work raises `Lost`; no other piece notices. What a function raises, its future raises.

Workers are fresh interpreters, not forks: the trainer has threads, and a worker must not carry its memory or devices.
Each has a thread of the trainer, which waits for it; when the trainer ends, however it does, so do they. The pools of
the standard library and of pebble (5.2) were no choice: in both an idle worker that is killed breaks the whole pool.
"""

import contextlib
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection, Pipe
from typing import Any

from r1jax.base.fields import require
from r1jax.reward.launcher import die_with

BEGIN = "import sys; sys.path[:] = {path!r}; from r1jax.reward.pool import serve; serve({channel}, {trainer})"


class Lost(Exception):
    """A piece of work without a result: its worker died or took too long."""


class Pool:
    """`workers` processes; each piece of work may take `limit` seconds, the start of a worker included.

    with Pool(4, 60.0) as pool:
        futures = [pool.submit(function, argument) for argument in arguments]
        results = [future.result() for future in futures]
    """

    def __init__(self, workers: int, limit: float):
        require(workers > 0, f"a pool of {workers} workers cannot work; it needs at least 1")
        self._limit = limit
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="scorer")
        self._all = [_Worker() for _ in range(workers)]
        self._idle = queue.SimpleQueue()
        for worker in self._all:
            self._idle.put(worker)

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def submit(self, function: Callable, *args: Any) -> Future:
        """Begins with function(*args) as soon as a worker is free. All of it must pickle."""
        return self._threads.submit(self._work, pickle.dumps((function, args)))

    def close(self) -> None:
        """Ends all workers at once, whatever they do; work that is not done is cancelled or lost."""
        for worker in self._all:
            worker.kill(for_good=True)
        self._threads.shutdown(cancel_futures=True)

    def _work(self, piece: bytes) -> Any:
        worker = self._idle.get()
        try:
            returned, value = worker.do(piece, self._limit)
        finally:
            self._idle.put(worker)
        if returned:
            return value
        raise value


class _Worker:
    """One process, started when there is work for it, and again after it was lost. `do` has one thread at a time, and
    another may `kill`."""

    def __init__(self):
        self._lock = threading.Lock()
        self._process: subprocess.Popen | None = None
        self._channel: Connection | None = None
        self._retired = False

    def do(self, piece: bytes, limit: float) -> tuple[bool, Any]:
        """Whether the function returned, and its result or what it raised. Raises Lost."""
        answer = None
        if self._process is None or self._process.poll() is not None:
            self._start()
        with contextlib.suppress(EOFError, OSError):
            self._channel.send_bytes(piece)
            if self._channel.poll(limit):
                answer = self._channel.recv_bytes()
        if answer is None:
            self.kill()
            raise Lost(f"a worker died, or took more than {limit} seconds")
        return pickle.loads(answer)

    def _start(self) -> None:
        self.kill()
        with self._lock:
            if self._retired:
                raise Lost("the pool was closed")
            self._channel, theirs = Pipe()
            begin = BEGIN.format(path=sys.path, channel=theirs.fileno(), trainer=os.getpid())
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-c", begin],
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,  # Ctrl-C is the trainer's
                )

    def kill(self, for_good: bool = False) -> None:
        """Ends the process and all that it started."""
        with self._lock:
            self._retired = self._retired or for_good
            if self._process is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
                self._process = None


def serve(channel: int, trainer: int) -> None:
    """What a worker does: work, until the trainer is gone."""
    die_with(trainer)
    with Connection(channel) as pieces:
        while True:
            try:
                piece = pieces.recv_bytes()
            except EOFError:
                return
            try:
                function, args = pickle.loads(piece)
                answer = pickle.dumps((True, function(*args)))
            except Exception as error:
                answer = _raised(error)
            pieces.send_bytes(answer)


def _raised(error: Exception) -> bytes:
    """An answer with the exception, or with one that says what it said where it does not pickle."""
    error.add_note("".join(traceback.format_exception(error)))  # the trainer sees no other traceback
    try:
        answer = pickle.dumps((False, error))
        pickle.loads(answer)
        return answer
    except Exception:
        return pickle.dumps((False, RuntimeError("".join(traceback.format_exception(error)))))
