"""How good a diagnosis was, given what is true."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from offon.behavior.diagnosis.bottleneck import BELOW_SUPPORT, CLASSES, UNDECIDED, UNSUPPORTED
from studies.validation.findings import Finding

BINS = 10
ACCURACY, DECIDED = "accuracy of decided calls", "decided"
BELOW = "solved or ranking called below support"
WANTED = {
    ACCURACY: (">=", 0.95),
    DECIDED: (">=", 0.8),
    "rollouts per prompt, the most": ("<=", 224),
    "calibration error": ("<=", 0.05),
    BELOW: ("<=", 0.01),
    "error of the shares (L1)": ("<=", 0.1),
}


def calibration_error(confidence_P: np.ndarray, right_P: np.ndarray) -> float:
    """ECE: |confidence - accuracy| over ten bins of confidence, weighted by their prompts."""
    bins = np.minimum((confidence_P * BINS).astype(int), BINS - 1)
    gaps = [abs((confidence_P - right_P)[bins == b].sum()) for b in range(BINS)]
    return float(sum(gaps) / len(right_P))


def scores(
    calls: Sequence[str], probabilities_PC: np.ndarray, true_P: Sequence[str], spent_P: np.ndarray
) -> dict[str, float]:
    """One number for each of `WANTED`; NaN where there is nothing to judge."""
    true_P, calls = np.array(true_P), np.array(calls)
    decided = (calls != UNDECIDED) & (calls != UNSUPPORTED)
    best = np.array(CLASSES)[probabilities_PC.argmax(axis=1)]
    usable = np.isin(true_P, ("solved", "ranking"))
    wrongly = np.isin(calls, (*BELOW_SUPPORT, UNSUPPORTED))
    prevalence = np.array([(true_P == c).mean() for c in CLASSES])
    found = (
        (calls == true_P)[decided].mean() if decided.any() else np.nan,
        decided.mean(),
        spent_P.max(),
        calibration_error(probabilities_PC.max(axis=1), best == true_P),
        wrongly[usable].mean() if usable.any() else np.nan,
        np.abs(probabilities_PC.mean(axis=0) - prevalence).sum(),
    )
    return dict(zip(WANTED, map(float, found), strict=True))


def over_seeds(
    name: str, runs: Sequence[Mapping[str, float]], prompts: int, spent_P: np.ndarray, *, told: Sequence[str] = ()
) -> list[Finding]:
    """The mean of each score over seeds, with its spread. told: scores without a threshold here."""
    found = []
    for what, (relation, bound) in WANTED.items():
        values = np.array([run[what] for run in runs if not np.isnan(run[what])])
        if not len(values):
            continue
        value = values.max() if what.endswith("the most") else values.mean()
        spread = f", sd {values.std(ddof=1):.3f}, {values.min():.3f} to {values.max():.3f}" if len(values) > 1 else ""
        if what.endswith("the most"):
            spread = f"; mean {spent_P.mean():.0f}, median {np.median(spent_P):.0f}"
        of = f"{len(values)} seed{'s' * (len(values) > 1)} x {prompts} prompts{spread}"
        found.append(Finding(what=f"{name}: {what}", value=float(value), relation=relation, bound=bound, of=of,
                             told=what in told))  # fmt: skip
    return found
