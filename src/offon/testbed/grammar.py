"""The language of the testbed: states, operations, routes, families. Plain Python, nothing is random.

    prompt    [hint] family x0 o1 o2 o3 =            rare 5 C A K =
    response  route x1 x2 x3 format EOS              forward 11 2 7 #

An operation is a fixed permutation of 16 states. A route says in which order the three operations are applied
to x0; the trace is what the route passes through:

    forward    x1 = o1(x0), x2 = o2(x1), x3 = o3(x2)       the right route
    backward   o3, then o2, then o1                        a decoy
    rotate     o2, then o3, then o1                        a decoy

An answer is right if its trace is the forward trace and `#` follows. The route word itself is not checked, so
programs on which a decoy passes through the forward trace are no programs of the testbed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import product

STATES = tuple(str(state) for state in range(16))
KNOWN_OPS = tuple("ABCDEFGHIJKL")
UNSEEN_OPS = tuple("MNOP")  # in no pretraining document, not even in a prompt
ROUTES = {"forward": (0, 1, 2), "backward": (2, 1, 0), "rotate": (1, 2, 0)}  # order in which operations apply
RIGHT_ROUTE, RIGHT_FORMAT, WRONG_FORMAT = "forward", "#", ":"
HINT = "hint"
RESPONSE_TOKENS = 6  # route, three states, format, EOS

GUESS_FLOOR = len(STATES) ** -3  # success of the right route with guessed states: 0.024%
HELDOUT_SHARE = 8  # one program in eight is held out of pretraining and of every training split


def content_hash(*parts: str) -> int:
    return int(hashlib.sha256(" ".join(parts).encode()).hexdigest()[:15], 16)


def _permutation(op: str) -> dict[str, str]:
    """The states in the order of their hashes: the same table on every machine and with every library version."""
    return dict(zip(STATES, sorted(STATES, key=lambda state: content_hash("operation", op, state)), strict=True))


OPERATIONS = {op: _permutation(op) for op in KNOWN_OPS + UNSEEN_OPS}


@dataclass(frozen=True)
class Program:
    """A start state and three operations: what a prompt asks, whatever its family."""

    start: str
    ops: tuple[str, str, str]

    def trace(self, route: str = RIGHT_ROUTE) -> tuple[str, str, str]:
        states, state = [], self.start
        for position in ROUTES[route]:
            state = OPERATIONS[self.ops[position]][state]
            states.append(state)
        return tuple(states)

    @property
    def ambiguous(self) -> bool:
        """A decoy route passes through the right trace, so the answer does not show which route was taken."""
        return any(self.trace(route) == self.trace() for route in ROUTES if route != RIGHT_ROUTE)

    @property
    def heldout(self) -> bool:
        """By content and for all families at once: a held-out program is held out under every family word."""
        return content_hash("split", self.start, *self.ops) % HELDOUT_SHARE == 0


@cache
def programs(ops: tuple[str, ...]) -> tuple[Program, ...]:
    """Every unambiguous program over these operations, in a fixed order."""
    every = (Program(start, chosen) for start, *chosen in product(STATES, ops, ops, ops))
    return tuple(program for program in map(_as_tuple, every) if not program.ambiguous)


def _as_tuple(program: Program) -> Program:
    return Program(program.start, tuple(program.ops))


@dataclass(frozen=True, kw_only=True)
class Family:
    """One planted bottleneck: how the family's pretraining documents are drawn, and what it is tested on.

    share        part of all pretraining documents
    routes       share of each route in its documents without a hint
    right_format share of its documents that end in `#` (the others in `:`)
    hinted       share of its documents that carry the hint; these always take the right route
    ops          operations of its task items (its documents always use KNOWN_OPS)
    """

    name: str
    share: float
    routes: Mapping[str, float] = field(default_factory=lambda: {"forward": 1.0})
    right_format: float = 1.0
    hinted: float = 0.0
    ops: tuple[str, ...] = KNOWN_OPS


DECOYS = {"backward": 0.5, "rotate": 0.5}
FAMILIES = {
    family.name: family
    for family in (
        Family(name="rare", share=0.25, routes={"forward": 0.15, "backward": 0.45, "rotate": 0.40}),
        Family(name="absent", share=0.20, routes=DECOYS, ops=UNSEEN_OPS),
        Family(name="format", share=0.15, right_format=0.02),
        Family(name="scaffold", share=0.20, routes=DECOYS, hinted=0.5),
        Family(name="guard", share=0.20),
    )
}

VOCABULARY = ("<pad>", "<eos>", "<unk>", *STATES, *OPERATIONS, *FAMILIES, *ROUTES, RIGHT_FORMAT, WRONG_FORMAT, "=", HINT)


def prompt_words(family: str, program: Program, *, hint: bool = False) -> tuple[str, ...]:
    return (*((HINT,) if hint else ()), family, program.start, *program.ops, "=")


def response_words(program: Program, route: str = RIGHT_ROUTE, form: str = RIGHT_FORMAT) -> tuple[str, ...]:
    return (route, *program.trace(route), form)
