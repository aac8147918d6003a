"""The role a stage played on one prompt distribution: mostly expansion, reshaping or consolidation, or none for sure.

    consolidation  every prompt has a scaffold, under it success did not change (the whole interval within .1), and at
                   least half of its help became the model's own, with an interval above 0
    expansion      Pr(Exp >= half of Exp + max(Resh, 0)) >= .9, with a prompt certified to have come into reach
    reshaping      Pr(Resh > half of it) >= .9
    no change      success did not change beyond its 98% interval, and no prompt is certain to have come into reach or
                   left it
    mixed          otherwise

The first that holds, "no change" before all. Consolidation is told first of the others because it says more: whether
success rose from out of reach or from within, what was there with help is now there without.

Probabilities are over prompts (bootstrap). A role is a measured tendency on these prompts at this budget, never a
property of the method; attrition is always told beside it (arXiv:2604.07941, table 2, made operational).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from offon.behavior.change.success_decomposition import prompt_bounds, prompt_terms, term_intervals
from offon.behavior.change.support import prompt_changes
from offon.behavior.stage.retention import amortisation, scaffold_dependence
from offon.behavior.statistics.counts import Counts
from offon.behavior.statistics.intervals import (
    Clusters,
    Est,
    bootstrap_means,
    by_cluster,
    mean_over_prompts,
    paired_change,
)

SURE = 0.9
SMALL = 0.1  # of success under the scaffold: a change that stays within is none of what the stage was for
HALF = 0.5  # of the scaffold's help
CHANGED = 0.98  # level at which success has to have changed: a label is a verdict, and most stages are asked several


@dataclass(frozen=True)
class Role:
    """name: consolidation, expansion, reshaping, mixed or no change. expansion_carries: probability that expansion is
    at least half of the gain."""

    name: str
    expansion_carries: float
    attrition: Est

    def as_dict(self) -> dict:
        return asdict(self) | {"attrition": self.attrition._asdict()}


def stage_role(
    before: Counts,
    after: Counts,
    k: int,
    *,
    scaffolded: tuple[Counts, Counts] | None = None,
    replicates: int = 1000,
    seed: int = 0,
    clusters: Clusters = None,
) -> Role:
    """The role of what lies between two checkpoints on the same prompts, from D1's soft terms.

    scaffolded: counts of both under the scaffold, on the same prompts; without them nothing is called consolidation.
    """
    terms = {"soft": prompt_terms(before, after, k)["soft"]}
    intervals = term_intervals(terms, prompt_bounds(before, after, k), clusters=clusters)["soft"]
    estimates = [intervals[name] for name in ("expansion", "reshaping", "attrition")]
    [total] = mean_over_prompts(after.rate - before.rate, level=CHANGED, clusters=clusters)
    gains, sizes = by_cluster(np.column_stack([terms["soft"][name] for name in ("expansion", "reshaping")]), clusters)
    expansion_B, reshaping_B, _ = bootstrap_means(np.hstack([gains, sizes]), replicates=replicates, seed=seed).T
    carries = float((expansion_B >= (expansion_B + np.maximum(reshaping_B, 0)) / 2).mean())
    calls = prompt_changes(before, after, k)
    if total.low <= 0 <= total.high and not {"gained", "lost"} & set(calls):
        return Role("no change", carries, estimates[2])
    if scaffolded is not None and _consolidates(before, after, scaffolded):
        return Role("consolidation", carries, estimates[2])
    if carries >= SURE and "gained" in calls and estimates[0].low > 0:
        return Role("expansion", carries, estimates[2])
    if 1 - carries >= SURE and estimates[1].low > 0:
        return Role("reshaping", carries, estimates[2])
    return Role("mixed", carries, estimates[2])


def _consolidates(before: Counts, after: Counts, scaffolded: tuple[Counts, Counts]) -> bool:
    """Whether help that was there before is now the model's own, and nothing more was learned under it."""
    helped_before, helped_after = scaffolded
    if not ((helped_before.scored > 0) & (helped_after.scored > 0)).all():
        return False
    change = paired_change(helped_before.rate, helped_after.rate)
    if max(-change.low, change.high) > SMALL or scaffold_dependence(before, helped_before).low <= 0:
        return False
    amortised = amortisation(before, helped_before, after)
    return amortised.estimate >= HALF and amortised.low > 0
