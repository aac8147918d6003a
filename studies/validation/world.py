"""A second world of tiny transformers: many families per class, and a teacher without the bottlenecks.

Prompts, responses, operations and checker are the testbed's (`offon.testbed.grammar`); families are words of their own,
and their documents are:

    solved       the right route; in some families 10% take a decoy
    format       right traces, most of them closed with the wrong symbol
    fragile      a decoy route, but the right one after the hint
    ranking      the right route in 15% to 55%
    local        the first step follows another operation's table, the rest is right from there
    unreachable  always a decoy route; the right one is known from other families
    missing      operations that occur in no document, or a last step that follows another operation's table

The teacher sees right documents of every family and every operation, and the decoy routes in families of their own, so
that it goes on from a decoy route as the route says.

B documents.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch

from offon.testbed.grammar import (
    EOS,
    HINT,
    KNOWN_OPS,
    OPERATIONS,
    PAD,
    RIGHT_FORMAT,
    ROUTES,
    STATES,
    UNKNOWN,
    UNSEEN_OPS,
    WRONG_FORMAT,
    Program,
    content_hash,
    programs,
    prompt_words,
    response_words,
)  # fmt: skip
from offon.testbed.task import TestbedTask
from offon.testbed.train import Plan
from offon.types import Item, Verdict

OPS = (*KNOWN_OPS, *UNSEEN_OPS)
NEXT_STATE = np.array([[int(OPERATIONS[op][state]) for state in STATES] for op in OPS])
DECOYS = tuple(route for route in ROUTES if route != "forward")
SHIFT = 5  # a wrong step follows the table of the operation so many places on


@dataclass(frozen=True, kw_only=True)
class Family:
    """name, the class it is meant to have, and its documents: shares of routes (without the hint), of the right format,
    of documents with the hint; wrong_step: the step (0 or 2) whose table is wrong; ops: of its items; begun: share of
    documents in which a wrong beginning is given and the right response follows: a model learns to start over.
    """

    name: str
    kind: str
    routes: Mapping[str, float]
    right_format: float = 1.0
    hinted: float = 0.0
    wrong_step: int | None = None
    ops: tuple[str, ...] = KNOWN_OPS
    begun: float = 0.0


RIGHT = MappingProxyType({"forward": 1.0})


def families(per_class: int) -> list[Family]:
    """The student's families. Decoy routes and shares vary within a class."""
    found = []
    for i in range(per_class):
        decoy, other = DECOYS[i % 2], DECOYS[(i + 1) % 2]
        part = i / max(per_class - 1, 1)
        found += [
            Family(name=f"solved{i}", kind="solved", routes={"forward": 1 - 0.1 * (i % 2), decoy: 0.1 * (i % 2)}),
            Family(name=f"format{i}", kind="format", routes=RIGHT, right_format=0.02 + 0.2 * part),
            Family(name=f"fragile{i}", kind="fragile", hinted=0.5,
                   routes={decoy: 0.98 - 0.15 * part, "forward": 0.02 + 0.15 * part}),
            Family(name=f"ranking{i}", kind="ranking",
                   routes={"forward": 0.2 + 0.35 * part, decoy: 0.5 - 0.3 * part, other: 0.3 - 0.05 * part}),
            Family(name=f"local{i}", kind="local", routes=RIGHT, wrong_step=0),
            Family(name=f"unreachable{i}", kind="unreachable", routes={decoy: 1.0}),
            Family(name=f"missing{i}", kind="missing", routes=RIGHT, **(
                {"ops": UNSEEN_OPS} if i % 2 == 0 else {"wrong_step": 2})),
        ]  # fmt: skip
    return found


