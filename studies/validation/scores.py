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
    return [
        Finding(what=f"{name}: accuracy of decided calls", value=float((calls == true_P)[decided].mean()),
                relation=">=", bound=0.95, of=f"{int(decided.sum())} decided of {several}"),
        Finding(what=f"{name}: decided", value=float(decided.mean()), relation=">=", bound=0.8, of=several),
        Finding(what=f"{name}: rollouts per prompt, the most", value=int(spent_P.max()), relation="<=", bound=224,
                of=f"mean {spent_P.mean():.0f}, median {np.median(spent_P):.0f}"),
        Finding(what=f"{name}: calibration error", value=calibration_error(probabilities_PC.max(axis=1), best == true_P),
                relation="<=", bound=0.05, of=several),
        Finding(what=f"{name}: solved or ranking called below support", value=float(wrongly.sum() / max(usable.sum(), 1)),
                relation="<=", bound=0.01, of=f"{int(usable.sum())} prompts"),
        Finding(what=f"{name}: error of the shares (L1)", value=float(np.abs(probabilities_PC.mean(axis=0) - prevalence).sum()),
                relation="<=", bound=0.1, of=several),
    ]  # fmt: skip
