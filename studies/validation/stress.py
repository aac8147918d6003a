"""Diagnosis of trained models where something is amiss: samplers, teachers, prefixes that leak, checkers, forgetting.

Models and worlds are those of `studies.validation.trained`; each setting changes one thing, and the truth with it:

    sampler at T = .7, at top-p .9         rates under that sampler
    teacher slips in one step of 20%       its own rates
    teacher starts over                    a checker that judges what follows the last route word; documents in which
                                           wrong beginnings are given and right responses follow
    checker without a verdict on content   a whole answer but for its last sign passes no check, and is no placement
    checker rejects 20% of right answers   drawn anew each time; with labels, and without
    checker rejects a right format         in half of the families: right content that it rejects is the checker's fault
    a solved checkpoint forgets            trained on with decoy routes in half of its solved families; the earlier
                                           checkpoint is given
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from offon.behavior.diagnosis.controls import PLACED
from offon.behavior.diagnosis.subtypes import CHECKER_REJECTS
from offon.diagnosis.run import diagnose_model
from offon.testbed.grammar import ROUTES
from offon.testbed.task import TestbedTask
from offon.types import Item, Sampling, Verdict
from studies.validation.findings import Finding
from studies.validation.scores import DECIDED
from studies.validation.trained import BUDGET, MAX_TOKENS, STUDENTS, TEACHER_STEPS, K, Made, Setting, rows_of, scored
from studies.validation.truth import Rates, starting_over, true_rates
from studies.validation.world import DECOYS, Family, World, teacher_families

SEEDS = (1, 2)
LABELS = 200  # right ones and wrong ones
FORGETTING_STEPS = 60
gold = TestbedTask().verify


def strict_only(pairs: Sequence[tuple[Item, str]]) -> list[Verdict]:
    return [Verdict(verdict.score) for verdict in gold(pairs)]


def last_attempt(pairs: Sequence[tuple[Item, str]]) -> list[Verdict]:
    """The testbed's checker on what follows the last route word."""

    def attempt(text: str) -> str:
        words = text.split()
        starts = [i for i, word in enumerate(words) if word in ROUTES]
        return " ".join(words[starts[-1] :]) if starts else text

    return gold([(item, attempt(text)) for item, text in pairs])


class Rejecting:
    """Accepts a right response with probability TPR."""

    def __init__(self, sensitivity: float, seed: int):
        self.sensitivity, self.random = sensitivity, np.random.default_rng(seed)

    def __call__(self, pairs: Sequence[tuple[Item, str]]) -> list[Verdict]:
        passes = self.random.random(len(pairs)) < self.sensitivity
        return [v if ok else Verdict(0.0, content=0.0) for v, ok in zip(gold(pairs), passes, strict=True)]


def rejects_sign(families: Sequence[str]):
    """In some families the checker does not know the sign that ends a right response."""

    def verify(pairs: Sequence[tuple[Item, str]]) -> list[Verdict]:
        verdicts = zip(pairs, gold(pairs), strict=True)
        return [Verdict(0.0, content=v.content) if item.family in families else v for (item, _), v in verdicts]

    return verify


class Bench:
    """Models of one seed and the settings they are diagnosed in; every method gives rows."""

    def __init__(self, setting: Setting, per_family: int, *, teacher: int, student: int, forgetting: int):
        self.setting, self.per_family, self.steps = setting, per_family, {"teacher": teacher, "forgetting": forgetting}
        self.guide = setting.teacher(teacher)
        self.student = setting.train("student", setting.world, student)
        self.items = World(setting.world, per_family).items()

    def rates(self, teacher: Made, sampling: Sampling = Sampling()) -> Rates:
        return true_rates(self.student.model, teacher.model, self.setting.tokenizer, self.items, sampling)

    def diagnosed(self, rates: Rates, *, teacher: Made | None = None, verify=None, **options) -> list[dict]:
        task = World(self.setting.world, self.per_family, verify)
        asked = {"max_tokens": MAX_TOKENS, "seed": self.setting.seed, "budget": BUDGET, "k": K} | options
        guide = str((teacher or self.guide).path)
        entry = diagnose_model(str(self.student.path), task, teacher=guide, prompts=len(self.items), **asked)
        return rows_of(entry, rates, self.setting)

    def sampler(self, **sampling: float) -> list[dict]:
        return self.diagnosed(self.rates(self.guide, Sampling(**sampling)), **sampling)

    def slipping_teacher(self) -> list[dict]:
        slipping = self.setting.train("slipping", teacher_families(self.setting.world), self.steps["teacher"], slip=0.2)
        return self.diagnosed(self.rates(slipping), teacher=slipping)

    def restarting_teacher(self) -> list[dict]:
        world = teacher_families(self.setting.world, begun=0.5)
        restarting = self.setting.train("restarting", world, self.steps["teacher"])
        over = starting_over(self.student.model, restarting.model, self.setting.tokenizer, self.items)
        rates = self.rates(restarting) | over
        return self.diagnosed(rates, teacher=restarting, verify=last_attempt, max_tokens=12)

    def without_content(self) -> list[dict]:
        rates = self.rates(self.guide)
        return self.diagnosed({**rates, "content": rates["strict"]}, verify=strict_only)

    def rejecting(self, labels: bool) -> list[dict]:
        verify = Rejecting(0.8, self.setting.seed)
        right = [{"id": item.id, "response": item.reference, "right": True} for item in self.items]
        wrong = [{"id": item.id, "response": "forward 0 0 0 #", "right": False} for item in self.items]
        known = [(side * LABELS)[:LABELS] for side in (right, wrong)]
        return self.diagnosed(self.rates(self.guide), verify=verify, labels=sum(known, []) if labels else None)

    def rejected_sign(self) -> list[dict]:
        blamed = [family.name for family in self.setting.world if _even(family.name)]
        rates, hit = self.rates(self.guide), np.array([item.family in blamed for item in self.items])
        rates = {name: np.where(hit & (name in ("strict", "better", "begun", "placed", "finished")), 0, rate)
                 for name, rate in rates.items()}  # fmt: skip
        return self.diagnosed(rates, verify=rejects_sign(blamed))

    def forgetting(self) -> list[dict]:
        solved = [family for family in self.setting.world if family.kind == "solved"]
        lost = [dataclasses.replace(f, routes={DECOYS[i % 2]: 1.0}) for i, f in enumerate(solved) if i % 2 == 0]
        kept = [family for family in self.setting.world if family.name not in {f.name for f in lost}]
        copy = type(self.student.model).from_pretrained(self.student.path)
        before = self.student
        now = self.rates(self.guide)
        self.student = self.setting.train("forgetful", _often(lost, kept), self.steps["forgetting"], start=copy)
        rates = self.rates(self.guide)
        rates["better"] = np.maximum(rates["better"], now["strict"])
        rows = self.diagnosed(rates, earlier=[str(before.path)])
        self.student = before
        return [row for row in rows if row["meant"] == "solved"]


