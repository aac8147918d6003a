"""Credit for steps: from numbers on the steps of a response to numbers per step. Pure functions, no models.

Axes: K steps of one response, G members of one group, T tokens of one response.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

import numpy as np


def suffix_sum(reward_K: np.ndarray) -> np.ndarray:
    """A_k = sum_{j >= k} r_j: what a step and all after it earned. [K].

    >>> suffix_sum(np.array([1.0, 2.0, 4.0]))
    array([7., 6., 4.])
    """
    return np.cumsum(np.asarray(reward_K, dtype=np.float64)[::-1])[::-1]


def normalised_steps(reward_G_K: Sequence[np.ndarray], *, epsilon: float = 1e-4) -> list[np.ndarray]:
    """r~ = (r - mean) / (std + epsilon) over all step rewards of all members of a group. G arrays [K_i].

    Rewards that are all equal give exactly 0. std is unbiased; the paper does not say which.
    Reference: Shao et al. 2024, arXiv:2402.03300, sec. 4.1.3.
    """
    pooled = np.concatenate([np.asarray(reward, dtype=np.float64) for reward in reward_G_K])
    if not len(pooled) or np.ptp(pooled) == 0:
        return [np.zeros(len(reward)) for reward in reward_G_K]
    mean, scale = pooled.mean(), pooled.std(ddof=1) + epsilon
    return [(np.asarray(reward, dtype=np.float64) - mean) / scale for reward in reward_G_K]


def min_form(reward_K: np.ndarray, temperature: float = 0.1) -> np.ndarray:
    """r*_k = r_k softmax_k(-r / T): step rewards whose sum is a soft minimum. [K].

    T -> 0: the worst step carries the whole reward; T -> infinity: the sum is the mean; one step: r* = r.
    Reference: Cheng et al. 2025, arXiv:2504.15275 (PURE), eq. 6 and the released code (T = 0.1).

        >>> min_form(np.array([0.9, -0.5, 0.8]), temperature=0.01).round(3)
        array([ 0. , -0.5,  0. ])
    """
    reward = np.asarray(reward_K, dtype=np.float64)
    exponent = -reward / temperature
    weight = np.exp(exponent - exponent.max())
    return reward * weight / weight.sum()


def progress(value_K: np.ndarray, start: float) -> np.ndarray:
    """A_k = V(s_k) - V(s_{k-1}), with V(s_0) = start: what each step did to the chance of success. [K].

    The sum telescopes to V(s_K) - start. With the outcome as the last value this is the advantage of VinePPO
    (Kazemnejad et al. 2024, arXiv:2410.01679); under another policy it is PAV's progress (arXiv:2410.08146).

        >>> progress(np.array([0.5, 0.75, 0.0]), start=0.25)
        array([ 0.25,  0.25, -0.75])
    """
    return np.diff(np.asarray(value_K, dtype=np.float64), prepend=start)


def best_of(score_N: np.ndarray, k: int) -> float:
    """The expected best of k scores drawn from these N without replacement: unbiased for the best of k tries.

        sum_i r_(i) C(N - i, k - 1) / C(N, k),   r_(1) >= r_(2) >= ...

    k = 1 is the mean; scores in {0, 1} with c ones give 1 - C(N - c, k) / C(N, k).

        >>> best_of(np.array([1.0, 0.0, 0.0, 0.0]), 2)
        0.5
    """
    ranked = np.sort(np.asarray(score_N, dtype=np.float64))[::-1]
    n = len(ranked)
    return float(sum(r * comb(n - i, k - 1) for i, r in enumerate(ranked, 1)) / comb(n, k))


def monotone_labels(value_K: Sequence[float | None]) -> np.ndarray:
    """1 up to the last step that leaves a chance of success, 0 after it. Values not asked for are None. [K].

    What a bisection for the first error knows about every step (Luo et al. 2024, arXiv:2406.06592).

        >>> monotone_labels([0.5, 0.25, 0.0, None, None, 0.0])
        array([1., 1., 0., 0., 0., 0.])
    """
    last = max((k for k, value in enumerate(value_K, 1) if value is not None and value > 0), default=0)
    return (np.arange(len(value_K)) < last).astype(np.float64)


def leave_one_out_rate(reward_G_K: Sequence[np.ndarray], size_G_K: Sequence[np.ndarray]) -> list[np.ndarray]:
    """r_k minus what the other members earn per unit of size, times the size of step k. G arrays [K_i].

        baseline_ik = size_ik * sum_{j != i} sum_k r_jk / sum_{j != i} sum_k size_jk

    With tokens as sizes, long steps are compared with what as many tokens of the others earn (PURE's released
    setting, reward_baseline=token).
    """
    total = np.array([np.sum(reward) for reward in reward_G_K])
    size = np.array([np.sum(sizes) for sizes in size_G_K])
    rate = (total.sum() - total) / (size.sum() - size)
    return [np.asarray(r) - np.asarray(s) * x for r, s, x in zip(reward_G_K, size_G_K, rate, strict=True)]


def leave_one_out_mean(reward_G_K: Sequence[np.ndarray]) -> list[np.ndarray]:
    """r_ik - mean over the other members j of mean_k r_jk. G arrays [K_i]. Reference: PURE's reward_baseline=step."""
    mean = np.array([np.mean(reward) for reward in reward_G_K])
    others = (mean.sum() - mean) / (len(mean) - 1)
    return [np.asarray(reward) - baseline for reward, baseline in zip(reward_G_K, others, strict=True)]


def rescaled_leave_one_out(reward_G_T: Sequence[np.ndarray]) -> list[np.ndarray]:
    """(G r_t - sum_j mean_t r_j) / (G - 1) for every token of every member. G arrays [T_i].

    The rewards of one member, averaged over its tokens, give G/(G-1) (mean_i - mean of means) = mean_i - mean of the
    others' means: leave-one-out. Reference: PRIME's released code (arXiv:2502.01456).
    """
    mean = np.array([np.mean(reward) for reward in reward_G_T])
    count = len(mean)
    return [(count * np.asarray(reward) - mean.sum()) / (count - 1) for reward in reward_G_T]


def shaped_turns(reward_N: np.ndarray, bonus: float) -> np.ndarray:
    """R_n + bonus (R_n - R_{n-1}) for every attempt after the first, whose reward is left alone. [N].

    Only a later attempt earns the bonus: given to the first it would teach to begin wrong.
    Reference: Kumar et al. 2024, arXiv:2409.12917 (SCoRe), sec. 5.2.

        >>> shaped_turns(np.array([0.0, 1.0]), bonus=10.0)
        array([ 0., 11.])
    """
    reward = np.asarray(reward_N, dtype=np.float64)
    return reward + bonus * np.diff(reward, prepend=reward[:1])
