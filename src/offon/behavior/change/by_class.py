"""D1 by class: which answers, or which routes to them, came into reach, moved, or left.

    phi(y)        the class of a response: its answer, and the route to it, as far as the task names them
    m_i(phi | x)  = sum of pi_i(y) over the class, estimated by its share of the samples
    term_Z        = mean over prompts of  sum over classes in Z of  p1[R and phi] - p0[R and phi]

A class is in reach where its mass is at least eps_k. Cells and changes are cross-fitted as in
`offon.behavior.change.success_decomposition`, with the class's count in place of the successes and the right ones as a
part of it: terms sum to the change of success exactly, and identical checkpoints have mean 0 in each.

Axes: P prompts, C pairs of a prompt and a class seen there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from offon.behavior.change.success_decomposition import prompt_bounds, prompt_terms, term_intervals
from offon.behavior.change.support import IN, prompt_changes, support_calls
from offon.behavior.statistics.counts import Counts
from offon.behavior.statistics.intervals import Clusters, Est, mean_over_prompts
from offon.errors import DataError

# of one prompt by one checkpoint: the class of every scored response, and whether it succeeded
Classified = Sequence[tuple[str, bool]]


@dataclass(frozen=True, eq=False)
class ClassCounts:
    """Of each pair: its prompt, its class, its responses before and after, and the right ones among them. clusters: [P]
    what prompts have in common; intervals are then over clusters."""

    prompt: np.ndarray
    name: list[str]
    before: Counts
    after: Counts
    right: tuple[np.ndarray, np.ndarray]
    prompts: int
    clusters: Clusters = None

    @staticmethod
    def of(before: Sequence[Classified], after: Sequence[Classified], *, clusters: Clusters = None) -> ClassCounts:
        """Every class that either checkpoint showed on a prompt."""
        if len(before) != len(after):
            raise DataError(f"{len(before)} prompts before, {len(after)} after", why="prompts are compared")
        rows = []
        for prompt, sides in enumerate(zip(before, after, strict=True)):
            seen = [Counter(name for name, _ in side) for side in sides]
            right = [Counter(name for name, success in side if success) for side in sides]
            for name in sorted(set(seen[0]) | set(seen[1])):
                sizes = (count[name] for count in (*seen, *right))
                rows.append((prompt, name, len(sides[0]), len(sides[1]), *sizes))
        prompt, name, n0, n1, c0, c1, s0, s1 = zip(*rows, strict=True)
        right = (np.array(s0), np.array(s1))
        sides = (Counts.of(c0, n0), Counts.of(c1, n1))
        return ClassCounts(np.array(prompt), list(name), *sides, right, len(before), clusters)

    def per_prompt(self, values_C: np.ndarray) -> np.ndarray:
        return np.bincount(self.prompt, weights=values_C, minlength=self.prompts)


def decompose_classes(counts: ClassCounts, *, k: int) -> dict[str, dict[str, Est] | Est]:
    """D1 by class: {"certified": terms, "soft": terms, "total"}, signs and weightings as in `decompose`."""
    parts = tuple(
        right / np.maximum(side.successes, 1)
        for right, side in zip(counts.right, (counts.before, counts.after), strict=True)
    )
    sides = (counts.before, counts.after)
    terms = {
        weighting: {name: counts.per_prompt(term) for name, term in named.items()}
        for weighting, named in prompt_terms(*sides, k, parts=parts).items()
    }
    bounds = {
        name: tuple(counts.per_prompt(end) for end in ends)
        for name, ends in prompt_bounds(*sides, k, parts=parts).items()
    }
    rates = [counts.per_prompt(r / s.scored) for r, s in zip(counts.right, (counts.before, counts.after), strict=True)]
    total = mean_over_prompts(rates[1] - rates[0], clusters=counts.clusters)[0]
    return term_intervals(terms, bounds, clusters=counts.clusters) | {"total": total}


def class_calls(counts: ClassCounts, k: int) -> dict[str, int]:
    """Pairs of a prompt and a class that certainly came into reach, left it, or stayed."""
    calls = prompt_changes(counts.before, counts.after, k)
    return {change: calls.count(change) for change in ("gained", "lost", "kept")}


def distinct(counts: ClassCounts) -> dict[str, dict[str, Est]]:
    """Classes per prompt before and after: those seen, a certain lower bound, and Chao's estimate of those unseen,

        f1 (f1 - 1) / (2 (f2 + 1)),   f1, f2 the classes seen once and twice

    a heuristic, itself a lower bound on average (Chao 1984, bias-corrected form; doi:10.2307/4615964).
    """
    numbers = {}
    for when, side in (("before", counts.before), ("after", counts.after)):
        seen, once, twice = (
            counts.per_prompt(chosen.astype(float))
            for chosen in (side.successes > 0, side.successes == 1, side.successes == 2)
        )
        rows = np.stack([seen, once * (once - 1) / (2 * (twice + 1))], axis=1)
        numbers[when] = dict(
            zip(("seen", "unseen_heuristic"), mean_over_prompts(rows, clusters=counts.clusters), strict=True)
        )
    return numbers


def surface_novelty(counts: ClassCounts, after: Sequence[Classified], new: Sequence[Sequence[bool]], k: int) -> Est:
    """Success by responses that are new as trajectories, in classes that were within reach before: a new style of what
    was there. new: of each response after, whether it is N-new. Classes are called from the samples before alone."""
    within = support_calls(counts.before, k) == IN
    known = {(p, name) for p, name, inside in zip(counts.prompt.tolist(), counts.name, within, strict=True) if inside}
    shares = []
    for prompt, (row, flags) in enumerate(zip(after, new, strict=True)):
        surface = [right and (prompt, name) in known for name, right in row]
        shares.append(np.mean(np.array(surface) & np.array(flags)))
    return mean_over_prompts(np.array(shares), clusters=counts.clusters)[0]


def largest_changes(counts: ClassCounts, labels: Sequence[str], *, most: int = 8) -> list[dict]:
    """The labels whose mass moved most, averaged over all prompts. labels: one for each pair, what it is told as."""
    rows = []
    masses = [side.successes / side.scored for side in (counts.before, counts.after)]
    for label in sorted(set(labels)):
        chosen = np.array([one == label for one in labels])
        before, after = (counts.per_prompt(np.where(chosen, mass, 0.0)) for mass in masses)
        change = mean_over_prompts(after - before, clusters=counts.clusters)[0]
        rows.append({
            "class": label, "prompts": len(set(counts.prompt[chosen].tolist())), "before": float(before.mean()),
            "after": float(after.mean()), "change": change._asdict(),
        })  # fmt: skip
    return sorted(rows, key=lambda row: (-abs(row["change"]["estimate"]), row["class"]))[:most]
