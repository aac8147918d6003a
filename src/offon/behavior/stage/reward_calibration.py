"""How good a reward model is on rows it was not trained on: does it rank rightly, and does it know how sure to be?

A reward model's difference of two rewards is a forecast, Pr(chosen is better) = sigmoid(r_w - r_l); a process model's
sigmoid(s) is one that a step is right. Events of one prompt are not independent: intervals are over prompts.

Axes: M events (pairs or steps); P prompts; K bins.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import expit

from offon.behavior.stage.retention import ratio
from offon.behavior.statistics.intervals import Est, bootstrap_means, wilson

BINS = 10


def share_right(right_M, prompt_M: Sequence[str]) -> Est:
    """The share of events that are right. Wilson's interval where each prompt has one event, or all events agree (then
    resampling prompts shows no spread); else a bootstrap over prompts."""
    right_M = np.asarray(right_M, float)
    right_P, n_P = _by_prompt(right_M, prompt_M)
    c, n = int(right_M.sum()), len(right_M)
    if len(n_P) == n or c in (0, n):
        low, high = wilson(c, n)
        return Est(c / n, float(low), float(high))
    return ratio(right_P, n_P)


def calibration(
    forecast_M, outcome_M, prompt_M: Sequence[str], *, lowest: float = 0.0, seed: int = 0
) -> dict[str, Any]:
    """Reliability of forecasts in [lowest, 1] against outcomes in [0, 1], in ten bins of equal width.

        ECE = sum_k n_k / M |mean outcome - mean forecast|_k           Brier = 1/M sum (forecast - outcome)^2

    ECE is above 0 also for perfect forecasts, by the noise of the bins: `ece_of_perfect` is what it then is expected
    to be, sum_k sqrt(2 / pi sum_{m in k} f (1 - f)) / M, events independent. Only what exceeds it speaks against the
    model. Intervals are over prompts; where all outcomes agree, they reach to what both numbers would be if as many
    had come out otherwise as Wilson's bound allows. Guo et al. 2017, arXiv:1706.04599, eq. 3; Brier 1950.
    """
    forecast_M, outcome_M = np.asarray(forecast_M, float), np.asarray(outcome_M, float)
    bin_M = np.clip(((forecast_M - lowest) / (1 - lowest) * BINS).astype(int), 0, BINS - 1)
    gap_MK = (outcome_M - forecast_M)[:, None] * (bin_M[:, None] == np.arange(BINS))
    squares_P, n_P = _by_prompt((forecast_M - outcome_M) ** 2, prompt_M)
    gaps_PK = _by_prompt(gap_MK, prompt_M)[0]
    noise_K = np.sqrt(2 / np.pi * np.bincount(bin_M, forecast_M * (1 - forecast_M), minlength=BINS))
    width = (1 - lowest) / BINS
    ece, brier = _ece(gaps_PK, n_P, seed), ratio(squares_P, n_P)
    if (total := float(outcome_M.sum())) in (0, len(outcome_M)):
        low, high = wilson(total, len(outcome_M))
        rate = float(low if total else high)
        gaps_K = np.bincount(bin_M, rate - forecast_M, minlength=BINS)
        ece = _reaching(ece, np.abs(gaps_K).sum() / len(forecast_M))
        brier = _reaching(brier, (rate * (1 - forecast_M) ** 2 + (1 - rate) * forecast_M**2).mean())
    return {
        "ece": ece._asdict(),
        "ece_of_perfect": float(noise_K.sum() / len(forecast_M)),
        "brier": brier._asdict(),
        "bins": [
            _bin(lowest + k * width, lowest + (k + 1) * width, forecast_M[bin_M == k], outcome_M[bin_M == k])
            for k in np.unique(bin_M).tolist()
        ],
    }


def _ece(gaps_PK: np.ndarray, n_P: np.ndarray, seed: int) -> Est:
    estimate = float(np.abs(gaps_PK.sum(0)).sum() / n_P.sum())
    drawn = bootstrap_means(np.column_stack([gaps_PK, n_P]), seed=seed)
    ece_B = np.abs(drawn[:, :-1]).sum(1) / drawn[:, -1]
    low, high = np.quantile(ece_B, [0.025, 0.975])
    return Est(estimate, float(min(low, estimate)), float(max(high, estimate)))


def _reaching(est: Est, other: float) -> Est:
    return Est(est.estimate, min(est.low, float(other)), max(est.high, float(other)))


def _bin(low: float, high: float, forecast: np.ndarray, outcome: np.ndarray) -> dict[str, Any]:
    bounds = [float(bound) for bound in wilson(outcome.sum(), len(outcome))]
    rate = Est(float(outcome.mean()), *bounds)
    return {"low": low, "high": high, "n": len(forecast), "forecast": float(forecast.mean()), "right": rate._asdict()}


def pairs(margin_M, prompt_M: Sequence[str], *, seed: int = 0) -> dict[str, Any]:
    """Of held-out pairs: how many are ranked as the data have them, and the calibration of sigmoid(margin).

    margin: r_chosen - r_rejected. A margin of 0 ranks nothing, and counts as wrong. Forecasts are taken for the answer
    the model prefers, so that they lie in [.5, 1] whatever the order in which the data list the two.
    """
    margin_M = np.asarray(margin_M, float)
    right_M = margin_M > 0
    reliable = calibration(expit(np.abs(margin_M)), right_M, prompt_M, lowest=0.5, seed=seed)
    return {"accuracy": share_right(right_M, prompt_M)._asdict(), **reliable}


def steps(score_M, label_M, position_M, prompt_M: Sequence[str], *, seed: int = 0) -> dict[str, Any]:
    """Of held-out labelled steps: accuracy at sigmoid(score) >= 1/2 against label >= 1/2, over all and by position.

    `majority` is the accuracy of always giving the more frequent answer: no less is worth anything.
    """
    score_M, label_M, position_M = (np.asarray(values, float) for values in (score_M, label_M, position_M))
    good_M = label_M >= 0.5
    right_M = (score_M >= 0) == good_M
    prompts = np.asarray(prompt_M)
    by_position = [
        {"step": int(step) + 1, "n": int((at := position_M == step).sum())}
        | {"accuracy": share_right(right_M[at], prompts[at].tolist())._asdict()}
        for step in np.unique(position_M)
    ]
    return {
        "accuracy": share_right(right_M, prompt_M)._asdict(),
        "majority": float(max(good_M.mean(), 1 - good_M.mean())),
        "by_position": by_position,
        **calibration(expit(score_M), label_M, prompt_M, seed=seed),
    }


def first_errors(
    scores: Sequence[Sequence[float]],
    labels: Sequence[Sequence[float | None]],
    prompts: Sequence[str],
) -> dict[str, Any]:
    """Is the first wrong step found? One row of scores and of labels per solution.

        found   of solutions with a wrong step, those whose first step below 1/2 is that one
        clean   of solutions without one, those of which no step is below 1/2
        f1      2 found clean / (found + clean): a model that calls everything right, or wrong, gets 0

    ProcessBench, arXiv:2412.06559. Solutions with an unlabelled step before their first wrong one are left out, and
    so are those without a wrong step that are not labelled to the end.
    """
    known = [row for row in zip(scores, labels, prompts, strict=True) if None not in _to_first_error(row[1])]
    hits = [(_first(s < 0 for s in score) == (where := _first(y < 0.5 for y in _to_first_error(label))), where, prompt)
            for score, label, prompt in known]  # fmt: skip
    sides = {
        name: [(hit, prompt) for hit, where, prompt in hits if (where is None) == clean]
        for name, clean in (("found", False), ("clean", True))
    }
    rates = {
        name: share_right([hit for hit, _ in side], [prompt for _, prompt in side]) if side else None
        for name, side in sides.items()
    }
    both = None not in rates.values()
    erring, clean = (rate.estimate if rate else 0.0 for rate in rates.values())
    f1 = 2 * erring * clean / (erring + clean) if both and erring + clean else 0.0 if both else None
    counts = {f"n_{name}": len(side) for name, side in sides.items()}
    return {name: rate and rate._asdict() for name, rate in rates.items()} | counts | {"f1": f1}


def _to_first_error(labels: Sequence[float | None]) -> Sequence[float | None]:
    where = _first(label is not None and label < 0.5 for label in labels)
    return labels if where is None else labels[: where + 1]


def _first(truths) -> int | None:
    return next((index for index, true in enumerate(truths) if true), None)


def _by_prompt(values: np.ndarray, prompt_M: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Sums over the events of each prompt, [P] or [P, K], and how many there are, [P]."""
    names, index_M = np.unique(np.asarray(prompt_M), return_inverse=True)
    sums = np.zeros((len(names), *values.shape[1:]))
    np.add.at(sums, index_M, values)
    return sums, np.bincount(index_M, minlength=len(names)).astype(float)
