"""The language of the testbed: states, operations, routes, families. Plain Python, nothing is random.

    prompt    [hint] family x0 o1 o2 o3 =            rare 5 C A K =
    response  route x1 x2 x3 format EOS              forward 11 2 7 #

An operation is a fixed permutation of 16 states. A route is the order in which the three operations of the prompt
are applied to x0, and the trace is what it passes through:

    forward    o1, o2, o3      x1 = o1(x0), x2 = o2(x1), x3 = o3(x2): the right route
    backward   o3, o2, o1      a decoy
    rotate     o2, o3, o1      a decoy

An answer is right if its trace is the forward trace and `#` follows. The route word is not compared, so a program
on which a decoy passes through the forward trace is not part of the testbed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from types import MappingProxyType

N_STATES = 16
STATES = tuple(str(state) for state in range(N_STATES))
KNOWN_OPS = tuple("ABCDEFGHIJKL")
UNSEEN_OPS = tuple("MNOP")  # in no pretraining document, not even in a prompt
ROUTES = {"forward": (0, 1, 2), "backward": (2, 1, 0), "rotate": (1, 2, 0)}
RIGHT_ROUTE, RIGHT_FORMAT, WRONG_FORMAT = "forward", "#", ":"
HINT = "hint"
PAD, EOS, UNKNOWN = "<pad>", "<eos>", "<unk>"
RESPONSE_TOKENS = 6  # route, three states, format, EOS

GUESS_FLOOR = N_STATES**-3  # success of guessed states on the right route: 0.024%
HELDOUT_ONE_IN = 8  # programs held out of pretraining documents and of every training split


def content_hash(*words: str) -> int:
    """A number from content alone: the same on every machine and with every library version."""
    return int.from_bytes(hashlib.sha256(" ".join(words).encode()).digest()[:8], "big")


def _latin_square() -> Mapping[str, Mapping[str, str]]:
    """operation -> state -> state; every step x -> y belongs to exactly one operation.

        o_k(x) = P[(Q[x] + k) mod 16]        P, Q fixed shuffles of the states

    So the steps of an unseen operation occur under no other operation either. With independent permutations a
    model that mistakes an unseen operation for a seen one is right on a few lucky programs, with certainty.
    """
    inner, outer = (sorted(range(N_STATES), key=lambda x: content_hash(name, STATES[x])) for name in ("inner", "outer"))
    return {
        op: {STATES[x]: STATES[outer[(inner[x] + shift) % N_STATES]] for x in range(N_STATES)}
        for shift, op in enumerate(KNOWN_OPS + UNSEEN_OPS)
    }


OPERATIONS = _latin_square()


@dataclass(frozen=True)
class Program:
    """A start state and three operations: what a prompt asks, whatever its family."""

    start: str
    ops: tuple[str, str, str]

    def trace(self, route: str = RIGHT_ROUTE) -> tuple[str, ...]:
        states, state = [], self.start
        for position in ROUTES[route]:
            state = OPERATIONS[self.ops[position]][state]
            states.append(state)
        return tuple(states)

    @property
    def ambiguous(self) -> bool:
        """A decoy route passes through the right trace."""
        right = self.trace()
        return any(self.trace(route) == right for route in ROUTES if route != RIGHT_ROUTE)

    @property
    def heldout(self) -> bool:
        """By content and for all families at once: a held-out program is held out under every family word."""
        return content_hash("split", self.start, *self.ops) % HELDOUT_ONE_IN == 0


@cache
def programs(ops: tuple[str, ...]) -> tuple[Program, ...]:
    """Every unambiguous program over these operations, in a fixed order."""
    every = (Program(start, chosen) for start in STATES for chosen in product(ops, repeat=3))
    return tuple(program for program in every if not program.ambiguous)


@dataclass(frozen=True, kw_only=True)
class Family:
    """One planted bottleneck: what the family's pretraining documents show, and what its task items ask.

    share         part of all pretraining documents
    routes        share of each route among its documents without a hint
    right_format  share of its documents that end in `#`; the others end in `:`
    hinted        share of its documents that carry the hint; these take the right route
    ops           operations of its task items; its documents use KNOWN_OPS only
    """

    name: str
    share: float
    routes: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({RIGHT_ROUTE: 1.0}))
    right_format: float = 1.0
    hinted: float = 0.0
    ops: tuple[str, ...] = KNOWN_OPS


FAMILIES = {
    family.name: family
    for family in (
        Family(name="rare", share=0.25, routes={"forward": 0.15, "backward": 0.45, "rotate": 0.40}),
        Family(name="absent", share=0.20, ops=UNSEEN_OPS),
        Family(name="format", share=0.15, right_format=0.02),
        Family(name="scaffold", share=0.20, routes={"backward": 0.5, "rotate": 0.5}, hinted=0.5),
        Family(name="guard", share=0.20),
    )
}

VOCABULARY = (PAD, EOS, UNKNOWN, *STATES, *OPERATIONS, *FAMILIES, *ROUTES, RIGHT_FORMAT, WRONG_FORMAT, "=", HINT)


def prompt_words(family: str, program: Program, *, hint: bool = False) -> tuple[str, ...]:
    return (*((HINT,) if hint else ()), family, program.start, *program.ops, "=")


def response_words(program: Program, route: str = RIGHT_ROUTE, form: str = RIGHT_FORMAT) -> tuple[str, ...]:
    return (route, *program.trace(route), form)
