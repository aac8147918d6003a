"""What the finer instruments write, with planted numbers: a comparison, a diagnosis, and a run that has everything."""

from __future__ import annotations

import copy
import functools
import json
from pathlib import Path

import numpy as np

from offon.behavior.counts import count
from offon.behavior.diagnose import diagnose, measured_outcomes
from offon.behavior.handoff import task_handoff
from offon.behavior.path import lineage, path_table, surviving_expansion
from offon.behavior.solve import k_to_solve
from offon.behavior.support import support_calls
from offon.runs import RunDirectory
from tests.report.synthetic import STAGES, K, probed, prompts


def comparison(seed=0):
    """An entry of `offon compare`, the caller's own: base against rl, with every key that an instrument may write."""
    return copy.deepcopy(_comparison(seed))


def diagnosis(seed=0):
    """An entry of `offon diagnose`, the caller's own: with a teacher, labels, controls, every count there may be."""
    return copy.deepcopy(_diagnosis(seed))


def est(value, reach=0.02, low=None, high=None):
    return {
        "estimate": value,
        "low": value - reach if low is None else low,
        "high": value + reach if high is None else high,
    }


def node(token, parent, depth, before, after, cell, ends=False, right=None):
    return {
        "token": token,
        "parent": parent,
        "depth": depth,
        "ends": ends,
        "before": before,
        "after": after,
        "cell": cell,
        "right": right,
    }


TREE = {
    "prompt_id": "rare-1",
    "prompt": "[B] x0 o2 o2 o3 =",
    "eps": 0.0894,
    "why": "the prompt with the largest certain change",
    "nodes": [
        node("[A]", -1, 1, 0.81, 0.14, "shared"),
        node("[B]", -1, 1, 0.15, 0.84, "shared"),
        node("s7", 0, 2, 0.62, 0.10, "shared"),
        node("s9", 0, 2, 0.19, 0.04, "attrition"),
        node("s12", 2, 3, 0.61, 0.10, "shared"),
        node(":", 4, 4, 0.60, 0.09, "shared", True, False),
        node("#", 3, 3, 0.16, 0.03, "attrition", True, False),
        node("s9", 1, 2, 0.11, 0.80, "shared"),
        node("s7", 7, 3, 0.04, 0.71, "expansion"),
        node("s12", 7, 3, 0.06, 0.08, "diffuse"),
        node("#", 8, 4, 0.03, 0.69, "expansion", True, True),
        node(":", 9, 4, 0.05, 0.07, "diffuse", True, False),
    ],
    "residual": {"before": 0.13, "after": 0.09},
}
INSTRUMENTS = [
    {"name": "calls and D1 by prompt", "applies": True, "why": "96 samples per prompt certify both ways at k = 32"},
    {"name": "D1 by answer", "applies": True, "why": "the checker extracts an answer"},
    {"name": "D1 by response", "applies": True, "why": "both read the same token ids"},
    {"name": "exact support", "applies": True, "why": "4-token responses: the whole tree is cheap"},
    {"name": "D2 by step", "applies": False, "why": "4,096-token responses: the tree cannot be enumerated whole"},
    {"name": "absolute support by depth", "applies": False, "why": "ends near token 10 at 0.3 nats a token"},
]


