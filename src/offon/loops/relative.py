"""Responses scored by two checkpoints: what relative support is measured from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from offon.behavior.relative import Scored
from offon.errors import ModelError
from offon.loops.holdings import same_vocabulary
from offon.loops.scoring import layout_of
from offon.models.model import Model
from offon.types import RIGHT, Group, Trajectory

SCORED_TOKENS = 16_384  # response tokens of one forward pass


@torch.no_grad()
def relative(models: Sequence[Model], group: Group) -> Scored:
    """Log-ratio, after over before, of every scored response, both checkpoints by the same code."""
    members = [m for m in group.members if m.signals["reward"] is not None]
    before, after = (logp(model, members) for model in models)
    success = np.array([float(m.signals["reward"] >= RIGHT) for m in members])
    return Scored(after - before, success)


def logp(model: Model, members: Sequence[Trajectory]) -> np.ndarray:
    """[n] log-prob of each response under the sampler's temperature."""
    totals: list[float] = []
    size = max(1, SCORED_TOKENS // max(map(len, members)))
    for first in range(0, len(members), size):
        part = members[first : first + size]
        layout = layout_of(part, "sample")
        temperature = torch.tensor([m.producer.sampling.temperature for m in part])[layout.sequence]
        logp_M = model.logp(layout, temperature=temperature).double().cpu()
        totals += [float(piece.sum()) for piece in logp_M.split(layout.lengths)]
    return np.array(totals)


def same_tokens(one: Model, other: Model) -> bool:
    try:
        same_vocabulary(one.tokenizer, other.tokenizer, "after")
    except ModelError:
        return False
    return True
