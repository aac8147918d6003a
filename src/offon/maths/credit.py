"""Credit: from signals to advantages. Pure functions of numbers; no models, no tensors of the learner.

Axes: G members of one group.
"""

from __future__ import annotations

import numpy as np


def group_mean_std(reward_G: np.ndarray, *, epsilon: float = 1e-4, scale: bool = True) -> np.ndarray:
    """A_i = (R_i - mean_G R) / (std_G R + epsilon), std unbiased. [G] -> [G].

    A group whose rewards are all equal gets exactly 0. scale=False leaves the division out (Dr.GRPO).
    Reference: Shao et al. 2024, arXiv:2402.03300, sec. 4.1.2. The paper does not say which std; unbiased + 1e-4 is
    TRL's.

        >>> group_mean_std(np.array([1.0, 0.0]), epsilon=0.0).round(4)
        array([ 0.7071, -0.7071])
    """
    reward = np.asarray(reward_G, dtype=np.float64)
    centred = reward - reward.mean()
    if np.ptp(reward) == 0:
        return np.zeros_like(reward)
    return centred / (reward.std(ddof=1) + epsilon) if scale else centred


def logp_difference(teacher_T: np.ndarray, student_T: np.ndarray) -> np.ndarray:
    """A_t = log q(y_t) - log p(y_t): the sampled reverse KL as a per-token advantage, discount 0. [T].

    Reference: on-policy distillation (Thinking Machines 2025); its expectation is minus the gradient of KL(p || q).
    """
    return np.asarray(teacher_T, dtype=np.float64) - np.asarray(student_T, dtype=np.float64)
