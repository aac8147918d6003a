"""Files and directories that are either complete or absent, whatever kills the process.

A file is written beside its target, synced, and renamed over it. A directory is filled under a temporary name,
listed in a manifest (size and SHA-256 of every file), synced, and renamed. A reader that finds a directory whose
manifest verifies has exactly what the writer wrote.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from offon.errors import StorageError

MANIFEST = "manifest.json"
TEMPORARY, REPLACED = ".writing", ".replaced"  # suffixes of names that a reader never looks at


def sync(path: Path) -> None:
    """Ask the disk to keep a file's content, or a directory's list of names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def unwritten(path: Path, error: Exception) -> StorageError:
    """What to raise for a file that the disk did not take."""
    return StorageError(
        f"{path.name} could not be written",
        where=str(path),
        why=str(error),
        fix="free some space, then run again with --resume",
        kept="everything written before it",
    )


def write_with(path: Path, write: Callable[[Path], Any]) -> Path:
    """Let `write` fill a temporary file, then rename it to `path`. A failure leaves the old file in place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}{TEMPORARY}")
    try:
        write(temporary)
        sync(temporary)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise unwritten(path, error) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)
    return path


def write_text(path: Path, text: str) -> Path:
    return write_with(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Any) -> Path:
    return write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path, default: Any = None) -> Any:
    """The parsed file, or `default` where there is none."""
    if not path.exists():
        return default
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StorageError(f"{path.name} is not JSON", where=str(path), why=str(error)) from error


def sha256(path: Path) -> str:
    """Of a file's content as the disk gives it back."""
    before = path.stat()
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if time.time_ns() - before.st_mtime_ns > SETTLED_NS:
        _READ[_state(before)] = digest
    return digest


def known_sha256(path: Path) -> str:
    """`sha256`, remembered while size and time of modification stay, under whatever name: a model of many gigabytes is
    read once per process."""
    return _READ.get(_state(path.stat())) or sha256(path)


def _state(stat: os.stat_result) -> tuple[int, ...]:
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns


SETTLED_NS = 50_000_000  # clocks of file systems tick every 10 ms or less: a younger file could change unseen
_READ: dict[tuple[int, ...], str] = {}  # what was read in this process


def files_below(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


def write_manifest(directory: Path) -> None:
    files = {
        path.relative_to(directory).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256(path)}
        for path in files_below(directory)
    }
    (directory / MANIFEST).write_text(json.dumps({"files": files}, indent=1), encoding="utf-8")


def problem(directory: Path, digest: Callable[[Path], str] = known_sha256) -> str:
    """Why a committed directory cannot be trusted, in a few words that name the file; "" if it verifies."""
    manifest = directory / MANIFEST
    if not manifest.is_file():
        return f"{MANIFEST} is missing"
    try:
        files = json.loads(manifest.read_text(encoding="utf-8"))["files"]
        for name, entry in files.items():
            path = directory / name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != entry["bytes"]:
                return f"{name} has {path.stat().st_size} bytes, its manifest says {entry['bytes']}"
            if digest(path) != entry["sha256"]:
                return f"{name} differs from its manifest (SHA-256)"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} is damaged"
    return ""


@contextlib.contextmanager
def committed(target: Path, *, before: Callable[[Path], None] = lambda directory: None) -> Iterator[Path]:
    """Yield a temporary directory; when the block ends without an error it becomes `target`, complete and verified.

    `before` sees the filled directory just before the manifest is written and may refuse it by raising. Any error
    removes the temporary directory and leaves an older `target` as it was; errors of the disk become StorageError.
    """
    from safetensors import SafetensorError  # what a full disk looks like from inside safetensors

    temporary = target.with_name(f".{target.name}{TEMPORARY}")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        before(temporary)
        write_manifest(temporary)
        for path in files_below(temporary):
            sync(path)
        for path in (temporary, *(path for path in temporary.rglob("*") if path.is_dir())):
            sync(path)
        _swap_in(temporary, target)
    except StorageError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise unwritten(target, error) from error
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    if damage := problem(target, sha256):
        raise StorageError(f"{target.name} does not read back as written", where=str(target), why=damage)


def _swap_in(temporary: Path, target: Path) -> None:
    """Rename into place. Directories cannot be exchanged in one call: the old one steps aside first (see `recover`)."""
    replaced = target.with_name(f".{target.name}{REPLACED}")
    if target.exists():
        shutil.rmtree(replaced, ignore_errors=True)
        os.rename(target, replaced)
    os.rename(temporary, target)
    sync(target.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def recover(directory: Path) -> None:
    """Undo what a killed process left below `directory`: half-written names go, a directory that had stepped aside
    for a replacement that never came returns."""
    for replaced in list(directory.rglob(f".*{REPLACED}")):
        target = replaced.with_name(replaced.name[1 : -len(REPLACED)])
        if target.exists():
            shutil.rmtree(replaced)
        else:
            os.rename(replaced, target)
    for leftover in list(directory.rglob(f".*{TEMPORARY}")):
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink(missing_ok=True)
