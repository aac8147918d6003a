"""Is success within reach of k rollouts? Yes, no, or not known yet.

A prompt's success probability p is in effective support at budget k when k rollouts show it at least once with
probability 1 - zeta:

    1 - (1 - p)^k >= 1 - zeta     <=>     p >= eps_k = 1 - zeta^(1/k)          (about 3/k at zeta = .05)

Each call is certified: whatever p is, the wrong one of IN and OUT is called with probability at most alpha/2. A prompt
whose p did not move needs one wrong call to look gained, and one lucky right one: by enumeration that has probability
below .001 at every p (worst just above eps_k), and the same for lost.
"""

from __future__ import annotations

import math

import numpy as np

from offon.behavior.statistics.counts import Counts
from offon.behavior.statistics.intervals import clopper_pearson_lower, clopper_pearson_upper, jeffreys_above
from offon.errors import ConfigError, DataError

ZETA = 0.05  # chance of k rollouts missing what is called within reach (arXiv:2507.14843 uses the same)
ALPHA = 0.05  # error of a call, half on each side

IN, OUT, UNDECIDED = "IN", "OUT", "undecided"
CHANGES = ("gained", "lost", "kept", "never", "undecided")
_CHANGE = {(OUT, IN): "gained", (IN, OUT): "lost", (IN, IN): "kept", (OUT, OUT): "never"}


def support_threshold(k: int, *, zeta: float = ZETA) -> float:
    """eps_k = 1 - zeta^(1/k): the smallest success probability that k rollouts show with probability 1 - zeta."""
    if k < 1:
        raise ConfigError(f"a budget of {k} rollouts", why="support is stated at a budget k of at least 1")
    return -math.expm1(math.log(zeta) / k)


def support_calls(counts: Counts, k: int, *, zeta: float = ZETA, alpha: float = ALPHA) -> np.ndarray:
    """[P] of IN, OUT or undecided at budget k.

    IN if the lower Clopper-Pearson bound at alpha/2 reaches eps_k; OUT if the upper one stays below it. At k = 64
    (eps .0457): of 128 samples OUT means 0 or 1 success, IN 12 or more; of 256, at most 5 and at least 20.
    """
    eps = support_threshold(k, zeta=zeta)
    inside = clopper_pearson_lower(*counts, alpha=alpha / 2) >= eps
    outside = clopper_pearson_upper(*counts, alpha=alpha / 2) < eps
    return np.select([inside, outside], [IN, OUT], UNDECIDED)


def jeffreys_states(counts: Counts, k: int, *, zeta: float = ZETA) -> np.ndarray:
    """[P, 2] posterior probability of IN and OUT at budget k under Jeffreys' prior."""
    inside = jeffreys_above(*counts, support_threshold(k, zeta=zeta))
    return np.stack([inside, 1 - inside], axis=1)


def prompt_changes(before: Counts, after: Counts, k: int, *, zeta: float = ZETA, alpha: float = ALPHA) -> list[str]:
    """What happened to each prompt between two checkpoints, one of `CHANGES`.

    gained OUT -> IN, lost IN -> OUT, kept IN -> IN, never OUT -> OUT; undecided if either call is.
    """
    if len(before.scored) != len(after.scored):
        raise DataError(f"{len(before.scored)} prompts before, {len(after.scored)} after", why="prompts are compared")
    calls = (support_calls(counts, k, zeta=zeta, alpha=alpha).tolist() for counts in (before, after))
    return [_CHANGE.get(pair, "undecided") for pair in zip(*calls, strict=True)]


def can_certify(n: int, k: int, *, zeta: float = ZETA, alpha: float = ALPHA) -> frozenset[str]:
    """Which of IN and OUT n samples can ever certify at budget k: the calls at all and at no success."""
    return frozenset(support_calls(Counts.of([0, n], n), k, zeta=zeta, alpha=alpha).tolist()) - {UNDECIDED}


def samples_to_certify_out(k: int, *, zeta: float = ZETA, alpha: float = ALPHA) -> int:
    """The fewest samples with which no success certifies OUT at budget k.

    (alpha/2)^(1/n) > zeta^(1/k)     <=>     n > k ln(alpha/2) / ln(zeta)      (1.23 k by default; k = 64: 79)
    """
    return math.floor(k * math.log(alpha / 2) / math.log(zeta)) + 1


def largest_certifiable_k(n: int, *, zeta: float = ZETA, alpha: float = ALPHA) -> int:
    """The largest budget at which n samples without success certify OUT; 0 if none (n = 64: 51, n = 128: 103).

    Declare the budget before looking at outcomes. For `decompose`, n is the size of one half of the samples.
    """
    return max(0, math.ceil(n * math.log(zeta) / math.log(alpha / 2)) - 1)
