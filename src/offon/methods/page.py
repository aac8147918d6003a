"""The catalogue as pages of the documentation, one a family: `python -m offon.methods.page docs/methods`."""

from __future__ import annotations

import inspect
import sys
import textwrap
from itertools import groupby
from pathlib import Path

from offon.methods import registry
from offon.methods.families import FAMILIES, Family
from offon.methods.registry import MethodInfo

HEADER = """\
# Methods

Every method is a row: a short function that returns what is collected, the terms that are minimised, and the credit.
These pages are generated from the rows (`python -m offon.methods.page docs/methods`); `offon methods NAME` prints the
same. Provenance and roles are usual tendencies; what a stage did in a run is measured (`handoff.json`, the report).
"""


def pages() -> dict[str, str]:
    """File name -> Markdown: README.md with the table of all families, and a page for each."""
    families = [
        (FAMILIES[name], list(infos)) for name, infos in groupby(registry.catalogue(), lambda info: info.family)
    ]
    index = "\n\n".join([HEADER.strip(), *(overview(family, infos) for family, infos in families)]) + "\n"
    return {"README.md": index, **{family.page: family_page(family, infos) for family, infos in families}}


def overview(family: Family, infos: list[MethodInfo]) -> str:
    """A family's part of the survey's Table 6."""
    table = ["| method | usual provenance | interface | usual role | paper |", "|---|---|---|---|---|"]
    for info in infos:
        words = (info.usual_provenance, info.interface, info.usual_role, info.reference)
        table.append(f"| [`{info.name}`]({family.page}#{info.name}) | " + " | ".join(words) + " |")
    return "\n\n".join([f"## {family.title}", tendencies(family), "\n".join(table)])


def tendencies(family: Family) -> str:
    return f"Strength: {family.strength}. Handoff risk: {family.handoff_risk}."


def family_page(family: Family, infos: list[MethodInfo]) -> str:
    """One family's methods in full."""
    return "\n\n".join([f"# {family.title}", tendencies(family), *map(section, infos)]) + "\n"


def section(info: MethodInfo) -> str:
    """One method: its page (formula, what to watch, deviations), its arguments and its parts."""
    lines = [f"## {info.name}", ""]
    lines += [
        "A modifier: `with: [" + info.name + "]`." if info.kind == "modifier" else "",
        ", ".join((info.interface, f"usually {info.usual_provenance}", info.usual_role))
        + (f"; {info.reference}" if info.paper else "")
        + ".",
        "",
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


def write(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    written = pages()
    for stale in {path.name for path in directory.glob("*.md")} - set(written):
        (directory / stale).unlink()
    for name, text in written.items():
        (directory / name).write_text(text)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
