"""Limits of time and memory for what a model's files say should be computed: its chat template is a program."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

LIMIT_S = 5.0
LIMIT_BYTES = 1 << 30
LOOK_AGAIN_S = 0.001
WITHIN, OUT_OF_MEMORY = 0, 3


def overrun(compute: Callable[[], Any], limit_s: float = LIMIT_S, limit_bytes: int = LIMIT_BYTES) -> str:
    """What a call exceeds, tried in a child process that is killed at its limits; "" if nothing.

    What it raises is no overrun: it raises the same when it is called here. A system that cannot fork tries nothing.
    """
    if not hasattr(os, "fork"):
        return ""
    child = os.fork()
    if child == 0:
        _end_with(compute, limit_bytes)
    status = _ended(child, limit_s)
    if status is None:
        return f"more than {limit_s:g} s"
    return f"more than {limit_bytes / 2**30:g} GiB" if os.waitstatus_to_exitcode(status) == OUT_OF_MEMORY else ""


def _ended(child: int, limit_s: float) -> int | None:
    """The exit status of a child, or None if it had to be killed."""
    deadline = time.monotonic() + limit_s
    pause = threading.Event()
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status
        pause.wait(LOOK_AGAIN_S)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def _end_with(compute: Callable[[], Any], limit_bytes: int) -> None:
    """Only in the child: never returns, and leaves what the parent has open alone."""
    import resource

    code = WITHIN
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else None
        if pages is not None:
            _, hard = resource.getrlimit(resource.RLIMIT_AS)
            resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + limit_bytes, hard))
        compute()
    except MemoryError:
        code = OUT_OF_MEMORY
    except BaseException:
        code = WITHIN
    os._exit(code)
