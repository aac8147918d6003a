"""Intervals of means and of ratios of means over prompts, from random weights on the prompts, without drawing any.

Axes: P prompts, Q columns (quantities), M = P + 2: the prompts and two that nobody saw.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import special

UNSEEN = 0.5  # prompts nobody saw, on either side: Jeffreys' half success and half failure
BEYOND = 4.0  # how far out they lie, in gaps: chosen on five populations, tried on six others (docs/validation.md)
CERTAIN = 40.0  # stands for the normal quantile of probability 1
TINY = 1e-300
ROUNDING = 1e-12  # values that differ by less, relatively, are equal


def mean_bounds(rows_PQ: np.ndarray, *, level: float = 0.95) -> np.ndarray:
    """[2, Q] ends of the interval of each column's mean: its quantiles when prompts have random weights,

        mean(D) = sum_i D_i x_i,    D ~ Dirichlet(1, ..., 1, 1/2, 1/2) over the P prompts and two that nobody saw.

    Without the last two this is the Bayesian bootstrap (Rubin 1981), which takes the values it saw for all there are:
    too narrow where few prompts carry the mean. `unseen` places them. On outcomes 0 and 1, two at 0 and 1 would make it
    the Jeffreys interval, quantiles of Beta(c + 1/2, P - c + 1/2), and a whole one at either bound Gaffke's, which is
    Clopper and Pearson's there (Phan, Thomas and Learned-Miller 2021, arXiv:2106.03163).

    Nothing is drawn. D_i = g_i / sum g for independent gammas g, so Pr(mean(D) <= m) = Pr(sum g_i (x_i - m) <= 0),
    which `tail` gives. At its saddlepoint prompts weigh a_i / (1 - s x_i) and m is their mean: m follows from s without
    a search, and one search over s finds the wanted probability.
    """
    center_Q, spread_Q = rows_PQ.mean(axis=0), np.ptp(rows_PQ, axis=0) > ROUNDING * np.abs(rows_PQ).max(axis=0)
    ends_2Q = np.stack([center_Q, center_Q])
    if not spread_Q.any():
        return ends_2Q
    x_MQ = np.concatenate([rows_PQ, unseen(rows_PQ, _reach(rows_PQ))])[:, spread_Q] - center_Q[spread_Q]
    prompts_M1 = _prompts(len(rows_PQ))

    def mean_and_tail(y_Q: np.ndarray, outermost_Q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        s_Q = -np.expm1(-y_Q) / outermost_Q
        weight_MQ = prompts_M1 / (1 - s_Q * x_MQ)
        mean_Q = (weight_MQ * x_MQ).sum(axis=0) / weight_MQ.sum(axis=0)
        return mean_Q, tail(x_MQ - mean_Q, prompts_M1, s_Q / (1 - s_Q * mean_Q))

    for end, outermost_Q in enumerate((x_MQ.min(axis=0), x_MQ.max(axis=0))):
        far_Q = np.full(len(outermost_Q), 20.0)
        y_Q = _crossing(lambda y_Q, edge_Q: mean_and_tail(y_Q, edge_Q)[1], level, outermost_Q, far_Q)
        ends_2Q[end, spread_Q] += mean_and_tail(y_Q, outermost_Q)[0]
    return ends_2Q


def ratio_bounds(top_PQ: np.ndarray, bottom_PQ: np.ndarray, *, level: float = 0.95) -> np.ndarray:
    """[2, Q] ends of the interval of sum(top) / sum(bottom) of each column: the ratios r at which

        Pr(sum_i g_i (top_i - r bottom_i) <= 0)

    has the wanted value, with the weights and the unseen prompts of `mean_bounds`. As with Fieller (1954), a bottom
    that may be 0 leaves one side or both without an end: infinite.
    """
    estimate_Q = top_PQ.sum(axis=0) / bottom_PQ.sum(axis=0)
    step_Q = np.sqrt(((top_PQ - estimate_Q * bottom_PQ) ** 2).sum(axis=0)) / np.abs(bottom_PQ.sum(axis=0))
    reach_Q, prompts_M1 = np.maximum(_reach(top_PQ), _reach(bottom_PQ)), _prompts(len(top_PQ))

    def at(y_Q: np.ndarray, side: int) -> np.ndarray:
        rest_PQ = top_PQ - (estimate_Q + side * y_Q * step_Q) * bottom_PQ
        rest_MQ = np.concatenate([rest_PQ, unseen(rest_PQ, reach_Q)])
        return tail(rest_MQ, prompts_M1, _tilt(rest_MQ, prompts_M1))

    ends_2Q = np.stack([estimate_Q, estimate_Q])
    for end, side in enumerate((-1, 1)):
        y_Q = _crossing(at, level, side, 4.0 * (step_Q > 0), farther=True)
        ends_2Q[end] += side * step_Q * np.where(step_Q > 0, y_Q, 0)
    return ends_2Q


def unseen(rows_PQ: np.ndarray, reach_Q: np.ndarray) -> np.ndarray:
    """[2, Q] where the two prompts nobody saw lie, below and above: `BEYOND` times the gap between the outermost two
    values further out than the outermost; at least as far from the mean as the outermost of the other side, since a
    term of either sign that few prompts carry may have shown one sign only; and no further than `reach_Q`.

    The end of a distribution lies beyond outermost + f gap in one sample of 1 + f (Robson and Whitlock 1964,
    doi:10.1093/biomet/51.1-2.33): at f = 4, one of five. Ties there, as of outcomes 0 and 1, are taken for the end.
    """
    rows_PQ = np.sort(rows_PQ, axis=0)
    lowest_Q, highest_Q, center_Q = rows_PQ[0], rows_PQ[-1], rows_PQ.mean(axis=0)
    below_Q, above_Q = lowest_Q, highest_Q
    if len(rows_PQ) > 1:
        below_Q, above_Q = lowest_Q - BEYOND * (rows_PQ[1] - lowest_Q), highest_Q + BEYOND * (highest_Q - rows_PQ[-2])
    farthest_Q = np.maximum(highest_Q - center_Q, center_Q - lowest_Q)
    below_Q, above_Q = np.minimum(below_Q, center_Q - farthest_Q), np.maximum(above_Q, center_Q + farthest_Q)
    return np.stack([
        np.maximum(below_Q, np.minimum(lowest_Q, -reach_Q)), np.minimum(above_Q, np.maximum(highest_Q, reach_Q)),
    ])  # fmt: skip


def tail(x_MQ: np.ndarray, prompts_M1: np.ndarray, tilt_Q: np.ndarray) -> np.ndarray:
    """[Q] r* with Pr(sum_i g_i x_i <= 0) = Phi(r*) for g_i ~ Gamma(a_i), a = `prompts_M1`: the saddlepoint form of
    Lugannani and Rice (1980, doi:10.2307/1426607) as Barndorff-Nielsen writes it,

        r* = r + log(u / r) / r,    r = sign(tilt) sqrt(2 sum a_i log(1 - tilt x_i)),
        u = tilt sqrt(sum a_i (x_i / (1 - tilt x_i))^2),    at the tilt where sum a_i x_i / (1 - tilt x_i) = 0.

    r alone is the signed root of the empirical likelihood ratio. Of outcomes 0 and 1 the law is a beta's: probabilities
    of .025 come out as .0256 with a single 1 among 20 zeros, .02498 with 5.5 among 59.5.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        left_MQ = 1 - tilt_Q * x_MQ
        r_Q = np.sign(tilt_Q) * np.sqrt(2 * (prompts_M1 * np.log(left_MQ)).sum(axis=0))
        u_Q = tilt_Q * np.sqrt((prompts_M1 * (x_MQ / left_MQ) ** 2).sum(axis=0))
        r_Q = r_Q + np.log(u_Q / r_Q) / r_Q
    one_sided_Q = (x_MQ >= 0).all(axis=0) | (x_MQ <= 0).all(axis=0)
    return np.where(one_sided_Q, -CERTAIN * np.sign(x_MQ.sum(axis=0)), r_Q)


