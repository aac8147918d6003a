"""The report's headline in the terminal: what each stage did, one table per stage."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from offon.reporting import metrics, words
from offon.reporting.summary import summarise

REGIME_STYLE = {"on-policy": "blue", "off-policy": "yellow", "mixed": "magenta"}
_DIRECTION_STYLE = {"rose": "green", "fell": "red"}


def show(run_dir: str | Path, console: Console | None = None) -> None:
    """Print a run's warnings and headline."""
    (console or Console()).print(headline(summarise(run_dir)))


def headline(summary: Mapping[str, Any]) -> RenderableType:
    """Warnings, then a table per measured stage, then how to read it."""
    parts: list[RenderableType] = []
    for warning in summary["warnings"]:
        node = f"{warning['node']}: " if warning["node"] else ""
        parts.append(Text(f"! {node}{warning['text']}", style="yellow"))
    measured = [stage for stage in summary["stages"] if stage["results"]]
    for stage in measured:
        parts += [Text(), _title(stage), _table(stage)]
        parts += [Text(line, style="dim") for line in handed_on(stage)]
    chains = [chain for chain in summary["path"].get("chains", []) if len(chain["nodes"]) > 2]
    for chain in chains:
        parts += [Text(), Text(f"path  {' → '.join(chain['nodes'])}", style="bold"), _path(chain)]
    if measured:
        budgets = words.listed(sorted({str(stage["k"]) for stage in measured}))
        parts.append(Text(_legend(budgets), style="dim"))
    else:
        parts.append(Text("No stage has been measured before and after.", style="dim"))
    return Group(*parts)


def _legend(budgets: str) -> str:
    return (
        f"Points of success, with 95% intervals. Within reach: {budgets} rollouts show a success with 95% probability. "
        "Expanded: gained on prompts out of reach before; reshaped: gained or given up on prompts within reach both "
        "times; lost: given up on prompts out of reach now; diffuse: on prompts out of reach both times. They add up "
        "to the change. One interval in twenty misses, and none covers training again with another seed."
    )


def _title(stage: Mapping[str, Any]) -> Text:
    regime = stage["regime"] or ""
    title = Text(stage["name"], style="bold")
    if stage["method"] and stage["method"] != stage["name"]:
        title.append(f"  {stage['method']}", style="not bold")
    title.append(f"  {regime}", style=f"not bold {REGIME_STYLE.get(regime, '')}")
    cost = stage["cost"]
    facts = [f"learns from {stage['interface']}" if stage["interface"] else "", words.duration(cost["seconds"])]
    facts += [f"{words.compact(cost['tokens_trained'])} tokens trained" if cost["tokens_trained"] else ""]
    title.append(f"  {' · '.join(fact for fact in facts if fact)}", style="not bold dim")
    return title


def _table(stage: Mapping[str, Any]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("")
    table.add_column("before → after", justify="right")
    for name in ("change", "expanded", "reshaped", "lost", "diffuse"):
        table.add_column(name, justify="right")
    for row in stage["results"]:
        change, soft = row["success"]["change"], row["soft"]
        terms = (
            soft.get("expansion"),
            soft.get("reshaping"),
            words.negated(soft.get("attrition")),
            soft.get("diffuse"),
        )
        label = escape(row["label"])
        table.add_row(
            f"[bold]{label}[/]" if row["is_total"] else label,
            " → ".join(words.percent(row["success"][when]["estimate"]) for when in ("before", "after")),
            _cell(change, _DIRECTION_STYLE.get(words.direction(change), "")),
            *(_cell(term) for term in terms),
        )
    return table


def handed_on(stage: Mapping[str, Any]) -> list[str]:
    """What a stage hands on besides its tasks' change, a line for each thing that was measured."""
    wholes = [row for row in stage["results"] if row["family"] is None]
    lines = [f"{row['task']}: {line}" for row in wholes for line in metrics.lines(row)]
    if protected := stage["protected"]:
        lost = _share(protected["attrition"])
        lines.append(f"protected {words.listed(protected['tasks'])}: lost {lost} of its success")
    for task, entry in stage["scaffold"].items():
        worth = " → ".join(words.points(entry["dependence"][when]["estimate"]) for when in ("before", "after"))
        own = f"; of the first, {_share(entry['amortisation'])} is now its own" if entry["amortisation"] else ""
        lines.append(f"{task}: the scaffold adds {worth} points{own}")
    for name, entry in stage["portability"].items():
        change = f"{words.points(entry['change']['estimate'])} points ({words.points_range(entry['change'])})"
        share = f", {_share(entry['ratio'])} of the change on {entry['of']}" if entry["ratio"] else ""
        lines.append(f"{name}: {change}{share}")
    if transfer := stage["transfer"]:
        for task, numbers in transfer["tasks"].items():
            parts = [f"answers alike {_share(numbers['answer'])}"]
            parts += [f"next token alike {_share(numbers['agreement'])}"] if numbers["agreement"] else []
            parts += [f"right traces far from its own {_share(numbers['trace'])}"] if numbers["trace"] else []
            lines.append(f"from {transfer['teacher']} on {task}: {', '.join(parts)}")
    return lines


def _share(est: words.Est) -> str:
    """A share with its interval, which may be beyond 0% and 100%."""
    estimate, low, high = (f"{est[end] + 0.0:.0%}".replace("-0%", "0%") for end in ("estimate", "low", "high"))
    return f"{estimate} [{low}, {high}]"


def _path(chain: Mapping[str, Any]) -> Table:
    """What each stage added to the change of the whole chain, and what a point that is still there cost."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("")
    stages = chain["nodes"][1:]
    for name in (*stages, "in all", "a point cost"):
        table.add_column(escape(name), justify="right")
    for task, entry in chain["tasks"].items():
        cost = entry["per_retained_gain"]
        parts = f"{words.duration(cost['seconds']['estimate'])}\n" if cost["seconds"] else "–"
        parts += f"{words.compact(cost['tokens']['estimate'])} tokens" if cost["tokens"] else ""
        table.add_row(
            escape(task), *(_cell(row["d1"]["total"]) for row in entry["rows"]), _cell(entry["total"]), Text(parts)
        )
    return table


def _cell(est: words.Est | None, style: str = "") -> Text:
    """The number over its interval; a plain 0 where there is nothing to tell."""
    if est is None:
        return Text("–", style="dim")
    if words.is_nothing(est):
        return Text("0", style="dim")
    return Text.assemble((words.points(est["estimate"]), style), "\n", (words.points_range(est), "dim"))
