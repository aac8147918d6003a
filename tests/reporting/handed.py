"""A run that has everything: gates, artefacts, the path, a study of stages left out, all that a stage hands on."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np

from offon.behavior.stage.chain import lineage, path_table, surviving_expansion
from offon.behavior.stage.task_entry import task_handoff
from offon.behavior.statistics.counts import count
from offon.runs import RunDirectory
from tests.reporting.shapes import est
from tests.reporting.synthetic import STAGES, K, probed, prompts

GATE = {
    "candidate": "rl",
    "against": "sft",
    "passed": False,
    "on_fail": "rollback",
    "took": "sft",
    "sentence": "retention on guard may be as low as 79.1%, at least 80.0% was asked: sft goes on",
    "limits": [
        {"metric": "retention", "task": "guard", "bound": "min", "limit": 0.8, "value": est(0.862, 0.071)}
        | {"judged": 0.791, "met": False},
        {"metric": "success", "task": "rare", "bound": "min", "limit": 0.3, "value": est(0.96, 0.01)}
        | {"judged": 0.95, "met": True},
        {"metric": "change", "task": None, "bound": "min", "limit": 0.0, "value": est(0.31, 0.05)}
        | {"judged": 0.26, "met": True},
    ],
}
DATA = {
    "artefact": "data",
    "rows": 384,
    "prompts": 128,
    "tokens": 4608,
    "producers": [{"producer": "base", "rows": 288, "share": 0.75}, {"producer": "rl", "rows": 96, "share": 0.25}],
    "duplicates": {"rows": 12, "share": 0.03125},
    "near_duplicates": {"rows": 0, "share": 0.0, "compared": 372},
    "contamination": {"testbed": {"rows": 3, "share": 0.0078125, "prompts": 2, "heldout": 80}},
    "right": {"known": 300, **est(0.81, 0.05)},
    "warnings": ["3 rows ask 2 of the 80 held-out prompts of testbed"],
    "sentence": "demos: 384 rows of 128 prompts; 3 rows ask held-out prompts",
}
REWARD_MODEL = {
    "artefact": "reward model",
    "heldout": {"pairs": 412, "prompts": 103, "from": "10% of its data's prompts"},
    "accuracy": est(0.874, 0.031),
    "ece": est(0.043, 0.012),
    "ece_of_perfect": 0.031,
    "brier": est(0.112, 0.015),
    "bins": [
        {"low": f - 0.05, "high": f + 0.05, "n": n, "forecast": f, "right": est(q, 0.06, None, min(1, q + 0.06))}
        for f, q, n in ((0.55, 0.52, 60), (0.65, 0.61, 71), (0.75, 0.7, 88), (0.85, 0.88, 101), (0.95, 0.97, 92))
    ],
    "sentence": "judge: 87.4% [84.3%, 90.5%] of 412 held-out pairs ranked as the data have them",
}


@functools.cache
def merge(seed=0):
    """artefact.json of a merge of two models, each compared with it like a stage's start."""
    rng, asked = np.random.default_rng(seed), prompts()
    after = probed("rl", asked, rng)
    parents = [
        {"parent": name, "tasks": {"testbed": task_handoff(probed(name, asked, rng), after, asked, k=K)}}
        for name in ("base", "sft")
    ]
    return {"artefact": "merge", "parents": parents, "sentence": "merged, a merge: measured against each parent"}


