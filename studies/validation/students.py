"""A student with every bottleneck, its earlier checkpoint and its teacher; and what a model does, exactly.

The student is trained in two phases on the second world (`studies.validation.world`). Families called lost are solved
in the first phase, whose result is the earlier checkpoint, and are shown with a decoy route in the second.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from offon.models.model import Model
from offon.testbed.grammar import HINT, RIGHT_FORMAT, ROUTES, content_hash, programs, prompt_words
from offon.testbed.oracle import exact
from offon.testbed.train import fit, make_tokenizer, one_thread_deterministic, settle_head
from offon.types import Item
from studies.validation.interventions import Models, Practice
from studies.validation.trained import from_base, plan, saved
from studies.validation.truth import probability
from studies.validation.world import DECOYS, RIGHT, Documents, Family, families, item, teacher_families, vocabulary

CLASSES = ("solved", "format", "scaffold", "lost", "ranking", "local", "unreachable", "missing")
TRAIN = 128  # training prompts of a family
STEPS = {"first": 300, "second": 100, "teacher": 300}


def world(per_class: int, *, early: bool = False) -> list[Family]:
    """The families of the student; early: as its first phase shows them."""
    known = [dataclasses.replace(f, kind="scaffold") if f.kind == "fragile" else f for f in families(per_class)]
    lost = [
        Family(name=f"lost{i}", kind="lost", routes=RIGHT if early else {DECOYS[i % 2]: 0.98, "forward": 0.02})
        for i in range(per_class)
    ]
    return known + lost


def items_of(family: Family, split: str, n: int) -> list[Item]:
    members = [p for p in programs(family.ops) if p.heldout == (split == "heldout")]
    members.sort(key=lambda p: content_hash("draw", *prompt_words(family.name, p)))
    return [item(family, p) for p in members[:n]]


def items_for(kinds: Sequence[str], per_class: int, split: str, n: int) -> list[Item]:
    """n items of each family of these classes, families mixed by hash."""
    found = [i for family in world(per_class) if family.kind in kinds for i in items_of(family, split, n)]
    return sorted(found, key=lambda i: content_hash("mix", i.prompt))


def practice(kinds: Sequence[str], per_class: int) -> Practice:
    return Practice("+".join(kinds), items_for(kinds, per_class, "train", TRAIN))


class Hinted(Documents):
    """Documents in which the hint stands before other families' prompts too, where it changes nothing: it is a scaffold
    of the families that were made fragile, and of no other."""

    IDLE = 0.2

    def _document(self, family: Family) -> tuple[tuple[str, ...], tuple[str, ...]]:
        prompt, response = super()._document(family)
        idle = not family.hinted and self.random.random() < self.IDLE
        return ((HINT, *prompt) if idle else prompt), response


def train_models(seed: int, per_class: int, at: Path, steps: dict[str, int] = STEPS) -> Models:
    """Train what is not there yet."""
    late, early = world(per_class), world(per_class, early=True)
    words = vocabulary(late)
    tokenizer = make_tokenizer(words)
    paths = Models(student=at / "student", earlier=at / "earlier", teacher=at / "teacher")
    if (paths.student / "config.json").exists():
        return paths
    first, second, guide = (plan(steps[name], seed) for name in ("first", "second", "teacher"))
    with one_thread_deterministic():
        knowing = Documents(guide, teacher_families(late), words)
        saved(fit(from_base(guide, words), knowing, guide), tokenizer, paths.teacher)
        model = fit(from_base(first, words), Hinted(first, early, words), first)
        saved(settled(model), tokenizer, paths.earlier)
        saved(settled(fit(model, Hinted(second, late, words), second)), tokenizer, paths.student)
    return paths


def settled(model):
    """A copy with the gain in its head, as the testbed's models ship: see `offon.testbed.train.settle_head`."""
    model = copy.deepcopy(model)
    settle_head(model)
    return model


def measured(path: Path, items: Sequence[Item], *, view: str = "prompt") -> dict[str, list]:
    """Success and content of each item, the share of each route, and after each route the probability of the right
    rest; success is the sum of their products."""
    model = Model.load(path)
    rows = exact(model.hf, model.tokenizer, items, view=view)
    shown = [each.prompt if view == "prompt" else each.views[view] for each in items]
    pairs = [
        (f"{text} {route}", f"{each.columns['trace']} {RIGHT_FORMAT} {model.tokenizer.eos_token}")
        for text, each in zip(shown, items, strict=True)
        for route in ROUTES
    ]
    rest = probability(model.hf.eval(), model.tokenizer, pairs).reshape(len(items), len(ROUTES))
    routes = np.array([[row.routes[route] for route in ROUTES] for row in rows])
    return {
        "success": [row.success for row in rows],
        "content": [row.content for row in rows],
        "routes": routes.tolist(),
        "rest": rest.tolist(),
    }


def helped(path: Path, items: Sequence[Item]) -> list[float]:
    """Exact success with the hint before the prompt."""
    hinted = [dataclasses.replace(each, views={HINT: f"{HINT} {each.prompt}"}) for each in items]
    return measured(path, hinted, view=HINT)["success"]
