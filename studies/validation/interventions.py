"""Interventions as recipes of offon's public rows, each sized to one budget under a declared price vector.

    format             sft on the format token alone, after the student's own traces
    format, whole      sft on the student's own responses with that token put right
    rl                 grpo on own rollouts
    route              sft on the right route followed by what the student itself goes on with
    trained prefix     uft: rollouts that begin with part of a demonstration, which is learned too
    shown prefix       grpo with expert_prefix: the same, never learned
    teacher on own     on_policy_distill from the teacher, reverse KL as it comes
    teacher on own, forward     the same with kind: forward
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

from offon.pipeline.run import run_recipe
from offon.recipe import resolve
from offon.testbed.grammar import HINT, RESPONSE_TOKENS, RIGHT_ROUTE
from offon.testbed.task import TestbedTask
from offon.types import Item, Verdict

PRICES = {"tokens_generated": 1.0, "tokens_scored": 1.0, "tokens_trained": 3.0, "demonstrated": 30.0}
MAX_TOKENS = RESPONSE_TOKENS + 2
SEQUENCES = 32  # of an optimizer step, in every intervention
GROUP = 8
PASSES = 10  # over data that were paid for or made
ROLLOUT, SCORED, TRAINED = (
    RESPONSE_TOKENS * PRICES[what] for what in ("tokens_generated", "tokens_scored", "tokens_trained")
)  # of a response
SPAN = 2 * PRICES["tokens_trained"]  # of the format and its end
DEMONSTRATION = RESPONSE_TOKENS * PRICES["demonstrated"]
ROWS = Path(__file__).parent / "rows.py"
REWRITTEN = {"format": "formatted", "format, whole": "reformatted", "route": "begun"}
NAMES = (
    "format", "format, whole", "rl", "route", "trained prefix", "shown prefix", "teacher on own",
    "teacher on own, forward", "demonstrations", "teacher's traces", "scaffolded self", "earlier self", "nothing",
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
    """The intervention's recipe for a budget: rows that are bought are trained PASSES times, or more often where there
    are fewer prompts than the budget would buy; the rest is steps."""
    single = {"task": practice, "max_tokens": MAX_TOKENS, "prompts_per_step": SEQUENCES}
    grouped = {**single, "group_size": GROUP, "prompts_per_step": SEQUENCES // GROUP}

    def steps(left: float, of_a_sequence: float) -> dict[str, float]:
        return {"learning_rate": rate, "steps": max(1, round(left / (of_a_sequence * SEQUENCES)))}

    def from_rows(row: float, shown: float) -> tuple[Practice, dict[str, Any]]:
        """The prompts that are bought, and the sft on them. row: the price of one; shown: of a pass over it."""
        n = min(len(practice.train), int(budget / (row + PASSES * shown)))
        return practice.first(n), {"method": "sft", "prompts_per_step": SEQUENCES, **steps(budget - n * row, shown)}

    match name:
        case "format" | "format, whole" | "route":
            bought, sft = from_rows(ROLLOUT + PRICES["demonstrated"], SPAN if name == "format" else TRAINED)
            asked = bought.begun() if name == "route" else bought
            nodes = {
                "own": {
                    "method": "best_of_n",
                    "n": 1,
                    "at_least": 0.0,
                    "task": asked,
                    "max_tokens": MAX_TOKENS,
                },
                "rows": {"make": f"{ROWS}:{REWRITTEN[name]}", "source": "$own"},
                "train": {**sft, "data": "$rows"},
            }
            return Sized(nodes=nodes, demonstrated=len(bought.train))
        case "demonstrations":
            bought, sft = from_rows(DEMONSTRATION, TRAINED)
            data = demonstrated(bought, scratch)
            return Sized(nodes={"train": {**sft, "data": data}}, demonstrated=len(bought.train) * RESPONSE_TOKENS)
        case "trained prefix" | "shown prefix":
            bought = practice.first(min(len(practice.train), int(budget / 4 / DEMONSTRATION)))
            data, left = demonstrated(bought, scratch), budget - len(bought.train) * DEMONSTRATION
            row = (
                {"method": "uft", "data": data, "sft": 0.1}
                if name == "trained prefix"
                else {"method": "grpo", "with": [{"expert_prefix": {"demos": data}}]}
            )
            row = {**row, **grouped, "task": bought, **steps(left, ROLLOUT + TRAINED)}
            return Sized(nodes={"train": row}, demonstrated=len(bought.train) * RESPONSE_TOKENS)
        case "rl":
            return Sized(nodes={"train": {"method": "grpo", **grouped, **steps(budget, ROLLOUT + TRAINED)}})
        case "teacher's traces" | "earlier self":
            source = models.teacher if name == "teacher's traces" else models.earlier
            row = {"method": "sequence_kd", "teacher": str(source), **single, **steps(budget, ROLLOUT + TRAINED)}
            return Sized(nodes={"train": row})
        case "teacher on own" | "teacher on own, forward" | "scaffolded self":
            row = {
                "teacher on own": {"method": "on_policy_distill", "teacher": str(models.teacher)},
                "teacher on own, forward": {
                    "method": "on_policy_distill",
                    "teacher": str(models.teacher),
                    "kind": "forward",
                },
                "scaffolded self": {"method": "context_distill", "template": f"{HINT} {{prompt}}"},
            }[name]
            return Sized(nodes={"train": {**row, **single, **steps(budget, ROLLOUT + SCORED + TRAINED)}})
    raise ValueError(f"no intervention {name!r}")


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
