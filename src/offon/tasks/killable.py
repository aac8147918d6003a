"""Calls to code that may hang or crash, in worker processes that can be killed.

A checker may hang in C code (where neither a thread nor an alarm reaches it), crash its interpreter, eat the memory
or raise. Each call therefore runs in a process that leads its own group, under a deadline; a worker that misses it is
killed with its group, the call fails with a reason, and the next call gets a new worker.

Calls travel pickled (we wrote them); results come back as JSON lines, because bytes from a process that has read model
output are never unpickled. A worker dies with its parent: by PR_SET_PDEATHSIG on Linux, and by end of file wherever it
waits for work.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import queue
import signal
import socket
import struct
import subprocess
import sys
import time
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from offon.errors import ConfigError

STARTUP_LIMIT_S = 120.0  # a worker's imports (sympy, a user's module, perhaps torch) on a busy machine
MAX_RESULT_BYTES = 1 << 20


@dataclass(frozen=True)
class Outcome:
    """What one call gave: a JSON value, or, where it gave none, why."""

    value: Any = None
    failure: str = ""


class KillablePool:
    """Up to `workers` processes, each of which builds a checker once and then serves calls to it.

    `factory` is "module:function"; every worker calls `factory(*arguments)` once and serves with the callable it
    returns. `limit_s` bounds each call in wall time, `memory_bytes` the address space of each worker. Workers start
    when first needed.

        pool = KillablePool("offon.tasks.verifiers:math_checker", limit_s=5)
        pool.map([("so it is $\\\\frac{1}{2}$", "0.5")])     # [Outcome(value={"score": 1.0, ...})]
    """

    def __init__(
        self,
        factory: str,
        arguments: tuple = (),
        *,
        workers: int = 2,
        limit_s: float = 5.0,
        memory_bytes: int | None = None,
    ):
        self.limit_s = limit_s
        self._setup = (factory, arguments, memory_bytes)
        self._slots: queue.LifoQueue[_Worker | None] = queue.LifoQueue()  # last in, first out: reuse before starting
        for _ in range(workers):
            self._slots.put(None)
        # Threads that live as long as the pool, because PR_SET_PDEATHSIG fires when the starting *thread* ends.
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="killable")
        self._alive: set[_Worker] = set()
        weakref.finalize(self, _kill_all, self._alive)

    def start(self) -> None:
        """Build one checker now: a ConfigError if that fails."""
        self._threads.submit(self._call, None).result()

    def map(self, calls: Sequence[tuple]) -> list[Outcome]:
        """One outcome per call, in order."""
        futures = [self._threads.submit(self._call, call) for call in calls]
        try:
            return [future.result() for future in futures]
        except BaseException:
            for future in futures:
                future.cancel()
            self.close()  # ends the calls in flight, so that an interrupt does not wait for them
            raise

    def close(self) -> None:
        """Kill every worker; calls in flight fail. The pool may be used again; it then starts new ones."""
        _kill_all(self._alive)

    @property
    def pids(self) -> list[int]:
        """The processes that live now."""
        return sorted(worker.process.pid for worker in self._alive if worker.process.poll() is None)

    def _call(self, call: tuple | None) -> Outcome:
        worker = self._slots.get()
        try:
            if worker is None or worker.process.poll() is not None:
                worker = self._start(instead_of=worker)
            outcome = Outcome() if call is None else worker.exchange(call, self.limit_s)
            if worker.lost:
                self._bury(worker)
                worker = None
            return outcome
        finally:
            self._slots.put(worker)

    def _start(self, instead_of: _Worker | None) -> _Worker:
        if instead_of is not None:
            self._bury(instead_of)
        worker = _Worker()
        self._alive.add(worker)
        built = worker.exchange((os.getpid(), *self._setup), STARTUP_LIMIT_S)
        if built.failure:
            self._bury(worker)
            raise ConfigError(f"the checker does not start: {built.failure}", where=self._setup[0])
        return worker

    def _bury(self, worker: _Worker) -> None:
        worker.kill()
        self._alive.discard(worker)


class _Worker:
    """The parent's end of one worker process. `lost` is set when its process can no longer be trusted to answer."""

    def __init__(self):
        self.socket, theirs = socket.socketpair()
        self.lost = False
        with theirs:
            self.process = subprocess.Popen(
                # -P and the order of PYTHONPATH: the working directory is importable but shadows nothing.
                [sys.executable, "-P", "-c", f"from offon.tasks.worker import serve; serve({theirs.fileno()})"],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=2,  # what a checker prints must not mix with our standard output
                env={**os.environ, "PYTHONPATH": os.pathsep.join([*filter(None, sys.path), os.getcwd()])},
                start_new_session=True,  # one process group to kill; Ctrl-C stays with the parent
            )

    def exchange(self, message: tuple, limit_s: float) -> Outcome:
        """Send one message and wait for its answer, at most `limit_s` for both."""
        deadline = time.monotonic() + limit_s
        payload, received = pickle.dumps(message), bytearray()
        try:
            self.socket.settimeout(limit_s)
            self.socket.sendall(struct.pack("!Q", len(payload)) + payload)
            while not received.endswith(b"\n"):
                self.socket.settimeout(max(1e-3, deadline - time.monotonic()))
                chunk = self.socket.recv(1 << 16)
                received += chunk
                if not chunk:
                    return self._give_up(f"its process died ({self._exit()})")
                if len(received) > MAX_RESULT_BYTES:
                    return self._give_up(f"its result exceeds {MAX_RESULT_BYTES} bytes")
                if time.monotonic() > deadline:
                    raise TimeoutError
        except TimeoutError:
            return self._give_up(f"killed after {limit_s:g} s")
        except OSError as error:
            return self._give_up(f"its process died ({self._exit()}, {error.strerror})")
        return _parsed(received)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):  # nothing of its group is left
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.socket.close()

    def _give_up(self, failure: str) -> Outcome:
        self.lost = True
        return Outcome(failure=failure)

    def _exit(self) -> str:
        try:
            code = self.process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            return "connection closed"
        return f"signal {-code}" if code < 0 else f"exit status {code}"


def _parsed(line: bytes) -> Outcome:
    """A result line. A process that ran model text may have forged it: anything unexpected is a failure."""
    try:
        message = json.loads(line)
        return Outcome(message.get("value"), str(message.get("failure", "")))
    except (ValueError, AttributeError, RecursionError) as error:
        return Outcome(failure=f"unreadable result: {error}")


def _kill_all(workers: set[_Worker]) -> None:
    while workers:
        workers.pop().kill()
