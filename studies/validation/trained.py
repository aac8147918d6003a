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
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from offon.behavior.bottleneck import CLASSES, classify
from offon.loops.diagnose import TEACHER_TRIES, diagnose_model
from offon.testbed import model_path
from offon.testbed.grammar import HINT, ROUTES, VOCABULARY
from offon.testbed.oracle import exact
from offon.testbed.train import HEAD_GAIN, PLANS, Plan, fit, make_model, make_tokenizer, one_thread_deterministic
from studies.validation.findings import Finding
from studies.validation.scores import score
from studies.validation.world import Documents, Family, World, families, teacher_families, vocabulary

BUDGET, K, MAX_TOKENS = 224, 64, 8
BASE = PLANS["base"]


def plan(steps: int, seed: int) -> Plan:
    sizes = {name: getattr(BASE, name) for name in ("hidden", "layers", "head_dim", "intermediate")}
    return Plan(**sizes, steps=steps, seed=seed, documents=192, learning_rate=2e-3)


def from_base(training: Plan, words: Sequence[str]):
    """The testbed's base with a new vocabulary: words it knows keep their rows; the head's gain back in the norm."""
    model, base = make_model(training, words), AutoModelForCausalLM.from_pretrained(model_path("base"), dtype=torch.float32)
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


def one(per_class: int, per_family: int, steps: tuple[int, int], seed: int, at: Path) -> list[dict]:
    """Train a student and its teacher, diagnose the student: a row per prompt."""
    world = families(per_class)
    words = vocabulary(world)
    tokenizer, paths, models = make_tokenizer(words), {}, {}
    for who, members, length in (("student", world, steps[0]), ("teacher", teacher_families(world), steps[1])):
        models[who], paths[who] = trained(plan(length, seed), members, words), at / f"{who}-{seed}"
        models[who].save_pretrained(paths[who])
        tokenizer.save_pretrained(paths[who])
    task = World(world, per_family)
    items = task.items("heldout")
    rates = true_rates(models["student"], models["teacher"], tokenizer, items)
    found = diagnose_model(
        str(paths["student"]), task, teacher=str(paths["teacher"]), prompts=len(items), budget=BUDGET, k=K,
        max_tokens=MAX_TOKENS, seed=seed,
    )  # fmt: skip
    kinds = {family.name: family.kind for family in world}
    return [
        {
            "seed": seed, "family": prompt["family"], "meant": kinds[prompt["family"]],
            "true": CLASSES[int(true)], "call": prompt["call"], "probabilities": list(prompt["probabilities"].values()),
            "spent": sum(n for what, (_, n) in pairs(prompt) if what != "content")
            + TEACHER_TRIES * ("placed" in prompt),
            "rates": {rate: float(values[i]) for rate, values in rates.items()},
        }
        for i, (prompt, true) in enumerate(zip(found["prompts"], classify(rates, K), strict=True))
    ]  # fmt: skip


def pairs(prompt: dict):
    """What was measured on a prompt: (name, [successes, scored])."""
    names = ("strict", "content", "scaffold", "placed", "finished", "placebo")
    return [(name, prompt[name]) for name in names if prompt.get(name)]


def confusion(rows: Sequence[dict], given: str, shown: str) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for row in rows:
        part = found.setdefault(row[given], {})
        part[row[shown]] = part.get(row[shown], 0) + 1
    return found


def summary(rows: Sequence[dict]) -> list[Finding]:
    decided = score(
        "trained", [row["call"] for row in rows], np.array([row["probabilities"] for row in rows]),
        [row["true"] for row in rows], np.array([row["spent"] for row in rows]),
    )  # fmt: skip
    seeds, found = len({row["seed"] for row in rows}), len({row["family"] for row in rows})
    for kind, realised in confusion(rows, "meant", "true").items():
        total = sum(realised.values())
        told = ", ".join(f"{name} {n}" for name, n in sorted(realised.items(), key=lambda pair: -pair[1]))
        decided.append(
            Finding(what=f"planting failed, meant {kind}", value=1 - realised.get(kind, 0) / total, relation="<=",
                    bound=1.0, of=f"for information; became {told}")
        )  # fmt: skip
    for kind, calls in confusion(rows, "true", "call").items():
        told = ", ".join(f"{name} {n}" for name, n in sorted(calls.items(), key=lambda pair: -pair[1]))
        decided.append(
            Finding(what=f"called wrongly, truly {kind}", relation="<=", bound=0.05,
                    value=sum(n for name, n in calls.items() if name not in (kind, "undecided", "unsupported"))
                    / sum(calls.values()), of=f"called {told}")
        )  # fmt: skip
    decided.append(Finding(what="seeds x families", value=seeds * found, relation=">=", bound=5 * 56,
                           of=f"{seeds} seeds, {found} families, 8 per class and 5 seeds wanted"))  # fmt: skip
    return decided


def run(quick: bool) -> list[Finding]:
    per_class, per_family, seeds = (1, 2, (1,)) if quick else (8, 4, (1, 2, 3, 4, 5))
    steps = (30, 30) if quick else (400, 300)
    with tempfile.TemporaryDirectory() as at:
        rows = [row for seed in seeds for row in one(per_class, per_family, steps, seed, Path(at))]
    return summary(rows)

