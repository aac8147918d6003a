"""Results laid out for people."""

from __future__ import annotations

import textwrap
from typing import Any

from offon.cli.output import table
from offon.cli.progress import brief
from offon.reporting import rests_on

WIDTH = 110  # letters of a line of text
SMALLEST_SHARE = 0.005  # a share that is surely below is not worth a word
CALLS = (
    "solved", "truncated", "format", "fragile", "ranking", "local", "unreachable", "missing", "unsupported", "undecided"
)  # fmt: skip

HOW = {
    "stage": "a stage: a node that trains",
    "modifier": "a modifier: an item of with, on a node that trains",
    "make": "a node that makes data or weights and trains nothing",
    "loop": "a loop: one node in a recipe, which stands for a chain of nodes",
}


def catalogue(methods: list[dict[str, Any]]) -> str:
    """The survey's Table 6: each family with its strength and what it hands on, and its methods."""
    columns = ("name", "kind", "usual_provenance", "interface", "usual_role", "paper")
    heads = [column.replace("_", " ") for column in columns]
    rows = table(heads, [[method[column] for column in columns] for method in methods]).splitlines()
    lines, seen = rows[:2], ""
    for method, row in zip(methods, rows[2:], strict=True):
        if method["family"] != seen:
            seen = method["family"]
            lines += [
                "",
                seen.upper(),
                f"  strength      {method['strength']}",
                f"  handoff risk  {method['handoff_risk']}",
            ]
        lines.append(row)
    return "\n".join(lines)


def page(method: dict[str, Any]) -> str:
    users = method["family"] == "own"
    lines = [
        f"{method['name']}: "
        + ("your own" if users else "{family}, {interface}, usually {usual_provenance}, {usual_role}".format(**method)),
        *([method["reference"]] if method["reference"] else []),
        HOW[method["kind"]],
        "",
        method["doc"],
    ]
    if computed := method["computed"]:
        lines += [
            "",
            *textwrap.wrap(computed["sentence"], WIDTH),
            "",
            *(f"    {line}" for line in computed["formulas"]),
        ]
    if method["inputs"]:
        lines += ["", "takes " + ", ".join(f"{name} ({need})" for name, need in method["inputs"].items())]
    if method["arguments"]:
        rows = [[a["name"], _default(a), a["allowed"]] for a in method["arguments"]]
        lines += ["", table(("argument", "default", "allowed"), rows)]
    if method["recommends"]:
        lines += ["", "recommends " + ", ".join(f"{name} {value}" for name, value in method["recommends"].items())]
    lines += ["", "in a recipe", f"  {method['example']}"]
    if method["parts"]:
        collect = method["parts"]["collect"].replace("\n", "\\n")
        lines += ["", "parts", f"  collect  {collect}"]
        for learner in method["parts"]["learners"]:
            lines += [f"  {learner['name']}   {term}" for term in learner["terms"]]
            lines += [f"  credit   {learner['credit']}"] if learner["credit"] else []
    return "\n".join(lines)


def _default(argument: dict[str, Any]) -> Any:
    return "needed" if argument["needed"] else "null" if argument["default"] is None else argument["default"]


def diagnosis_page(diagnosis: dict[str, Any]) -> str:
    """The diagnosis in one sentence, calls by family, what to try with the sign that it was right, and what it all
    rests on."""
    lines = [_wrapped(diagnosis["sentence"]), "", _calls_by_family(diagnosis)]
    if shares := _shares(diagnosis.get("prevalence") or {}):
        lines += ["", _wrapped(f"share of prompts, undecided ones by how likely each call is: {shares}")]
    for one in diagnosis["suggestions"]:
        if one["methods"]:
            lines += ["", f"{one['prompts']} {_kind(one)}: try {', '.join(one['methods'])}"]
            lines += [_wrapped(one["reason"], "  ")]
            lines += [_wrapped(f"a sign that it was right: {one['signature']}", "  ")]
            lines += [_wrapped(f"speaks against: {one['avoid']}", "  ")]
    return "\n".join([*lines, "", *_rests_on(diagnosis)]).rstrip()


def _kind(one: dict[str, Any]) -> str:
    """A call, and which kind of it where that is known."""
    details = " ".join(filter(None, (one.get("sub"), f"since {one['since']}" if one.get("since") else "")))
    return f"{one['call']} ({details})" if details else one["call"]


