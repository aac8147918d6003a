"""Interventions as recipes of offon's public rows, each sized to one budget under a declared price vector.

    format             sft on the format token alone, after the student's own traces
    rl                 grpo on own rollouts
    route              sft on the right route followed by what the student itself goes on with
    trained prefix     uft: rollouts that begin with part of a demonstration, which is learned too
    shown prefix       grpo with expert_prefix: the same, never learned
    teacher on own     on_policy_distill from the teacher
    demonstrations     sft on whole right answers
    teacher's traces   sequence_kd from the teacher
    scaffolded self    context_distill: the student with the hint teaches the student without
    earlier self       sequence_kd from the checkpoint before the last phase of the student's training
    nothing

A price is per response token (prompts are of one length and are not counted).
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offon.loops.pipeline import run_recipe
from offon.recipe import resolve
from offon.testbed.grammar import HINT, RESPONSE_TOKENS, RIGHT_ROUTE
from offon.testbed.task import TestbedTask
from offon.types import Item, Verdict

PRICES = {"tokens_generated": 1.0, "tokens_scored": 1.0, "tokens_trained": 3.0, "demonstrated": 30.0}
SEQUENCES = 32  # of an optimizer step, in every intervention
GROUP = 8
PASSES = 10  # over data that were paid for or made
ROWS = Path(__file__).parent / "rows.py"
NAMES = (
    "format", "rl", "route", "trained prefix", "shown prefix", "teacher on own", "demonstrations", "teacher's traces",
    "scaffolded self", "earlier self", "nothing",
)  # fmt: skip
Spent = dict[str, float]


@dataclass(frozen=True)
class Practice:
    """Some items to train on, under the testbed's checker."""

    name: str
    train: Sequence[Item]

    def items(self, split: str) -> list[Item]:
        return list(self.train) if split == "train" else []

    def verify(self, pairs: Sequence[tuple[Item, str]]) -> list[Verdict]:
        return TestbedTask().verify(pairs)

    def first(self, n: int) -> Practice:
        return Practice(f"{self.name} first {n}", self.train[:n])

    def begun(self) -> Practice:
        """The same prompts with the right route after them."""
        return Practice(f"{self.name} begun", [_begun(item) for item in self.train])


def _begun(item: Item) -> Item:
    prompt = f"{item.prompt} {RIGHT_ROUTE}"
    return Item(id=Item.content_id(prompt), prompt=prompt, columns=item.columns, family=item.family)


@dataclass(frozen=True, kw_only=True)
class Models:
    student: Path
    earlier: Path
    teacher: Path


@dataclass(frozen=True, kw_only=True)
class Sized:
    """What a budget buys: nodes of a recipe, the last of them measured, and the demonstrated tokens it paid for."""

    nodes: Mapping[str, Any]
    demonstrated: int = 0


