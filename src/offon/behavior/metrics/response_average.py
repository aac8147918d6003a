"""The most common metric: a number of each response, averaged, before and after, with the paired change."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from offon.behavior.metrics.metric import Groups, Sides
from offon.behavior.statistics.intervals import Est, mean_over_prompts, paired_change
from offon.types import Trajectory

VALUE = "`before`, `after` and their paired `change`, an estimate each"


def response_average(number: Callable[[Trajectory], float | None]) -> Callable[[Sides], dict[str, Est] | None]:
    """Computes the mean over prompts of the mean over a prompt's responses, before, after, and after - before.

        mean_P = (1/n) sum_i number(response_i),   before = mean over P,   change = mean over P of after_P - before_P

    number: None (or NaN) where a response does not tell; such responses count in neither mean, and prompts without any
    other response on one side in neither side. Intervals are over prompts (95%). None where no responses are known.
    """

    def compute(sides: Sides) -> dict[str, Est] | None:
        if sides.groups is None:
            return None
        before_P, after_P = (_means(groups, number) for groups in sides.groups)
        known = np.isfinite(before_P) & np.isfinite(after_P)
        if not known.any():
            return None
        before_P, after_P, clusters = before_P[known], after_P[known], sides.clusters
        clusters = None if clusters is None else clusters[known]
        [before], [after] = (mean_over_prompts(side_P, clusters=clusters) for side_P in (before_P, after_P))
        return {"before": before, "after": after, "change": paired_change(before_P, after_P, clusters=clusters)}

    return compute


def _means(groups: Groups, number: Callable[[Trajectory], float | None]) -> np.ndarray:
    """[P] mean over the responses that tell; NaN where none does."""
    rows = ([number(member) for member in group.members] for group in groups)
    known = ([value for value in row if value is not None and not math.isnan(value)] for row in rows)
    return np.array([np.mean(row) if row else np.nan for row in known], dtype=float)
