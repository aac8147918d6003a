"""Intervals for rates and for means over prompts.

One prompt, c successes of n independent samples: Wilson (to describe), Clopper-Pearson (to certify: never less
than its stated level), Jeffreys posterior (to weigh). A mean or a ratio of means over prompts: random weights on
prompts, because prompts differ from each other more than samples of one prompt do.

Axes: P prompts, Q quantities measured on each prompt, B bootstrap replicates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

from offon.behavior.statistics.bayesian_bootstrap import mean_bounds, ratio_bounds
from offon.behavior.statistics.counts import checked
from offon.errors import DataError

# Below this many prompts the ordinary bootstrap often resamples only a handful of distinct prompts; Dirichlet
# weights keep all of them in every replicate.
FEW_PROMPTS = 100
Clusters = Sequence[object] | np.ndarray | None


class Est(NamedTuple):
    """An estimate with its two-sided interval (95% unless said otherwise). `_asdict()` is its JSON form."""

    estimate: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.estimate:.3f} [{self.low:.3f}, {self.high:.3f}]"


def wilson(c, n, *, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Wilson score interval (low, high), elementwise; (0, 1) where n = 0.

        (p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n),   p = c/n

    Close to its level on average over p, and sensible at c = 0 and c = n. Wilson 1927, doi:10.2307/2276774.
    """
    c, n = checked(c, n)
    z2 = special.ndtri(0.5 + level / 2) ** 2
    # multiplied through by n, so that n = 0 needs no special case
    half = np.sqrt(z2 * (c * (n - c) / np.maximum(n, 1) + z2 / 4))
    low, high = (c + z2 / 2 - half) / (n + z2), (c + z2 / 2 + half) / (n + z2)
    return np.where(c == 0, 0.0, low), np.where(c == n, 1.0, high)


def clopper_pearson_lower(c, n, *, alpha: float = 0.05) -> np.ndarray:
    """One-sided lower bound: Pr(bound > p) <= alpha for every p. At that p, >= c successes have probability alpha.

    Clopper and Pearson 1934, doi:10.1093/biomet/26.4.404; the binomial tail written as a beta quantile.
    """
    c, n = checked(c, n)
    return np.where(c == 0, 0.0, special.betaincinv(np.maximum(c, 1), n - c + 1, alpha))


def clopper_pearson_upper(c, n, *, alpha: float = 0.05) -> np.ndarray:
    """One-sided upper bound: Pr(bound < p) <= alpha for every p. At that p, <= c successes have probability alpha."""
    c, n = checked(c, n)
    return np.where(c == n, 1.0, special.betaincinv(c + 1, np.maximum(n - c, 1), 1 - alpha))


def jeffreys_above(c, n, threshold) -> np.ndarray:
    """Posterior Pr(p >= threshold | c, n) under Jeffreys' prior: p ~ Beta(c + 1/2, n - c + 1/2)."""
    c, n = checked(c, n)
    return special.betaincc(c + 0.5, n - c + 0.5, threshold)


def jeffreys_quantile(c, n, q) -> np.ndarray:
    """The q-quantile of the Jeffreys posterior Beta(c + 1/2, n - c + 1/2)."""
    c, n = checked(c, n)
    return special.betaincinv(c + 0.5, n - c + 0.5, q)


def newcombe(c0, n0, c1, n1, *, level: float = 0.95) -> tuple[float, float]:
    """Interval of the difference c1/n1 - c0/n0 of two independent rates, from their Wilson intervals.

        low  = d - sqrt((p1 - l1)^2 + (u0 - p0)^2),   high = d + sqrt((u1 - p1)^2 + (p0 - l0)^2)

    Newcombe 1998, doi:10.1002/(SICI)1097-0258(19980430)17:8<873::AID-SIM779>3.0.CO;2-I, method 10.
    """
    (l0, u0), (l1, u1) = wilson(c0, n0, level=level), wilson(c1, n1, level=level)
    p0, p1 = c0 / n0, c1 / n1
    return float(p1 - p0 - np.hypot(p1 - l1, u0 - p0)), float(p1 - p0 + np.hypot(u1 - p1, p0 - l0))


def bootstrap_means(rows_PQ: np.ndarray, *, replicates: int = 1000, seed: int = 0) -> np.ndarray:
    """Means over resampled prompts, [B, Q]. A row keeps its quantities together, so comparisons are paired.

    The prompt is the cluster: its samples stay with it, and its row already carries their noise. From
    `FEW_PROMPTS` on, prompts are drawn with replacement (Efron 1979); below, they get Dirichlet(1, ..., 1) weights
    (Bayesian bootstrap, Rubin 1981). Rows are put in a canonical order first, so that the result depends on the
    set of prompts and the seed, not on the order the prompts came in.
    """
    rows_PQ = _ordered(rows_PQ)
    n_prompts = len(rows_PQ)
    rng = np.random.default_rng(seed)
    if n_prompts < FEW_PROMPTS:
        weights_BP = rng.dirichlet(np.ones(n_prompts), size=replicates)
    else:
        weights_BP = rng.multinomial(n_prompts, np.full(n_prompts, 1 / n_prompts), size=replicates) / n_prompts
    return weights_BP @ rows_PQ


