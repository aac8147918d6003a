"""Runs in forked children that are killed at the n-th time they touch the disk, and what two runs have to agree in.

Everything is imported once, in the parent: a child costs milliseconds, and dies by SIGKILL as of a power switch.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from offon.errors import OffonError
from offon.runs import atomic, directory, ledger, trajectories

LIMIT_S = 300.0
TIMES = ("second", "time", "updated", "started", "created", "sessions", "kept_s")


# ---- dying


def touching(before: Callable[[Callable[[], None]], None]) -> None:
    """Call `before` ahead of everything this process does to the disk. What it is handed does half of it: half a line,
    half a file; nothing where there are no halves."""

    def counted(module: Any, name: str, half: Callable[..., None] = lambda *_, **__: None) -> None:
        original = getattr(module, name)

        def call(*args, **kwargs):
            before(lambda: half(*args, **kwargs))
            return original(*args, **kwargs)

        setattr(module, name, call)

    for name in ("fsync", "replace", "rename", "unlink"):
        counted(os, name)
    counted(shutil, "rmtree", _half_a_folder)
    counted(directory, "_append_line", _half_a_line)


def _half_a_line(file: Any, line: Any) -> None:
    text = json.dumps(line)
    file.write(text[: len(text) // 2])
    file.flush()


def _half_a_folder(path: Any, *_: Any, **__: Any) -> None:
    files = sorted(one for one in Path(path).rglob("*") if one.is_file())
    for file in files[: len(files) // 2]:
        os.remove(file)


def child(work: Callable[[], None], die_at: int | None) -> int:
    """Do the work in a forked child. The number of times it touched the disk; -1 where it was killed at `die_at`."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(reading)
        _as_child(work, die_at, writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        in_time = bool(select.select([answer], [], [], LIMIT_S)[0])  # closed by its death, too
        if not in_time:
            os.kill(pid, signal.SIGKILL)
        said = answer.read()
    _, status = os.waitpid(pid, 0)
    assert in_time, f"still at it after {LIMIT_S:g} s"
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return -1
    if os.WEXITSTATUS(status):
        raise AssertionError(said.decode())
    return int(said)


def _as_child(work: Callable[[], None], die_at: int | None, writing: int) -> None:
    touched = 0

    def before(half: Callable[[], None]) -> None:
        nonlocal touched
        touched += 1
        if touched == die_at:
            half()
            os.kill(os.getpid(), signal.SIGKILL)

    code = 0
    try:
        touching(before)
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115  it lives as long as the process
        work()
        text = str(touched)
    except BaseException as error:
        text, code = str(error) if isinstance(error, OffonError) else traceback.format_exc(), 1
    os.write(writing, text.encode())
    os._exit(code)


# ---- what has to be equal


def state_of(run: Path) -> dict[str, Any]:
    """Everything a run leaves that is not the time it took, by file. A run leaves a result."""
    state = dict(_state(run))
    assert any(name.startswith("nodes/") and "/final/" in name for name in state), f"{run.name} made nothing"
    return state


def _state(run: Path) -> Iterator[tuple[str, Any]]:
    for path in sorted(run.glob("nodes/*/final/**/*")):
        if path.is_file() and path.name != atomic.MANIFEST:
            yield str(path.relative_to(run)), path.read_bytes()
    for name in ("metrics.jsonl", *(str(path.relative_to(run)) for path in run.glob("nodes/*/consumption.jsonl"))):
        path = run / name
        lines = path.read_text().splitlines() if path.exists() else []
        yield name, [_timeless(json.loads(line)) for line in lines]
    for name in ("path.json", "diagnosis.json", *(str(p.relative_to(run)) for p in run.glob("nodes/*/*.json"))):
        if (run / name).exists():
            yield name, _timeless(json.loads((run / name).read_text()))
    for path in sorted(run.glob("probes/*.parquet")):
        yield path.name, repr(trajectories.read(path))
    if list(run.glob("nodes/*/trajectories/*.parquet")):
        rows = ledger.query(run, "select * from trajectories order by node, buffer, id").to_pylist()
        yield "ledger", [_timeless(row) for row in rows]


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(inner) for key, inner in value.items() if not any(word in key for word in TIMES)}
    return [_timeless(inner) for inner in value] if isinstance(value, list) else value


def differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """The names of what differs; NaN equals NaN."""
    names = sorted(one.keys() | other.keys())
    return [name for name in names if repr(one.get(name)) != repr(other.get(name))]
