"""Support relative to another checkpoint: for long responses, where every absolute probability is tiny.

    l(y) = log pi_1(y) - log pi_0(y)
    y is new if l >= log N, lost if l <= -log N, else shared

Exact for each sampled response, and exactly empty between identical checkpoints. Rejection sampling on a reward, and
the optimum of KL-regularised RL, multiply no prefix by more than 1/p_0(x), the inverse of the old success rate: mass
that is new at N > 1/p_0 was not found by filtering (arXiv:2507.14843 gives the idea for answers).

Axes: T tokens; n responses of one prompt; P prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from offon.behavior.statistics.intervals import Clusters, Est, mean_over_prompts
from offon.errors import ConfigError, DataError

NEW, LOST, SHARED = "new", "lost", "shared"
TRAJECTORY_SIGNS = {"expansion": 1, "reshaping": 1, "attrition": -1}


@dataclass(frozen=True, eq=False)
class Scored:
    """One checkpoint's responses to one prompt: log-ratio (after over before) and success of each, both [n]."""

    log_ratio: np.ndarray
    success: np.ndarray


def novelty(log_ratio, n: float) -> np.ndarray:
    """Elementwise new, lost or shared at factor n > 1."""
    if not n > 1:
        raise ConfigError(f"a factor of {n}", why="new means more likely by a factor above 1")
    log_ratio = np.asarray(log_ratio)
    return np.select([log_ratio >= np.log(n), log_ratio <= -np.log(n)], [NEW, LOST], SHARED)


def first_passage(log_ratio_T, n: float) -> int | None:
    """Where novelty starts: the first t at which the prefix's summed log-ratio reaches log n; None if it never does."""
    reached = np.cumsum(log_ratio_T) >= np.log(n)
    return int(np.argmax(reached)) if reached.any() else None


def coverage_profile(after: Sequence[Scored], n: float, *, clusters: Clusters = None) -> Est:
    """Cov_N: the share of the new checkpoint's successes that were N-fold less likely before, mean over prompts with a
    success. Chen et al. 2025, arXiv:2510.15020, with the old checkpoint in place of the data."""
    shares = [float((s.log_ratio[s.success > 0] >= np.log(n)).mean()) for s in after if (s.success > 0).any()]
    named = None if clusters is None else [c for c, s in zip(clusters, after, strict=True) if (s.success > 0).any()]
    if not shares:
        raise DataError("no prompt has a success", why="the profile is over successes of the new checkpoint")
    return mean_over_prompts(np.array(shares), clusters=named)[0]


def decompose_trajectories(
    before: Sequence[Scored], after: Sequence[Scored], *, n: float, clusters: Clusters = None
) -> dict[str, Est]:
    """D1 by trajectory: the change of success split over what is new, lost and shared at factor n.

        term_Z = mean over prompts of  p1[R and Z] - p0[R and Z]
        total  = expansion (new) + reshaping (shared) - attrition (lost)

    Exact sums, unbiased because membership is exact; identical checkpoints give expansion = attrition = 0 identically.
    """
    if len(before) != len(after):
        raise DataError(f"{len(before)} prompts before, {len(after)} after", why="prompts are compared")

    def share(scored: Scored, cell: str) -> float:
        return float(((novelty(scored.log_ratio, n) == cell) * scored.success).mean())

    rows = np.array(
        [
            [share(late, cell) - share(early, cell) for cell in (NEW, SHARED, LOST)]
            for early, late in zip(before, after, strict=True)
        ]
    )
    rows[:, 2] *= TRAJECTORY_SIGNS["attrition"]
    total = rows @ np.array(list(TRAJECTORY_SIGNS.values()))
    total, *terms = mean_over_prompts(np.column_stack([total, rows]), clusters=clusters)
    return {"total": total, **dict(zip(TRAJECTORY_SIGNS, terms, strict=True))}


def bits(before_success: float, after: Scored) -> dict[str, float]:
    """D4: how far successes moved, in nats: KL(pi_1 | success || pi_0) = selection + novelty.

        selection = log 1/p_0                              what filtering the old policy's samples costs
        novelty   = E_{pi_1, R=1}[l] - log p_1 + log p_0 = KL(pi_1 | success || pi_0 | success)

    Novelty is 0 exactly when the new policy's successes are the old one's, only more frequent. Descriptive: paraphrase
    alone inflates it. Needs a success on both sides.
    """
    p1 = float(after.success.mean())
    if not (before_success > 0 and p1 > 0):
        raise DataError(f"success {before_success} before and {p1} after", why="bits are over successes of both")
    selection = -float(np.log(before_success))
    total = float(after.log_ratio[after.success > 0].mean()) - float(np.log(p1))
    return {"total": total, "selection": selection, "novelty": total - selection}
