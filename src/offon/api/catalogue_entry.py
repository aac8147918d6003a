"""A catalogue entry in full: what it takes, what it says of itself, and how a recipe writes it."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from offon.catalogue.registry import MethodInfo


def in_full(info: MethodInfo) -> dict[str, Any]:
    """A catalogue entry with its formula, and every argument with its default and what it accepts."""
    from offon.recipe.values import annotation_of, described

    arguments = [
        {
            "name": name,
            "needed": p.default is p.empty,
            "default": None if p.default is p.empty else p.default,
            "allowed": described(annotation_of(p)),
        }
        for name, p in info.arguments.items()
    ]
    recommends = dict(info.example().recommends) if info.kind == "stage" else {}
    computed = info.computed
    needs = {name: "needed" if needed else "optional" for name, needed in info.inputs.items()}
    full = {
        "inputs": needs,
        "arguments": arguments,
        "recommends": recommends,
        "doc": info.doc,
        "computed": computed and computed._asdict(),
    }
    return {**info.describe(), **full, "example": in_a_recipe(info)}


def in_a_recipe(info: MethodInfo) -> str:
    """The shortest way to write it: its item of `with`, or its node, with what has to be given."""
    needed = {name: p for name, p in info.arguments.items() if p.default is p.empty}
    given = ", ".join(f"{name}: {_stand_in(p.annotation)}" for name, p in needed.items())
    written = f"./{Path(inspect.getfile(info.function)).name}:{info.name}" if info.family == "own" else info.name
    if info.kind == "modifier":
        return f"with: [{written}: {{{given}}}]" if given else f"with: [{written}]"
    keys = [f"method: {written}"]
    reads = info.inputs.get("data", False) or ("data" in info.inputs and not info.inputs.get("task"))
    keys += [f"data: ./{_data_file(info)}"] if reads else []
    keys += ["teacher: ./teacher"] if info.inputs.get("teacher") else []
    keys += [given] if given else []
    keys += ["steps: 100"] if info.kind == "stage" else []
    return f"{info.name}: {{{', '.join(keys)}}}"


def _data_file(info: MethodInfo) -> str:
    """A name that says what its rows are, by the part that reads them."""
    names = {"labelled": "labels", "rankings": "rankings", "labelled_steps": "steps", "preferences": "pairs"}
    read = info.parts["collect"].split(" ")[0]
    return names.get(read, "pairs" if info.interface == "preferences" else "demos") + ".jsonl"


def _stand_in(annotation: Any) -> str:
    """Something of the right kind for an argument that has to be given: a node, several of them, or dots."""
    from typing import get_args

    from offon.catalogue.arguments import names_of
    from offon.recipe.values import described

    if named := names_of(annotation):
        return {"demonstrations": "./demos.jsonl", "pairs": "./pairs.jsonl"}.get(named.what, "$earlier")
    allowed, inner = described(annotation), [*get_args(annotation), annotation][-2 if get_args(annotation) else 0]
    one, another = ("$one", "$another") if names_of(inner) else ("...", "...")
    if allowed == "a mapping":
        return f"{{a: {one}, b: {another}}}"
    return f"[{one}, {another}]" if allowed.startswith("a list") else one
