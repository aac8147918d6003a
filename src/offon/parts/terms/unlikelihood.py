"""Pushing away from tokens: -log(1 - p) of ids that should not come next.

Axes: M tokens, T tokens of one response, K candidates of a position.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from offon.lazy import Tensor, torch
from offon.maths.policy_gradient import unlikelihood
from offon.parts.models import SELF, Need
from offon.parts.schedules import Schedule
from offon.parts.select import select
from offon.parts.terms.protocol import Metrics, Reading, Reduce, Scores, Term, per_token
from offon.types.batch import Batch

EARLIER = Need("logp_at", SELF, at="candidates/earlier")


@dataclass(frozen=True, kw_only=True)
class Unlikelihood(Term):
    """-sum over c in C_t of log(1 - pi(c | x, y_<t)), C_t the response's tokens before t other than y_t, each once."""

    on: str = "trainable"
    reduce: Reduce = per_token
    coef: Schedule = 1.0
    name: str = "unlikelihood"
    needs = (EARLIER,)
    requires = frozenset({"members"})

    def weigh(self, batch: Batch) -> Tensor:
        return self.reduce.weigh(batch, select(batch, self.on))

    def prepare(self, batch: Batch, scores: Scores) -> Batch:
        width = max((len(t) for t in batch.trajectories), default=0)
        rows = [_earlier(t.tokens, width) for t in batch.trajectories] or [np.zeros((0, width), np.int32)]
        return batch.with_columns({EARLIER.at: torch.from_numpy(np.concatenate(rows))})

    def units(self, batch: Batch, scores: Scores) -> tuple[Tensor, Metrics]:
        logp_MK, candidate_MK = scores[EARLIER], batch.columns[EARLIER.at] >= 0
        loss = unlikelihood(logp_MK, candidate_MK)
        mass = torch.where(candidate_MK, logp_MK.detach().exp(), 0.0).sum(-1)
        return loss, {f"{self.name}/mass": Reading(batch, scores, batch.weights[self.name] != 0).total(mass)}


def _earlier(tokens_T: np.ndarray, width: int) -> np.ndarray:
    """The distinct tokens before each position other than its own, -1 elsewhere: [T] -> [T, width]."""
    n = len(tokens_T)
    first = np.isin(np.arange(n), np.unique(tokens_T, return_index=True)[1])
    before = np.tril(np.ones((n, n), bool), -1) & first[None] & (tokens_T[None] != tokens_T[:, None])
    candidates = np.full((n, width), -1, np.int32)
    candidates[:, :n] = np.where(before, tokens_T[None], -1)
    return candidates
