"""Accuracy, Brier, ECE and first errors by hand; perfect forecasts are as far off as noise makes them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit, logit

from offon.behavior.stage.reward_calibration import calibration, first_errors, pairs, share_right, steps
from offon.behavior.statistics.intervals import wilson


def test_brier_and_ece_of_four_forecasts_by_hand():
    """Forecasts .2 .2 .9 .9, outcomes 0 1 1 1. Brier (.04 + .64 + .01 + .01) / 4 = .175. Bins: .2 against 1/2 and .9
    against 1, two events each: ECE (.3 + .1) / 2 = .2. Of perfect ones: sqrt(2/pi) (sqrt(.32) + sqrt(.18)) / 4."""
    found = calibration([0.2, 0.2, 0.9, 0.9], [0, 1, 1, 1], list("abcd"))
    assert found["brier"]["estimate"] == pytest.approx(0.175)
    assert found["ece"]["estimate"] == pytest.approx(0.2)
    assert found["ece_of_perfect"] == pytest.approx(np.sqrt(2 / np.pi) * (np.sqrt(0.32) + np.sqrt(0.18)) / 4)
    assert [(b["low"], b["n"], b["right"]["estimate"]) for b in found["bins"]] == [
        (pytest.approx(0.2), 2, 0.5),
        (pytest.approx(0.9), 2, 1.0),
    ]


def test_perfect_forecasts_have_an_ece_of_about_what_noise_gives_and_shifted_ones_more():
    rng = np.random.default_rng(0)
    truth = rng.random(1500)
    seen = (rng.random(1500) < truth).astype(float)
    prompts = [str(i) for i in range(1500)]
    perfect = calibration(truth, seen, prompts)
    assert 0.3 < perfect["ece"]["estimate"] / perfect["ece_of_perfect"] < 2
    shifted = calibration(np.clip(truth + 0.15, 0, 1), seen, prompts)
    assert shifted["ece"]["low"] > 3 * shifted["ece_of_perfect"]


def test_pairs_are_right_where_chosen_wins_and_a_tie_ranks_nothing():
    """Margins 2, 1, 0, -1: two of four. Forecasts for the preferred answer: Brier is that of sigmoid(margin)."""
    margins = np.array([2.0, 1.0, 0.0, -1.0])
    found = pairs(margins, list("abcd"))
    low, high = wilson(2, 4)
    assert found["accuracy"] == {"estimate": 0.5, "low": pytest.approx(float(low)), "high": pytest.approx(float(high))}
    right = margins > 0
    assert found["brier"]["estimate"] == pytest.approx(np.mean((expit(np.abs(margins)) - right) ** 2))


def test_the_order_in_which_pairs_are_listed_changes_nothing():
    rng = np.random.default_rng(1)
    margins, prompts = rng.normal(0.5, 1, 60), [str(i % 20) for i in range(60)]
    order = rng.permutation(60)
    one, other = pairs(margins, prompts), pairs(margins[order], [prompts[i] for i in order])
    assert one["accuracy"] == other["accuracy"]
    assert one["ece"]["high"] == pytest.approx(other["ece"]["high"])


def test_many_pairs_of_one_prompt_are_no_more_than_one_prompt():
    """Ten prompts whose 20 pairs agree: the interval is wider than Wilson's on 200 pairs would be."""
    right = np.repeat([1, 1, 1, 1, 1, 1, 1, 0, 0, 0], 20)
    est = share_right(right, [str(i // 20) for i in range(200)])
    low, high = wilson(140, 200)
    assert est.estimate == 0.7 and est.low < low and est.high > high


def test_when_every_pair_is_right_brier_may_still_be_worse():
    """10 of 10 at forecast .9: Brier .01; at Wilson's lower bound of the accuracy, low .01 + (1 - low) .81."""
    found = pairs([logit(0.9)] * 10, [str(i) for i in range(10)])
    low = float(wilson(10, 10)[0])
    assert found["brier"]["estimate"] == pytest.approx(0.01)
    assert found["brier"]["high"] == pytest.approx(low * 0.01 + (1 - low) * 0.81)
    assert found["ece"]["low"] <= found["ece"]["estimate"] == pytest.approx(0.1)


def test_steps_are_compared_with_always_giving_the_more_frequent_answer():
    """Labels 1 1 1 0, scores + - + -: three right, and three is what always saying right gives."""
    found = steps([1, -1, 1, -1], [1, 1, 1, 0], [0, 1, 0, 1], list("aabb"))
    assert found["accuracy"]["estimate"] == 0.75 and found["majority"] == 0.75
    assert [(p["step"], p["n"], p["accuracy"]["estimate"]) for p in found["by_position"]] == [(1, 2, 1.0), (2, 2, 0.5)]


def test_the_first_error_is_found_only_where_it_is():
    """Errors at steps 2, 2, 1 and none, none. Found: the first only (the second is flagged too early, the third not at
    all). Clean: one of two. The sixth solution is not labelled up to its error and is left out.
    """
    labels = [[1, 0, 0], [1, 0], [0, 1], [1, 1], [1], [None, 0]]
    scores = [[2, -1, 3], [-1, -1], [1, 1], [1, 1], [-1], [1, -1]]
    found = first_errors(scores, labels, list("abcdef"))
    assert found["found"]["estimate"] == pytest.approx(1 / 3) and found["clean"]["estimate"] == 0.5
    assert (found["n_found"], found["n_clean"]) == (3, 2)
    assert found["f1"] == pytest.approx(2 * (1 / 3) * 0.5 / (5 / 6))
    everything_right = first_errors([[1, 1], [1]], [[1, 0], [1]], ["a", "b"])
    assert everything_right["f1"] == 0.0 and everything_right["clean"]["estimate"] == 1.0
