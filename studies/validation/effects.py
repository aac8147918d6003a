"""Published effects, asked of the instruments on the testbed: exact probabilities before and after a stage.

RLVR      GRPO on three families at once: pass@1 rises while pass@k at large k falls (arXiv:2504.13837)
placebo   SFT on one unfiltered sample per prompt of the model itself: what drift looks like where nothing is taught
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import yaml

from offon.loops.compare import compare_models
from offon.loops.pipeline import run_recipe
from offon.models.model import Model
from offon.recipe import parse, resolve
from offon.testbed import TestbedTask, model_path
from offon.testbed.oracle import exact
from studies.validation.findings import Finding

FAMILIES = ["rare", "format", "scaffold"]
TASK = "testbed:" + ",".join(FAMILIES)
STAGE = {"learning_rate": 1e-4, "prompts_per_step": 16}
LARGE = 1024
RECIPE = {
    "model": "testbed:base",
    "probe": False,
    "pipeline": {
        "rlvr": {"method": "grpo", "task": TASK, "group_size": 8, "max_tokens": 8, "init": "testbed:base"} | STAGE,
        "own": {"method": "best_of_n", "task": TASK, "n": 1, "at_least": 0.0, "prompts": 256, "max_tokens": 8},
        "placebo": {"method": "sft", "init": "testbed:base", "data": "$own"} | STAGE,
    },
}


def success(path: Path, family: str) -> np.ndarray:
    model = Model.load(path)
    return np.array([row.success for row in exact(model.hf, model.tokenizer, TestbedTask(family).items("heldout"))])


def within(p: np.ndarray, k: int) -> float:
    """pass@k from exact probabilities."""
    return float(-np.expm1(k * np.log1p(-np.minimum(p, 1 - 1e-12))).mean())


def run(quick: bool) -> list[Finding]:
    recipe = {**RECIPE, "pipeline": {name: dict(node) for name, node in RECIPE["pipeline"].items()}}
    for name in ("rlvr", "placebo"):
        recipe["pipeline"][name]["steps"] = 2 if quick else 60
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch) / "run"
        run_recipe(resolve(parse(yaml.safe_dump(recipe, sort_keys=False), folder=Path(scratch))), output)
        after = {name: output / "nodes" / name / "final" for name in ("rlvr", "placebo")}
        both = {family: [success(path, family) for path in (model_path("base"), after["rlvr"])] for family in FAMILIES}
        for k, relation in ((1, ">="), (LARGE, "<=")):
            changes = {family: within(late, k) - within(early, k) for family, (early, late) in both.items()}
            told = ", ".join(f"{family} {change:+.4f}" for family, change in changes.items())
            found.append(
                Finding(
                    what=f"RLVR: change of pass@{k}, mean over families",
                    value=float(np.mean(list(changes.values()))),
                    relation=relation,
                    bound=0.0,
                    of=told,
                )
            )
        terms = {}
        for name in ("placebo", "rlvr"):
            entry = compare_models("testbed:base", str(after[name]), {"testbed": FAMILIES}, prompts=6 if quick else 60,
                                   samples=32, k=32, max_tokens=8)  # fmt: skip
            terms[name] = {term: est["estimate"] for term, est in entry["trajectories"]["d1"].items()}
        for term in ("expansion", "attrition"):
            found.append(
                Finding(
                    what=f"drift floor: trajectory {term} after SFT on own samples",
                    value=abs(terms["placebo"][term]),
                    relation="<=",
                    bound=0.01,
                    of=f"after RLVR: {terms['rlvr'][term]:.4f} of a change of {terms['rlvr']['total']:+.3f}",
                )
            )
    return found
