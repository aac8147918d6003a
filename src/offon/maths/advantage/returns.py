"""From rewards of single tokens to returns and advantages of single tokens.

Axes: T tokens of one response. Tokens outside mask_T (the environment's) are carried through: they get 0, and time does
not pass over them.
"""

from __future__ import annotations

import numpy as np


def return_to_go(reward_T: np.ndarray, mask_T: np.ndarray, *, gamma: float = 1.0) -> np.ndarray:
    """A_t = sum_{s >= t} gamma^(s - t) r_s. [T] -> [T].

    >>> return_to_go(np.array([0.0, 1.0, 4.0]), np.array([True, True, True]), gamma=0.5)
    array([1.5, 3. , 4. ])
    """
    advantage, _ = gae(reward_T, np.zeros(len(reward_T)), mask_T, gamma=gamma, lam=1.0)
    return advantage


def gae(
    reward_T: np.ndarray, value_T: np.ndarray, mask_T: np.ndarray, *, gamma: float = 1.0, lam: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """Generalised advantage estimation: (advantages, returns), each [T].

        delta_t = r_t + gamma V_{t+1} - V_t,    A_t = delta_t + gamma lam A_{t+1},    return_t = A_t + V_t

    V_t is the value of the state before token t; after the last token it is 0, also where the response was cut off.
    lam = 1: return-to-go minus V_t. lam = 0: the one-step error.
    Reference: Schulman et al. 2016, arXiv:1506.02438, eq. 16.

        >>> gae(np.array([0.0, 1.0]), np.array([0.5, 0.5]), np.array([True, True]), lam=0.5)[0]
        array([0.25, 0.5 ])
    """
    value = np.asarray(value_T, dtype=np.float64)
    advantage = np.zeros(len(value))
    next_value = following = 0.0
    for t in reversed(np.flatnonzero(mask_T)):
        following = reward_T[t] + gamma * next_value - value[t] + gamma * lam * following
        next_value = value[t]
        advantage[t] = following
    return advantage, np.where(mask_T, advantage + value, 0.0)


def overlong_penalty(length: int, *, limit: int, buffer: int) -> float:
    """0 up to limit - buffer tokens, then falling linearly to -1 at the limit, and -1 beyond it.

    Reference: Yu et al. 2025 (DAPO), arXiv:2503.14476, eq. 13.

        >>> [overlong_penalty(n, limit=20, buffer=4) for n in (16, 17, 20, 25)]
        [0.0, -0.25, -1.0, -1.0]
    """
    return max(min(limit - buffer - length, 0) / buffer, -1.0)
