"""The report: one HTML file that needs no server, no network and no script.

Model text is untrusted: templates escape everything, the page forbids loading anything, and the only script element
holds JSON.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from offon.report import figures, words
from offon.report.samples import samples
from offon.report.summary import SOURCES, summarise
from offon.runs import RunDirectory, atomic

HERE = Path(__file__).parent
FAMILIES_IN_HEADLINE = 8
PROMPTS_IN_TABLE = 12
SOURCE_WORDS = {
    "external": "from a data set",
    "teacher": "from a teacher",
    "learner": "from the model itself",
    "environment": "from the environment",
}
CLASS_WORDS = {
    "solved": "solved",
    "format": "wrong format",
    "fragile": "only with help",
    "ranking": "within reach",
    "local": "blocked at a step",
    "unreachable": "route not taken",
    "missing": "skill missing",
    "unsupported": "not reached",
    "undecided": "undecided",
}
CALL_NAMES = {"gained": "gained", "kept": "kept", "lost": "lost", "never": "out of reach", "undecided": "undecided"}
CALL_WORDS = {
    "gained": "gained: out of reach, now within",
    "kept": "within reach both times",
    "lost": "lost: within reach, now out",
    "never": "out of reach both times",
    "undecided": "undecided",
}


def write(run_dir: str | Path, out: str | Path | None = None) -> Path:
    """Write the report of a run, finished or not, to RUN/report.html or to `out`."""
    run = RunDirectory.open(run_dir)
    target = Path(out) if out else run.path / "report.html"
    return atomic.write_text(target, render(run))


def render(run: RunDirectory) -> str:
    summary = summarise(run.path)
    stages = [_stage(run, stage) for stage in summary["stages"]]
    chosen = samples(run, [stage["name"] for stage in stages])
    for stage in stages:
        stage["samples"] = [_sample(sample) for sample in chosen[stage["name"]]]
        stage["sample_sources"] = _sample_sources(stage["samples"])
    measured = [stage for stage in stages if stage["headline"]]
    page = {
        **summary,
        "style": Markup((HERE / "style.css").read_text(encoding="utf-8")),  # our own file, not model text
        "stages": [stage for stage in stages if stage["state"] != "pending" or stage["steps_done"]],
        "measured": measured,
        "provenance": [stage for stage in stages if stage["tokens_by_source"]],
        "graph": figures.graph(summary["nodes"], summary["stages"]),
        "diagnosis": _diagnosis(summary["diagnosis"]),
        "class_names": _classes_that_occur(summary["diagnosis"]),
        "k_words": words.listed(sorted({f"{stage['k']}" for stage in measured})),
        "lead": _lead(summary),
        "environment": _environment(summary["run"]),
        "recipe": run.recipe(),
        "summary_json": _json_block(summary),
    }
    page["sections"] = _sections(page)
    return _templates().get_template("page.html").render(page)


def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": words.percent,
        "percent_range": words.percent_range,
        "points_of": lambda est: words.points(est["estimate"]),
        "points_range": words.points_range,
        "nothing": words.is_nothing,
        "signed": lambda est, sign: est if sign > 0 else words.negated(est),
        "compact": words.compact,
        "duration": words.duration,
        "short": words.short,
        "sentence": _as_sentence,
        "full_stop": _full_stop,
        "moment": _moment,
        "fit": lambda text, most: text if len(text) <= most else text[: most - 1] + "…",
    }
    return environment


def _json_block(value: Any) -> Markup:
    """JSON that cannot end its script element or open another one, whatever text it holds."""
    text = json.dumps(value, ensure_ascii=False)
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def _full_stop(text: str) -> str:
    text = text.strip()
    return text + ("" if text[-1:] in ".!?" else ".")


def _as_sentence(text: str) -> str:
    text = _full_stop(text)
    return text[:1].upper() + text[1:]


def _moment(text: str) -> str:
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        return text
    return f"{moment:%-d %B %Y, %H:%M} {moment.tzname() or ''}".strip()


def _lead(summary: Mapping[str, Any]) -> str:
    stages, probe = summary["stages"], summary["probe"]
    tasks = list(dict.fromkeys(row["task"] for stage in stages for row in stage["results"]))
    numbers = ("No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine", "Ten")
    count = numbers[len(stages)] if len(stages) < len(numbers) else str(len(stages))
    text = f"{count} training stage{'' if len(stages) == 1 else 's'}"
    if not tasks:
        return text + (", none measured yet." if stages else ".")
    text += f", each measured before and after on {words.listed(tasks)}"
    if probe.get("prompts") and probe.get("samples"):
        text += (
            f": {probe['prompts']} held-out prompts × {probe['samples']} responses{' each' if len(tasks) > 1 else ''}"
        )
    return text + "."


def _sections(page: Mapping[str, Any]) -> list[tuple[str, str]]:
    fixed = [
        ("overview", "Overview", "measured"),
        ("pipeline", "Pipeline", "graph"),
        ("diagnosis", "Diagnosis", "diagnosis"),
    ]
    sections = [(anchor, name) for anchor, name, present in fixed if page[present]]
    sections += [(f"stage-{stage['name']}", stage["name"]) for stage in page["stages"]]
    return sections + ([("tokens", "Tokens and cost")] if page["provenance"] else []) + [("record", "Record")]


def _environment(run: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = [("command", run.get("command")), ("offon", run.get("offon"))]
    rows += list(run.get("versions", {}).items())
    rows += [("platform", run.get("platform")), ("cpus", run.get("cpus")), ("seed", run.get("seed"))]
    sessions = run.get("sessions", [])
    if len(sessions) > 1:
        times = [_moment(session["started"]) for session in sessions[1:]]
        rows.append(("resumed", f"{len(times)} times: {words.listed(times)}" if len(times) > 1 else times[0]))
    return [(name, str(value)) for name, value in rows if value is not None]


# ---- one stage


def _stage(run: RunDirectory, stage: dict[str, Any]) -> dict[str, Any]:
    rows = [{**row, "success": row["success"] | _dumbbell(row["success"], stage)} for row in stage["results"]]
    wholes = [row for row in rows if row["family"] is None]
    families = sorted((row for row in rows if row["family"] is not None), key=_size_of_change, reverse=True)
    shown = {id(row) for row in [*wholes, *families[:FAMILIES_IN_HEADLINE]]}
    prompts = stage["prompts"]
    return {
        **stage,
        "say": words.outcome(stage["results"]),
        "headline": [row for row in rows if id(row) in shown],
        "not_shown": len(families[FAMILIES_IN_HEADLINE:]),
        "cost_words": _cost_words(stage["cost"]),
        "decomposition": [_decomposed(drawn) for drawn in figures.decomposition(rows)],
        "notes": list(dict.fromkeys(row["note"] for row in rows if row["note"])),
        "panels": [(row["label"], panel) for row in rows if (panel := figures.pass_at_k(row["pass_at_k"], stage["k"]))],
        "calls": [
            _bar_row(row["label"], {name: row["calls"].get(name, 0) for name in CALL_WORDS}, CALL_NAMES)
            for row in rows
            if row["calls"]
        ],
        "call_words": CALL_WORDS,
        "changed": [_changed(prompts, call) for call in ("lost", "gained") if any(p["call"] == call for p in prompts)],
        "curves": figures.curves(run.node(stage["name"]).metrics()),
        "sources": _bar_row(stage["name"], stage["tokens_by_source"], SOURCE_WORDS),
        "source_words": SOURCE_WORDS,
        "off_policy": {"mean_age": None, "conditioned_share": None, "sampler_gap_nats": None} | stage["off_policy"],
        "fate_words": "; ".join(f"{words.compact(count)} {name}" for name, count in stage["fates"].items() if count),
    }


def _size_of_change(row: Mapping[str, Any]) -> float:
    change = row["success"]["change"]
    return abs(change["estimate"]) if change else 0.0


def _dumbbell(success: Mapping[str, Any], stage: Mapping[str, Any]) -> dict[str, Any]:
    before, after = (100 * success[when]["estimate"] for when in ("before", "after"))
    return {
        "left": round(min(before, after), 2),
        "width": round(abs(after - before), 2),
        "tone": stage["regime"] or "unmeasured",
        "class": {"rose": "up", "fell": "down"}.get(words.direction(success["change"]), ""),
    }


def _cost_words(cost: Mapping[str, Any]) -> str:
    parts = [words.duration(cost["seconds"])] if cost["seconds"] else []
    for name, what in (("tokens_generated", "tokens generated"), ("tokens_trained", "trained")):
        if cost[name]:
            parts.append(f"{words.compact(cost[name])} {what}")
    return " · ".join(parts)


def _decomposed(drawn: dict[str, Any]) -> dict[str, Any]:
    row = drawn["row"]
    names = {
        "expansion": "expanded",
        "reshaping": "reshaped",
        "attrition": "lost",
        "ambiguous": "uncertain",
        "diffuse": "out of reach",
    }
    said = {}
    for weighting, bars in drawn["bars"].items():
        for bar in bars:
            est = row[weighting][bar["term"]]
            est = words.negated(est) if figures.SIGNED[bar["term"]] < 0 else est
            bar["title"] = (
                f"{names[bar['term']]} {words.points(est['estimate'])} points ({words.points_range(est)}), {weighting}"
            )
            said.setdefault(weighting, []).append(f"{names[bar['term']]} {words.points(est['estimate'])}")
    return {**drawn, "label": row["label"], "words": "; ".join(said.get("soft", []))}


def _bar_row(label: str, counts: Mapping[str, float], names: Mapping[str, str]) -> dict[str, Any]:
    parts = figures.stacked(counts)
    for part in parts:
        part["text"] = f"{words.compact(part['value'])} {names.get(part['name'], part['name'])}"
        part["title"] = f"{part['text']} ({words.percent(part['share'])})"
    return {"label": label, "parts": parts, "words": ", ".join(part["text"] for part in parts)}


def _changed(prompts: Sequence[Mapping[str, Any]], call: str) -> dict[str, Any]:
    """The prompts with one call, largest change first."""

    def change(prompt: Mapping[str, Any]) -> float:
        return abs(prompt["after"][0] / prompt["after"][1] - prompt["before"][0] / prompt["before"][1])

    chosen = sorted((prompt for prompt in prompts if prompt["call"] == call), key=change, reverse=True)
    return {
        "title": f"{len(chosen)} prompt{'' if len(chosen) == 1 else 's'} {call}",
        "open": call == "lost",
        "prompts": chosen[:PROMPTS_IN_TABLE],
        "more": len(chosen[PROMPTS_IN_TABLE:]),
        "families": any(prompt["family"] for prompt in chosen),
    }


# ---- diagnosis and samples


def _diagnosis(entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One block per model: a bar per task and family, and what is suggested for the prompts of each class."""
    models: dict[str, list[Mapping[str, Any]]] = {}
    for entry in entries:
        models.setdefault(entry["model"], []).append(entry)
    return [_diagnosed(model, own) for model, own in models.items()]


