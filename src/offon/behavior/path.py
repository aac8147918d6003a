"""What each stage of a pipeline contributed: along the path it took, and against the paths it did not.

The path table is descriptive and sums to the total change. Shapley values over stage subsets are causal, need a run of
every feasible subset, and sum to the same total. The two are never put into one table.

Axes: K stages, P prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from math import factorial

from offon.behavior.counts import Counts
from offon.behavior.decompose import Decomposition, decompose
from offon.behavior.support import IN, OUT, support_calls
from offon.errors import DataError

SOLVED, SOLVED_AT = "solved", 0.8


def path_table(checkpoints: Mapping[str, Counts], *, k: int) -> list[dict]:
    """One row per stage: name and D1 of its step along the path, whose totals sum to the whole change.

    checkpoints: the start and every stage's result, in order, measured on the same prompts.
    """
    names = list(checkpoints)
    steps: list[Decomposition] = [decompose(checkpoints[a], checkpoints[b], k=k) for a, b in pairwise(names)]
    return [{"stage": name, "d1": step.as_dict()} for name, step in zip(names[1:], steps, strict=True)]


def lineage(checkpoints: Sequence[Counts], k: int) -> list[list[str]]:
    """[P][K + 1] states of each prompt along the path: OUT, undecided, IN or solved (IN with a rate of .8 or more)."""
    states = []
    for counts in checkpoints:
        calls = support_calls(counts, k).tolist()
        states.append([SOLVED if c == IN and r >= SOLVED_AT else c for c, r in zip(calls, counts.rate, strict=True)])
    return [list(prompt) for prompt in zip(*states, strict=True)]


def surviving_expansion(checkpoints: Sequence[Counts], k: int) -> list[float]:
    """[K] by stage: sum over prompts it brought from OUT to IN of (p_end - p_before), over P: what is left of it."""
    states, end = lineage(checkpoints, k), checkpoints[-1].rate
    found = []
    for stage in range(1, len(checkpoints)):
        before = checkpoints[stage - 1].rate
        brought = [p for p, path in enumerate(states) if path[stage - 1] == OUT and path[stage] in (IN, SOLVED)]
        found.append(float(sum(end[p] - before[p] for p in brought) / len(states)))
    return found


def shapley(
    stages: Sequence[str],
    value: Callable[[tuple[str, ...]], float],
    *,
    feasible: Callable[[tuple[str, ...]], bool] = lambda subset: True,
) -> dict[str, float]:
    """Shapley values: phi_i = sum_S |S|! (K - 1 - |S|)! / K! [v(S + i) - v(S)], every S in the stages' own order.

    `value` runs (or looks up) the pipeline of a subset. With subsets that cannot run (a distillation without its
    teacher), the average is over the orders of arrival all of whose subsets are feasible. Sums to v(all) - v(none).
    """
    known: dict[frozenset[str], float] = {}

    def v(subset: frozenset[str]) -> float:
        if subset not in known:
            known[subset] = value(tuple(stage for stage in stages if stage in subset))
        return known[subset]

    orders = _feasible_orders(stages, feasible)
    if not orders:
        raise DataError("no order of arrival has only feasible subsets", why=f"stages: {', '.join(stages)}")
    total = dict.fromkeys(stages, 0.0)
    for order in orders:
        present: frozenset[str] = frozenset()
        for stage in order:
            total[stage] += v(present | {stage}) - v(present)
            present |= {stage}
    return {stage: amount / len(orders) for stage, amount in total.items()}


def _feasible_orders(stages: Sequence[str], feasible) -> list[tuple[str, ...]]:
    if len(stages) > 7:
        raise DataError(f"{len(stages)} stages have {factorial(len(stages))} orders", fix="7 stages or fewer")
    orders: list[tuple[str, ...]] = [()]
    for _ in stages:
        longer = [(*order, stage) for order in orders for stage in stages if stage not in order]
        orders = [o for o in longer if feasible(tuple(stage for stage in stages if stage in o))]
    return orders


def interaction(value: Callable[[tuple[str, ...]], float], one: str, other: str) -> float:
    """v(one, other) - v(one) - v(other) + v(): above 0, the stages need each other."""
    return value((one, other)) - value((one,)) - value((other,)) + value(())
