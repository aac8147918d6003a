"""The catalogue as a page of the documentation: `python -m offon.methods.page > docs/methods.md`."""

from __future__ import annotations

import inspect
import textwrap

from offon.methods import registry
from offon.methods.registry import MethodInfo

HEADER = """\
# Methods

Every method is a row: a short function that returns what is collected, the terms that are minimised, and the credit.
This page is generated from the rows (`python -m offon.methods.page > docs/methods.md`); `offon methods NAME` prints
the same. Roles are usual tendencies; what a stage did in a run is measured (`handoff.json`, the report).
"""


def catalogue() -> str:
    """The whole page as Markdown: the table, then every row and modifier."""
    infos = [registry.get(name) for name in (*registry.names(), *registry.modifiers())]
    table = ["| method | family | interface | usual provenance | usual role | paper |", "|---|---|---|---|---|---|"]
    for info in infos:
        words = (info.family, info.interface, info.usual_provenance, info.usual_role, f"arXiv:{info.paper}")
        table.append(f"| [`{info.name}`](#{info.name}) | " + " | ".join(words) + " |")
    return "\n\n".join([HEADER.strip(), "\n".join(table), *map(section, infos)]) + "\n"


def section(info: MethodInfo) -> str:
    """One method: its page (formula, what to watch, deviations), its arguments and its parts."""
    lines = [f"## {info.name}", ""]
    lines += [
        "A modifier: `with: [" + info.name + "]`." if info.kind == "modifier" else "",
        "```text",
        info.doc,
        "```",
        "",
    ]
    lines += [f"- `{name}`: default `{parameter.default}`" for name, parameter in info.arguments.items()]
    if info.parts:
        lines += ["", f"Collect: `{info.parts['collect']}`"]
        for learner in info.parts["learners"]:
            lines += [f"- {learner['name']}: " + ", ".join(f"`{term}`" for term in learner["terms"])]
            lines += [f"- credit: `{learner['credit']}`"] if learner["credit"] else []
    return "\n".join(line for i, line in enumerate(lines) if line or i and lines[i - 1])


def code_lines(info: MethodInfo) -> int:
    """Lines of a row without its docstring, decorator and blank lines: how long the composition itself is."""
    source = textwrap.dedent(inspect.getsource(info.function))
    body = source[source.index("def ") :].replace(f'"""{info.function.__doc__}"""', "")
    return sum(bool(line.strip()) for line in body.splitlines())


if __name__ == "__main__":
    print(catalogue(), end="")
