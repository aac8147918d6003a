"""Diagnosis of tiny transformers with planted bottlenecks, scored against the rule on their exact probabilities.

The student and its teacher start from the testbed's base, which knows the tables of twelve operations and the routes,
and are trained on the second world (`studies.validation.world`). What the diagnosis samples is computed exactly
(`studies.validation.truth`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from offon.behavior.diagnosis.bottleneck import CLASSES, UNDECIDED, UNSUPPORTED, classify
from offon.diagnosis.measurements import TEACHER_TRIES
from offon.diagnosis.run import diagnose_model
from offon.testbed import model_path
from offon.testbed.grammar import VOCABULARY
from offon.testbed.train import HEAD_GAIN, PLANS, Plan, fit, make_model, make_tokenizer, one_thread_deterministic
from studies.validation.findings import Finding
from studies.validation.scores import over_seeds, scores
from studies.validation.truth import Rates, true_rates
from studies.validation.world import Documents, Family, World, families, teacher_families, vocabulary

BUDGET, K, MAX_TOKENS = 224, 64, 8
SEEDS = (1, 2, 3, 4, 5)
TEACHER_STEPS = 300
STUDENTS = {"trained": 400, "half trained": 60}  # steps; the second is left between the classes on many families
BASE = PLANS["base"]
Rows = dict[str, list[dict]]


def plan(steps: int, seed: int, *, slip: float = 0.0) -> Plan:
    sizes = {name: getattr(BASE, name) for name in ("hidden", "layers", "head_dim", "intermediate")}
    return Plan(**sizes, steps=steps, seed=seed, documents=192, learning_rate=2e-3, slip=slip)


def from_base(training: Plan, words: Sequence[str]):
    """The testbed's base with a new vocabulary: words it knows keep their rows; the head's gain back in the norm."""
    model, base = (
        make_model(training, words),
        AutoModelForCausalLM.from_pretrained(model_path("base"), dtype=torch.float32),
    )
    known = [(words.index(word), VOCABULARY.index(word)) for word in VOCABULARY if word in words]
    new, old = (list(side) for side in zip(*known, strict=True))
    state, kept = model.state_dict(), base.state_dict()
    with torch.no_grad():
        for name, tensor in kept.items():
            if name in ("model.embed_tokens.weight", "lm_head.weight"):
                gain = HEAD_GAIN if name.startswith("lm_head") else 1
                state[name][new] = tensor[old] / gain
            else:
                state[name].copy_(tensor * (HEAD_GAIN if name == "model.norm.weight" else 1))
    return model


@dataclass(frozen=True)
class Made:
    """A model in memory and on disk."""

    model: Any
    path: Path


def saved(model, tokenizer, at: Path) -> Made:
    model.save_pretrained(at)
    tokenizer.save_pretrained(at)
    return Made(model, at)


@dataclass(frozen=True)
class Setting:
    """Families of one seed, their words, and where models are kept."""

    world: Sequence[Family]
    seed: int
    at: Path

    @staticmethod
    def of(per_class: int, seed: int, at: Path) -> Setting:
        return Setting(families(per_class), seed, at)

    @property
    def words(self) -> tuple[str, ...]:
        return vocabulary(self.world)

    @property
    def tokenizer(self):
        return make_tokenizer(self.words)

    def train(self, name: str, world: Sequence[Family], steps: int, *, start=None, slip: float = 0.0) -> Made:
        training = plan(steps, self.seed, slip=slip)
        with one_thread_deterministic():
            model = start or from_base(training, self.words)
            model = fit(model, Documents(training, world, self.words), training).eval()
        return saved(model, self.tokenizer, self.at / name.replace(" ", "-"))

    def teacher(self, steps: int) -> Made:
        return self.train("teacher", teacher_families(self.world), steps)


def rows_of(entry: dict, rates: Rates, setting: Setting, k: int = K) -> list[dict]:
    """A row per prompt: what is true, and what was called."""
    kinds = {family.name: family.kind for family in setting.world}
    return [
        {
            "seed": setting.seed, "family": prompt["family"], "meant": kinds[prompt["family"]],
            "true": CLASSES[int(true)], "call": prompt["call"], "sub": prompt["sub"], "spent": spent(prompt),
            "probabilities": list(prompt["probabilities"].values()), "tries": prompt["k_to_solve"],
            "rates": {rate: float(values[i]) for rate, values in rates.items()},
        }
        for i, (prompt, true) in enumerate(zip(entry["prompts"], classify(rates, k), strict=True))
    ]  # fmt: skip


def one(setting: Setting, per_family: int, *, teacher: int, students: Mapping[str, int]) -> Rows:
    """Train a teacher and students for so many steps each, diagnose the students: rows by student."""
    task, guide, found = World(setting.world, per_family), setting.teacher(teacher), {}
    items = task.items("heldout")
    for name, steps in students.items():
        student = setting.train(name, setting.world, steps)
        entry = diagnose_model(
            str(student.path), task, teacher=str(guide.path), prompts=len(items), budget=BUDGET, k=K,
            max_tokens=MAX_TOKENS, seed=setting.seed,
        )  # fmt: skip
        found[name] = rows_of(entry, true_rates(student.model, guide.model, setting.tokenizer, items), setting)
    return found


def spent(prompt: dict) -> int:
    """Rollouts of one prompt, the teacher's included."""
    names = ("strict", "scaffold", "previous", "begun", "placed", "finished", "placebo")
    counted = sum(prompt[name][1] for name in names if prompt.get(name))
    return counted + TEACHER_TRIES * ("placed" in prompt)


