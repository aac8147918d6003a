"""One exception tree. Each kind has an exit code; the message says what, where, why and how to mend it."""

from __future__ import annotations

import difflib
from pathlib import Path


class OffonError(Exception):
    """A mistake offon can explain. `str(error)` is the text a user reads, without a traceback.

    error[data]: column 'completion' not found
      where: demos.jsonl (8 rows; columns: answer, question)
      why  : method 'sft' reads messages, or prompt + completion
      fix  : columns: {prompt: question, completion: answer}
    """

    kind = "bug"
    exit_code = 1

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


class Interrupted(OffonError):
    """A signal asked the run to stop; everything finished is on disk."""

    kind, exit_code = "interrupted", 130


class Problems(OffonError):
    """Several errors found at once; each is printed, the exit code is that of the first."""

    def __init__(self, errors: list[OffonError]):
        super().__init__(f"{len(errors)} problems")
        self.errors = errors
        self.exit_code = errors[0].exit_code

    def __str__(self) -> str:
        return "\n".join(str(error) for error in self.errors)


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
