"""How many tries until a prompt is solved? An interval, from exact log-probs below and from counts above.

    LB = max(certain sum over known successes, betting bound, Clopper-Pearson)
    UB = min(1 - certain sum over known failures, Clopper-Pearson)
    k-to-solve in [1 / UB, 1 / LB]

Known successes (a teacher's, another checkpoint's, a reference) bound a rate of 1e-4 from below where plain samples
would have to be thousands. From above only a model with few likely responses is bounded by what is known; for others
nothing but plain samples does.

Axes: n responses of one prompt.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from offon.behavior.statistics.intervals import clopper_pearson_lower, clopper_pearson_upper
from offon.errors import DataError

ALPHA = 0.05
PER_TOKEN, PER_NAT = 1e-6, 2e-6  # what a log-prob in float32 may be off by, in nats (docs/validation.md)
ROUNDING = 1e-3  # of a sum of probabilities from float32 log-probs, thousands of tokens long
BETS = np.linspace(0.02, 0.98, 25)  # the stakes that are mixed


class KToSolve(NamedTuple):
    """Success probability lies in [low, high]; `certain` is the share of low that needs no statistics."""

    low: float
    high: float
    certain: float

    @property
    def tries(self) -> tuple[float, float]:
        """(fewest, most) expected tries until a success."""
        return (1 / self.high if self.high > 0 else np.inf, 1 / self.low if self.low > 0 else np.inf)


def known_mass(successes: dict[tuple[int, ...], float]) -> float:
    """sum of pi(y) over distinct known successes y -> log pi(y): a certain lower bound on the success probability, if
    scorer and sampler agree."""
    total = float(np.exp(list(successes.values())).sum()) if successes else 0.0
    if total > 1 + ROUNDING:
        raise DataError(f"distinct responses have probability {total:.6f} together", why="scorer and sampler disagree")
    return min(total, 1.0)


def rounded_down(logp: float, tokens: int) -> float:
    """A model's log-prob of a response, less what rounding may have added: sums of such bound from below."""
    return logp - PER_TOKEN * tokens - PER_NAT * abs(logp)


def importance_weights(logp_own_n, logp_by_policy_nG, shares_G) -> np.ndarray:
    """[n] pi(y) / q(y), q = sum_g share_g pi_g the mixture that all samples were drawn from (balance heuristic, Veach
    and Guibas 1995). With a share alpha of its own samples a weight is at most 1 / alpha."""
    log_q = np.logaddexp.reduce(np.asarray(logp_by_policy_nG) + np.log(shares_G), axis=1)
    return np.exp(np.asarray(logp_own_n) - log_q)


def betting_lower(weighted_n, *, alpha: float = ALPHA) -> float:
    """A lower bound on the mean of independent non-negative values, valid at any stopping time.

        e(m) = mean over stakes b of prod_j (1 + b (w_j / m - 1));   the bound is the largest m with e(m) >= 1 / alpha

    If the mean is m or less, e(m) is a supermartingale that starts at 1, and reaches 1 / alpha with probability at most
    alpha (Ville). Waudby-Smith and Ramdas 2024, arXiv:2010.09686.
    """
    w = np.asarray(weighted_n, dtype=float)
    if (w < 0).any():
        raise DataError(f"a weight of {w.min()}", why="values are weights times successes, never negative")
    if not w.any():
        return 0.0

    def refuted(m: float) -> bool:
        log_wealth = np.log1p(BETS[:, None] * (w / m - 1)).sum(axis=1)
        return np.logaddexp.reduce(log_wealth) - np.log(len(BETS)) >= np.log(1 / alpha)

    low, high = w.mean() * 1e-9, w.mean()
    if not refuted(low):
        return 0.0
    for _ in range(60):
        middle = np.sqrt(low * high)
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return float(low)


def k_to_solve(
    successes: int,
    scored: int,
    *,
    known: dict[tuple[int, ...], float] | None = None,
    failures: dict[tuple[int, ...], float] | None = None,
    weighted=None,
    alpha: float = ALPHA,
) -> KToSolve:
    """The interval from plain counts, known successes and failures (tokens -> log pi, of a checker that always says the
    same of a response) and weighted successes (w * R, [n]).

    Wrong at either end with probability at most alpha: alpha / 2 above, alpha / 4 for each of the two statistical
    bounds below when both are used. A statistical bound that contradicts a certain one has failed and is left out.
    """
    certain, ceiling = known_mass(known or {}), 1 - known_mass(failures or {})
    share = alpha / 4 if weighted is not None else alpha / 2
    lower = [float(clopper_pearson_lower(successes, scored, alpha=share))]
    if weighted is not None:
        lower.append(betting_lower(weighted, alpha=share))
    upper = float(clopper_pearson_upper(successes, scored, alpha=alpha / 2)) if scored else 1.0
    low = max([certain, *(bound for bound in lower if bound <= ceiling)])
    return KToSolve(low, max(low, min(upper, ceiling) if upper >= certain else ceiling), certain)
