"""Artefacts: what nodes hand to each other. Each is a directory or file with a content hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offon.errors import ConfigError
from offon.objects import held, is_object
from offon.runs.atomic import MANIFEST, files_below, known_sha256
from offon.runs.code import code_hash
from offon.tasks.api import parsed_spec

TESTBED = "testbed:"
DATA = (".jsonl", ".json", ".parquet")


@dataclass(frozen=True)
class Artefact:
    """A model or a data set: where it is, what it is called in tables and pictures, and a hash of its content."""

    path: Path
    label: str
    hash: str

    @property
    def is_model(self) -> bool:
        return (self.path / "config.json").is_file() or (self.path / "adapter_config.json").is_file()


def locate(source: str) -> Path:
    """The path behind a source that is no node: testbed:NAME is one of the models that ship with offon, a model that
    was handed over in Python the directory it was saved into."""
    if source.startswith(TESTBED):
        from offon.testbed import model_path

        return model_path(source.removeprefix(TESTBED))
    return Path(held(source).value) if is_object(source) else Path(source)


def external(source: str) -> Artefact:
    """An artefact the recipe did not make."""
    if is_object(source):  # its name holds its hash already, and data have no path
        model = held(source).kind == "model"
        return Artefact(locate(source) if model else Path(source), label_of(source), digest(source))
    path = locate(source)
    return Artefact(path, label_of(source), content_hash(path) if path.exists() else digest(source))


def label_of(source: str) -> str:
    """What tables and pictures call it: the folder, of what a node of another run made (nodes/NAME/final) the node."""
    path = Path(source)
    name = path.parent.name if path.name == "final" and path.parent.name else path.name
    return source if source.startswith(TESTBED) else name


def content_hash(path: Path) -> str:
    """A hash over the names and bytes of a file, or of every file below a directory."""
    total = hashlib.sha256()
    for file in [path] if path.is_file() else files_below(path):
        total.update(str(file.relative_to(path.parent)).encode())
        total.update(bytes.fromhex(known_sha256(file)))
    return total.hexdigest()[:16]


def described(value: Any) -> str:
    """A setting as it enters a hash: plain values as they are, data given in Python by its rows, a task by its name."""
    if hasattr(value, "verify"):
        return f"{type(value).__qualname__} {value.name}"
    if isinstance(value, Iterable) and not isinstance(value, str | Mapping | tuple):
        rows = hashlib.sha256()
        for row in value:
            rows.update(repr(row).encode())
        return rows.hexdigest()[:16]
    return repr(value)


def task_files(task: Any) -> tuple[str, ...]:
    """Content hashes of the files that a task's description names: an edited file is another task. A function counts by
    what it does."""
    spec = parsed_spec(task) if isinstance(task, str) else task if isinstance(task, Mapping) else {}
    named = [(value, place) for value in spec.values() if (place := _file_in(value)) is not None]
    return tuple(_content(path, value[len(written) + 1 :] or None) for value, (written, path) in named)


def _content(path: Path, function: str | None) -> str:
    return code_hash(path, function) if path.suffix == ".py" else content_hash(path)


def without_places(task: str | Mapping[str, Any]) -> str | dict[str, Any]:
    """A task's description with every file by its name alone; as it is where it names none."""
    spec = parsed_spec(task) if isinstance(task, str) else dict(task)
    named = {key: place for key, value in spec.items() if (place := _file_in(value)) is not None}
    if not named:
        return task
    return spec | {key: path.name + spec[key][len(written) :] for key, (written, path) in named.items()}


def _file_in(value: Any) -> tuple[str, Path] | None:
    """The file that a value names, and how it is written there: all of it, or as far as a function's name."""
    if not isinstance(value, str):
        return None
    written = value.partition(".py:")[0] + ".py" if ".py:" in value else value
    return (written, Path(written)) if Path(written).is_file() else None


def digest(value: Any) -> str:
    """A short hash of plain values: equal values, equal hash."""
    text = json.dumps(value, sort_keys=True, default=repr)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def data_file(artefact: Artefact) -> Path:
    """The one data file of a made data set, or the data itself."""
    if artefact.path.is_file():
        return artefact.path
    data_files = [p for p in sorted(artefact.path.iterdir()) if p.suffix in DATA and p.name != MANIFEST]
    if len(data_files) != 1:
        raise ConfigError(
            f"{artefact.label} holds {len(data_files)} data files, expected one",
            where=str(artefact.path),
            fix="write one .jsonl or .parquet file, or name the file",
        )
    return data_files[0]