def mean_over_prompts(rows_PQ, *, level: float = 0.95, clusters: Clusters = None) -> list[Est]:
    """Mean of each column with its interval over prompts (`mean_bounds`): rates, changes of either sign, and terms that
    few prompts carry alike. Shares stay shares. Where every prompt shows the same value the interval has no width:
    nothing that was seen tells how far others may lie.

    clusters: [P] what prompts have in common (a template, a document). Prompts of a cluster come together, so that the
    interval is over clusters: of sum of sums over sum of sizes (`ratio_bounds`), the mean of their means where all have
    one size.
    """
    rows_PQ = _two_axes(rows_PQ)
    sums_CQ, sizes_C1 = by_cluster(rows_PQ, clusters)
    if (sizes_C1 == sizes_C1[0]).all():
        low_Q, high_Q = mean_bounds(_ordered(sums_CQ / sizes_C1), level=level)
    else:
        low_Q, high_Q = ratio_bounds(*_ordered_pair(sums_CQ, sizes_C1), level=level)
    shares_Q = (rows_PQ >= 0).all(axis=0) & (rows_PQ <= 1).all(axis=0)
    low_Q, high_Q = np.where(shares_Q, np.maximum(low_Q, 0), low_Q), np.where(shares_Q, np.minimum(high_Q, 1), high_Q)
    return [Est(*map(float, bounds)) for bounds in zip(_ordered(rows_PQ).mean(axis=0), low_Q, high_Q, strict=True)]


def by_cluster(rows_PQ: np.ndarray, clusters: Clusters) -> tuple[np.ndarray, np.ndarray]:
    """[C, Q] sums and [C, 1] numbers of prompts of each cluster; every prompt its own where none are named, or all are
    of one, which tells nothing of others."""
    names = None if clusters is None else [repr(name) for name in clusters]
    if names is None or len(set(names)) < 2:
        return rows_PQ, np.ones((len(rows_PQ), 1))
    _, where_P = np.unique(names, return_inverse=True)
    sums_CQ = np.zeros((where_P.max() + 1, rows_PQ.shape[1]))
    np.add.at(sums_CQ, where_P, rows_PQ)
    return sums_CQ, np.bincount(where_P)[:, None].astype(float)


def ratio(top_P, bottom_P, *, level: float = 0.95, clusters: Clusters = None) -> Est:
    """Sum of tops over sum of bottoms, paired by prompt (`ratio_bounds`), or by cluster; NaN where nothing is below."""
    rows_PQ = np.column_stack([np.asarray(top_P, float), np.asarray(bottom_P, float)])
    rows_PQ = _ordered(by_cluster(rows_PQ, clusters)[0])
    top_PQ, bottom_PQ = rows_PQ[:, :1], rows_PQ[:, 1:]
    if bottom_PQ.sum() == 0:
        return Est(*[float("nan")] * 3)
    [low], [high] = ratio_bounds(top_PQ, bottom_PQ, level=level)
    return Est(float(top_PQ.sum() / bottom_PQ.sum()), float(low), float(high))


def paired_change(before_P, after_P, *, level: float = 0.95, clusters: Clusters = None) -> Est:
    """Mean of after - before over the same prompts, prompts kept as pairs."""
    before_P, after_P = np.asarray(before_P, float), np.asarray(after_P, float)
    if before_P.shape != after_P.shape:
        raise DataError(f"{len(before_P)} prompts before, {len(after_P)} after", why="a paired change needs the same")
    return mean_over_prompts(after_P - before_P, level=level, clusters=clusters)[0]


def _ordered(rows_PQ) -> np.ndarray:
    """Rows as a [P, Q] float array, sorted."""
    rows_PQ = _two_axes(rows_PQ)
    return rows_PQ[np.lexsort(rows_PQ.T)]


def _ordered_pair(rows_CQ: np.ndarray, sizes_C1: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums and, for each of their columns, sizes, in one order."""
    rows = _ordered(np.column_stack([rows_CQ, sizes_C1]))
    return rows[:, :-1], np.repeat(rows[:, -1:], rows_CQ.shape[1], axis=1)


def _two_axes(rows_PQ) -> np.ndarray:
    """[P, Q] float; one column may come as [P]."""
    rows_PQ = np.asarray(rows_PQ, dtype=float)
    rows_PQ = rows_PQ[:, None] if rows_PQ.ndim == 1 else rows_PQ
    if not len(rows_PQ):
        raise DataError("no prompt to average over", why="no prompt has a scored sample")
    return rows_PQ
