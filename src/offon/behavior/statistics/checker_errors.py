"""A checker's own errors, from outputs whose rightness is known, and what they do to the rates it reports.

    TPR = Pr(accepted | right)    FPR = Pr(accepted | wrong)    J = TPR - FPR
    a success probability p shows as acceptance at rate  FPR + J p

Undone on one number that is the estimate of Rogan and Gladen 1978, doi:10.1093/oxfordjournals.aje.a112510. On counts
it is done in the likelihood (`offon.behavior.statistics.posterior`), over draws of TPR and FPR from their posteriors:
nothing has to be clipped to [0, 1], and doubt about the checker stays doubt about the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from offon.behavior.statistics.intervals import Est, jeffreys_quantile
from offon.errors import DataError

FEWEST_LABELS = 100
LEAST_YOUDEN = 0.2  # below, right and wrong answers look too much alike to call anything (arXiv:2510.00915)


@dataclass(frozen=True, kw_only=True)
class Checker:
    """What a checker did with labelled outputs: how many it accepted of the right ones and of the wrong ones."""

    accepted_right: int
    right: int
    accepted_wrong: int
    wrong: int

    def __post_init__(self):
        if self.right + self.wrong < FEWEST_LABELS or not min(self.right, self.wrong):
            raise DataError(
                f"{self.right} right and {self.wrong} wrong labelled outputs",
                why="a checker's errors of both kinds are estimated from them",
                fix=f"label at least {FEWEST_LABELS} outputs, right and wrong ones",
            )

    @property
    def sensitivity(self) -> Est:
        return _estimate(self.accepted_right, self.right)

    @property
    def false_positive(self) -> Est:
        return _estimate(self.accepted_wrong, self.wrong)

    @property
    def youden(self) -> Est:
        """J with its 95% interval."""
        right_S, wrong_S = error_draws(self, 4096).T
        low, high = np.quantile(right_S - wrong_S, (0.025, 0.975))
        return Est(self.sensitivity.estimate - self.false_positive.estimate, float(low), float(high))

    @property
    def usable(self) -> bool:
        """Right and wrong answers look different enough to call prompts by its verdicts."""
        return self.youden.low >= LEAST_YOUDEN


@cache
def error_draws(checker: Checker, number: int) -> np.ndarray:
    """[S, 2] equally likely pairs (TPR, FPR), always the same: Jeffreys posteriors at points of a Sobol' lattice."""
    from scipy.stats import qmc  # half a second to import: who only checks a recipe does not draw

    right_S, wrong_S = qmc.Sobol(2, rng=0).random(number).T
    return np.stack(
        [
            jeffreys_quantile(checker.accepted_right, checker.right, right_S),
            jeffreys_quantile(checker.accepted_wrong, checker.wrong, wrong_S),
        ],
        axis=1,
    )


def _estimate(accepted: int, of: int) -> Est:
    return Est(accepted / of, *(float(jeffreys_quantile(accepted, of, q)) for q in (0.025, 0.975)))
