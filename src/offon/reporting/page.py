"""The report of a run: what each stage did, and everything that was measured on the way."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from offon.reporting import shell, words
from offon.reporting.blocks.artefacts import artefacts
from offon.reporting.blocks.curves import curves
from offon.reporting.blocks.diagnosis import classes_that_occur, diagnosis
from offon.reporting.blocks.effects import attribution, study_words
from offon.reporting.blocks.gates import gates
from offon.reporting.blocks.graph import graph
from offon.reporting.blocks.handed_on import handed_on
from offon.reporting.blocks.headline import headline
from offon.reporting.blocks.measured import measured
from offon.reporting.blocks.path import path_tables
from offon.reporting.blocks.samples import marked, samples, sources_of
from offon.reporting.blocks.tokens import tokens
from offon.reporting.summary import summarise
from offon.runs import RunDirectory, atomic


def write(run_dir: str | Path, out: str | Path | None = None) -> Path:
    """Write the report of a run, finished or not, to RUN/report.html or to `out`."""
    run = RunDirectory.open(run_dir)
    target = Path(out) if out else run.path / "report.html"
    return atomic.write_text(target, render(run))


def render(run: RunDirectory) -> str:
    summary = summarise(run.path)
    chosen = samples(run, [stage["name"] for stage in summary["stages"]])
    stages = [_stage(run, stage, chosen[stage["name"]]) for stage in summary["stages"]]
    with_rows = [stage for stage in stages if stage["headline"]]
    page = {
        **summary,
        "stages": [stage for stage in stages if stage["state"] != "pending" or stage["steps_done"]],
        "measured": with_rows,
        "k_words": words.listed(sorted({f"{stage['k']}" for stage in with_rows})),
        "graph": graph(summary["nodes"], summary["stages"]),
        "path": path_tables(summary["path"]),
        "gates": gates(summary["gates"]),
        "artefacts": artefacts(summary["artefacts"]),
        "attribution": attribution(summary["attribution"]) if summary["attribution"] else [],
        "study": study_words(summary["attribution"]),
        "diagnosis": diagnosis(summary["diagnosis"]),
        "class_names": classes_that_occur(summary["diagnosis"]),
        "tokens": [tokens(stage) for stage in summary["stages"] if stage["tokens_by_source"]],
        "source_words": words.SOURCES,
        "lead": _lead(summary),
        "environment": _environment(summary["run"]),
        "recipe": run.recipe(),
    }
    return shell.document("page.html", page | {"sections": _sections(page)}, summary)


def _stage(run: RunDirectory, stage: dict[str, Any], chosen: list[dict[str, Any]]) -> dict[str, Any]:
    rows, more = headline(stage["results"], stage["regime"] or "unmeasured")
    read = [marked(sample) for sample in chosen]
    return {
        **stage,
        "say": words.outcome(stage["results"]),
        "headline": rows,
        "not_shown": more,
        "cost_words": words.cost(stage["cost"]),
        "change": measured(stage["results"], stage["prompts"], stage["k"]),
        "handed_on": handed_on(stage),
        "curves": curves(run.node(stage["name"]).metrics()),
        "samples": read,
        "sample_sources": sources_of(read),
    }


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
    before = [
        ("overview", "Overview", "measured"),
        ("pipeline", "Pipeline", "graph"),
        ("path", "Along the path", "path"),
        ("gates", "Gates", "gates"),
        ("attribution", "Left out", "attribution"),
        ("diagnosis", "Diagnosis", "diagnosis"),
    ]
    after = [("artefacts", "Data and rewards", "artefacts"), ("tokens", "Tokens and cost", "tokens")]
    stages = [(f"stage-{stage['name']}", stage["name"]) for stage in page["stages"]]

    def present(sections):
        return [(anchor, name) for anchor, name, block in sections if page[block]]

    return [*present(before), *stages, *present(after), ("record", "Record")]


def _environment(run: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = [("command", run.get("command")), ("offon", run.get("offon"))]
    rows += list(run.get("versions", {}).items())
    rows += [("platform", run.get("platform")), ("cpus", run.get("cpus")), ("seed", run.get("seed"))]
    sessions = run.get("sessions", [])
    if len(sessions) > 1:
        times = [shell.moment(session["started"]) for session in sessions[1:]]
        rows.append(("resumed", f"{len(times)} times: {words.listed(times)}" if len(times) > 1 else times[0]))
    return [(name, str(value)) for name, value in rows if value is not None]
