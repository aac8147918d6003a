"""The catalogue as pages of the documentation, one a family: `python -m offon.catalogue.page docs/methods`."""

from __future__ import annotations

import inspect
import sys
from itertools import groupby
from pathlib import Path

from offon.catalogue import registry
from offon.catalogue.families import FAMILIES, Family
from offon.catalogue.registry import MethodInfo

HEADER = """\
# Methods

Every method is a row: a short function that returns what is collected, the terms that are minimised, and the credit.
These pages are generated from the rows (`python -m offon.catalogue.page docs/methods`); `offon methods NAME` prints the
same. Provenance and roles are usual tendencies; what a stage did in a run is measured (`handoff.json`, the report).
"""

WAITING = """\
## What waits, and why

- Cross-tokenizer distillation: comparing two vocabularies is an alignment of texts; every divergence here is between
  distributions over the same ids.
- GRAO (2508.07750), S2R (2502.12853), HiPO (OpenReview rcb20pHmT1): their exact objective or masking was not found,
  and a guess under a paper's name would be worse than none.
- StepHint (2507.02841): what it does to the advantage of hint tokens was not found; `expert_prefix` and `uft` are its
  two readings without that.
- TemplateRL (2505.15692): its library of templates is built by tree search, which is missing; `templates` samples from
  those that are given.
- ReST-MCTS* (2406.03816) needs a search over steps, GiGPO (2505.10978) environments with states that recur.
- TDPO (2404.11999): a preference margin with a full-vocabulary KL of each member inside its link needs scores that are
  sums of divergences.
- VAPO (2504.05118): two GAE horizons of which one depends on length, and a critic trained first; `ppo` has neither.
- RLPR (2506.18254): scores the gold answer after the sampled reasoning, which needs the answer's place in a response.
- GAD (2511.10643): a discriminator beside the policy, trained on teacher against student; `prime` has the mechanism.
- WARP (2406.16768): merges of trained runs in a loop; `merge_slerp`, `merge_linear` and nodes of a recipe make a round.
"""

KINDS = {
    "stage": "`method: {}`",
    "modifier": "A modifier of a node that trains: `with: [{}]`",
    "make": "A node that makes data or weights: `method: {}`",
    "loop": "A chain of nodes: `method: {}`",
}


def pages() -> dict[str, str]:
    """File name -> Markdown: README.md with the table of all families, and a page for each."""
    families = [
        (FAMILIES[name], list(infos)) for name, infos in groupby(registry.catalogue(), lambda info: info.family)
    ]
    tables = [overview(family, infos) for family, infos in families]
    index = "\n\n".join([HEADER.strip(), *tables, WAITING.strip()]) + "\n"
    return {"README.md": index, **{family.page: family_page(family, infos) for family, infos in families}}


def overview(family: Family, infos: list[MethodInfo]) -> str:
    """A family's part of the survey's Table 6."""
    table = ["| method | kind | usual provenance | interface | usual role | paper |", "|---|---|---|---|---|---|"]
    for info in infos:
        words = (info.kind, info.usual_provenance, info.interface, info.usual_role, info.reference)
        table.append(f"| [`{info.name}`]({family.page}#{info.name}) | " + " | ".join(words) + " |")
    return "\n\n".join([f"## {family.title}", tendencies(family), "\n".join(table)])


def tendencies(family: Family) -> str:
    return f"Strength: {family.strength}. Handoff risk: {family.handoff_risk}."


def family_page(family: Family, infos: list[MethodInfo]) -> str:
    """One family's methods in full."""
    return "\n\n".join([f"# {family.title}", tendencies(family), *map(section, infos)]) + "\n"


def section(info: MethodInfo) -> str:
    """One method: its page (formula, what to watch, deviations), its arguments and its parts."""
    lines = [f"## {info.name}", "", KINDS[info.kind].format(info.name), ""]
    lines += [
        ", ".join((info.interface, f"usually {info.usual_provenance}", info.usual_role))
        + (f"; {info.reference}" if info.paper else "")
        + ".",
        "",
        "```text",
        info.doc,
        "```",
        "",
    ]
    if computed := info.computed:
        lines += [computed.sentence, "", "```text", *computed.formulas, "```", ""]
    lines += [f"- `{name}`: {default_of(parameter)}" for name, parameter in info.arguments.items()]
    if info.parts:
        lines += ["", f"Collect: `{info.parts['collect']}`"]
        for learner in info.parts["learners"]:
            lines += [f"- {learner['name']}: " + ", ".join(f"`{term}`" for term in learner["terms"])]
            lines += [f"- credit: `{learner['credit']}`"] if learner["credit"] else []
    return "\n".join(line for i, line in enumerate(lines) if line or i and lines[i - 1])


def default_of(parameter: inspect.Parameter) -> str:
    if parameter.default is parameter.empty:
        return "has to be given"
    return f"default `{'null' if parameter.default is None else parameter.default}`"


def write(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    written = pages()
    for stale in {path.name for path in directory.glob("*.md")} - set(written):
        (directory / stale).unlink()
    for name, text in written.items():
        (directory / name).write_text(text)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