def _classes_that_occur(entries: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    rows = [row for entry in entries for row in entry["summary"]]
    return {call: name for call, name in CLASS_WORDS.items() if any(row.get(call) for row in rows)}


def _diagnosed(model: str, entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    several = len(entries) > 1
    rows = []
    for entry in entries:
        for row in entry["summary"]:
            names = [entry["task"] if several else "", row["family"] if row["family"] != entry["task"] else ""]
            label = ", ".join(filter(None, names)) or row["family"] or entry["task"]
            rows.append(_bar_row(label, {name: row.get(name, 0) for name in CLASS_WORDS}, CLASS_WORDS))
    budgets = words.listed(
        sorted({f"{entry['n_samples']} responses per prompt at k = {entry['k']}" for entry in entries})
    )
    return {
        "name": Path(model).name or "model",
        "sentence": "" if several else entries[0].get("sentence", ""),
        "measured": f"From {budgets}.",
        "rows": rows,
        "suggestions": _suggestions(entries),
        "notes": list(dict.fromkeys(note for entry in entries for note in entry.get("notes", []))),
    }


def _suggestions(entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What to try, said once where several tasks have the same reason."""
    said: dict[tuple[str, str], dict[str, Any]] = {}
    for entry in entries:
        for one in entry.get("suggestions", []):
            if one["methods"]:
                merged = said.setdefault((one["call"], one["reason"]), {**one, "prompts": 0, "tasks": []})
                merged["prompts"] += one["prompts"]
                merged["tasks"].append(entry["task"])
    for merged in said.values():
        where = f" on {words.listed(merged['tasks'])}" if len(entries) > 1 else ""
        merged["what"] = f"{merged['prompts']} {CLASS_WORDS.get(merged['call'], merged['call'])}{where}"
    return list(said.values())


def _sample(sample: dict[str, Any]) -> dict[str, Any]:
    reward = sample["signals"].get("reward", "none")
    verdict, css = "", ""
    if reward is None:
        verdict = "unscored"
    elif reward != "none":
        verdict, css = ("right", "up") if reward >= 1 else ("wrong", "down")
    return {**sample, "verdict": verdict, "verdict_class": css}


def _sample_sources(chosen: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    parts = [part for sample in chosen for part in sample["response"]]
    names = {name: SOURCE_WORDS[name] for name in SOURCES if any(part["source"] == name for part in parts)}
    if any(part["scaffold"] for part in parts):
        names["scaffold"] = "dotted underline: present in training only"
    return names