def _calls_by_family(diagnosis: dict[str, Any]) -> str:
    calls = [call for call in CALLS if any(row.get(call) for row in diagnosis["summary"])]
    rows = [
        [row["family"] or diagnosis["task"], row["n"], *(row.get(call, 0) for call in calls)]
        for row in diagnosis["summary"]
    ]
    return table(("family", "prompts", *calls), rows)


def _shares(prevalence: dict[str, dict[str, float]]) -> str:
    """ranking 42% [33%, 51%], ...: the estimated share of each call that may occur."""
    return ", ".join(
        f"{call} {est['estimate']:.0%} [{est['low']:.0%}, {est['high']:.0%}]"
        for call, est in prevalence.items()
        if est["high"] >= SMALLEST_SHARE
    )


def _rests_on(diagnosis: dict[str, Any]) -> list[str]:
    """The checker, controls, notes and cost, a line each."""
    notes = sorted(diagnosis["notes"], key=lambda note: not note.startswith(rests_on.CONTROL))
    noted = [note if note.startswith(rests_on.CONTROL) else f"note: {note}" for note in notes]
    return list(
        map(_wrapped, filter(None, [rests_on.checker(diagnosis.get("verifier")), *noted, rests_on.spent(diagnosis)]))
    )


def _wrapped(text: str, indent: str = "") -> str:
    return textwrap.fill(text, WIDTH, initial_indent=indent, subsequent_indent=indent or "  ", break_on_hyphens=False)


def attribution_page(study: dict[str, Any]) -> str:
    """What each stage adds on average over the orders in which they may come, task by task; then success by subset."""
    seeds = f"{study['seeds']} seed{'s' if study['seeds'] > 1 else ''}"
    lines = [f"what each stage contributes to {study['result']}, in points of success (Shapley values; {seeds})", ""]
    tasks = list(study["shapley"])
    rows = [[stage, *(_points(study["shapley"][task][stage]) for task in tasks)] for stage in study["stages"]]
    rows.append(["together", *(_points(study["total"][task]) for task in tasks)])
    lines += [table(("stage", *tasks), rows), ""]
    for index, (one, other, _) in enumerate(next(iter(study["interaction"].values()))):
        by_task = [f"{task} {_points(study['interaction'][task][index][2])}" for task in tasks]
        lines.append(f"{one} and {other} together, beyond what each adds alone: {', '.join(by_task)}")
    subsets = [
        [" + ".join(one["stages"]) or "none", *(f"{one['success'][task]['estimate']:.1%}" for task in tasks)]
        for one in study["subsets"]
    ]
    lines += ["", table(("stages run", *(f"success on {task}" for task in tasks)), subsets)]
    lines += [f"not run: {' + '.join(one['stages']) or 'none'}, because {one['why']}" for one in study["infeasible"]]
    return "\n".join([*lines, "", *(f"note: {note}" for note in study["notes"])])


def _points(est: dict[str, float]) -> str:
    return "{:+.1f} [{:+.1f}, {:+.1f}]".format(*(100 * est[name] for name in ("estimate", "low", "high")))


def plan_page(plan: dict[str, Any]) -> str:
    """What `offon check` found: for each node the arithmetic, the data, and the models held, when and how large."""
    lines = []
    for node in plan["nodes"]:
        known = {key: value for key, value in node.items() if value and key not in ("node", "method", "held")}
        lines += [f"{node['node']}", *(f"  {key.replace('_', ' ')}: {value}" for key, value in known.items())]
        if held := node.get("held"):
            sizes = [(brief(line["parameters"]), f"{brief(line['size_bytes'])}B") for line in held]
            rows = [[h["model"], h["role"], h["when"], *size] for h, size in zip(held, sizes, strict=True)]
            lines.append(textwrap.indent(table(("model", "role", "held", "parameters", "memory"), rows), "  "))
    for probe in plan["probes"]:
        beside = f", {probe['scaffolded']} of the probed also with the scaffold" if probe.get("scaffolded") else ""
        lines.append(f"probe {probe['task']}: {probe['heldout']} held-out prompts{beside}")
    lines += [f"note: {note}" for note in plan["notes"]]
    return "\n".join(lines)
