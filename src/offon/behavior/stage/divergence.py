"""Training that comes apart, noticed while it does: a loss, a gradient norm or a reward far from its own past.

Each rule compares the newest steps with the median of those before them, and wants several in a row: a hard batch is no
divergence. `training_health` judges a finished stage by thirds; here a stage is to be stopped, so the bars are higher.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

MEMORY = 64  # steps before the newest that say what is usual


@dataclass(frozen=True, kw_only=True)
class Bars:
    """What is far from the past.

    Of `in_a_row` losses all are over `loss_odd` times the median before them and two over `loss_times` it, medians
    under 1 nat taken as 1; and all are over the loss of the first step, which no update had touched. Where a loss is
    negative it has no level, and is not judged. Gradient norms in the same way, by `gradient_times` and at least
    `gradient_history` norms before. A reward collapses when of its best (over four steps, or in the first),
    `reward_least` or more, at most a share of `reward_left` is there in `reward_in_a_row` steps in a row."""

    in_a_row: int = 3
    loss_odd: float = 2.0
    loss_times: float = 3.0
    gradient_times: float = 100.0
    gradient_history: int = 8
    reward_in_a_row: int = 8
    reward_left: float = 0.1
    reward_least: float = 0.2


@dataclass(frozen=True)
class Streak:
    """The newest steps that are far from those before them: `length` of them, and whether that makes it a divergence.

    suspicious  the weights may be bad already, and have not been so for long
    """

    length: int
    diverges: bool
    suspicious: bool
    words: str


Curve = Sequence[float | None]  # one number a step, from the first; None where a step had none


def streaks(losses: Curve, gradient_norms: Curve, rewards: Curve, bars: Bars = Bars()) -> list[Streak]:
    """What is far from its past now, divergences first; empty where nothing is."""
    seen = [_loss(losses, bars), _gradient(gradient_norms, bars), _reward(rewards, bars)]
    return sorted((one for one in seen if one), key=lambda one: not one.diverges)


def _loss(losses: Curve, bars: Bars) -> Streak | None:
    values = _known(losses)
    if not len(values) or values.min() < 0:
        return None
    first = float(values[0])

    def over(times: float, usual: float) -> float:
        return max(first, times * max(usual, 1.0))

    words = f"where {{usual:.3g}} was usual and {first:.3g} the first"
    return _far("loss", values, over, (bars.loss_odd, bars.loss_times), (1, bars.in_a_row), words)


def _gradient(norms: Curve, bars: Bars) -> Streak | None:
    values = _known(norms)
    values = values[values > 0]  # a step without an advantage has none

    def over(times: float, usual: float) -> float:
        return times * max(usual, 1.0)

    times, counts = (bars.gradient_times, bars.gradient_times), (bars.gradient_history, bars.in_a_row)
    return _far("gradient norm", values, over, times, counts, "where {usual:.3g} was usual")


def _far(
    name: str,
    values: np.ndarray,
    over: Callable[[float, float], float],
    times: tuple[float, float],
    counts: tuple[int, int],
    words: str,
) -> Streak | None:
    """The longest streak of newest values that are all odd by the median before them.

    over(times, usual): the bar; times: of what is odd, and of what is certain; counts: how many values have to be
    before, and how many in a row are certain where most of them are over the second bar."""
    (odd, certain), (history, in_a_row) = times, counts
    for length in range(min(MEMORY, len(values) - history), 0, -1):
        usual, newest = float(np.median(values[:-length][-MEMORY:])), values[-length:]
        if newest.min() > over(odd, usual):
            few = newest[-in_a_row:]
            diverges = length >= in_a_row and float(np.median(few)) > over(certain, usual)
            text = f"{name} {_list(few)}, {words.format(usual=usual)}"
            return Streak(length, diverges, length <= 2 * in_a_row, text)
    return None


def _reward(rewards: Curve, bars: Bars) -> Streak | None:
    values, most = _known(rewards), bars.reward_in_a_row
    if not len(values) or values.min() < 0:
        return None
    for length in range(min(most, len(values) - 1), 0, -1):
        before, newest = values[:-length], values[-length:]
        fours = np.convolve(before, np.full(4, 0.25), "valid") if len(before) >= 4 else before[:1]
        best = max(float(values[0]), float(fours.max()))
        if best >= bars.reward_least and newest.max() <= bars.reward_left * best:
            words = f"reward {_list(newest[-3:])}, where it was {best:.3g} at its best"
            return Streak(length, length == most, 2 * length >= most, words)
    return None


def _known(curve: Curve) -> np.ndarray:
    return np.array([value for value in curve if value is not None], float)


def _list(values: np.ndarray) -> str:
    return ", ".join(f"{value:.3g}" for value in values)
