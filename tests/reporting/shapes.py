"""Entries of `offon compare` and `offon diagnose` with planted numbers and every key that an instrument may write."""

from __future__ import annotations

import copy
import functools

import numpy as np

from offon.behavior.change.k_to_solve import k_to_solve
from offon.behavior.change.support import support_calls
from offon.behavior.diagnosis.diagnose import diagnose, measured_outcomes
from offon.behavior.stage.task_entry import task_handoff
from offon.behavior.statistics.counts import count
from tests.reporting.synthetic import K, probed, prompts


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
            "first_passage": {"median_token": 2, "share_at_first_token": est(0.34, 0.05)},
            "bits": {"prompts": 19, "intervals": {"total": est(1.3), "selection": est(1.6), "novelty": est(-0.3)}},
        },
        "classes": {
            "map": "answer",
            "d1": {"soft": by_class, "certified": entry["d1"]["certified"], "total": total},
            "gained": 31,
            "lost": 4,
            "kept": 120,
            "distinct": {
                when: {"seen": est(1.5, 0.2), "unseen_heuristic": est(0.3, 0.2)} for when in ("before", "after")
            },
            "surface": est(0.121, 0.06),
            "top": [
                {"class": "s7", "prompts": 12, "before": 0.02, "after": 0.41, "change": est(0.39, 0.05)},
                {"class": "s12", "prompts": 9, "before": 0.51, "after": 0.12},
            ],
        },
        "where": {
            "cut": "first 3 of about 6 tokens",
            "prompts": 12,
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
            "most_evaluations": 23_712,
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
        "notes": [*entry["notes"], "control failed: the teacher starts over"],
        "earlier": ["runs/planted/nodes/sft/final"],
        "teacher": "runs/planted/nodes/rl/final",
        "budget": 224,
        "verifier": {"sensitivity": est(0.92, 0.04), "false_positive": est(0.03, 0.02)},
        "plan": "80 prompts x at most 224 rollouts, about 2 minutes",
        "cost": {"rollouts": 9120, "tokens_generated": 54_720, "verifier_calls": 9120, "seconds": 61.0},
        "controls": {
            "shuffled": {"success": est(0.01, 0.01), "plain": est(0.02, 0.01), "excess": est(-0.01), "failed": False},
            "restart": {"placebo": est(0.71, 0.05), "finished": est(0.74, 0.05), "failed": True},
            "leaks": {"share": est(0.39, 0.1), "prefixes": 64},
        },
    }
