"""Published effects, asked of the instruments on the testbed: exact probabilities before and after a stage.

RLVR         pass@1 rises while pass@k at large k falls, where prompts compete (arXiv:2504.13837): `compete`
forgetting   follows KL(before || after) on the new task (arXiv:2509.04259): `forgetting`
placebo      SFT on one unfiltered sample per prompt of the model itself: what drift looks like where nothing is taught

Each seed's run is kept when it is finished.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from offon.measure.compare import compare_models
from offon.pipeline.run import run_recipe
from offon.recipe import resolve
from offon.testbed import model_path
from studies.validation import compete, forgetting
from studies.validation.findings import Finding, Section

SEEDS = (1, 2, 3)
STEPS = 60
FLOOR = 0.01
DRIFT = {"prompts": 40, "samples": 32, "k": 32, "max_tokens": 8}


def drift(run: Path, seed: int, options: Mapping[str, int]) -> dict[str, dict[str, float]]:
    """Trajectory terms of D1 after the placebo, and after RL on the same prompts."""
    found = {}
    for name in ("placebo", "rl"):
        after = str(run / "nodes" / name / "final")
        entry = compare_models("testbed:base", after, compete.Competing(), seed=seed, **options)
        found[name] = {term: est["estimate"] for term, est in entry["trajectories"]["d1"].items()}
    return found


def placebo(steps: int) -> dict[str, Any]:
    task, stage = compete.Competing(), {**compete.STAGE, "steps": steps}
    sft = {name: stage[name] for name in ("learning_rate", "prompts_per_step", "steps")}
    return {
        "own": {"method": "best_of_n", "task": task, "n": 1, "at_least": 0.0, "prompts": 256, "max_tokens": 8},
        "placebo": {"method": "sft", "init": "testbed:base", "data": "$own", **sft},
        "rl": {**stage, "init": "testbed:base", "task": task},
    }


def parts(seed: int, steps: int, options: Mapping[str, int]) -> dict[str, Callable[[Path], tuple[dict, Callable]]]:
    """name -> (scratch folder) -> nodes of a recipe, and what is measured of its run."""
    base = model_path("base")

    def razor(at: Path):
        nodes = forgetting.nodes(at, steps)
        return nodes, lambda run: forgetting.measured(run, list(nodes))

    return {
        "compete": lambda at: (compete.nodes(steps), lambda run: compete.measured(run, base)),
        "forgetting": razor,
        "drift": lambda at: (placebo(steps), lambda run: drift(run, seed, options)),
    }


def one(seed: int, keep: Path, *, steps: int, options: Mapping[str, int]) -> dict[str, Any]:
    """Everything of one seed; what is kept is read."""
    found = {}
    for name, prepare in parts(seed, steps, options).items():
        at = keep / f"{name}-{seed}.json"
        if not at.exists():
            with tempfile.TemporaryDirectory() as scratch:
                nodes, measure = prepare(Path(scratch))
                recipe = {"model": "testbed:base", "seed": seed, "probe": False, "pipeline": nodes}
                told = json.dumps(measure(run_recipe(resolve(recipe), Path(scratch) / "run")), default=float)
            at.parent.mkdir(parents=True, exist_ok=True)
            at.write_text(told)
        found[name] = json.loads(at.read_text())
    return found


def floor(seeds: Sequence[Mapping[str, Mapping[str, float]]]) -> list[Finding]:
    found = []
    for term in ("expansion", "attrition"):
        worst = max(abs(seed["placebo"][term]) for seed in seeds)
        rl = ", ".join(f"{seed['rl'][term]:.3f} of a change of {seed['rl']['total']:+.3f}" for seed in seeds)
        found.append(
            Finding(what=f"drift floor: trajectory {term} after SFT on own samples, the largest of {len(seeds)} seeds",
                    value=worst, relation="<=", bound=FLOOR, of=f"after RL on the same prompts: {rl}")
        )  # fmt: skip
    return found


def section(seeds: Sequence[Mapping[str, Any]]) -> Section:
    rlvr, razor, drifted = ([seed[name] for seed in seeds] for name in ("compete", "forgetting", "drift"))
    return Section(
        [*compete.findings(rlvr), *forgetting.findings(razor), *floor(drifted)],
        tables=(compete.table(rlvr), forgetting.table(razor)),
    )


def run(quick: bool, keep: Path | None = None) -> Section:
    with tempfile.TemporaryDirectory() as scratch:
        if quick:
            return section([one(1, Path(scratch), steps=2, options={**DRIFT, "prompts": 6})])
        return section([one(seed, keep or Path(scratch), steps=STEPS, options=DRIFT) for seed in SEEDS])