def _tilt(x_MQ: np.ndarray, prompts_M1: np.ndarray) -> np.ndarray:
    """[Q] the tilt with sum a_i x_i / (1 - tilt x_i) = 0, by Newton steps kept inside (1 / min x, 1 / max x)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        low_Q, high_Q = 1 / np.minimum(x_MQ.min(axis=0), -TINY), 1 / np.maximum(x_MQ.max(axis=0), TINY)
        tilt_Q = np.zeros(x_MQ.shape[1])
        for _ in range(50):
            each_MQ = x_MQ / (1 - tilt_Q * x_MQ)
            slope_Q, sum_Q = (prompts_M1 * each_MQ**2).sum(axis=0), (prompts_M1 * each_MQ).sum(axis=0)
            low_Q, high_Q = np.where(sum_Q < 0, tilt_Q, low_Q), np.where(sum_Q > 0, tilt_Q, high_Q)
            next_Q = tilt_Q - sum_Q / slope_Q
            next_Q = np.where((low_Q < next_Q) & (next_Q < high_Q), next_Q, (low_Q + high_Q) / 2)
            if not (np.abs(next_Q - tilt_Q) > 1e-10 * np.abs(next_Q)).any():
                break
            tilt_Q = next_Q
    return tilt_Q


def _crossing(tail_at: Callable, level: float, where, far: np.ndarray, *, farther=False) -> np.ndarray:
    """[Q] the y in (0, far) at which |tail_at(y, where)| reaches the normal quantile of `level`: regula falsi, the end
    that stays put twice being halved (Illinois). `farther` first doubles far until it lies beyond; infinite if it never
    does."""
    wanted = special.ndtri((1 + level) / 2)
    low_Q, high_Q, short_Q = np.zeros(len(far)), far, np.full(len(far), -wanted)
    over_Q = np.abs(tail_at(high_Q, where)) - wanted
    for _ in range(12 if farther else 0):
        if not (open_Q := over_Q < 0).any():
            break
        low_Q, short_Q = np.where(open_Q, high_Q, low_Q), np.where(open_Q, over_Q, short_Q)
        high_Q = np.where(open_Q, 2 * high_Q, high_Q)
        over_Q = np.abs(tail_at(high_Q, where)) - wanted
    endless_Q, moved_Q = over_Q < 0, np.zeros(len(far))
    with np.errstate(divide="ignore", invalid="ignore"):
        for _ in range(40):
            y_Q = (low_Q * over_Q - high_Q * short_Q) / (over_Q - short_Q)
            value_Q = np.abs(tail_at(y_Q, where)) - wanted
            if not ((np.abs(value_Q) > 1e-7) & ~endless_Q).any():
                break
            right_Q = value_Q < 0
            low_Q, high_Q = np.where(right_Q, y_Q, low_Q), np.where(right_Q, high_Q, y_Q)
            short_Q, over_Q = (
                np.where(right_Q, value_Q, np.where(moved_Q < 0, short_Q / 2, short_Q)),
                np.where(right_Q, np.where(moved_Q > 0, over_Q / 2, over_Q), value_Q),
            )
            moved_Q = np.where(right_Q, 1, -1)
    return np.where(endless_Q, np.inf, y_Q)


def _prompts(n_prompts: int) -> np.ndarray:
    """[M, 1] how many prompts each row stands for: the seen, and the unseen below and above."""
    return np.r_[np.ones(n_prompts), UNSEEN, UNSEEN][:, None]


def _reach(rows_PQ: np.ndarray) -> np.ndarray:
    """[Q] 1 for rates and changes of rates, which no prompt exceeds; infinite for what has been seen beyond 1."""
    return np.where((np.abs(rows_PQ) <= 1).all(axis=0), 1.0, np.inf)