def confusion(rows: Sequence[dict], given: str, shown: str) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for row in rows:
        part = found.setdefault(row[given], {})
        part[row[shown]] = part.get(row[shown], 0) + 1
    return found


def scored(name: str, rows: Sequence[dict], *, told: Sequence[str] = ()) -> list[Finding]:
    seeds = sorted({row["seed"] for row in rows})
    parts = [[row for row in rows if row["seed"] == seed] for seed in seeds]
    runs = [
        scores([row["call"] for row in part], np.array([row["probabilities"] for row in part]),
               [row["true"] for row in part], np.array([row["spent"] for row in part]))
        for part in parts
    ]  # fmt: skip
    return over_seeds(name, runs, len(parts[0]), np.array([row["spent"] for row in rows]), told=told)


def summary(name: str, rows: Sequence[dict]) -> list[Finding]:
    found = scored(name, rows)
    held = [
        row["tries"][0] <= 1 / max(row["rates"]["strict"], 1e-12) <= 1.001 * (row["tries"][1] or np.inf) for row in rows
    ]
    found.append(Finding(what=f"{name}: tries until solved, intervals that hold", value=float(np.mean(held)),
                         relation=">=", bound=0.95, of=f"{len(held)} prompts"))  # fmt: skip
    for kind, realised in confusion(rows, "meant", "true").items():
        failed = 1 - realised.get(kind, 0) / sum(realised.values())
        found.append(Finding(what=f"{name}: planting failed, meant {kind}", value=failed, told=True,
                             of=f"became {told(realised)}"))  # fmt: skip
    for kind, calls in confusion(rows, "true", "call").items():
        wrong = sum(n for call, n in calls.items() if call not in (kind, UNDECIDED, UNSUPPORTED))
        found.append(Finding(what=f"{name}: called wrongly, truly {kind}", value=wrong / sum(calls.values()),
                             relation="<=", bound=0.05, of=f"called {told(calls)}"))  # fmt: skip
    seeds, kinds = len({row["seed"] for row in rows}), len({row["family"] for row in rows})
    found.append(Finding(what=f"{name}: models", value=seeds, relation=">=", bound=5, of=f"{kinds} families each"))
    return found


def told(tally: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {n}" for name, n in sorted(tally.items(), key=lambda pair: -pair[1]))


def run(quick: bool) -> list[Finding]:
    per_class, per_family, seeds = (1, 2, (1,)) if quick else (8, 4, SEEDS)
    teacher, students = (30, {"trained": 30}) if quick else (TEACHER_STEPS, STUDENTS)
    rows: Rows = {name: [] for name in students}
    for seed in seeds:
        with tempfile.TemporaryDirectory() as at:
            found = one(Setting.of(per_class, seed, Path(at)), per_family, teacher=teacher, students=students)
        for name, more in found.items():
            rows[name] += more
    return [finding for name, part in rows.items() for finding in summary(name, part)]
