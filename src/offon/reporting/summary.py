"""The numbers of a report, from the files of a run directory only; `offon report --json` prints them as they are.

A run that stopped early has fewer files: what is missing is None or empty here, and left out of the page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from offon.reporting import metrics as behaviour
from offon.runs import RunDirectory

SOURCES = ("external", "teacher", "learner", "environment")
TERMS = ("expansion", "reshaping", "attrition", "ambiguous", "diffuse")
CALLS = ("gained", "lost", "kept", "undecided", "never")
FINER = ("trajectories", "classes", "where", "exact", "tree")  # of a task, where they were measured
COSTS = ("tokens_generated", "tokens_trained", "tokens_scored", "verifier_calls", "seconds")
WORTH_A_WORD = 0.005  # of success; a smaller change may be certain and is still not worth a warning
MOSTLY_DIFFUSE = 0.25  # of the change: beyond it, the budget k is too small to say what kind of change it was


def summarise(run_dir: str | Path) -> dict[str, Any]:
    """Everything the report says in numbers, as one JSON document."""
    run = RunDirectory.open(run_dir)
    pipeline = run.pipeline()
    nodes = pipeline.get("nodes", [])
    stages = [_stage(run, node) for node in nodes if node.get("kind") == "train"]
    costs = [stage["cost"] for stage in stages]
    made = [node["cost"] for node in nodes if "cost" in node]  # data that a row made
    summary = {
        "run": run.info(),
        "status": run.status(),
        "probe": pipeline.get("probe") or {},
        "nodes": nodes,
        "stages": stages,
        "cost": {name: sum(cost.get(name) or 0 for cost in [*costs, *made]) for name in COSTS},
        "diagnosis": run.diagnosis(),
        "gates": _written(run, nodes, "gate.json"),
        "artefacts": _written(run, nodes, "artefact.json"),
        "path": run.read_json("path.json", {}),
        "attribution": run.read_json("attribution.json", {}),
    }
    return {"warnings": _warnings(summary)} | summary


def _written(run: RunDirectory, nodes: Sequence[Mapping[str, Any]], file: str) -> list[dict[str, Any]]:
    """What nodes left in a file of this name, in order, each with the node's name."""
    entries = ((node["name"], run.node(node["name"]).read_json(file)) for node in nodes if node.get("kind") != "model")
    return [{"name": name, **content} for name, content in entries if content]


def _stage(run: RunDirectory, node: Mapping[str, Any]) -> dict[str, Any]:
    directory = run.node(node["name"])
    handoff = directory.read_json("handoff.json", {})
    metrics = directory.metrics()
    fields = ("name", "method", "family", "interface", "usual_provenance", "usual_role", "steps", "inputs", "state")
    seconds = handoff.get("cost", {}).get("seconds", node.get("seconds"))
    status = run.status()
    stopped_here = status.get("node") == node["name"] and status.get("state") in ("interrupted", "failed")
    return {
        **{name: node.get(name) for name in fields},
        "state": status["state"] if stopped_here and node.get("state") != "done" else node.get("state"),
        "steps_done": metrics[-1]["step"] if metrics else 0,
        "before": handoff.get("before"),
        "after": handoff.get("after"),
        "k": handoff.get("k"),
        "measured": bool(handoff.get("tasks")),
        "regime": handoff.get("regime"),
        "results": [row for name, task in handoff.get("tasks", {}).items() for row in task_rows(name, task)],
        "prompts": [
            {"task": name, **prompt} for name, task in handoff.get("tasks", {}).items() for prompt in task["prompts"]
        ],
        "tokens_by_source": handoff.get("tokens_by_source", {}),
        "fates": handoff.get("fates", {}),
        "off_policy": handoff.get("off_policy", {}),
        "cost": {name: handoff.get("cost", {}).get(name) for name in COSTS} | {"seconds": seconds},
        "warnings": handoff.get("warnings", []),
        **handed_on_by(handoff),
    }


