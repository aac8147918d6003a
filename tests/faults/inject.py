"""Faults on demand: a full disk at the n-th write to a path, an end at a point in the code, no memory at a step.

Each takes pytest's monkeypatch, so that the fault ends with the test. In another process (`program`), the same: what is
injected there is source text that runs before the command line does.
"""

from __future__ import annotations

import builtins
import errno
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import offon
from tests.support import model

SOURCES = Path(offon.__file__).parents[1]
RECIPE = """
model: ./base
probe: false
pipeline:
  sft: {method: sft, data: ./demos.jsonl, steps: 6, prompts_per_step: 4, save_steps: 2, learning_rate: 1e-3}
"""


def project(folder: Path, recipe: str = RECIPE, rows: int = 16) -> Path:
    """A folder with a tiny model, demonstrations and a recipe; the recipe's path."""
    if not (folder / "base").exists():
        model(0).save(folder / "base")
    demos = [{"prompt": f"w{i % 12}", "completion": f"w{(i + 1) % 12} w{(i + 2) % 12}"} for i in range(rows)]
    (folder / "demos.jsonl").write_text("".join(json.dumps(row) + "\n" for row in demos))
    (folder / "r.yaml").write_text(recipe)
    return folder / "r.yaml"


# ---- in this process


def nth(n: int, fault: Callable[[], Any]) -> Callable[[], None]:
    """A function that does nothing until its n-th call (from 1), and the fault from then on."""
    calls = 0

    def once() -> None:
        nonlocal calls
        calls += 1
        if calls >= n:
            fault()

    return once


def full_disk(path: str = "") -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)


def no_room(monkeypatch, pattern: str, n: int = 1) -> None:
    """ENOSPC at the n-th write to any file whose path matches `pattern` (fnmatch, "*/metrics.jsonl"), and after it.

    A write is a `write` of an open text or binary file, or a file that is synced (which is how tables and tensors, that
    libraries write by themselves, are noticed)."""
    opened, fsync = io.open, os.fsync
    fault = nth(n, full_disk)

    class Full:
        def __init__(self, file: Any):
            self._file = file

        def write(self, data: Any) -> int:
            fault()
            return self._file.write(data)

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: Any) -> None:
            self._file.close()

        def __iter__(self):
            return iter(self._file)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

    def opens(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        stream = opened(file, mode, *arguments, **options)
        written = any(letter in mode for letter in "wax+")
        return Full(stream) if written and isinstance(file, str | Path) and fnmatch(str(file), pattern) else stream

    def syncs(descriptor: int) -> None:
        if fnmatch(os.readlink(f"/proc/self/fd/{descriptor}"), pattern):
            fault()
        fsync(descriptor)

    monkeypatch.setattr(io, "open", opens)
    monkeypatch.setattr(builtins, "open", opens)
    monkeypatch.setattr(os, "fsync", syncs)


def at_call(monkeypatch, owner: Any, name: str, n: int, fault: Callable[[], Any]) -> None:
    """The fault at the n-th call of owner.name, before it does anything."""
    original, strike = getattr(owner, name), nth(n, fault)

    def called(*arguments: Any, **options: Any) -> Any:
        strike()
        return original(*arguments, **options)

    monkeypatch.setattr(owner, name, called)


def raising(error: BaseException) -> Callable[[], None]:
    def fault() -> None:
        raise error

    return fault


def killed(number: int = signal.SIGKILL) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


# ---- in a process of its own


def program(before: str = "") -> list[str]:
    """The words of a command line that is offon's, with source text run first."""
    text = f"import sys\n{before}\nfrom offon.cli.main import main\nsys.exit(main())"
    return [sys.executable, "-c", text] if before else [sys.executable, "-m", "offon.cli.main"]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(SOURCES), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def shell(line: str, folder: Path, timeout: float = 120) -> subprocess.CompletedProcess:
    """A line of bash in which OFFON is the command; its exit code is that of OFFON wherever it stands in a pipe."""
    text = f"set -o pipefail; {line.replace('OFFON', ' '.join(program()))}"
    return subprocess.run(
        ["bash", "-c", text], cwd=folder, env=environment(), capture_output=True, text=True, timeout=timeout
    )


def started(folder: Path, *arguments: str, before: str = "", **options: Any) -> subprocess.Popen:
    return subprocess.Popen(
        [*program(before), *arguments], cwd=folder, env=environment(), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip


def status(run: Path) -> dict[str, Any]:
    return json.loads((run / "status.json").read_text())
