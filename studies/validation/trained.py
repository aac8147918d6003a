"""Diagnosis of tiny transformers with planted bottlenecks, scored against the rule on their exact probabilities.

The student and its teacher start from the testbed's base, which knows the tables of twelve operations and the routes,
and are trained on the second world (`studies.validation.world`). What the diagnosis samples is computed here exactly:

    strict, content, scaffold    all responses, by enumeration
    placed    the rest of the right response after its route and two states
    finished  sum over routes of the student's share times the teacher's probability of the right rest
    placebo   taken as 0: another prompt's first two states are this prompt's in less than one pair of 16
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from offon.behavior.bottleneck import CLASSES, UNDECIDED, UNSUPPORTED, classify
from offon.loops.diagnose import TEACHER_TRIES, diagnose_model
from offon.testbed import model_path
from offon.testbed.grammar import HINT, ROUTES, VOCABULARY
from offon.testbed.oracle import exact
from offon.testbed.train import HEAD_GAIN, PLANS, Plan, fit, make_model, make_tokenizer, one_thread_deterministic
from studies.validation.findings import Finding
from studies.validation.scores import score
from studies.validation.world import Documents, Family, World, families, teacher_families, vocabulary

BUDGET, K, MAX_TOKENS = 224, 64, 8
SEEDS = (1, 2, 3, 4, 5)
TEACHER_STEPS = 300
STUDENTS = {"trained": 400, "half trained": 60}  # steps; the second is left between the classes on many families
BASE = PLANS["base"]
Rows = dict[str, list[dict]]


def plan(steps: int, seed: int) -> Plan:
    sizes = {name: getattr(BASE, name) for name in ("hidden", "layers", "head_dim", "intermediate")}
    return Plan(**sizes, steps=steps, seed=seed, documents=192, learning_rate=2e-3)


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


def trained(training: Plan, world: Sequence[Family], words: Sequence[str]):
    with one_thread_deterministic():
        return fit(from_base(training, words), Documents(training, world, words), training).eval()


@torch.no_grad()
def probability(model, tokenizer, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
    """[n] exact probability of each completion (with its end) after its text; all of one length."""
    texts = [tokenizer(text).input_ids for text, _ in pairs]
    rest = [tokenizer(f"{completion} {tokenizer.eos_token}").input_ids for _, completion in pairs]
    ids = torch.tensor([a + b for a, b in zip(texts, rest, strict=True)])
    logp = model(input_ids=ids).logits[:, :-1].double().log_softmax(-1)
    taken = logp.gather(2, ids[:, 1:, None])[:, -len(rest[0]) :, 0]
    return taken.sum(1).exp().numpy()


def true_rates(student, teacher, tokenizer, items) -> dict[str, np.ndarray]:
    plain = exact(student, tokenizer, items)
    helped = [i for i, each in enumerate(items) if HINT in each.views]
    better = np.zeros(len(items))
    if helped:
        better[helped] = [row.success for row in exact(student, tokenizer, [items[i] for i in helped], view=HINT)]
    traces = [each.columns["trace"].split() for each in items]
    placed = [(f"{e.prompt} forward {t[0]} {t[1]}", f"{t[2]} #") for e, t in zip(items, traces, strict=True)]
    share = np.array([[row.routes[route] for route in ROUTES] for row in plain])
    onward = np.stack(
        [
            probability(teacher, tokenizer, [(f"{e.prompt} {r}", f"{' '.join(t)} #")
                                             for e, t in zip(items, traces, strict=True)])
            for r in ROUTES
        ],
        axis=1,
    )  # fmt: skip
    return {
        "strict": np.array([row.success for row in plain]),
        "content": np.array([row.content for row in plain]),
        "better": better,
        "placed": probability(student, tokenizer, placed),
        "finished": (share * onward).sum(axis=1),
        "placebo": np.zeros(len(items)),
    }


def one(per_class: int, per_family: int, seed: int, at: Path, *, teacher: int, students: Mapping[str, int]) -> Rows:
    """Train a teacher and students for so many steps each, diagnose the students: a row per prompt, by student."""
    world = families(per_class)
    words = vocabulary(world)
    tokenizer, task = make_tokenizer(words), World(world, per_family)
    items, kinds, found = task.items("heldout"), {family.name: family.kind for family in world}, {}
    guide, guide_at = kept(trained(plan(teacher, seed), teacher_families(world), words), tokenizer, at / "teacher")
    for name, steps in students.items():
        student, path = kept(trained(plan(steps, seed), world, words), tokenizer, at / name)
        rates = true_rates(student, guide, tokenizer, items)
        entry = diagnose_model(
            str(path), task, teacher=str(guide_at), prompts=len(items), budget=BUDGET, k=K, max_tokens=MAX_TOKENS,
            seed=seed,
        )  # fmt: skip
        found[name] = [
            {
                "seed": seed, "family": prompt["family"], "meant": kinds[prompt["family"]],
                "true": CLASSES[int(true)], "call": prompt["call"],
                "probabilities": list(prompt["probabilities"].values()), "spent": spent(prompt),
                "rates": {rate: float(values[i]) for rate, values in rates.items()},
            }
            for i, (prompt, true) in enumerate(zip(entry["prompts"], classify(rates, K), strict=True))
        ]  # fmt: skip
    return found


def kept(model, tokenizer, at: Path):
    model.save_pretrained(at)
    tokenizer.save_pretrained(at)
    return model, at


def spent(prompt: dict) -> int:
    """Rollouts of one prompt, the teacher's included."""
    names = ("strict", "scaffold", "placed", "finished", "placebo")
    counted = sum(prompt[name][1] for name in names if prompt.get(name))
    return counted + TEACHER_TRIES * ("placed" in prompt)


def confusion(rows: Sequence[dict], given: str, shown: str) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for row in rows:
        part = found.setdefault(row[given], {})
        part[row[shown]] = part.get(row[shown], 0) + 1
    return found


def summary(name: str, rows: Sequence[dict]) -> list[Finding]:
    found = score(
        name, [row["call"] for row in rows], np.array([row["probabilities"] for row in rows]),
        [row["true"] for row in rows], np.array([row["spent"] for row in rows]),
    )  # fmt: skip
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
            found = one(per_class, per_family, seed, Path(at), teacher=teacher, students=students)
        for name, more in found.items():
            rows[name] += more
    return [finding for name, part in rows.items() for finding in summary(name, part)]
