"""Does the intervention that a diagnosis names do best? Every class under every intervention, at one cost.

A student with all bottlenecks (`students`) is given one intervention (`interventions`) on the training prompts of one
class; success on held-out prompts of that class, and of solved families, is exact. The mapped intervention is the one
`offon.behavior.diagnosis.diagnose.REMEDIES` names first. It is best, tied, or worse:

    tied    the 95% interval of (best other - mapped), paired by prompt and seed, begins at MARGIN or below

Cells are kept one by one: a stopped study goes on where it was.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from offon.diagnosis.run import diagnose_model
from studies.validation import interventions as acts
from studies.validation import students
from studies.validation.findings import Section
from studies.validation.matrix import Matrix
from studies.validation.world import World

SEEDS = (1, 2, 3)
FRESH = (4,)  # a student on which the map as corrected after SEEDS is tried
TUNING = 0  # the seed whose student the learning rates are chosen on
RATES = (1e-4, 3e-4, 1e-3)
HELPED = 0.5  # gain of success
BUDGET = 10_000.0  # of the price vector, a cell
HELD_OUT = 12  # prompts of a family
DIAGNOSED = 3
K = 64


@dataclass(frozen=True, kw_only=True)
class Study:
    """Sizes, and where finished parts are."""

    keep: Path
    per_class: int = 4
    held_out: int = HELD_OUT
    budget: float = BUDGET
    rates: Sequence[float] = RATES
    steps: Mapping[str, int] = dataclasses.field(default_factory=lambda: students.STEPS)

    def kept(self, name: str, make: Callable[[], Any]) -> Any:
        at = self.keep / f"{name}.json"
        if not at.exists():
            at.parent.mkdir(parents=True, exist_ok=True)
            found = json.dumps(make(), default=float)
            at.write_text(found)
        return json.loads(at.read_text())

    def models(self, seed: int) -> acts.Models:
        return students.train_models(seed, self.per_class, self.keep / "models" / str(seed), self.steps)

    def held(self, kind: str, n: int | None = None):
        return students.items_for([kind], self.per_class, "heldout", n or self.held_out)


def rates(study: Study) -> dict[str, float]:
    """A learning rate per intervention, of a few: the one with which the classes it helps (by HELPED at some rate)
    gain most, trained on all classes mixed, with twice a cell's budget, on a seed of its own."""
    models, mixed = study.models(TUNING), students.practice(students.CLASSES, study.per_class)
    held = {kind: study.held(kind, max(1, study.held_out // 2)) for kind in students.CLASSES}

    def success(path: Path) -> dict[str, float]:
        return {kind: float(np.mean(students.measured(path, items)["success"])) for kind, items in held.items()}

    def tried(name: str, rate: float) -> dict[str, float]:
        found, _ = acts.run(
            name, mixed, models, budget=2 * study.budget, rate=rate, seed=TUNING, then=success
        )  # fmt: skip
        return found

    start = study.kept("rates/start", lambda: success(models.student))
    chosen = {}
    for name in (each for each in acts.NAMES if each != "nothing"):
        trials = {
            rate: study.kept(f"rates/{name}-{rate:g}", lambda n=name, r=rate: tried(n, r)) for rate in study.rates
        }
        helped = [kind for kind in start if max(found[kind] for found in trials.values()) - start[kind] >= HELPED]
        chosen[name] = max(trials, key=lambda rate: sum(trials[rate][kind] for kind in helped or start))
    return chosen


def cell(study: Study, seed: int, kind: str, name: str, rate: float) -> dict[str, Any]:
    held, guard = study.held(kind), study.held("solved")

    def then(path: Path) -> dict[str, Any]:
        return {"after": students.measured(path, held), "guard": students.measured(path, guard)["success"]}

    started = time.process_time()
    found, spent = acts.run(
        name, students.practice([kind], study.per_class), study.models(seed),
        budget=study.budget, rate=rate, seed=seed, then=then,
    )  # fmt: skip
    return {**found, "spent": spent, "rate": rate, "seconds": time.process_time() - started}


def before(study: Study, seed: int, kind: str) -> dict[str, Any]:
    models, held = study.models(seed), study.held(kind)
    return {
        "student": students.measured(models.student, held),
        "hinted": students.helped(models.student, held),
        "earlier": students.measured(models.earlier, held)["success"],
        "teacher": students.measured(models.teacher, held)["success"],
    }


def diagnosed(study: Study, seed: int) -> dict[str, dict[str, int]]:
    """The student's own diagnosis, with its teacher: calls by class of the prompts."""
    models = study.models(seed)
    world = students.world(study.per_class)
    task = World(world, min(DIAGNOSED, study.held_out))
    entry = diagnose_model(
        str(models.student), task, teacher=str(models.teacher), prompts=len(task.items()), budget=224, k=K,
        max_tokens=8, seed=seed,
    )  # fmt: skip
    kinds = {family.name: family.kind for family in world}
    calls: dict[str, Counter] = {}
    for prompt in entry["prompts"]:
        calls.setdefault(kinds[prompt["family"]], Counter())[prompt["call"]] += 1
    return {kind: dict(found) for kind, found in calls.items()}


def matrix(study: Study, seeds: Sequence[int]) -> Matrix:
    """Run what is not kept yet, seed by seed."""
    chosen = rates(study)
    found = Matrix(classes=tuple(students.CLASSES), names=tuple(acts.NAMES), k=K)
    for seed in seeds:
        found.calls[seed] = study.kept(f"{seed}/calls", lambda s=seed: diagnosed(study, s))
        for kind in students.CLASSES:
            found.before[seed, kind] = study.kept(f"{seed}/{kind}", lambda s=seed, c=kind: before(study, s, c))
            for name in acts.NAMES:
                rate = chosen.get(name, 0.0)
                found.cells[seed, kind, name] = study.kept(
                    f"{seed}/{kind}-{name}-{rate:g}",
                    lambda s=seed, c=kind, n=name, r=rate: cell(study, s, c, n, r),
                )
    return found


def run(quick: bool, keep: Path | None = None) -> Section:
    with tempfile.TemporaryDirectory() as scratch:
        if not quick:
            study = Study(keep=keep or Path(scratch))
            first, fresh = (matrix(study, seeds) for seeds in (SEEDS, FRESH))
            return dataclasses.replace(first.section(), findings=[*first.findings(), *fresh.confirmation()])
        small = {"first": 30, "second": 10, "teacher": 30}
        study = Study(keep=Path(scratch), per_class=1, held_out=2, budget=1_000.0, rates=RATES[1:2], steps=small)
        return matrix(study, (1,)).section()
