"""What is known of success probabilities from counts: a posterior on a grid, read at given quantiles.

The grid is even in theta, p = sin(theta)^2, where Jeffreys' prior Beta(1/2, 1/2) is flat. Under a checker with errors
(`offon.behavior.statistics.checker_errors`) success p shows as acceptance at rate FPR + (TPR - FPR) p; the likelihood
of p is then a mean over what the two may be.

Where many prompts were measured, the prior can be estimated from them (empirical Bayes): the flat one after some steps
of EM. A prompt's posterior then depends on the others': no success in 32 says "about never" where the others are at 0
or far above, and less where many are near 1 in 20.

Axes: P prompts, U distinct counts, G cells of the grid, D quantiles.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy import special

from offon.behavior.statistics.checker_errors import Checker, error_draws
from offon.behavior.statistics.counts import Counts

GRID = 1024  # with up to some ten thousand samples several cells lie within one posterior
EM_STEPS = 30  # stopped early, an estimated prior stays smooth
FEWEST_TO_POOL = 100  # prompts
CHECKER_DRAWS = 64

EDGES = np.linspace(0, np.pi / 2, GRID + 1)
POINTS = np.sin((EDGES[1:] + EDGES[:-1]) / 2) ** 2  # [G]


def rate_quantiles(
    counts: Counts, quantile_D, *, checker: Checker | None = None, pooled: bool = False, at_least_P=None
) -> np.ndarray:
    """[D, P] quantiles of each prompt's posterior.

    pooled: under the prior the prompts themselves suggest, where at least `FEWEST_TO_POOL` were measured.
    at_least_P: what each rate is known to reach.
    """
    cell_P = np.zeros(len(counts.scored), int) if at_least_P is None else _cell(at_least_P)
    rows_P3 = np.stack([*counts, cell_P], axis=1)
    distinct_U, where_P, times_U = np.unique(rows_P3, axis=0, return_inverse=True, return_counts=True)
    likelihood_UG = np.stack([_likelihood(int(c), int(n), checker) for c, n, _ in distinct_U])
    likelihood_UG = np.where(np.arange(GRID) < distinct_U[:, 2:], 1e-300, likelihood_UG)  # not 0: bounds may be wrong
    prior_G = np.full(GRID, 1 / GRID)
    measured_U = times_U * (distinct_U[:, 1] > 0)
    if pooled and measured_U.sum() >= FEWEST_TO_POOL:
        for _ in range(EM_STEPS):
            prior_G = measured_U @ _posterior(likelihood_UG, prior_G) / measured_U.sum()
    cdf_UG = np.cumsum(_posterior(likelihood_UG, prior_G), axis=1)
    theta_UD = np.stack([np.interp(quantile_D, np.concatenate([[0], cdf_G]), EDGES) for cdf_G in cdf_UG])
    return (np.sin(theta_UD) ** 2).T[:, where_P.ravel()]


def _cell(rate_P) -> np.ndarray:
    """[P] the cell of the grid that a rate lies in."""
    return np.minimum((np.arcsin(np.sqrt(np.clip(rate_P, 0, 1))) / (np.pi / 2) * GRID).astype(int), GRID - 1)


@lru_cache(maxsize=8192)
def _likelihood(successes: int, scored: int, checker: Checker | None) -> np.ndarray:
    """[G] up to a factor."""
    right_S, wrong_S = np.array([[1.0, 0.0]] if checker is None else error_draws(checker, CHECKER_DRAWS)).T[:, :, None]
    accepted_SG = wrong_S + (right_S - wrong_S) * POINTS
    log_SG = special.xlogy(successes, accepted_SG) + special.xlog1py(scored - successes, -accepted_SG)
    return np.exp(log_SG - log_SG.max()).mean(axis=0)


def _posterior(likelihood_UG: np.ndarray, prior_G: np.ndarray) -> np.ndarray:
    joint_UG = likelihood_UG * prior_G
    return joint_UG / joint_UG.sum(axis=1, keepdims=True)
