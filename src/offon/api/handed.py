"""From the Python objects in a recipe to their names, with what the names stand for.

    (model, tokenizer)                   wherever a path of a model is taken
    a `datasets` object                  wherever a path of data is taken; rows in a list as `data`, `heldout`, `jsonl`
    a function                           as `method`, `make`, `python`, or as an item of `with`

A model is saved once, with save_pretrained, into a folder that is named by its content; what reads it reads directories
as ever, and the caller's object is not touched. See `offon.objects` for the names.
"""

from __future__ import annotations

import functools
import inspect
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from offon.api import code, content, kinds
from offon.errors import ConfigError, DataError, ModelError
from offon.objects import OBJECT, PythonObject, holding, parts_file
from offon.runs import atomic
from offon.runs.directory import INPUTS, refuse_unless_free

ROWS = ("data", "heldout", "jsonl")  # keys under which a list of rows is data
FUNCTIONS = ("method", "make", "python")
Place = tuple[str | int, ...]


class HandedIn:
    """The objects met in one call, whose names stand for them until it ends. `folder` is where models are saved, and
    beside each what its content consists of; it is made when the first object is met."""

    def __init__(self, folder: Path, ends: ExitStack, before_writing: Callable[[], None] = lambda: None):
        self.folder = folder
        self._before_writing = before_writing
        self.written: list[Path] = []  # by this call
        self._ends = ends
        self._names: dict[tuple[int, ...], tuple[Any, str]] = {}  # one object in two places is hashed and saved once

    def named(self, value: Any, place: Place = ()) -> Any:
        """The value with a name in place of every object in it."""
        if kinds.is_splits(value):
            splits = ", ".join(value)
            raise DataError(f"{_at(place)} holds the splits {splits}", fix=f"one of them: data[{next(iter(value))!r}]")
        if kinds.is_model(value) or kinds.is_tokenizer(value):
            missing = "tokenizer" if kinds.is_model(value) else "model"
            raise ModelError(
                f"{_at(place)} is a {type(value).__name__} without its {missing}", fix="(model, tokenizer)"
            )
        if isinstance(value, list | tuple) and any(map(kinds.is_model, value)):
            return self._name(value, place, self._model)
        if kinds.is_dataset(value) or (place and place[-1] in ROWS and _is_rows(value)):
            return self._name(value, place, self._data)
        if kinds.is_task(value) and not isinstance(value, Mapping):
            return value
        if _takes_function(place) and callable(value):
            return self._name(value, place, self._function)
        if isinstance(value, Mapping):
            return {self._key(key, place): self.named(inner, (*place, key)) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            items = [self.named(inner, (*place, index)) for index, inner in enumerate(value)]
            return tuple(items) if isinstance(value, tuple) else items
        return value

    def _key(self, key: Any, place: Place) -> Any:
        """A modifier is named by the key of its item: {my_modifier: {coef: 0.1}}."""
        return self._name(key, place, self._function) if callable(key) and _takes_function(place) else key

    def _name(self, value: Any, place: Place, describe: Callable[[Any, Place], PythonObject]) -> str:
        key = tuple(map(id, value)) if describe == self._model else (id(value),)
        if key not in self._names:
            self._before_writing()
            described = describe(value, place)
            self._ends.enter_context(holding({described.name: described}))
            self._names[key] = value, described.name  # the value too: its id stays its own
            record = self.folder / parts_file(described.name)
            if not record.exists():
                self.written.append(atomic.write_json(record, dict(described.parts)))
        return self._names[key][1]

    def _model(self, value: Sequence[Any], place: Place) -> PythonObject:
        if len(value) != 2 or not kinds.is_model(value[0]) or not kinds.is_tokenizer(value[1]):
            holds = ", ".join(type(one).__name__ for one in value)
            why = "a model in memory comes with its tokenizer"
            raise ModelError(f"{_at(place)} is a {holds}", why=why, fix="(model, tokenizer)")
        model, tokenizer = value
        if kinds.is_adapted(model):
            fix = "model.merge_and_unload(), or model.save_pretrained(DIR) and the path of DIR"
            why = "an adapter is kept with the path of its base model"
            raise ModelError(f"{_at(place)} is a {type(model).__name__}", why=why, fix=fix)
        if not kinds.is_of_transformers(model):
            raise ModelError(f"{_at(place)} is a {type(model).__name__}", why="it is no model of transformers")
        parts = {
            "weights": content.of_weights(model),
            "tokenizer": content.of_tokenizer(tokenizer),
            "configuration": content.of_configuration(model),
        }
        name = _named(model, parts)
        folder = self.folder / name.removeprefix(OBJECT)
        if atomic.problem(folder):  # not there, or damaged
            self._save(model, tokenizer, folder)
        return PythonObject(name, "model", folder, parts)

    def _save(self, model: Any, tokenizer: Any, folder: Path) -> None:
        from offon.models.loading import quiet

        self.written.append(folder)
        try:
            with atomic.committed(folder) as target, quiet():
                model.save_pretrained(target)
                tokenizer.save_pretrained(target)
        except (ValueError, TypeError, RuntimeError) as error:
            why, fix = (
                str(error).strip().splitlines()[0],
                "mend what it names, or save it yourself and name its directory",
            )
            raise ModelError(f"{type(model).__name__} cannot be saved", why=why, fix=fix) from error

    def _data(self, value: Any, place: Place) -> PythonObject:
        rows = value if hasattr(value, "__len__") else list(value)
        try:
            parts: dict[str, str | int] = {"rows": len(rows), "content": content.of_rows(rows)}
        except DataError as error:
            error.where = _at(place)
            raise
        return PythonObject(_named(value, parts), "data", rows, parts)

    def _function(self, value: Any, place: Place) -> PythonObject:
        if place and place[-1] == "python" and inspect.iscoroutinefunction(value):
            raise ConfigError(f"{_at(place)} is an async function", fix="one that returns the rewards")
        if (not place or place[-1] != "python") and not inspect.isfunction(value):
            what = f"{_at(place)} is a {type(value).__name__}"
            raise ConfigError(what, why="a row is a function, whose name and arguments are read", fix="def my_row(...)")
        try:
            parts = code.parts_of(value)
        except ConfigError as error:
            error.where = _at(place)
            raise
        return PythonObject(_named(value, parts), "function", value, parts)


def _named(value: Any, parts: Mapping[str, Any]) -> str:
    if isinstance(value, functools.partial):
        return _named(value.func, parts)
    word = getattr(value, "__name__", type(value).__name__)
    return f"{OBJECT}{re.sub(r'[^A-Za-z0-9_]', '', word)}-{content.of_values(dict(parts))}"


def _at(place: Place) -> str:
    return ".".join(map(str, place)) or "this"


def _takes_function(place: Place) -> bool:
    """method: f, make: f, {python: f}, with: [f], with: [{f: {...}}]."""
    return bool(place) and (place[-1] in FUNCTIONS or (len(place) > 1 and place[-2] == "with"))


def _is_rows(value: Any) -> bool:
    """Rows in a list, or anything else that gives them one by one."""
    if isinstance(value, list | tuple):
        return bool(value) and all(isinstance(row, Mapping) for row in value)
    return hasattr(value, "__iter__") and not isinstance(value, str | bytes | Path | Mapping)


@contextmanager
def handed_to_a_run(output: Path, *, resume: bool) -> Iterator[HandedIn]:
    """Objects of a run are kept in its folder. What it does not come to read goes again: of a run that was refused
    before it began, or that continues one with other objects."""
    folder = output / INPUTS
    with ExitStack() as ends:
        handed = HandedIn(folder, ends, lambda: refuse_unless_free(output, resume))
        try:
            yield handed
        finally:
            record = output / "recipe.yaml"
            text = record.read_text(encoding="utf-8") if record.is_file() else ""
            _remove(path for path in handed.written if f"{OBJECT}{path.name.removesuffix('.json')}" not in text)
            for empty in (folder, output) if handed.written else ():
                if empty.is_dir() and not any(empty.iterdir()):
                    empty.rmdir()


@contextmanager
def handed_to_a_call() -> Iterator[HandedIn]:
    """Objects of a measurement are kept while it lasts."""
    with tempfile.TemporaryDirectory(prefix="offon-") as folder, ExitStack() as ends:
        yield HandedIn(Path(folder), ends)


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
