"""The unbiased gradient of pass@k, and of the expected best of k rewards, from n >= k samples.

Axes: G members of one group, n of them.
"""

from __future__ import annotations

from math import comb

import numpy as np


def expected_best(reward_G: np.ndarray, k: int) -> float:
    """rho: the mean, over all subsets of k members, of the best reward in it; 0 for k = 0. With 0/1 rewards and c right
    it is 1 - C(n - c, k) / C(n, k). Walder and Karkhanis 2025, arXiv:2505.15201, eq. 12.

        >>> expected_best(np.array([1.0, 0.0, 0.0]), 2)
        0.6666666666666666
    """
    ranked = np.sort(np.asarray(reward_G, dtype=np.float64))
    return float(sum(comb(j, k - 1) * r for j, r in enumerate(ranked)) / comb(len(ranked), k)) if k else 0.0


def pass_at_k_weights(reward_G: np.ndarray, k: int, baseline: str = "subset") -> np.ndarray:
    """A_i such that mean_i A_i grad log pi(y_i) estimates the gradient of E[max of k rewards] without bias. [G] -> [G].

        A_i = n s_i - b_i,   s_i = 1 / C(n, k) * sum over subsets I of k members that contain i of max_I R

    b_i, from the rewards of the others alone:
        none           0: every weight has the sign of the rewards
        leave_one_out  k n / (n - 1) * expected best of k of the others; k < n
        subset         k * expected best of k - 1 of the others: what is left of A_i is what i alone adds to a subset

    With 0/1 rewards and c right of n, "none" gives k to the right ones and k rho(n - 1, c, k - 1) to the wrong. With
    k = n, "subset" credits only the best member, by n times its lead over the second.
    Reference: Walder and Karkhanis 2025, arXiv:2505.15201, eq. 19, 29 (s^(loo)), 33 (s^(loo - 1)), times n.

        >>> pass_at_k_weights(np.array([1.0, 0.0, 0.0]), 2, "none").round(4)
        array([2., 1., 1.])
    """
    reward = np.asarray(reward_G, dtype=np.float64)
    n = len(reward)
    if not 1 <= k <= n - (baseline == "leave_one_out"):
        raise ValueError(f"pass@{k} with baseline {baseline} of a group of {n}")
    order = np.argsort(reward, kind="stable")  # ties may be broken anyhow: equal rewards add equal terms
    ranked, weight = reward[order], np.empty(n)
    for rank, member in enumerate(order):
        above = sum(comb(j - 1, k - 2) * ranked[j] for j in range(rank + 1, n)) if k > 1 else 0.0
        weight[member] = (comb(rank, k - 1) * ranked[rank] + above) * n / comb(n, k)
    others = [np.delete(reward, i) for i in range(n)]
    match baseline:
        case "none":
            return weight
        case "leave_one_out":
            return weight - k * n / (n - 1) * np.array([expected_best(other, k) for other in others])
        case "subset":
            return weight - k * np.array([expected_best(other, k - 1) for other in others])
    raise ValueError(f"unknown baseline {baseline!r}; one of none, leave_one_out, subset")
