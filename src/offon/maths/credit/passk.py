"""The unbiased gradient of pass@k, and of the expected best of k rewards, from n >= k samples.

Axes: G members of one group.
"""

from __future__ import annotations

from math import comb

import numpy as np


def pass_at_k_weights(reward_G: np.ndarray, k: int, baseline: str = "subset") -> np.ndarray:
    """A_i such that mean_i A_i grad log pi(y_i) estimates the gradient of E[max of k rewards] without bias. [G] -> [G].

        A_i = n / C(n, k) * sum over subsets I of k members that contain i of [ max_I R - b ]

    baseline   none           b = 0: every weight has the sign of the rewards
               subset         b = max of R over I without i: what i alone adds (0 for k = 1)
    With 0/1 rewards and c right of n, "none" gives k to the right ones and k (1 - C(n-1-c, k-1) / C(n-1, k-1)) to the
    wrong. With k = n, "subset" credits only the best member, by n times its lead over the second.
    Closed form by sorting; ties may be broken anyhow, since equal rewards add equal terms.
    Reference: Walder and Karkhanis 2025, arXiv:2505.15201, theorem 3 and sec. 4 (its s_i, times n).

        >>> pass_at_k_weights(np.array([1.0, 0.0, 0.0]), 2, "none").round(4)
        array([2., 1., 1.])
    """
    reward = np.asarray(reward_G, dtype=np.float64)
    n = len(reward)
    if not 1 <= k <= n:
        raise ValueError(f"pass@{k} of a group of {n}: k is between 1 and the group's size")
    order = np.argsort(reward, kind="stable")
    ranked = reward[order]
    weight = np.empty(n)
    for rank, member in enumerate(order):
        own = comb(rank, k - 1) * ranked[rank]
        above = sum(comb(j - 1, k - 2) * ranked[j] for j in range(rank + 1, n)) if k > 1 else 0.0
        weight[member] = own + above
        if baseline == "subset" and k > 1:
            others = np.delete(ranked, rank)
            weight[member] -= sum(comb(j, k - 2) * others[j] for j in range(n - 1))
    return weight * n / comb(n, k)