def handed_on(handoff):
    """handoff.json with everything that a stage hands on."""
    handoff["tasks"]["testbed"]["gain_retention"] = est(0.91, 0.06)
    return handoff | {
        "protected": {"tasks": ["guard"], "attrition": est(0.12, 0.02), "selective_forgetting": est(-0.05, 0.04)},
        "transfer": {
            "teacher": "rl",
            "tasks": {
                "testbed": {
                    "answer": est(0.83, 0.04),
                    "trace": est(0.22, 0.05),
                    "agreement": est(0.91, 0.02),
                    "kl_nats": est(0.31, 0.04),
                }
            },
        },
        "portability": {"longer": {"of": "testbed", "change": est(0.21, 0.06), "ratio": est(0.62, 0.2)}},
        "scaffold": {
            "testbed": {
                "dependence": {"before": est(0.55, 0.05), "after": est(0.04, 0.02)},
                "amortisation": est(0.93, 0.05),
                "tokens_per_success": {"plain": est(41.0, 5.0), "scaffolded": None},
            }
        },
        "drift": {"testbed": {"kl_nats": est(1.9, 0.3)}},
        "per_gain": {"testbed": {"seconds": est(2.4, 0.5), "tokens": {"estimate": 3100, "low": 2500, "high": None}}},
        "notes": ["trace of testbed: rl has no success"],
    }


@functools.cache
def path(seed=0):
    """path.json of the chain base, sft, rl."""
    rng, asked = np.random.default_rng(seed), prompts()
    checkpoints = {name: count(probed(name, asked, rng)) for name in ("base", "sft", "rl")}
    rows = path_table(checkpoints, k=K)
    whole = path_table({name: checkpoints[name] for name in ("base", "rl")}, k=K)[0]["d1"]["total"]
    states = lineage(list(checkpoints.values()), K)
    first = [next((i for i, state in enumerate(p) if state in ("IN", "solved")), None) for p in states]
    task = {
        "rows": rows,
        "total": whole,
        "lineage": {
            "first_in": {name: first.count(i) for i, name in enumerate(checkpoints)},
            "first_solved": {"rl": 3},
            "lost_again": 1,
        },
        "surviving_expansion": surviving_expansion(list(checkpoints.values()), K),
        "per_retained_gain": {"seconds": est(2.1, 0.3), "tokens": None},
    }
    return {"chains": [{"nodes": ["base", "sft", "rl"], "tasks": {"testbed": task}}]}


ATTRIBUTION = {
    "stages": ["sft", "rl"],
    "subsets": [
        {"stages": stages, "success": {"testbed": est(value)}}
        for stages, value in (([], 0.24), (["sft"], 0.5), (["rl"], 0.4), (["sft", "rl"], 0.78))
    ],
    "shapley": {"testbed": {"sft": est(0.32, 0.04), "rl": est(0.22, 0.05)}},
    "interaction": {"testbed": [["sft", "rl", est(0.12, 0.06)]]},
    "total": {"testbed": est(0.54, 0.03)},
    "infeasible": [{"stages": ["out"], "why": "its teacher is left out"}],
    "notes": ["one seed: intervals are over prompts alone"],
}


def measured_run(folder: Path) -> Path:
    """A finished run, given everything there may be: gates, artefacts, the path, and all that its stages hand on."""
    run = RunDirectory.open(folder)
    pipeline = run.pipeline()
    pipeline["nodes"] += [
        {"name": "demos", "kind": "make", "method": "demonstrations", "inputs": [], "state": "done"},
        {"name": "judge", "kind": "make", "method": "train_reward_model", "inputs": [], "state": "done"},
        {"name": "merged", "kind": "make", "method": "merge_linear", "inputs": [], "state": "done"},
        {"name": "ok", "kind": "gate", "inputs": [{"kind": "init", "from": "rl"}], "state": "done"},
    ]
    _write(folder / "pipeline.json", pipeline)
    for name, file, content in (
        ("ok", "gate.json", GATE),
        ("demos", "artefact.json", DATA),
        ("judge", "artefact.json", REWARD_MODEL),
        ("merged", "artefact.json", merge()),
    ):
        _write(folder / "nodes" / name / file, content)
    for name in STAGES:
        handoff = folder / "nodes" / name / "handoff.json"
        _write(handoff, handed_on(json.loads(handoff.read_text())))
    _write(folder / "path.json", path())
    _write(folder / "attribution.json", ATTRIBUTION)
    return folder


def _write(target: Path, content) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(content))