def teacher_families(student: Sequence[Family], *, begun: float = 0.0) -> list[Family]:
    """Right documents of every family with every operation, and families that show the decoy routes."""
    known = [Family(name=f.name, kind="solved", routes=RIGHT, ops=OPS, begun=begun) for f in student]
    decoys = [Family(name=f"decoy{i}", kind="", routes={DECOYS[i % 2]: 1.0}, ops=OPS) for i in range(len(student) // 5)]
    return known + decoys


def vocabulary(student: Sequence[Family]) -> tuple[str, ...]:
    names = [family.name for family in teacher_families(student)]
    return (PAD, EOS, UNKNOWN, *STATES, *OPS, *names, *ROUTES, RIGHT_FORMAT, WRONG_FORMAT, "=", HINT)


class Documents:
    """Draws batches (ids_BT, labels_BT) of families in equal shares; -100 on prompts, given beginnings and padding.
    With probability plan.slip one step of a document goes to a random state, and on from there."""

    def __init__(self, plan: Plan, world: Sequence[Family], words: Sequence[str]):
        self.plan, self.world, self.token = plan, world, {word: i for i, word in enumerate(words)}
        self.random = np.random.Generator(np.random.Philox(plan.seed))
        self.programs = {}
        for ops in {trained_ops(family) for family in world}:
            seen = [p for p in programs(ops) if not p.heldout]
            self.programs[ops] = np.array([(int(p.start), *map(OPS.index, p.ops)) for p in seen])

    def batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        rows = [self._document(self.world[i]) for i in self._families()]  # (what is given, what is learned)
        length = max(len(prompt) + len(response) for prompt, response in rows)
        ids = np.full((len(rows), length), self.token[PAD])
        labels = np.full_like(ids, -100)
        for row, (prompt, response) in enumerate(rows):
            whole = [self.token[word] for word in (*prompt, *response, EOS)][:length]
            ids[row, : len(whole)] = whole
            labels[row, len(prompt) : len(whole)] = whole[len(prompt) :]
        return torch.from_numpy(ids), torch.from_numpy(labels)

    def _families(self) -> np.ndarray:
        """Each family its share of a batch, to one document."""
        at = (np.arange(self.plan.documents) + self.random.random()) / self.plan.documents
        return (at * len(self.world)).astype(int)

    def _document(self, family: Family) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """What is given and what is learned."""
        draw = self.random
        table = self.programs[trained_ops(family)]
        start, *ops = table[draw.integers(len(table))]
        hint = draw.random() < family.hinted
        shares = {"forward": 1.0} if hint else family.routes
        route = list(shares)[np.searchsorted(np.cumsum(list(shares.values())), draw.random() * 0.999999)]
        form = RIGHT_FORMAT if draw.random() < family.right_format else WRONG_FORMAT
        trace, state = [], start
        slip = draw.integers(3) if self.plan.slip and draw.random() < self.plan.slip else None
        for step, position in enumerate(ROUTES[route]):
            op = (ops[position] + SHIFT) % len(KNOWN_OPS) if step == family.wrong_step else ops[position]
            state = draw.integers(len(STATES)) if step == slip else NEXT_STATE[op, state]
            trace.append(STATES[state])
        program = Program(STATES[start], tuple(OPS[op] for op in ops))
        given = prompt_words(family.name, program, hint=hint)
        if family.begun and draw.random() < family.begun:
            given += (*draw.choice(list(ROUTES), 1), *draw.choice(STATES, draw.integers(4)))
        return given, (route, *trace, form)


def trained_ops(family: Family) -> tuple[str, ...]:
    """Families of unseen operations are trained on the known ones."""
    return KNOWN_OPS if family.ops == UNSEEN_OPS else family.ops


Verify = Callable[[Sequence[tuple[Item, str]]], list[Verdict]]


class World:
    """The families as a task: `items` held-out programs each, the testbed's checker unless another is given."""

    name = "second world"

    def __init__(self, student: Sequence[Family], per_family: int, verify: Verify | None = None):
        self.families, self.per_family = student, per_family
        self.verify = verify or TestbedTask().verify

    def items(self, split: str = "heldout") -> list[Item]:
        return [item(f, p) for f in self.families for p in self._programs(f)]

    def _programs(self, family: Family) -> list[Program]:
        members = [p for p in programs(family.ops) if p.heldout]
        return sorted(members, key=lambda p: content_hash("draw", *prompt_words(family.name, p)))[: self.per_family]


def item(family: Family, program: Program) -> Item:
    prompt = " ".join(prompt_words(family.name, program))
    return Item(
        id=Item.content_id(prompt), prompt=prompt,
        views={HINT: " ".join(prompt_words(family.name, program, hint=True))} if family.hinted else {},
        columns={"trace": " ".join(program.trace())}, family=family.name, reference=" ".join(response_words(program)),
    )  # fmt: skip
