"""Calls to code that may hang or crash, in worker processes that can be killed.

A checker may hang in C code (where neither a thread nor an alarm reaches it), crash its interpreter, eat the memory
or raise. Each call therefore runs in a process that leads its own group, under a deadline; a worker that misses it is
killed with its group, the call fails with a reason, and the next call gets a new worker. After HANGS calls in a row
that were killed at the limit the checker is taken to be down: each `map` then tries one call, and the others fail
without being tried until one answers again.

A worker inherits no environment but ENVIRONMENT and what it is given by name, and works in an empty folder of its own.

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
import secrets
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offon.errors import ConfigError
from offon.tasks.sandbox.box import Boxed, How, Limits, start

STARTUP_LIMIT_S = 120.0  # a worker's imports (sympy, a user's module, perhaps torch) on a busy machine
MAX_RESULT_BYTES = 1 << 20
BOX_LIMITS = Limits(cpu_s=3600, memory_bytes=4 << 30, open_files=256)  # a call's own limit is the pool's
HANGS = 16  # calls in a row killed at the limit, after which one call at a time is tried
ENVIRONMENT = (
    *("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "VIRTUAL_ENV", "XDG_CACHE_HOME"),
    *("LD_LIBRARY_PATH", "CUDA_HOME", "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "NVIDIA_VISIBLE_DEVICES"),
    *("HF_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"),
    *("TORCH_HOME", "TRITON_CACHE_DIR", "TOKENIZERS_PARALLELISM", "OMP_NUM_THREADS", "MKL_NUM_THREADS"),
    *("OPENBLAS_NUM_THREADS", "PYTHONHASHSEED", "PYTHONDONTWRITEBYTECODE", "SSL_CERT_FILE", "SSL_CERT_DIR"),
)


@dataclass(frozen=True)
class Outcome:
    """What one call gave: a JSON value, or, where it gave none, why."""

    value: Any = None
    failure: str = ""


class KillablePool:
    """Up to `workers` processes, each of which builds a checker once and then serves calls to it.

    `factory` is "module:function"; every worker calls `factory(*arguments)` once and serves with the callable it
    returns. `limit_s` bounds each call in wall time, `memory_bytes` the address space of each worker. Workers start
    when first needed. `environment` names what they inherit besides ENVIRONMENT.

    With `box` (`offon.tasks.sandbox.box`) workers live in one, and each call in a fork of its own: for checkers that
    give a response to an evaluator. A call can then tamper with its own result, with nothing else.

    killed   calls killed at the limit so far          hangs   how many of them in a row, up to now

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
        environment: Sequence[str] = (),
        box: How | None = None,
    ):
        self.limit_s, self.killed, self.hangs = limit_s, 0, 0
        self._counting = threading.Lock()
        self._environment = {name: os.environ[name] for name in (*ENVIRONMENT, *environment) if name in os.environ}
        self._box = box
        self._setup = (None if box else os.getpid(), factory, arguments, memory_bytes, box is not None)
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
        if self.down and len(calls) > 1:
            [outcome] = self.map(calls[:1])
            return [outcome, *([self._untried()] * (len(calls) - 1) if self.down else self.map(calls[1:]))]
        futures = [self._threads.submit(self._call, call, tried=len(calls) == 1) for call in calls]
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

    @property
    def down(self) -> bool:
        """Whether so many calls in a row were killed at the limit that more are not worth the wait."""
        return self.hangs >= HANGS

    def _untried(self) -> Outcome:
        return Outcome(failure=f"not checked: the last {self.hangs} calls were each killed after {self.limit_s:g} s")

    def _call(self, call: tuple | None, tried: bool = True) -> Outcome:
        if self.down and not tried:
            return self._untried()
        worker = self._slots.get()
        try:
            if worker is None or worker.process.poll() is not None:
                worker = self._start(instead_of=worker)
            outcome = Outcome() if call is None else worker.exchange(call, self.limit_s)
            if call is not None:
                self._count(worker.hung)
            if worker.lost:
                self._bury(worker)
                worker = None
            return outcome
        finally:
            self._slots.put(worker)

    def _count(self, hung: bool) -> None:
        with self._counting:
            self.hangs = self.hangs + 1 if hung else 0
            self.killed += hung

    def _start(self, instead_of: _Worker | None) -> _Worker:
        if instead_of is not None:
            self._bury(instead_of)
        worker = _Worker(self._environment, self._box)
        self._alive.add(worker)
        built = worker.exchange(self._setup, STARTUP_LIMIT_S)
        if built.failure:
            self._bury(worker)
            raise ConfigError(f"the checker does not start: {built.failure}", where=self._setup[1])
        return worker

    def _bury(self, worker: _Worker) -> None:
        worker.kill()
        self._alive.discard(worker)


class _Worker:
    """The parent's end of one worker process. `lost` is set when its process can no longer be trusted to answer, `hung`
    when it was that for missing a deadline."""

    def __init__(self, environment: Mapping[str, str], box: How | None = None):
        self.socket, theirs = socket.socketpair()
        self.lost = self.hung = False
        self.folder = tempfile.TemporaryDirectory(prefix="offon-worker-", ignore_cleanup_errors=True)
        # -P and the order of PYTHONPATH: the working directory is importable but shadows nothing.
        program = [sys.executable, "-P", "-c", f"from offon.tasks.worker import serve; serve({theirs.fileno()})"]
        with theirs:
            self.boxed = self._start_boxed(program, theirs.fileno(), box) if box else None
            self.process = (
                self.boxed.process
                if self.boxed
                else subprocess.Popen(
                    program,
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=2,  # what a checker prints must not mix with our standard output
                    env={**environment, "PYTHONPATH": os.pathsep.join([*filter(None, sys.path), os.getcwd()])},
                    cwd=self.folder.name,
                    start_new_session=True,  # one process group to kill; Ctrl-C stays with the parent
                )
            )

    def _start_boxed(self, program: list[str], descriptor: int, box: How) -> Boxed:
        package = Path(__file__).parents[1]
        return start(
            program,
            how=box,
            limits=BOX_LIMITS,
            extra_visible=[str(package)],
            extra_environment={"PYTHONPATH": str(package.parent)},
            pass_fds=[descriptor],
        )

    def exchange(self, message: tuple, limit_s: float) -> Outcome:
        """Send one message and wait for its answer, at most `limit_s` for both."""
        deadline, token = time.monotonic() + limit_s, secrets.token_hex(8)
        payload, received = pickle.dumps((token, *message)), bytearray()
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
            self.hung = True
            return self._give_up(f"killed after {limit_s:g} s")
        except OSError as error:
            return self._give_up(f"its process died ({self._exit()}, {error.strerror})")
        outcome = _parsed(received, token)
        return outcome or self._give_up("unreadable result")

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):  # nothing of its group is left
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.socket.close()
        self.folder.cleanup()
        if self.boxed:
            self.boxed.kill()

    def _give_up(self, failure: str) -> Outcome:
        self.lost = True
        return Outcome(failure=failure)

    def _exit(self) -> str:
        try:
            code = self.process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            return "connection closed"
        return f"signal {-code}" if code < 0 else f"exit status {code}"


def _parsed(line: bytes, token: str) -> Outcome | None:
    """A result line. A process that ran model text may have forged it: None for anything unexpected, such as a line
    too many of an earlier call, which has another token."""
    try:
        message = json.loads(line)
        if message["token"] != token or not (message.keys() & {"value", "failure"}):
            return None
        return Outcome(message.get("value"), str(message.get("failure", "")))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _kill_all(workers: set[_Worker]) -> None:
    while workers:
        workers.pop().kill()