def _often(lost: Sequence[Family], kept: Sequence[Family]) -> list[Family]:
    """Half of the documents from families that conflict with what was learned, half from the others."""
    return [*list(lost) * max(1, len(kept) // max(len(lost), 1)), *kept]


NO_DECISION = "teacher starts over"
UNTOLD = (DECIDED, "calibration error", "error of the shares (L1)")  # there: what cannot be told is not decided


def run(quick: bool) -> list[Finding]:
    per_class, per_family, seeds = (1, 2, (1,)) if quick else (8, 4, SEEDS)
    steps = {"teacher": 30, "student": 30, "forgetting": 5} if quick else {
        "teacher": TEACHER_STEPS, "student": STUDENTS["trained"], "forgetting": FORGETTING_STEPS}  # fmt: skip
    rows: dict[str, list[dict]] = {}
    for seed in seeds:
        with tempfile.TemporaryDirectory() as at:
            bench = Bench(Setting.of(per_class, seed, Path(at)), per_family, **steps)
            for name, more in settings(bench).items():
                rows.setdefault(name, []).extend(more)
    return [finding for name, part in rows.items() for finding in findings(name, part)]


def settings(bench: Bench) -> dict[str, list[dict]]:
    return {
        "sampler T = .7": bench.sampler(temperature=0.7),
        "sampler top-p .9": bench.sampler(top_p=0.9),
        "teacher slips in 20%": bench.slipping_teacher(),
        NO_DECISION: bench.restarting_teacher(),
        "no verdict on content": bench.without_content(),
        "checker rejects 20%": bench.rejecting(labels=False),
        f"checker rejects 20%, {2 * LABELS} labels": bench.rejecting(labels=True),
        "checker rejects a right format": bench.rejected_sign(),
        "a solved checkpoint forgets": bench.forgetting(),
    }


def findings(name: str, rows: Sequence[dict]) -> list[Finding]:
    if name == "checker rejects 20%":
        return [row for row in scored(name, rows, told=("accuracy of decided calls",)) if row.told]
    found = scored(name, rows, told=UNTOLD if name == NO_DECISION else ())
    match name:
        case "teacher starts over":
            hidden = [row for row in rows if row["true"] == "unreachable" and row["rates"]["placebo"] > 0.6]
            found.append(_share(name, hidden, "dead or alive not to be told, called one of them",
                                lambda row: row["call"] in PLACED, "<=", 0.05))  # fmt: skip
            alive = [row for row in rows if row["true"] == "local"]
            found.append(_share(name, alive, "truly local, called so", lambda row: row["call"] == "local", ">=", 0.8))
        case "checker rejects a right format":
            blamed = [row for row in rows if row["true"] == "format" and _even(row["family"])]
            other = [row for row in rows if row["true"] == "format" and not _even(row["family"])]
            found.append(_share(name, blamed, "its fault, called so", _blames_checker, ">=", 0.8))
            found.append(_share(name, other, "the model's fault, called the checker's", _blames_checker, "<=", 0.05))
        case "a solved checkpoint forgets":
            lost = [row for row in rows if row["true"] == "fragile"]
            found.append(_share(name, lost, "truly lost, called so", lambda row: row["sub"] == "lost", ">=", 0.8))
            kept = [row for row in rows if row["true"] == "solved"]
            found.append(_share(name, kept, "truly kept, called lost", lambda row: row["sub"] == "lost", "<=", 0.05))
    return found


def _even(family: str) -> bool:
    return int(family[-1]) % 2 == 0


def _blames_checker(row: dict) -> bool:
    return row["sub"] == CHECKER_REJECTS


def _share(name: str, rows: Sequence[dict], what: str, holds, relation: str, bound: float) -> Finding:
    share = float(np.mean([holds(row) for row in rows])) if rows else np.nan
    return Finding(what=f"{name}: {what}", value=share, relation=relation, bound=bound, of=f"{len(rows)} prompts")
