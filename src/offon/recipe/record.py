"""What a run's recipe.yaml says of the Python objects that it was made from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from offon.errors import ConfigError, OffonError, Problems
from offon.objects import is_object, parts_file
from offon.recipe.yaml_reader import Keys, dotted, parse
from offon.runs.atomic import read_json
from offon.runs.directory import INPUTS


def objects_in(value: Any, position: Keys = ()) -> Iterator[tuple[Keys, str]]:
    """(where, name) of every object that a recipe names."""
    if is_object(value):
        yield position, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            if is_object(key):
                yield (*position, "name"), key
            yield from objects_in(inner, (*position, key))
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for index, inner in enumerate(value):
            yield from objects_in(inner, (*position, index))


def refuse_other_objects(run: Path, recipe: str) -> None:
    """Whoever continues a run made from Python objects gives the same ones again. A node or probe task that the recipe
    no longer has asks for none; objects in new places are new."""
    record = run / "recipe.yaml"
    if not record.is_file():
        return
    now = parse(recipe).data
    try:
        before = parse(record.read_text(encoding="utf-8")).data
    except OffonError:  # damaged: it is written anew, and what nodes were made from is in their hashes
        return
    given = dict(objects_in(now))
    problems: dict[tuple[str, str | None], OffonError] = {}  # an object in several places is told of once
    for position, name in objects_in(before):
        other = given.get(position)
        if other == name or (name, other) in problems or _is_gone(position, now):
            continue
        what = "another object is given than the run was made from" if other else f"{name} is missing"
        problems[name, other] = ConfigError(
            f"{dotted(position)}: {what}",
            where=str(record),
            why=_difference(run / INPUTS, name, other) if other else "the run was made from that Python object",
            fix="give the same object again, or another run directory",
            kept="nothing was touched",
        )
    if problems:
        errors = list(problems.values())
        raise errors[0] if len(errors) == 1 else Problems(errors)


def _is_gone(position: Keys, recipe: Mapping[str, Any]) -> bool:
    """Whether what an object belonged to is not in a recipe any more."""
    if position[0] == "pipeline":
        return position[1] not in recipe["pipeline"]
    probe = recipe.get("probe") or {}
    return position[:2] == ("probe", "tasks") and position[2] not in probe.get("tasks", {})


def _difference(folder: Path, name: str, other: str) -> str:
    """weights 3f2a... then, 91bc... now; the same tokenizer."""
    then, now = (read_json(folder / parts_file(one), {}) for one in (name, other))
    if not then or then.keys() != now.keys():
        return f"{name} then, {other} now"
    differing = [f"{part} {then[part]} then, {now[part]} now" for part in then if then[part] != now[part]]
    same = [part for part in then if then[part] == now[part]]
    return "; ".join(differing) + (f"; the same {' and '.join(same)}" if same else "")
