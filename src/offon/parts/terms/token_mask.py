"""Which tokens keep their gradient, decided on the whole step batch by the learner as it is now. The others count in
the denominator and push nothing.

Axes: M tokens.
"""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from dataclasses import dataclass

from offon.lazy import Tensor, torch
from offon.maths import policy_gradient as maths
from offon.parts.models import SELF, Need
from offon.parts.terms.protocol import Formula, Reading
from offon.types.batch import Batch

STEP_LOGP = Need("logp", SELF, when="step")


class TokenMask(ABC):
    @property
    def needs(self) -> tuple[Need, ...]:
        return ()

    @property
    def requires(self) -> frozenset[str]:
        return frozenset()

    @property
    def formula(self) -> Formula:
        return Formula("keep_t", (f"keep_t = 0 where {type(self).__name__} leaves a token out; else 1",))

    @abstractmethod
    def __call__(self, reading: Reading, stopped_M: Tensor) -> Tensor:
        """[M] bool, from scores taken before the step; stopped: tokens the trust region has stopped already."""


@dataclass(frozen=True)
class HighEntropy(TokenMask):
    """The `share` of the batch's tokens where the next token is least certain (arXiv:2506.01939)."""

    share: float = 0.2
    needs = (Need("entropy", SELF, when="step"),)

    def __call__(self, reading: Reading, stopped_M: Tensor) -> Tensor:
        entropy = reading[self.needs[0]]
        return entropy >= maths.top_threshold(entropy[reading.selected], self.share)


@dataclass(frozen=True)
class Covariance(TokenMask):
    """cov_t = (A_t - mean A)(lp_t - mean lp), means over the selected tokens of the step: what drives entropy down."""

    share: float = 2e-4
    needs = (STEP_LOGP,)
    requires = frozenset({"advantage"})

    def covariance(self, reading: Reading) -> Tensor:
        logp = reading[self.needs[0]]
        return maths.token_covariance(reading.batch.columns["advantage"].to(logp), logp, reading.selected)

    def count(self, reading: Reading) -> int:
        return max(int(self.share * int(reading.selected.sum())), 1)


@dataclass(frozen=True)
class ClipCovariance(Covariance):
    """All but a random `share` of the tokens, drawn where low < cov < high and nothing was clipped yet (Clip-Cov,
    arXiv:2505.22617). The draw is a hash of the token's place, so that order, splits and resuming change nothing."""

    low: float = 1.0
    high: float = 5.0

    def __call__(self, reading: Reading, stopped_M: Tensor) -> Tensor:
        cov = self.covariance(reading)
        eligible = reading.selected & ~stopped_M & (cov > self.low) & (cov < self.high)
        lot = torch.where(eligible, token_lots(reading.batch).to(cov), torch.inf)
        chosen = lot.argsort(stable=True)[: min(self.count(reading), int(eligible.sum()))]
        return torch.ones_like(reading.selected).index_fill(0, chosen, False)


@dataclass(frozen=True)
class TopCovariance(Covariance):
    """Only the `share` of tokens with the highest covariance, ties included (KL-Cov, arXiv:2505.22617)."""

    def __call__(self, reading: Reading, stopped_M: Tensor) -> Tensor:
        cov = torch.where(reading.selected, self.covariance(reading), -torch.inf)
        least = cov.topk(min(self.count(reading), len(cov))).values.amin() if len(cov) else 0.0
        return reading.selected & (cov >= least)


def token_lots(batch: Batch) -> Tensor:
    """A number in [0, 1) for each token that depends on its trajectory's id and its position alone, [M]."""
    lots = [zlib.crc32(f"{t.id}/{position}".encode()) for t in batch.trajectories for position in range(len(t))]
    return torch.tensor(lots, dtype=torch.float64) / 2**32
