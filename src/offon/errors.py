"""One exception tree. Each kind has an exit code; the message says what, where, why and how to mend it."""

from __future__ import annotations

import difflib
import errno
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class OffonError(Exception):
    """A mistake offon can explain. `str(error)` is the text a user reads, without a traceback.

    error[data]: column 'completion' not found
      where: demos.jsonl (8 rows; columns: answer, question)
      why  : method 'sft' reads messages, or prompt + completion
      fix  : columns: {prompt: question, completion: answer}
    """

    kind = "bug"
    exit_code = 1
    rest: Any = None  # of an error in a recipe: the nodes that can be read in spite of it

    def __init__(self, what: str, *, where: str = "", why: str = "", fix: str = "", kept: str = ""):
        super().__init__(what)
        self.what, self.where, self.why, self.fix, self.kept = what, where, why, fix, kept

    def __str__(self) -> str:
        details = (("where", self.where), ("why", self.why), ("fix", self.fix), ("kept", self.kept))
        lines = [f"error[{self.kind}]: {self.what}", *(f"  {name:<5}: {text}" for name, text in details if text)]
        return "\n".join(lines).encode("utf-8", "backslashreplace").decode()  # what is wrong may be that it is no text


class ConfigError(OffonError, ValueError):
    kind, exit_code = "config", 2


class DataError(OffonError, ValueError):
    kind, exit_code = "data", 3


class ModelError(OffonError, ValueError):
    kind, exit_code = "model", 4


class NumericsError(OffonError, ArithmeticError):
    kind, exit_code = "numerics", 5


class StorageError(OffonError, OSError):
    kind, exit_code = "storage", 6


class EngineError(OffonError, RuntimeError):
    kind, exit_code = "engine", 7


class GateClosed(OffonError):
    """A gate's limits are not met and it says to stop; everything finished is on disk."""

    kind, exit_code = "gate", 8


class OutOfMemory(OffonError, MemoryError):
    """The device or the machine has no more memory; everything finished is on disk."""

    kind, exit_code = "memory", 9


class Interrupted(OffonError):
    """A signal asked the run to stop; everything finished is on disk. 128 and the signal's number: 130 for Ctrl-C, 143
    for SIGTERM, 129 for a hang-up."""

    kind, exit_code = "interrupted", 130


class Signalled(KeyboardInterrupt):
    """A signal that stops at once, whatever is being done."""

    def __init__(self, number: int = signal.SIGINT):
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


class Problems(OffonError):
    """Several errors found at once; each is printed, the exit code is that of the first."""

    def __init__(self, errors: list[OffonError]):
        super().__init__(f"{len(errors)} problems")
        self.errors = errors
        self.exit_code = errors[0].exit_code

    def __str__(self) -> str:
        return "\n".join(str(error) for error in self.errors)


NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}
NO_ROOM_WORDS = ("no space left on device", "disk quota exceeded", "file too large", "(os error 28)")
NO_MEMORY_WORDS = (
    *("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory"),
    *("cublas_status_alloc_failed", "unable to allocate"),
)
MEMORY_KINDS = {"OutOfMemoryError", "OutOfMemoryException"}  # of torch and DuckDB, which need not be loaded to ask


def of_the_machine(error: BaseException) -> OffonError | None:
    """What an error of any library means if it is the disk's or the memory's, not a mistake in code; else None."""
    for cause in _chain(error):
        if isinstance(cause, OffonError):
            return None
        text, code = str(cause).strip(), getattr(cause, "errno", None)
        first = text.splitlines()[0][:300] if text else type(cause).__name__
        lower = text.lower()
        if _is_memory(cause, code, lower):
            return OutOfMemory("out of memory", why=first)
        if (isinstance(cause, OSError) and code in NO_ROOM) or any(words in lower for words in NO_ROOM_WORDS):
            return StorageError(
                "the disk takes no more",
                where=str(getattr(cause, "filename", None) or ""),
                why=first,
                fix="free some space, then run again with --resume",
                kept="everything written before it",
            )
    return None


def _is_memory(cause: BaseException, code: int | None, text: str) -> bool:
    if isinstance(cause, MemoryError) or type(cause).__name__ in MEMORY_KINDS or code == errno.ENOMEM:
        return True
    return isinstance(cause, RuntimeError) and any(words in text for words in NO_MEMORY_WORDS)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def nearest_path(path: Path) -> str:
    """Where a misspelt path goes wrong, and the entry there that it may have meant."""
    parts = [path, *path.parents]
    depth = next((i for i, parent in enumerate(parts) if parent.is_dir()), None)
    if not depth:
        return ""
    folder, missing = parts[depth], parts[depth - 1].name
    entries = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    close = difflib.get_close_matches(missing, entries, n=1, cutoff=0.5)
    if close:
        return f"closest: {folder / close[0]}"
    listed = ", ".join(entries[:6]) + (", ..." if len(entries) > 6 else "")
    return f"{folder} holds {listed}" if entries else f"{folder} is empty"
