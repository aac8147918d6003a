"""Sampling from a mixture of models: its own distribution, and exact log-probs of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from offon.engines.api import Request
from offon.engines.native import NativeEngine
from offon.models.mixture import Mixture
from offon.models.packed.layout import Layout
from offon.types import Sampling
from tests.rounding import FLOAT32_SUM
from tests.support import model

PREFIX = (2, 3)
TWO = model(0), model(2, hidden=48)


def mixture(space: str, **changes) -> Mixture:
    return Mixture(changes.get("models", TWO), changes.get("weights", (0.3, 0.7)), space)


@torch.no_grad()
def exact(mix: Mixture, sequences) -> torch.Tensor:
    """log p of each target by the models' own softmaxes, written out."""
    layout = Layout.of(sequences)
    parts = [torch.log_softmax(m.next_logits(m.hidden(layout)).double(), -1) for m in mix.models]
    weighted = sum(w * p for w, p in zip(mix.weights, parts, strict=True))
    summed = sum(w * p.exp() for w, p in zip(mix.weights, parts, strict=True)).log()
    logp = summed if mix.space == "probability" else torch.log_softmax(weighted, -1)
    return logp.gather(1, layout.targets[:, None])[:, 0]


@pytest.mark.parametrize("space", ["probability", "logit"])
@pytest.mark.parametrize("slots", [3, 64])
def test_log_probs_are_those_of_the_mixture(space, slots):
    mix = mixture(space)
    asked = [Request(p, Sampling(max_tokens=7), (g, i)) for g, p in enumerate([PREFIX, (5, 6, 7)]) for i in range(6)]
    done = NativeEngine(max_slots=slots).generate(asked, mix)
    expected = exact(mix, [(r.prefix, c.tokens) for r, c in zip(asked, done, strict=True)])
    assert np.concatenate([c.logp for c in done]) == pytest.approx(expected.numpy(), abs=FLOAT32_SUM)
    assert any(len(c.tokens) > 2 for c in done)


@pytest.mark.parametrize("space", ["probability", "logit"])
def test_first_tokens_are_distributed_as_the_mixture(space):
    """Chi-square of 4000 draws over the cells that expect 5 or more, against the exact probabilities; and, as a
    control, against those of either model alone, which it refutes."""
    mix, n = mixture(space), 4000
    asked = [Request(PREFIX, Sampling(max_tokens=1), (7, i)) for i in range(n)]
    counts = np.bincount([c.tokens[0] for c in NativeEngine().generate(asked, mix)], minlength=14)

    def chi_square(p: np.ndarray) -> tuple[float, int]:
        cells = n * p >= 5
        observed = np.append(counts[cells], counts[~cells].sum())
        expected = np.append(n * p[cells], max(n * p[~cells].sum(), 1e-9))
        keep = expected >= 1
        return float(((observed - expected) ** 2 / expected)[keep].sum()), int(keep.sum()) - 1

    every = [(PREFIX, [token]) for token in range(14)]
    value, freedom = chi_square(exact(mix, every).exp().numpy())
    assert value < freedom + 4 * (2 * freedom) ** 0.5
    for weights in ((1.0, 0.0), (0.0, 1.0)):
        value, freedom = chi_square(exact(mixture("probability", weights=weights), every).exp().numpy())
        assert value > freedom + 20 * (2 * freedom) ** 0.5


def test_a_mixture_of_one_model_samples_as_that_model():
    asked = [Request(PREFIX, Sampling(max_tokens=6), (1, i)) for i in range(20)]
    alone = NativeEngine().generate(asked, TWO[0])
    mixed = NativeEngine().generate(asked, mixture("probability", weights=(1.0, 0.0)))
    assert [c.tokens for c in alone] == [c.tokens for c in mixed]


def test_a_padded_model_mixes_with_a_packed_one():
    padded = model(0)
    padded.why = "asked for"
    asked = [Request(PREFIX, Sampling(max_tokens=6), (1, i)) for i in range(9)]
    both = [NativeEngine(max_slots=4).generate(asked, mixture("logit", models=(m, TWO[1]))) for m in (padded, TWO[0])]
    assert [c.tokens for c in both[0]] == [c.tokens for c in both[1]]
