"""The role a stage played on one prompt distribution: mostly expansion, mostly reshaping, or neither for sure.

    expansion   Pr(Exp >= half of Exp + max(Resh, 0)) >= .9, with a prompt certified to have come into reach
    reshaping   Pr(Resh > half of it) >= .9
    no change   success did not change beyond its 98% interval, and no prompt is certain to have come into reach or left
                it
    mixed       otherwise

Probabilities are over prompts (bootstrap). A role is a measured tendency on these prompts at this budget, never a
property of the method; attrition is always told beside it (arXiv:2604.07941, table 2, made operational).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from offon.behavior.counts import Counts
from offon.behavior.decompose import prompt_terms
from offon.behavior.intervals import Est, bootstrap_means, mean_over_prompts
from offon.behavior.support import prompt_changes

SURE = 0.9
CHANGED = 0.98  # level at which success has to have changed: a label is a verdict, and most stages are asked several


@dataclass(frozen=True)
class Role:
    """name: expansion, reshaping, mixed or no change. probability: of expansion carrying at least half."""

    name: str
    expansion_carries: float
    attrition: Est

    def as_dict(self) -> dict:
        return asdict(self) | {"attrition": self.attrition._asdict()}


def stage_role(before: Counts, after: Counts, k: int, *, replicates: int = 1000, seed: int = 0) -> Role:
    """The role of what lies between two checkpoints on the same prompts, from D1's soft terms."""
    terms = prompt_terms(before, after, k)["soft"]
    soft = np.column_stack([terms[name] for name in ("expansion", "reshaping", "attrition")])
    change = after.rate - before.rate
    estimates, [total] = mean_over_prompts(soft), mean_over_prompts(change, level=CHANGED)
    expansion_B, reshaping_B, _ = bootstrap_means(soft, replicates=replicates, seed=seed).T
    carries = float((expansion_B >= (expansion_B + np.maximum(reshaping_B, 0)) / 2).mean())
    calls = prompt_changes(before, after, k)
    if total.low <= 0 <= total.high and not {"gained", "lost"} & set(calls):
        return Role("no change", carries, estimates[2])
    if carries >= SURE and "gained" in calls and estimates[0].low > 0:
        return Role("expansion", carries, estimates[2])
    if 1 - carries >= SURE and estimates[1].low > 0:
        return Role("reshaping", carries, estimates[2])
    return Role("mixed", carries, estimates[2])
