"""Monte Carlo values: how often a response succeeds when it is continued from where a step ends.

One implementation serves every method that asks this question: with the live policy (VinePPO), with a completer that
labels data (Math-Shepherd, OmegaPRM), with a prover (PAV). Continuations are measurements: their tokens are on the cost
ledger and their verdicts on the steps, but they are no trajectories, and nothing is trained on them.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

from offon.collect.shape.steps import steps_of, with_values
from offon.errors import ConfigError
from offon.maths.steps import best_of
from offon.parts.collector import Collector
from offon.parts.context import Context, Prompted
from offon.parts.models import SELF, ModelRef
from offon.types import Group, Sampling, Trajectory

State = tuple[int, int, int]  # (group, member, tokens of the response that are kept)
Values = Mapping[State, float | None]  # of the states that were asked; None: no continuation could be scored
Members = Mapping[tuple[int, int], Trajectory]


@dataclass(frozen=True, kw_only=True)
class ContinuationValue(Collector):
    """V(s) = mean verdict of n continuations of s by `completer`; s is the prompt and the response up to a cut.

    Each step gets, as its signal `signal`, the value of the state it ends in; the response, as its signal of the same
    name, the value of the state before its first step, and as "continuations" how many were sampled for it. The last
    step leaves nothing to continue: its value is the response's own reward.

    verdict    what rewards a continuation: the same collector that rewards the response, `verify(task)`
    completer  who continues: the learner unless written
    best_of    the value of the best of k tries, estimated without bias from the n made (n >= k): a stronger prover
    search     "every": all states, in one call. "first error": bisection, one call a round, for the first step after
               which no continuation of a failed response succeeds: ceil(log2 K) states of K; the others stay None

    A state that several members share is asked once. Continuations are cut where the response would have been, so that
    V is the value under the same limit; those that could not be scored leave the mean, and a response with a state that
    has none left is set aside. Randomness is keyed by (draw, member, cut, try), whatever else is asked.
    """

    verdict: Collector
    n: int = 8
    completer: ModelRef = SELF
    best_of: int = 1
    search: Literal["every", "first error"] = "every"
    signal: str = "value"
    sampling: Sampling = Sampling()
    requires = frozenset({"members", "steps", "reward"})

    def __post_init__(self):
        if self.n < self.best_of:
            raise ConfigError(
                f"the best of {self.best_of} of {self.n} continuations", fix="as many, or a smaller best of"
            )

    @property
    def provides(self) -> frozenset[str]:
        return frozenset({self.signal})

    @property
    def samplers(self) -> tuple[ModelRef, ...]:
        return tuple(dict.fromkeys([self.completer, *self.verdict.samplers]))

    def __call__(self, context: Context, groups: list[Group]) -> list[Group]:
        asked: Counter = Counter()

        def ask(states: Sequence[State]) -> Values:
            return self._ask(context, groups, states, asked)

        members = {(g, m): member for g, group in enumerate(groups) for m, member in enumerate(group.members)}
        value = every(members, ask) if self.search == "every" else first_errors(members, ask)
        return [self._written(g, group, value, asked) for g, group in enumerate(groups)]

    def _ask(self, context: Context, groups: Sequence[Group], states: Sequence[State], asked: Counter) -> Values:
        """All continuations of all states in one call; `asked` counts them by the response they were asked for."""
        begun = {(g, m, cut): groups[g].members[m].head(cut) for g, m, cut in states}
        known = {state: (b.prefix("sample"), b.tokens.tobytes()) for state, b in begun.items()}
        first: dict[Any, State] = {}
        for state in states:
            first.setdefault((state[0], known[state]), state)
        asked.update((g, m) for g, m, _ in first.values() for _ in range(self.n))
        requests = [
            Prompted(
                begun[g, m, cut].prefix("sample"),
                dataclasses.replace(self.sampling, max_tokens=max(1, self.sampling.max_tokens - cut)),
                context.step.key(groups[g].draw, m, cut, attempt),
                begun[g, m, cut],
            )
            for g, m, cut in first.values()
            for attempt in range(self.n)
        ]
        sampled = iter(context.generate(requests, self.completer))
        tried = [
            groups[g].replace(members=tuple(islice(sampled, self.n)), comparisons=(), dropped=())
            for g, _, _ in first.values()
        ]
        judged = zip(first.values(), self.verdict(context, tried), strict=True)
        value = {state: self._value([m.signals["reward"] for m in group.members]) for state, group in judged}
        return {state: value[first[state[0], known[state]]] for state in states}

    def _value(self, scores: Sequence[float]) -> float | None:
        return best_of(scores, self.best_of) if len(scores) >= self.best_of else None

    def _written(self, g: int, group: Group, value: Values, asked: Counter) -> Group:
        members = []
        for m, member in enumerate(group.members):
            steps = steps_of(member)
            ends = [*(value.get((g, m, step.end)) for step in steps[:-1]), member.signals["reward"]]
            valued = with_values(member, self.signal, ends[: len(steps)])
            spent = asked[g, m] + (member.signals.get("continuations") or 0)
            members.append(valued.with_signals(**{self.signal: value.get((g, m, 0)), "continuations": spent}))
        unscored = {m for (of, m, _), estimate in value.items() if of == g and estimate is None}
        scored = [m not in unscored for m in range(len(members))]
        return group.replace(members=tuple(members)).drop(scored, "no continuation could be scored")

    def __str__(self) -> str:
        best = f", best of {self.best_of}" if self.best_of > 1 else ""
        search = "" if self.search == "every" else f", {self.search}"
        return f"continuation_value({self.n} by {self.completer}{best}{search})"


def every(members: Members, ask: Callable[[Sequence[State]], Values]) -> Values:
    """The states before and after each step but the last, all at once."""
    return ask([(*m, cut) for m, member in members.items() for cut in (0, *(s.end for s in steps_of(member)[:-1]))])


def first_errors(members: Members, ask: Callable[[Sequence[State]], Values]) -> Values:
    """Bisect every failed response for the step after which its value falls to 0; a round of all of them at a time.

    low steps are known to leave a chance (none of them at first), high steps to leave none (all of them at first).
    """
    bounds = {m: (0, len(steps_of(member))) for m, member in members.items() if member.signals["reward"] <= 0}
    value: dict[State, float | None] = {}
    while open_ := {m: (low + high) // 2 for m, (low, high) in bounds.items() if high - low > 1}:
        cut = {m: (*m, steps_of(members[m])[middle - 1].end) for m, middle in open_.items()}
        value |= ask(list(cut.values()))
        for m, middle in open_.items():
            low, high = bounds[m]
            bounds[m] = (middle, high) if (value[cut[m]] or 0) > 0 else (low, middle)
    return value


def continuation_value(verdict: Collector, n: int = 8, **options) -> ContinuationValue:
    """continuation_value(verify(task), 9): values by the live policy, nine continuations a state."""
    return ContinuationValue(verdict=verdict, n=n, **options)