def sized(name: str, practice: Practice, models: Models, budget: float, rate: float, scratch: Path) -> Sized:
    """The intervention's recipe for a budget. Rows that are paid for are trained PASSES times; where prompts are fewer
    than the budget would pay for, more passes are made of it."""
    per = _prices_of_a_sequence()
    online = {"task": practice, "max_tokens": RESPONSE_TOKENS + 2}
    common = {"learning_rate": rate}

    def trained(row: Mapping[str, Any], price: float, left: float = budget, sequences: int = SEQUENCES) -> dict:
        return {**row, **common, "steps": max(1, round(left / (price * sequences)))}

    def from_rows(make: Mapping[str, Any], bought: float, shown: float) -> tuple[dict, int]:
        """bought: the price of a row; shown: of one pass over it."""
        n = min(len(practice.train), int(budget / (bought + PASSES * shown)))
        sft = {"method": "sft", "prompts_per_step": SEQUENCES}
        return trained(sft, shown, budget - n * bought), n

    own = {"method": "best_of_n", "n": 1, "at_least": 0.0, "max_tokens": RESPONSE_TOKENS + 2}
    grouped = {**online, "group_size": GROUP, "prompts_per_step": SEQUENCES // GROUP}
    single = {**online, "prompts_per_step": SEQUENCES}
    match name:
        case "format":
            sft, n = from_rows(own, per["rollout"] + per["demonstrated"], 2 * PRICES["tokens_trained"])
            nodes = {
                "own": {**own, "task": practice.first(n)},
                "rows": {"make": f"{ROWS}:formatted", "source": "$own"},
                "train": {**sft, "data": "$rows"},
            }
            return Sized(nodes=nodes, demonstrated=n)
        case "route":
            sft, n = from_rows(own, per["rollout"] + per["demonstrated"], per["trained"])
            nodes = {
                "own": {**own, "task": practice.first(n).begun()},
                "rows": {"make": f"{ROWS}:begun", "source": "$own"},
                "train": {**sft, "data": "$rows"},
            }
            return Sized(nodes=nodes, demonstrated=n)
        case "demonstrations":
            sft, n = from_rows({}, per["demonstration"], per["trained"])
            nodes = {"train": {**sft, "data": demonstrated(practice.first(n), scratch)}}
            return Sized(nodes=nodes, demonstrated=n * RESPONSE_TOKENS)
        case "trained prefix" | "shown prefix":
            n = min(len(practice.train), int(budget / 4 / per["demonstration"]))
            demos, asked = demonstrated(practice.first(n), scratch), {**grouped, "task": practice.first(n)}
            row = (
                {"method": "uft", "data": demos, "sft": 0.1, **asked}
                if name == "trained prefix"
                else {"method": "grpo", "with": [{"expert_prefix": {"demos": demos}}], **asked}
            )
            left = budget - n * per["demonstration"]
            return Sized(
                nodes={"train": trained(row, per["rollout"] + per["trained"], left)}, demonstrated=n * RESPONSE_TOKENS
            )
        case "rl":
            return Sized(nodes={"train": trained({"method": "grpo", **grouped}, per["rollout"] + per["trained"])})
        case "teacher on own":
            row = {"method": "on_policy_distill", "teacher": str(models.teacher), **single}
            return Sized(nodes={"train": trained(row, per["rollout"] + per["scored"] + per["trained"])})
        case "scaffolded self":
            row = {"method": "context_distill", "template": f"{HINT} {{prompt}}", **single}
            return Sized(nodes={"train": trained(row, per["rollout"] + per["scored"] + per["trained"])})
        case "teacher's traces" | "earlier self":
            source = models.teacher if name == "teacher's traces" else models.earlier
            row = {"method": "sequence_kd", "teacher": str(source), **single}
            return Sized(nodes={"train": trained(row, per["rollout"] + per["trained"])})
    raise ValueError(f"no intervention {name!r}")


def _prices_of_a_sequence() -> dict[str, float]:
    return {
        "rollout": RESPONSE_TOKENS * PRICES["tokens_generated"],
        "scored": RESPONSE_TOKENS * PRICES["tokens_scored"],
        "trained": RESPONSE_TOKENS * PRICES["tokens_trained"],
        "demonstrated": PRICES["demonstrated"],
        "demonstration": RESPONSE_TOKENS * PRICES["demonstrated"],
    }


def demonstrated(practice: Practice, scratch: Path) -> str:
    at = scratch / "demonstrations.jsonl"
    at.write_text("".join(
        json.dumps({"prompt": item.prompt, "completion": item.reference}) + "\n" for item in practice.train
    ))  # fmt: skip
    return str(at)


def run(name: str, practice: Practice, models: Models, *, budget: float, rate: float, seed: int, then) -> tuple:
    """Run one intervention; `then(path of the model)` is asked before its files go. Returns that and what was spent."""
    if name == "nothing":
        return then(models.student), {"price": 0.0}
    with tempfile.TemporaryDirectory() as scratch:
        asked = sized(name, practice, models, budget, rate, Path(scratch))
        recipe = {"model": str(models.student), "seed": seed, "probe": False, "pipeline": asked.nodes}
        at = run_recipe(resolve(recipe), Path(scratch) / "run")
        return then(at / "nodes" / "train" / "final"), spent(at, asked)


def spent(at: Path, asked: Sized) -> Spent:
    """What the nodes counted, and its price."""
    found: Spent = {"demonstrated": float(asked.demonstrated), "steps": float(asked.nodes["train"]["steps"])}
    for name in asked.nodes:
        record = json.loads((at / "nodes" / name / "node.json").read_text())
        cost = record.get("cost") or record.get("counters", {}).get("cost", {})
        for key in ("tokens_generated", "tokens_scored", "tokens_trained", "seconds"):
            found[key] = found.get(key, 0.0) + cost.get(key, 0.0)
    return found | {"price": sum(PRICES[key] * found.get(key, 0.0) for key in PRICES)}
