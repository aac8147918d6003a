"""Results laid out for people."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

from offon.cli.output import table

if TYPE_CHECKING:
    from offon.methods.registry import MethodInfo


def in_full(info: MethodInfo) -> dict[str, Any]:
    """A catalogue entry with its formula, and every argument with its default and what it accepts."""
    from offon.recipe.values import annotation_of, described

    arguments = [
        {"name": name, "default": None if p.default is p.empty else p.default, "allowed": described(annotation_of(p))}
        for name, p in info.arguments.items()
    ]
    recommends = dict(info.example().recommends) if info.kind == "stage" else {}
    needs = {name: "needed" if needed else "optional" for name, needed in info.inputs.items()}
    return {**info.describe(), "inputs": needs, "arguments": arguments, "recommends": recommends, "doc": info.doc}


def page(method: dict[str, Any]) -> str:
    lines = [
        "{name}: {family}, {interface}, usually {usual_provenance}, {usual_role}".format(**method),
        *([f"arXiv:{method['paper']}"] if method["paper"] else []),
        "",
        method["doc"],
    ]
    if method["inputs"]:
        lines += ["", "takes " + ", ".join(f"{name} ({need})" for name, need in method["inputs"].items())]
    if method["arguments"]:
        rows = [[a["name"], a["default"], a["allowed"]] for a in method["arguments"]]
        lines += ["", table(("argument", "default", "allowed"), rows)]
    if method["recommends"]:
        lines += ["", "recommends " + ", ".join(f"{name} {value}" for name, value in method["recommends"].items())]
    if method["parts"]:
        lines += ["", "parts", f"  collect  {method['parts']['collect']}"]
        for learner in method["parts"]["learners"]:
            lines += [f"  {learner['name']}   {term}" for term in learner["terms"]]
            lines += [f"  credit   {learner['credit']}"] if learner["credit"] else []
    return "\n".join(lines)


def in_lines(value: Any, depth: int = 0) -> str:
    """A nested plain value as indented lines; a list of like rows as a table."""
    pad = "  " * depth
    if not isinstance(value, dict | list) or not value:
        return pad + ("" if value in (None, [], {}) else str(value))
    if isinstance(value, list) and all(isinstance(row, dict) and row.keys() == value[0].keys() for row in value):
        return textwrap.indent(table(list(value[0]), [list(row.values()) for row in value]), pad)
    lines = []
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value, start=1):
        nested = isinstance(inner, dict | list)
        lines.append(f"{pad}{key}:\n{in_lines(inner, depth + 1)}" if nested else f"{pad}{key}: {in_lines(inner)}")
    return "\n".join(lines)