@functools.cache
def _comparison(seed):
    rng, asked = np.random.default_rng(seed), prompts()
    before, after = (probed(name, asked, rng) for name in ("base", "rl"))
    entry = task_handoff(before, after, asked, k=K)
    counts = count(before), count(after)
    calls = [support_calls(side, K).tolist() for side in counts]
    for index, prompt in enumerate(entry["prompts"]):
        sides = [k_to_solve(int(side.successes[index]), int(side.scored[index])).tries for side in counts]
        prompt["k_to_solve"] = {
            when: [fewest, most if np.isfinite(most) else None]
            for when, (fewest, most) in zip(("before", "after"), sides, strict=True)
        }
        prompt["support"] = {when: own[index] for when, own in zip(("before", "after"), calls, strict=True)}
    total = entry["d1"]["total"]
    change = total["estimate"]
    by_class = {name: dict(terms) for name, terms in entry["d1"]["soft"].items()}
    new = change - 0.12
    return entry | {
        "task": "testbed",
        "k": K,
        "before_model": "./base",
        "after_model": "runs/planted/nodes/rl/final",
        "sentence": f"success rose by {100 * change:.1f} points",
        "trajectories": {
            "factor": 11.2,
            "d1": {
                "total": total,
                "expansion": est(new),
                "reshaping": est(0.15),
                "attrition": est(0.03),
            },
            "first_passage": {"median_token": 2, "share_at_first_token": 0.34},
        },
        "classes": {
            "map": "answer",
            "d1": {"soft": by_class, "certified": entry["d1"]["certified"], "total": total},
            "gained": 31,
            "lost": 4,
            "kept": 120,
            "top": [
                {"class": "s7", "prompts": 12, "before": 0.02, "after": 0.41},
                {"class": "s12", "prompts": 9, "before": 0.51, "after": 0.12},
            ],
        },
        "where": {
            "cut": "first half",
            "prefix": est(0.21, 0.05),
            "suffix": est(0.04, 0.05),
            "interaction": est(change - 0.25, 0.06),
            "total": total,
        },
        "exact": {
            "eps": 0.0894,
            "horizon": 6,
            "prompts": 16,
            "evaluations": 4312,
            "residual": {"before": 0.11, "after": 0.04},
            "coverage": {"before": [1, 0.96, 0.81, 0.52, 0.31, 0.2], "after": [1, 0.99, 0.93, 0.88, 0.71, 0.66]},
            "edges": {"expansion": 12, "shared": 40, "attrition": 5, "diffuse": 9},
            "mass": {
                "expansion": [0.02, 0.31],
                "shared": [0.81, 0.6],
                "attrition": [0.12, 0.03],
                "diffuse": [0.05, 0.06],
            },
            "d2": {
                "expansion": 0.31,
                "shared": 0.05,
                "diffuse": 0.0,
                "harmful": -0.02,
                "pruning": change - 0.34,
                "total": change,
            },
            "whole": True,
        },
        "tree": TREE,
        "instruments": INSTRUMENTS,
        "cost": {"tokens_generated": 184_320, "tokens_scored": 368_640, "evaluations": 4312, "seconds": 48.0},
    }


@functools.cache
def _diagnosis(seed):
    rng, asked = np.random.default_rng(seed), prompts()
    strict = probed("base", asked, rng)
    content = [
        [max(s, c) for s, c in zip(row, other, strict=True)]
        for row, other in zip(strict, probed("sft", asked, rng), strict=True)
    ]
    entry = diagnose(measured_outcomes(strict, content), asked, k=K, model="./base", task="testbed")
    subs = {"format": "model's format", "fragile": "scaffold", "missing": "live", "ranking": "route"}
    for index, prompt in enumerate(entry["prompts"]):
        if prompt["call"] in ("unsupported", "undecided"):
            prompt |= {"scaffold": [index % 9, 16], "placed": [1, 16], "finished": [12, 16], "placebo": [0, 8]}
        prompt["k_to_solve"] = [3.2, None if prompt["strict"][0] == 0 else 41.0]
        prompt["next"] = "16 more after the reference's first step" if prompt["call"] == "undecided" else None
        prompt["sub"] = subs.get(prompt["call"])
    return entry | {
        "teacher": "runs/planted/nodes/rl/final",
        "budget": 224,
        "verifier": {"sensitivity": est(0.92, 0.04), "false_positive": est(0.03, 0.02)},
        "plan": "80 prompts x at most 224 rollouts, about 2 minutes",
        "cost": {"rollouts": 9120, "tokens_generated": 54_720, "verifier_calls": 9120, "seconds": 61.0},
        "controls": {"shuffled": est(0.01, 0.01), "placebo": est(0.04, 0.03)},
    }


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
                "tokens_per_success": {"plain": 41.0, "scaffolded": 15.5},
            }
        },
        "drift": {"testbed": {"kl_nats": est(1.9, 0.3)}},
        "per_gain": {"testbed": {"seconds": est(2.4, 0.5), "tokens": {"estimate": 3100, "low": 2500, "high": None}}},
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
