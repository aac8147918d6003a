"""The public API as a page of the documentation, from its docstrings: `python -m offon.api.page docs/api.md`."""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from pathlib import Path
from typing import Any

from offon import api

HEADER = """\
# The Python API

`import offon` gives these functions and what they return; importing it takes a moment, and torch is imported by the
first call that needs it. This page is generated from the docstrings (`python -m offon.api.page docs/api.md`). The
package is typed (`py.typed`).
"""

SOURCES = """\
| in a signature | is |
|---|---|
| `ModelSource` | a folder, a Hub id, `testbed:NAME` (a `str` or `Path`), or `(model, tokenizer)`, a `PreTrainedModel` with its tokenizer |
| `TaskSource` | a task as a recipe writes it (`str` or mapping, data and reward functions as objects too), or an object with `name`, `items(split)` and `verify(pairs)` |
| `RecipeSource` | the path of a recipe, or a mapping; [objects in it](recipe.md#python-objects) |
| `Rows` | an iterable of mappings, one a row |
| `Progress` | a function that is called with each event, a mapping |
"""  # noqa: E501  rows of a table


def page() -> str:
    public = [getattr(api, name) for name in api.__all__ if not name.startswith("__")]
    functions = [one for one in public if inspect.isfunction(one)]
    results = [one for one in public if inspect.isclass(one)]
    results.sort(key=lambda cls: (cls is not api.Result, cls.__name__))
    order = ("run", "diagnose", "compare", "attribute", "report", "methods")
    functions.sort(key=lambda function: order.index(function.__name__))
    parts = [HEADER.strip(), "## Functions", *map(_function, functions), "## Sources", SOURCES.strip()]
    return "\n\n".join([*parts, "## Results", *map(_class, results)]) + "\n"


def _function(function: Any) -> str:
    signature = inspect.signature(function)
    parameters = [_parameter(one) for one in signature.parameters.values()]
    starred = next((i for i, p in enumerate(signature.parameters.values()) if p.kind is p.KEYWORD_ONLY), None)
    if starred is not None:
        parameters.insert(starred, "*")
    lines = [
        f"offon.{function.__name__}(",
        *(f"    {one}," for one in parameters),
        f") -> {signature.return_annotation}",
    ]
    return "\n\n".join([f"### {function.__name__}", "```python\n" + "\n".join(lines) + "\n```", _prose(function)])


def _parameter(parameter: inspect.Parameter) -> str:
    default = parameter.default
    if default is parameter.empty:
        return f"{parameter.name}: {parameter.annotation}"
    shown = default.__name__ if inspect.isroutine(default) else repr(default)
    return f"{parameter.name}: {parameter.annotation} = {shown}"


def _class(cls: Any) -> str:
    fields = [field for field in dataclasses.fields(cls) if not field.name.startswith("_")]
    table = ["| attribute | type |", "|---|---|"]
    table += [f"| `{field.name}` | `{str(field.type).replace('|', '&#124;')}` |" for field in fields]
    return "\n\n".join([f"### {cls.__name__}", _prose(cls), *(["\n".join(table)] if fields else [])])


def _prose(thing: Any) -> str:
    """A docstring's paragraphs; columns of names and meanings keep their form."""
    paragraphs = inspect.cleandoc(thing.__doc__).split("\n\n")
    return "\n\n".join(f"```text\n{one}\n```" if re.search(r"\S {2,}\S", one) else one for one in paragraphs)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), encoding="utf-8")
