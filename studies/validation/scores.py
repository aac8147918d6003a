"""How good a diagnosis was, given what is true."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from offon.behavior.bottleneck import BELOW_SUPPORT, CLASSES, UNDECIDED, UNSUPPORTED
from studies.validation.findings import Finding

BINS = 10


def calibration_error(confidence_P: np.ndarray, right_P: np.ndarray) -> float:
    """ECE: |confidence - accuracy| over ten bins of confidence, weighted by their prompts."""
    bins = np.minimum((confidence_P * BINS).astype(int), BINS - 1)
    gaps = [abs((confidence_P - right_P)[bins == b].sum()) for b in range(BINS)]
    return float(sum(gaps) / len(right_P))


def score(
    name: str, calls: Sequence[str], probabilities_PC: np.ndarray, true_P: Sequence[str], spent_P: np.ndarray
) -> list[Finding]:
    true_P, calls = np.array(true_P), np.array(calls)
    decided = (calls != UNDECIDED) & (calls != UNSUPPORTED)
    best = np.array(CLASSES)[probabilities_PC.argmax(axis=1)]
    usable = np.isin(true_P, ("solved", "ranking"))
    wrongly = usable & np.isin(calls, (*BELOW_SUPPORT, UNSUPPORTED))
    several = f"{len(calls)} prompts"
    prevalence = np.array([(true_P == c).mean() for c in CLASSES])
    spread = f"mean {spent_P.mean():.0f}, median {np.median(spent_P):.0f}"
    rows = [
        ("accuracy of decided calls", (calls == true_P)[decided].mean(), ">=", 0.95, f"{decided.sum()} of {several}"),
        ("decided", decided.mean(), ">=", 0.8, several),
        ("rollouts per prompt, the most", spent_P.max(), "<=", 224, spread),
        ("calibration error", calibration_error(probabilities_PC.max(axis=1), best == true_P), "<=", 0.05, several),
        ("solved or ranking called below support", wrongly.sum() / max(usable.sum(), 1), "<=", 0.01,
         f"{usable.sum()} prompts"),
        ("error of the shares (L1)", np.abs(probabilities_PC.mean(axis=0) - prevalence).sum(), "<=", 0.1, several),
    ]  # fmt: skip
    return [
        Finding(what=f"{name}: {what}", value=float(value), relation=relation, bound=bound, of=of)
        for what, value, relation, bound, of in rows
    ]
