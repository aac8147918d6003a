"""What each stage of a pipeline contributed: along the path it took, and against the paths it did not.

The path table is descriptive and sums to the total change. Shapley values over stage subsets are causal, need a run of
every feasible subset, and sum to the same total. The two are never put into one table.

Axes: K stages, P prompts, S seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from math import factorial
from typing import Any

import numpy as np
from scipy import special

from offon.behavior.change.success_decomposition import decompose, prompt_bounds, prompt_terms, term_intervals
from offon.behavior.change.support import IN, OUT, jeffreys_states, support_calls
from offon.behavior.statistics.counts import Counts
from offon.behavior.statistics.intervals import Clusters, Est
from offon.errors import DataError

SOLVED, SOLVED_AT = "solved", 0.8


def path_table(checkpoints: Mapping[str, Counts], *, k: int, clusters: Clusters = None) -> list[dict]:
    """One row per stage: name and D1 of its step along the path, whose totals sum to the whole change.

    checkpoints: the start and every stage's result, in order, measured on the same prompts.

    From the second stage on a prompt may come into reach that was in reach at the root and lost on the way: that is no
    new behaviour. Of a step's expansion that part is `recovered`,

        recovered = mean over prompts of  w_IN(root) term_expansion,        expansion = the rest

    with the root's state judged from its own samples, which no step but the first measures anything with.
    """
    names, rows = list(checkpoints), []
    root = checkpoints[names[0]]
    for step, (a, b) in enumerate(pairwise(names)):
        sides = checkpoints[a], checkpoints[b]
        d1 = decompose(*sides, k=k, clusters=clusters).as_dict()
        if step:
            terms, bounds = prompt_terms(*sides, k), prompt_bounds(*sides, k)
            within = {"certified": (support_calls(root, k) == IN).astype(float), "soft": jeffreys_states(root, k)[:, 0]}
            possible = (support_calls(root, k) != OUT).astype(float)
            low, high = bounds["expansion"]
            split = {"recovered": (within["certified"], possible), "expansion": (1 - possible, 1 - within["certified"])}
            for name, (surely, perhaps) in split.items():
                ends = {name: (surely * low, perhaps * high)}
                shares = {
                    weighting: {name: (w if name == "recovered" else 1 - w) * terms[weighting]["expansion"]}
                    for weighting, w in within.items()
                }
                for weighting, part in term_intervals(shares, ends, clusters=clusters).items():
                    d1[weighting][name] = part[name]._asdict()
        rows.append({"stage": b, "d1": d1})
    return rows


def lineage(checkpoints: Sequence[Counts], k: int) -> list[list[str]]:
    """[P][K + 1] states of each prompt along the path: OUT, undecided, IN or solved (IN with a rate of .8 or more)."""
    states = []
    for counts in checkpoints:
        calls = support_calls(counts, k).tolist()
        states.append([SOLVED if c == IN and r >= SOLVED_AT else c for c, r in zip(calls, counts.rate, strict=True)])
    return [list(prompt) for prompt in zip(*states, strict=True)]


def lineage_summary(checkpoints: Mapping[str, Counts], k: int) -> dict:
    """How many prompts were first within reach, and first solved, at each checkpoint; how many that were within
    reach at some are out of it at the end; and how many were within reach at the root, out later, and are back."""
    names, states = list(checkpoints), lineage(list(checkpoints.values()), k)

    def first(wanted: tuple[str, ...]) -> dict[str, int]:
        at = [next((name for name, state in zip(names, path, strict=True) if state in wanted), None) for path in states]
        return {name: at.count(name) for name in names}

    within = (IN, SOLVED)
    lost = sum(path[-1] == OUT and any(state in within for state in path) for path in states)
    back = sum(path[0] in within and OUT in path and path[-1] in within for path in states)
    return {"first_in": first(within), "first_solved": first((SOLVED,)), "lost_again": lost, "recovered": back}


def surviving_expansion(checkpoints: Sequence[Counts], k: int) -> list[float]:
    """[K] by stage: sum over prompts it brought from OUT to IN, and that were not IN at the root, of
    (p_end - p_before), over P: what is left of it."""
    states, end = lineage(checkpoints, k), checkpoints[-1].rate
    remaining = []
    for stage in range(1, len(checkpoints)):
        before = checkpoints[stage - 1].rate
        within = (IN, SOLVED)
        brought = [
            p
            for p, path in enumerate(states)
            if path[stage - 1] == OUT and path[stage] in within and path[0] not in within
        ]
        remaining.append(float(sum(end[p] - before[p] for p in brought) / len(states)))
    return remaining


def shapley(
    stages: Sequence[str],
    value: Callable[[tuple[str, ...]], Any],
    *,
    feasible: Callable[[tuple[str, ...]], bool] = lambda subset: True,
) -> dict[str, Any]:
    """Shapley values: phi_i = sum_S |S|! (K - 1 - |S|)! / K! [v(S + i) - v(S)], every S in the stages' own order.

    `value` runs (or looks up) the pipeline of a subset: a number, or an array of them (one per prompt and seed), which
    is split element by element. With subsets that cannot run (a distillation without its teacher), the average is over
    the orders of arrival all of whose subsets are feasible. Sums to v(all) - v(none).
    """
    known: dict[frozenset[str], Any] = {}

    def v(subset: frozenset[str]) -> Any:
        if subset not in known:
            known[subset] = value(tuple(stage for stage in stages if stage in subset))
        return known[subset]

    orders = feasible_orders(stages, feasible)
    if not orders:
        raise DataError("no order of arrival has only feasible subsets", why=f"stages: {', '.join(stages)}")
    total: dict[str, Any] = dict.fromkeys(stages, 0.0)
    for order in orders:
        present: frozenset[str] = frozenset()
        for stage in order:
            total[stage] = total[stage] + (v(present | {stage}) - v(present))
            present |= {stage}
    return {stage: amount / len(orders) for stage, amount in total.items()}


def feasible_orders(
    stages: Sequence[str], feasible: Callable[[tuple[str, ...]], bool] = lambda subset: True
) -> list[tuple[str, ...]]:
    """Orders in which the stages may arrive one by one, every subset on the way feasible."""
    if len(stages) > 7:
        raise DataError(f"{len(stages)} stages have {factorial(len(stages))} orders", fix="7 stages or fewer")
    orders: list[tuple[str, ...]] = [()]
    for _ in stages:
        longer = [(*order, stage) for order in orders for stage in stages if stage not in order]
        orders = [o for o in longer if feasible(tuple(stage for stage in stages if stage in o))]
    return orders


def interaction(value: Callable[[tuple[str, ...]], Any], one: str, other: str) -> Any:
    """v(one, other) - v(one) - v(other) + v(): above 0, the stages need each other."""
    return value((one, other)) - value((one,)) - value((other,)) + value(())


def crossed_mean(rows_SP: np.ndarray, *, level: float = 0.95) -> Est:
    """Mean over seeds and prompts of what was measured on the same prompts under every seed, both of them random:

        mean -+ t sqrt(var_P / P + var_S / S)       var_P of the prompts' means over seeds, var_S of the seeds' means

    t at Satterthwaite's degrees of freedom, of which few seeds leave few: that is what few seeds cost. The noise of
    single measurements is in both parts, so the interval errs to the wide side. With one seed it is over prompts alone
    and says nothing about training again.
    """
    n_seeds, n_prompts = rows_SP.shape
    means = rows_SP.mean(axis=0), rows_SP.mean(axis=1)
    parts = [(mean.var(ddof=1) / len(mean), len(mean) - 1) for mean in means if len(mean) > 1]
    variance = sum(part for part, _ in parts)
    if not parts or variance == 0:
        return Est(*[float(rows_SP.mean())] * 3)
    freedom = variance**2 / sum(part**2 / df for part, df in parts)
    half = special.stdtrit(freedom, (1 + level) / 2) * np.sqrt(variance)
    ends = rows_SP.mean() + np.array([-half, half])
    if rows_SP.min() >= 0 and rows_SP.max() <= 1:  # a share stays one
        ends = np.clip(ends, 0, 1)
    return Est(float(rows_SP.mean()), *map(float, ends))
