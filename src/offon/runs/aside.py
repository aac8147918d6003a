"""What is replaced is put aside, and goes only once there is something in its place.

A run that is overwritten waits beside its folder, as `NAME.replaced-TIME`, until the new one has a checkpoint or a
result. A node that is made anew leaves what it had in `replaced/NODE-TIME` of its run, which stays.
"""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Sequence
from pathlib import Path

from offon.errors import StorageError

REPLACED = "replaced"


def stamp() -> str:
    return datetime.datetime.now().strftime("%Y%m%d-%H%M%S")


def put_aside(run: Path, staying: Sequence[str], shared: Sequence[str]) -> Path | None:
    """Move a run's files into a folder beside it, and return that; None where there are none. staying: names that are
    not moved; shared: names that are copied, because the new run has begun to fill them."""
    entries = [entry for entry in sorted(run.iterdir()) if entry.name not in (*staying, *shared)]
    if not entries:
        return None
    target = free(run.with_name(f"{run.name}.{REPLACED}-{stamp()}"))
    try:
        target.mkdir()
        for entry in entries:
            entry.rename(target / entry.name)
        for name in shared:
            if (run / name).is_dir():
                shutil.copytree(run / name, target / name, dirs_exist_ok=True)
    except OSError as error:
        raise StorageError("the earlier run could not be put aside", where=str(target), why=str(error)) from error
    return target


def free(path: Path) -> Path:
    """The path, or the first of path-2, path-3, ... that nothing has."""
    candidate, number = path, 2
    while candidate.exists():
        candidate, number = path.with_name(f"{path.name}-{number}"), number + 1
    return candidate


def let_go(run: Path, names: Sequence[str]) -> None:
    """Delete what was put aside for a run, beside it. A name that is none of its own is left alone."""
    for name in names:
        if name.startswith(f"{run.name}.{REPLACED}-") and "/" not in name:
            shutil.rmtree(run.with_name(name), ignore_errors=True)
