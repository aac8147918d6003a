"""Baselines and scales: numbers of several responses compared with each other.

Axes: G members of one group, N numbers of any population, T tokens of one response.
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


def leave_one_out(reward_G: np.ndarray) -> np.ndarray:
    """A_i = R_i - mean of the others' rewards = G / (G - 1) (R_i - mean_G R); they sum to 0. [G] -> [G], G >= 2.

    Reference: Ahmadian et al. 2024, arXiv:2402.14740, eq. 5.

        >>> leave_one_out(np.array([1.0, 0.0, 0.0, 1.0])).round(4)
        array([ 0.6667, -0.6667, -0.6667,  0.6667])
    """
    reward = np.asarray(reward_G, dtype=np.float64)
    return reward - (reward.sum() - reward) / (len(reward) - 1)


def length_weighted_mean(reward_G: np.ndarray, length_G: np.ndarray) -> np.ndarray:
    """A_i = R_i - sum_j l_j R_j / sum_j l_j: the variance-optimal baseline if |grad log pi(y)|^2 grows with length.

    Reference: Hao et al. 2025, arXiv:2505.23585, eq. 9.

        >>> length_weighted_mean(np.array([1.0, 0.0]), np.array([3, 1]))
        array([ 0.25, -0.75])
    """
    reward, length = np.asarray(reward_G, dtype=np.float64), np.asarray(length_G, dtype=np.float64)
    return reward - (length * reward).sum() / length.sum()


def whiten(value_N: np.ndarray, population_N: np.ndarray, *, centre: bool = True, epsilon: float = 1e-4) -> np.ndarray:
    """(x - mean) / (std + epsilon), mean and unbiased std those of the population. centre=False only divides.

    A population without spread is centred and left unscaled.

        >>> whiten(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 3.0]), epsilon=0.0)
        array([-1.,  0.,  1.])
    """
    value, population = np.asarray(value_N, dtype=np.float64), np.asarray(population_N, dtype=np.float64)
    flat = np.ptp(population) == 0
    mean = population[0] if flat else population.mean()  # exactly 0 after centring, not a rounding error
    shifted = value - mean if centre else value
    return shifted if flat else shifted / (population.std(ddof=1) + epsilon)


def logp_difference(teacher_T: np.ndarray, student_T: np.ndarray) -> np.ndarray:
    """A_t = log q(y_t) - log p(y_t): the sampled reverse KL as a per-token advantage, discount 0. [T].

    Reference: on-policy distillation (Thinking Machines 2025); its expectation is minus the gradient of KL(p || q).
    """
    return np.asarray(teacher_T, dtype=np.float64) - np.asarray(student_T, dtype=np.float64)
