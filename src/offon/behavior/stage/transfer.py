"""What went from a teacher to a student: several numbers, each of another kind of fidelity, never one.

    answer     1 - TV of the distributions of answers      right and wrong alike: does it say the same?
    trace      Cov_N (`relative.coverage_profile`): share of the teacher's successes that the student is N times less
               likely to write
    agreement  share of the student's own states at which both would continue with the same likeliest token
    kl_nats    KL(student || teacher) per token, on the student's own states

Answers may agree where traces do not (another style), and traces where the student's own states, which the teacher
never visits, do not. Between identical models answer and agreement are 1, trace and kl_nats 0.

Axes: P prompts, n samples of each, H halvings.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from offon.behavior.statistics.intervals import Est, mean_over_prompts
from offon.errors import DataError

HALVINGS = 16

Answers = Sequence[Sequence[Hashable]]


def answer_distances(one: Sequence[Hashable], other: Sequence[Hashable], *, seed: int = 0) -> tuple[float, float]:
    """Two estimates of TV = 1/2 sum_a |p_a - q_a| from samples of both, which err to either side:

        lower   1/2 sum_a sign(p_a - q_a)(A) (p_a - q_a)(B)     signs from half A, values from half B: at most TV in
                                                                expectation, and 0 where p = q
        upper   1/2 sum_a |p_a - q_a|                           of all samples: at least TV in expectation (Jensen)

    They meet as n grows, and are far apart where the answers of both hardly repeat, when samples cannot tell. An answer
    that is not in half A is taken for the side with more answers seen there once, whose unseen mass is the larger (Good
    1953). Both sides are halved alike, so that equal samples are at distance 0; the mean is over `HALVINGS` random
    halvings.
    """
    n = min(len(one), len(other))
    if n < 2:
        raise DataError(f"{len(one)} and {len(other)} answers", why="half of them decides signs, the other half counts")
    _, ids = np.unique(np.array([str(a) for a in (*one[:n], *other[:n])]), return_inverse=True)
    onehot_2nK = np.eye(ids.max() + 1)[ids.reshape(2, n)]
    shares_2K = onehot_2nK.mean(axis=1)
    upper = np.abs(shares_2K[0] - shares_2K[1]).sum() / 2
    rng, lower = np.random.default_rng(seed), []
    for _ in range(HALVINGS):
        order = rng.permutation(n)
        halves = [onehot_2nK[:, half].sum(axis=1) for half in (order[: n // 2], order[n // 2 :])]
        for a_2K, b_2K in (halves, reversed(halves)):
            lower.append((_signs(a_2K) * (b_2K[0] - b_2K[1])).sum() / b_2K.sum())
    return float(np.mean(lower)), float(upper)


def _signs(counts_2K: np.ndarray) -> np.ndarray:
    """[K] whose answer it looks like: 1 the first side's, -1 the other's."""
    once = np.sign((counts_2K[0] == 1).sum() - (counts_2K[1] == 1).sum())
    return np.where(counts_2K.any(axis=0), np.sign(counts_2K[0] - counts_2K[1]), once)


def answer_fidelity(teacher: Answers, student: Answers, *, seed: int = 0) -> Est:
    """1 - TV, mean over prompts. The estimate errs upwards for few samples (see `answer_distances`); the interval
    reaches down to what the other estimate allows, so it also holds what samples that hardly repeat leave open."""
    rows_P2 = 1 - np.array([answer_distances(t, s, seed=seed) for t, s in zip(teacher, student, strict=True)])
    above, below = mean_over_prompts(rows_P2)
    low, estimate, high = np.clip([min(above.low, below.low), above.estimate, above.high], 0, 1)
    return Est(float(estimate), float(low), float(high))


def mean_of_ratios(sums_P: Sequence[float], numbers_P: Sequence[float]) -> Est:
    """Mean over prompts of a sum over its tokens, or responses, divided by their number."""
    return mean_over_prompts(np.asarray(sums_P, float) / np.asarray(numbers_P, float))[0]
