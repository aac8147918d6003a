"""Standard streams that may go away: a closed descriptor, a reader that left (`| head -1`), a terminal that was closed.

What a run prints is for whoever looks on; its results are files. So a stream that can no longer be written to loses
what is printed, and nothing else: it never ends what prints.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any


class Unbroken:
    """A text stream whose writes never fail. After the first that would have, its descriptor leads nowhere, so that
    libraries and child processes that print to it go on, too."""

    def __init__(self, stream: Any):
        """`stream`: None where the caller closed it, as Python has it."""
        self._stream = open(os.devnull, "w", encoding="utf-8") if stream is None else stream  # noqa: SIM115

    def write(self, text: str) -> int:
        with self._survived():
            self._stream.write(text)
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        with self._survived():
            self._stream.flush()

    def isatty(self) -> bool:
        with contextlib.suppress(OSError, ValueError):
            return self._stream.isatty()
        return False

    @contextlib.contextmanager
    def _survived(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError):  # ValueError: of a stream that was closed in Python
            with contextlib.suppress(OSError, ValueError):
                lead_nowhere(self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def heard_if_possible(report: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], None]:
    """What reports events, such as `print`, without the errors of a console that is gone."""

    def reported(event: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):
            report(event)

    return reported


def lead_nowhere(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, descriptor)
    if nowhere != descriptor:
        os.close(nowhere)


def hold_descriptors() -> None:
    """Open what of 0, 1 and 2 the caller closed: the next file that is opened would get the number, and be written over
    by whatever prints there."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            lead_nowhere(descriptor)


@contextlib.contextmanager
def unbroken_streams() -> Iterator[None]:
    """Within it whatever prints to stdout and stderr goes on when they are gone."""
    hold_descriptors()
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(Unbroken, before)
    try:
        yield
    finally:
        sys.stdout.flush()  # here, where a failure is survived, and not when the interpreter ends
        sys.stderr.flush()
        sys.stdout, sys.stderr = before