def handed_on_by(handoff: Mapping[str, Any]) -> dict[str, Any]:
    """What a stage hands on beyond success; {} or None where it was not measured, `notes` says why."""
    drift, costs = (handoff.get(name) or {} for name in ("drift", "per_gain"))
    per_task = {
        name: {
            "gain_retention": task.get("gain_retention"),
            "drift": (drift.get(name) or {}).get("kl_nats"),
            "per_gain": costs.get(name),
        }
        for name, task in handoff.get("tasks", {}).items()
    }
    return {
        "per_task": per_task,
        "protected": handoff.get("protected"),
        "transfer": handoff.get("transfer"),
        "portability": handoff.get("portability") or {},
        "scaffold": handoff.get("scaffold") or {},
        "notes": handoff.get("notes", []),
        "data": handoff.get("data") or {},
    }


def task_rows(task: str, entry: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row for the task, and one per family where it has several."""
    families = entry.get("families", {})
    label = f"{task}, all" if families else task
    row = {"task": task, "family": None, "label": label, "n_samples": entry.get("n_samples")}
    row |= {"unscored": entry.get("unscored"), "is_total": bool(families)}
    rows = [row | {"n_prompts": entry.get("n_prompts")} | _measured(entry) | {name: entry.get(name) for name in FINER}]
    for family, numbers in families.items():
        own = [prompt for prompt in entry["prompts"] if prompt["family"] == family]
        name = family or "no family"
        rows.append(
            row
            | {"family": family, "label": name, "is_total": False, "n_prompts": len(own)}
            | _measured(numbers)
            | dict.fromkeys(FINER)
        )
    return rows


def _measured(numbers: Mapping[str, Any]) -> dict[str, Any]:
    d1 = numbers.get("d1", {})
    return {  # certifiable: whether these samples could have certified that a prompt is out of reach
        "success": {when: numbers[when]["success"] for when in ("before", "after")} | {"change": d1.get("total")},
        "pass_at_k": {when: numbers[when].get("pass_at_k", []) for when in ("before", "after")},
        "calls": numbers.get("calls", {}),
        "certified": d1.get("certified", {}),
        "soft": d1.get("soft", {}),
        "certifiable": d1.get("can_certify_out", True),
        "note": d1.get("note", ""),
        "role": numbers.get("role"),
        **behaviour.values(numbers),
    }


def _warnings(summary: Mapping[str, Any]) -> list[dict[str, str]]:
    """{"node", "text"} each: what a reader must know before believing anything else, most serious first."""
    entries = [("", text) for text in _about_ending(summary["status"])]
    probed = {made["name"] for made in summary["artefacts"] if made.get("heldout")}
    for stage in summary["stages"]:
        entries += [(stage["name"], text) for text in stage["warnings"]]
        entries += [(stage["name"], text) for text in _about_measurement(stage)]
        if stage["state"] == "done" and not (stage["measured"] or stage["name"] in probed):
            entries.append((stage["name"], "Nothing was measured before and after this stage."))
    entries += [(gate["name"], f"{gate['sentence']}.") for gate in summary["gates"] if not gate["passed"]]
    entries += [(made["name"], f"{text}.") for made in summary["artefacts"] for text in made.get("warnings", [])]
    return [{"node": node, "text": text} for node, text in entries]


def _about_ending(status: Mapping[str, Any]) -> list[str]:
    where = f" in {status['node']}" if status.get("node") else ""
    where += f", step {status['step']} of {status['steps']}" if status.get("steps") else ""
    if status.get("state") == "failed":
        error = (status.get("error") or "no reason recorded").strip()
        return [f"The run failed{where}. {error.splitlines()[-1] if error.startswith('Traceback') else error}"]
    if status.get("state") == "stopped":
        return [f"The run was stopped{where}, whose limits are not met; other limits and --resume continue it."]
    if status.get("state") == "interrupted":
        return [f"The run was interrupted{where}; --resume continues it."]
    if status.get("state") == "running":
        return [f"The run has not ended{where}. What follows is what it had done so far."]
    return []


def _about_measurement(stage: Mapping[str, Any]) -> list[str]:
    for row in stage["results"]:
        change, diffuse = row["success"]["change"], row["certified"].get("diffuse")
        clear = change and (change["low"] > 0 or change["high"] < 0) and abs(change["estimate"]) >= WORTH_A_WORD
        if clear and diffuse and abs(diffuse["estimate"]) > MOSTLY_DIFFUSE * abs(change["estimate"]):
            share = abs(diffuse["estimate"] / change["estimate"])
            yield (
                f"{row['family'] or row['task']}: {share:.0%} of the change is on prompts that stay out of reach at "
                f"k = {stage['k']}, before and after; a larger k would say what kind of change it is."
            )
