"""pass@k and its kin, from counts.

Axes: P prompts, k rollouts.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from offon.behavior.statistics.counts import Counts
from offon.behavior.statistics.intervals import Clusters, Est, mean_over_prompts, wilson
from offon.errors import DataError


def pass_at_k(counts: Counts, k: int) -> np.ndarray:
    """[P] unbiased probability that k of the prompt's samples, drawn without replacement, hold a success.

        1 - C(n-c, k) / C(n, k)  =  1 - prod_{i<k} (1 - c / (n - i))

    Chen et al. 2021, arXiv:2107.03374, eq. 1. Summed as log1p, so neither large n nor tiny rates lose digits.
    k = 1 is c/n. Defined for k <= n only.
    """
    c, n = counts
    if k < 1 or (n < k).any():
        raise DataError(f"pass@{k} from {int(n.min())} scored samples", why="the unbiased estimator needs 1 <= k <= n")
    chance_PK = np.minimum(c[:, None] / (n[:, None] - np.arange(k)), 1)
    with np.errstate(divide="ignore"):  # log 0: fewer failures than draws, so some draw succeeds
        return -np.expm1(np.log1p(-chance_PK).sum(axis=1))


def mixed_group_probability(counts: Counts, group_size: int) -> np.ndarray:
    """[P] unbiased probability that a group of samples holds both a success and a failure (else: no gradient).

    1 - p^G - (1-p)^G,   estimated as pass@G of successes + pass@G of failures - 1
    """
    failures = Counts(counts.scored - counts.successes, counts.scored)
    return pass_at_k(counts, group_size) + pass_at_k(failures, group_size) - 1


def mean_pass_at_k(counts: Counts, k: int, *, clusters: Clusters = None) -> Est:
    """Mean pass@k over prompts with at least k scored samples, interval over prompts. k = 1: success.

    If all prompts show the same rate (0 of 128 everywhere), resampling them shows no spread although the rate is
    known only as well as all samples together tell: the interval is then Wilson's on the pooled counts, taken
    through 1 - (1 - p)^k.
    """
    enough = counts.scored >= k
    counts, clusters = counts.at(enough), None if clusters is None else np.asarray(clusters, object)[enough]
    if not len(counts.scored):
        raise DataError(f"no prompt has {k} scored samples", why=f"pass@{k} needs at least {k}")
    values_P = pass_at_k(counts, k)
    if np.ptp(counts.rate) > 0:
        return mean_over_prompts(values_P, clusters=clusters)[0]
    mean = float(values_P.mean())
    low, high = (1 - (1 - float(bound)) ** k for bound in wilson(counts.successes.sum(), counts.scored.sum()))
    return Est(mean, min(low, mean), max(high, mean))


def budgets(counts: Counts, declared: Iterable[int] = ()) -> list[int]:
    """Values of k worth reporting: powers of two and the declared ones, up to half the median of scored samples.

    Beyond n/2 the estimate rests on few distinct draws per prompt and its interval is too narrow.
    """
    largest = max(1, int(np.median(counts.scored)) // 2)
    powers = {2**i for i in range(largest.bit_length())}
    return sorted(k for k in powers | set(declared) if 1 <= k <= largest)


def curve(counts: Counts, *, declared: Iterable[int] = (), clusters: Clusters = None) -> list[dict]:
    """[{"k", "prompts", "estimate", "low", "high"}, ...] over `budgets`; `prompts` had k scored samples or more."""
    return [
        {"k": k, "prompts": int((counts.scored >= k).sum()), **mean_pass_at_k(counts, k, clusters=clusters)._asdict()}
        for k in budgets(counts, declared)
    ]
