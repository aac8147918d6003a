"""The files a run leaves, and the promises they keep.

One process writes a run at a time (a lock says who). Whatever is on disk is complete: files are replaced atomically,
checkpoints are committed with a manifest, lines are flushed whole. After a kill at any moment the last complete
checkpoint is found, and `rewind` drops the lines and shards written after it, so that a resumed run repeats nothing.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import math
import os
import platform
import re
import shlex
import shutil
import socket
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import IO, Any

from offon.errors import ConfigError, StorageError
from offon.runs import aside, atomic, holes, secrets, tensors, trajectories
from offon.types import Group

LOCK = ".lock"
INPUTS = "inputs"  # what a run was handed in Python: it is there before the run begins
_PACKAGES = ("torch", "transformers", "peft", "safetensors", "datasets", "pyarrow", "duckdb", "numpy")


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _version(package: str) -> str | None:
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version(package)
    return None


def _environment() -> dict[str, Any]:
    versions = {"python": platform.python_version()} | {name: _version(name) for name in _PACKAGES}
    return {
        "offon": _version("offon"),
        "versions": {name: version for name, version in versions.items() if version},
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "threads": int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0))),
    }


def _lines(path: Path) -> list[dict[str, Any]]:
    """JSON lines. A last line that a killed process did not finish is left out."""
    if not path.exists():
        return []
    *whole, torn = path.read_bytes().split(b"\n")
    lines = [_parsed(path, number, line) for number, line in enumerate(whole, start=1)]
    with contextlib.suppress(StorageError):
        lines += [_parsed(path, 0, torn)] if torn else []
    return lines


def _parsed(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        if isinstance(value := json.loads(line), dict):
            return value
        why = f"a {type(value).__name__} in place of an object"
    except ValueError as error:
        why = str(error)
    raise StorageError(
        f"{path.name} is damaged",
        where=f"{path}, line {number}",
        why=why,
        fix=f"put it back from a copy, or go on without the line: sed -i {number}d {shlex.quote(str(path))} and "
        "--resume, which has the hole on record",
        kept="nothing was touched",
    )


def _append_line(file: IO[str], line: Mapping[str, Any]) -> None:
    """The line, whole on disk; where it could not be written the file is closed, and a torn line is mended later."""
    try:
        file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
        file.flush()
    except OSError as error:
        with contextlib.suppress(OSError):
            file.close()
        raise atomic.unwritten(Path(file.name), error) from error


def _keep_lines(path: Path, keep: Callable[[dict[str, Any]], bool]) -> None:
    if path.exists():
        kept = [json.dumps(line, ensure_ascii=False) for line in _lines(path) if keep(line)]
        atomic.write_text(path, "".join(line + "\n" for line in kept))


def _mend(path: Path) -> None:
    """Drop a torn last line, so that the next one does not continue it."""
    if path.stat().st_size and not path.read_bytes().endswith(b"\n"):
        _keep_lines(path, lambda line: True)


def _lock(path: Path, *, keep: bool = False) -> IO[str]:
    """Hold the run's lock for as long as the file is open. The kernel lets go when the process ends, in any way. keep:
    what it says of who held it last."""
    file = (path / LOCK).open("a+", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.seek(0)
        text = file.read()
        file.close()
        raise _locked(path, json.loads(text) if text.startswith("{") else {}) from error
    if keep:
        return file
    file.truncate(0)
    file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": _now()}))
    file.flush()
    return file


def _locked(path: Path, holder: Mapping[str, Any]) -> StorageError:
    pid, host, since = (holder.get(name, "unknown") for name in ("pid", "host", "since"))
    gone = (
        host == socket.gethostname()
        and isinstance(pid, int)
        and not Path(f"/proc/{pid}").exists()
        and Path("/proc").exists()
    )
    why = "two processes writing one run would mix their steps"
    if gone:
        why = f"process {pid} is gone, but a process it started is still alive and holds the lock"
    return StorageError(
        f"a run is running here: pid {pid} on host {host} since {since}",
        where=str(path),
        why=why,
        fix="wait for it to finish or stop it, or choose another run directory",
        kept="the other run is untouched",
    )


def refuse_if_running(path: Path) -> None:
    """Whoever would write where a process writes is told which one, and since when."""
    if (path / LOCK).exists():
        with contextlib.suppress(PermissionError):
            _lock(path, keep=True).close()


def refuse_unless_free(path: Path, continues: bool) -> None:
    """A run starts in an empty directory or continues one of its own; anything else is left alone."""
    if not path.exists():
        return
    if not path.is_dir():
        raise ConfigError(f"{path} is a file", where=str(path), fix="choose another run directory")
    entries = [entry.name for entry in path.iterdir() if entry.name not in (LOCK, INPUTS)]
    is_run = "run.json" in entries
    if not entries or (continues and is_run):
        return
    choices = "another directory for a new run"
    raise ConfigError(
        f"the run directory is not empty ({len(entries)} entries)",
        where=str(path),
        why="it holds an earlier run" if is_run else "it holds something that is not a run (no run.json)",
        fix=f"--resume to continue it, --overwrite to replace it, {choices}" if is_run else choices,
        kept="nothing was touched",
    )


@dataclass(frozen=True)
class Checkpoint:
    """A committed directory of a training state, after `step` optimizer steps of its node."""

    step: int
    path: Path
    problem: str = ""  # why it cannot be trusted; "" when its manifest verifies

    @property
    def complete(self) -> bool:
        return not self.problem


class RunDirectory:
    """runs/NAME: the recipe, what happened, and a directory per node. Create it to write, open it to read."""

    def __init__(self, path: Path, lock: IO[str] | None = None):
        self.path = Path(path)
        self._lock = lock
        self._metrics: IO[str] | None = None
        self._replaces: list[str] = []  # folders beside it that go once there is something in their place
        self.mended: list[str] = []  # what a continued run had half of, and makes anew

    @classmethod
    def create(
        cls,
        path: str | Path,
        *,
        recipe_text: str,
        info: Mapping[str, Any] | None = None,
        resume: bool = False,
        overwrite: bool = False,
    ) -> RunDirectory:
        """Start a run, continue one with `resume`, or replace one with `overwrite`. Holds its lock until `close`.

        `info` joins run.json (name, seed, command); versions and times are added, secrets are taken out.
        """
        run = cls(Path(path))
        try:
            run._take(resume=resume, overwrite=overwrite)
            run._begin(recipe_text, dict(info or {}))
        except BaseException as error:
            run.close()
            if isinstance(error, OSError) and not isinstance(error, StorageError):
                raise StorageError("the run directory cannot be written", where=str(path), why=str(error)) from error
            raise
        return run

    @classmethod
    def open(cls, path: str | Path) -> RunDirectory:
        """A run to read. Needs no lock: whatever is on disk is complete."""
        path = Path(path)
        if not (path / "run.json").exists():
            raise ConfigError(
                f"{path} is not a run directory",
                where=str(path),
                why="it does not exist" if not path.exists() else "it has no run.json",
                fix="give the directory that `offon run` printed, for example runs/NAME",
            )
        return cls(path)

    def _take(self, *, resume: bool, overwrite: bool) -> None:
        """Lock the directory, and leave in it what a run may start from: nothing, or a run without leftovers."""
        if (self.path / LOCK).exists():
            self._lock = _lock(self.path)  # first, so that a living run is "locked" and not "not empty"
        refuse_unless_free(self.path, resume or overwrite)
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = self._lock or _lock(self.path)
        if overwrite:
            replaces = self.info().get("replaces", [])  # of a run that came to nothing, too
            moved = aside.put_aside(self.path, [LOCK], [INPUTS])
            self._replaces = [*replaces, *([moved.name] if moved else [])]
        atomic.recover(self.path)
        self.mended = holes.mended(self.path)
        for lines in self.path.rglob("*.jsonl"):
            _mend(lines)

    def _begin(self, recipe_text: str, info: dict[str, Any]) -> None:
        recipe = secrets.redact_text(recipe_text)
        before = self.info()
        session = {"started": _now(), "command": info.get("command", " ".join(sys.argv)), **_environment()}
        session["device"] = info.pop("device", None)
        self._replaces = self._replaces or before.get("replaces", [])
        if before and self.recipe() != recipe:
            session["recipe"] = "changed"
        info = {
            "name": self.path.name,
            **_environment(),
            "created": session["started"],
            "command": session["command"],
            **before,
            **info,
            "sessions": [*before.get("sessions", []), session],
            "replaces": self._replaces,
        }
        atomic.write_json(self.path / "run.json", secrets.redact(info))
        atomic.write_text(self.path / "recipe.yaml", recipe)
        self.write_status("running")

    def close(self) -> None:
        if self._metrics:
            with contextlib.suppress(OSError):  # every line was flushed, or its error raised
                self._metrics.close()
            self._metrics = None
        if self._lock:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()

    # ---- what it replaces, and what moved between its sessions

    def has_something(self) -> None:
        """There is a checkpoint or a result: what the run replaces may go."""
        if self._replaces:
            aside.let_go(self.path, self._replaces)
            self._replaces = []
            self.write_json("run.json", {**self.info(), "replaces": []})

    def kept_aside(self) -> str:
        places = [str(self.path.with_name(name)) for name in self._replaces]
        return f"the earlier run, in {', '.join(places)}" if places else ""

    def moved_on(self) -> str:
        """What is not what it was in the session before: versions, device, threads. One sentence, or none."""
        *_, before, now = [{}, *self.info().get("sessions", [])]
        if not before:
            return ""
        then, here = ({"offon": one.get("offon"), **one.get("versions", {})} for one in (before, now))
        then, here = ({**one, "device": of.get("device"), "threads": of.get("threads")}
                      for one, of in ((then, before), (here, now)))  # fmt: skip
        moved = [f"{name} {then.get(name)} -> {here[name]}" for name in here if then.get(name) != here[name]]
        return f"not as in the session before: {', '.join(moved)}; numbers may differ in rounding" if moved else ""

    # ---- what the run is and where it stands

    def info(self) -> dict[str, Any]:
        return self.read_json("run.json", {})

    def recipe(self) -> str:
        path = self.path / "recipe.yaml"
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def write_status(
        self,
        state: str,
        *,
        node: str = "",
        step: int = 0,
        steps: int = 0,
        exit_code: int | None = None,
        error: str = "",
        warnings: Sequence[str] = (),
    ) -> None:
        """running | done | interrupted | stopped (by a gate) | failed, and where: `steps` of the node."""
        status = {"state": state, "node": node, "step": step, "steps": steps, "updated": _now()}
        status |= {"exit_code": exit_code, "error": secrets.redact_text(error), "warnings": list(warnings)}
        atomic.write_json(self.path / "status.json", status)

    def status(self) -> dict[str, Any]:
        return self.read_json("status.json", {})

    def write_pipeline(self, pipeline: Mapping[str, Any]) -> None:
        atomic.write_json(self.path / "pipeline.json", secrets.redact(pipeline))

    def pipeline(self) -> dict[str, Any]:
        return self.read_json("pipeline.json", {})

    def write_diagnosis(self, diagnoses: Sequence[Mapping[str, Any]]) -> None:
        atomic.write_json(self.path / "diagnosis.json", list(diagnoses))

    def diagnosis(self) -> list[dict[str, Any]]:
        return self.read_json("diagnosis.json", [])

    def write_json(self, name: str, value: Any) -> None:
        atomic.write_json(self.path / name, value)

    def read_json(self, name: str, default: Any = None) -> Any:
        return atomic.read_json(self.path / name, default)

    # ---- probes and metrics

    def write_probe(self, name: str, groups: Sequence[Group], *, node: str = "") -> Path:
        """Trajectories that measure a model and train nobody. `node` is the stage whose model was sampled."""
        return trajectories.write(self.path / "probes" / f"{name}.parquet", groups, node=node, fate="probe")

    def read_probe(self, name: str) -> list[Group] | None:
        path = self.path / "probes" / f"{name}.parquet"
        return trajectories.read(path) if path.exists() else None

    def log_metrics(self, node: str, step: int, values: Mapping[str, Any]) -> None:
        """One line of metrics.jsonl. JSON has no NaN: a non-finite value is null and its name is in `nonfinite`."""
        numbers = {name: value.item() if hasattr(value, "item") else value for name, value in values.items()}
        nonfinite = [name for name, value in numbers.items() if isinstance(value, float) and not math.isfinite(value)]
        line = {"node": node, "step": step, "time": round(time.time(), 3), **numbers}
        line |= {name: None for name in nonfinite} | ({"nonfinite": nonfinite} if nonfinite else {})
        if self._metrics is None:
            self._metrics = (self.path / "metrics.jsonl").open("a", encoding="utf-8")
        _append_line(self._metrics, line)

    def metrics(self) -> list[dict[str, Any]]:
        return _lines(self.path / "metrics.jsonl")

    def _keep_metrics(self, keep: Callable[[dict[str, Any]], bool]) -> None:
        if self._metrics:
            self._metrics.close()
            self._metrics = None
        _keep_lines(self.path / "metrics.jsonl", keep)

    # ---- nodes

    def node(self, name: str) -> NodeDirectory:
        return NodeDirectory(self, name)

    def nodes(self) -> list[NodeDirectory]:
        """The nodes that have written something."""
        return [self.node(path.name) for path in sorted((self.path / "nodes").glob("*")) if path.is_dir()]


class NodeDirectory:
    """runs/NAME/nodes/NODE: what one node wrote. Directories appear with the first write."""

    def __init__(self, run: RunDirectory, name: str):
        if not re.fullmatch(r"[\w][\w.\-]*", name):
            raise ConfigError(
                f"{name!r} is not a node name", why="use letters, digits, _, - and .; it names a directory"
            )
        self.run, self.name, self.path = run, name, run.path / "nodes" / name

    def write_json(self, name: str, value: Any) -> None:
        atomic.write_json(self.path / name, value)

    def read_json(self, name: str, default: Any = None) -> Any:
        return atomic.read_json(self.path / name, default)

    # ---- the ledger

    def shard(self, index: int) -> Path:
        """Where a buffer's trajectories are, or would be."""
        return self.path / "trajectories" / f"buffer-{index:06d}.parquet"

    def write_buffer(self, index: int, groups: Sequence[Group], *, fate: str | None = None) -> Path:
        """All trajectories of one buffer, members and dropped. Writing an index again replaces it.

        fate: what became of the members, where no learner of this node decides it.
        """
        return trajectories.write(self.shard(index), groups, node=self.name, buffer=index, fate=fate)

    def read_buffer(self, index: int, ids: Sequence[str] | None = None) -> list[Group]:
        """One buffer as it was written, or only the trajectories with these ids, in their groups."""
        return trajectories.read(self.shard(index), ids)

    def buffers(self) -> list[int]:
        return sorted(int(path.stem.split("-")[1]) for path in self.path.glob("trajectories/buffer-*.parquet"))

    def record_consumption(self, step: int, learner: str, ids: Sequence[str]) -> None:
        """Optimizer step `step` of `learner` trained on these trajectories."""
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / "consumption.jsonl").open("a", encoding="utf-8") as file:
            _append_line(file, {"step": step, "learner": learner, "ids": list(ids)})

    def consumption(self) -> list[dict[str, Any]]:
        return _lines(self.path / "consumption.jsonl")

    def log_metrics(self, step: int, values: Mapping[str, Any]) -> None:
        self.run.log_metrics(self.name, step, values)

    def metrics(self) -> list[dict[str, Any]]:
        return [line for line in self.run.metrics() if line["node"] == self.name]

    # ---- checkpoints

    @contextlib.contextmanager
    def checkpoint(self, step: int, *, keep: int | None = 2) -> Iterator[Path]:
        """Fill the yielded directory; it becomes checkpoint-STEP when the block ends, complete or not at all.

        The lines written so far are synced first, so that a checkpoint never survives the metrics before it. A
        non-finite tensor refuses the checkpoint. Older checkpoints beyond `keep` go only after the new one verifies.
        """
        if keep is not None and keep < 1:
            raise ValueError(f"keep={keep}: at least the newest checkpoint stays")
        for path in (self.run.path / "metrics.jsonl", self.path / "consumption.jsonl"):
            if path.exists():
                atomic.sync(path)
        target = self.path / f"checkpoint-{step}"
        with atomic.committed(target, before=tensors.refuse_nonfinite) as directory:
            yield directory
        self.run.has_something()
        if keep is not None:
            self._rotate(step, keep)

    def _rotate(self, newest: int, keep: int) -> None:
        older = [(step, path) for step, path in self._checkpoint_paths() if step < newest]
        kept = 1
        for _, path in older:
            if kept < keep and not atomic.problem(path):
                kept += 1
            else:
                shutil.rmtree(path)

    def _checkpoint_paths(self) -> list[tuple[int, Path]]:
        """(step, path), newest first."""
        matches = [(re.fullmatch(r"checkpoint-(\d+)", path.name), path) for path in self.path.glob("checkpoint-*")]
        return sorted(((int(match[1]), path) for match, path in matches if match), reverse=True)

    def checkpoints(self) -> list[Checkpoint]:
        """All of them, newest first, each verified against its manifest."""
        return [Checkpoint(step, path, atomic.problem(path)) for step, path in self._checkpoint_paths()]

    def latest_checkpoint(self, report: Callable[[str], Any] = warnings.warn) -> Checkpoint | None:
        """The newest checkpoint that verifies; `report` hears of each newer one that does not, and why."""
        for step, path in self._checkpoint_paths():
            if not (damage := atomic.problem(path)):
                return Checkpoint(step, path)
            report(f"{self.name}/{path.name} is ignored: {damage}")
        return None

    @contextlib.contextmanager
    def final(self) -> Iterator[Path]:
        """Fill the yielded directory with the node's result; it becomes NODE/final as a checkpoint does."""
        with atomic.committed(self.path / "final", before=tensors.refuse_nonfinite) as directory:
            yield directory

    @property
    def final_path(self) -> Path | None:
        """NODE/final, or None unless it is there and complete."""
        path = self.path / "final"
        return path if path.is_dir() and not atomic.problem(path) else None

    # ---- going back

    def rewind(self, step: int, buffer: int) -> None:
        """Forget what came after optimizer step `step` and shard `buffer`: a resumed run then repeats no line.

        Call it before the loop with what the checkpoint says; `rewind(0, -1)` starts the node over.
        """
        self.run._keep_metrics(lambda line: line["node"] != self.name or line["step"] <= step)
        _keep_lines(self.path / "consumption.jsonl", lambda line: line["step"] <= step)
        for index in self.buffers():
            if index > buffer:
                self.shard(index).unlink()
        for newer, path in self._checkpoint_paths():
            if newer > step:
                shutil.rmtree(path)

    def set_aside(self) -> Path:
        """Move everything of the node, its metrics too, to where replaced results are kept; that place."""
        target = aside.free(self.run.path / aside.REPLACED / f"{self.name}-{aside.stamp()}")
        lines = [line for line in self.run.metrics() if line["node"] == self.name]
        target.parent.mkdir(exist_ok=True)
        if self.path.exists():
            self.path.rename(target)
        atomic.write_text(target / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
        self.run._keep_metrics(lambda line: line["node"] != self.name)
        return target

    def reset(self) -> None:
        """Forget the node: its inputs changed, and nothing of it is reused."""
        self.run._keep_metrics(lambda line: line["node"] != self.name)
        shutil.rmtree(self.path, ignore_errors=True)
