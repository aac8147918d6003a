"""Credit for steps: hand numbers, limits and identities."""

import numpy as np
import pytest

from offon.maths import steps
from offon.maths.advantage import group_mean_std
from tests.rounding import FLOAT64

RNG = np.random.default_rng(0)


def test_suffix_sum_counts_a_step_and_all_after_it():
    assert steps.suffix_sum(np.array([1.0, -2.0, 4.0])).tolist() == [3.0, 2.0, 4.0]


def test_step_rewards_are_normalised_over_all_steps_of_the_group():
    """{1, 3} and {2}: mean 2, unbiased std sqrt((1 + 1 + 0) / 2) = 1."""
    first, second = steps.normalised_steps([np.array([1.0, 3.0]), np.array([2.0])], epsilon=0.0)
    assert first.tolist() == [-1.0, 1.0] and second.tolist() == [0.0]


def test_one_step_at_the_end_is_outcome_grpo():
    reward = RNG.random(6)
    single = np.concatenate(steps.normalised_steps([np.array([r]) for r in reward]))
    assert np.allclose(single, group_mean_std(reward), atol=FLOAT64)


def test_equal_step_rewards_give_exactly_nothing():
    assert [r.tolist() for r in steps.normalised_steps([np.ones(3), np.ones(2)])] == [[0, 0, 0], [0, 0]]


def test_min_form_limits():
    """T -> 0: only the worst step has a reward, its own; T -> infinity: the sum is the mean; one step: itself."""
    reward = np.array([0.9, -0.5, 0.3, 0.8])
    assert np.allclose(steps.min_form(reward, 1e-4), [0, -0.5, 0, 0])
    assert np.allclose(steps.min_form(reward, 1e6).sum(), reward.mean(), atol=1e-5)
    assert steps.min_form(np.array([0.7]), 0.1).tolist() == [0.7]
    assert np.isclose(steps.min_form(reward).sum(), reward.min(), atol=2e-3)  # the paper's T is nearly the minimum


def test_min_form_leaves_nothing_after_the_worst_step():
    later = steps.suffix_sum(steps.min_form(np.array([0.9, -0.9, 0.8, 0.9])))
    assert abs(later[0] + 0.9) < 1e-3 and np.abs(later[2:]).max() < 1e-6  # e^(-1.7 / T), T = 0.1


def test_min_form_is_finite_for_rewards_of_any_size():
    assert np.isfinite(steps.min_form(np.array([1e4, -1e4, 0.0]), 1e-3)).all()


def test_progress_telescopes():
    value = RNG.random(5)
    assert np.isclose(steps.progress(value, 0.3).sum(), value[-1] - 0.3)
    assert np.isclose(steps.progress(np.array([1.0]), 0.25)[0], 0.75)  # a single step: R - V(x)


def test_leave_one_out_by_tokens_has_a_hand_number():
    """Others: 3 over 6 tokens = 0.5 a token; the steps of 2 and 1 tokens lose 1 and 0.5."""
    first, second = steps.leave_one_out_rate([np.array([4.0, 1.0]), np.array([3.0])], [np.array([2, 1]), np.array([6])])
    assert first.tolist() == [3.0, 0.5]
    assert np.isclose(second[0], 3.0 - 6 * 5 / 3)


def test_leave_one_out_by_steps_has_a_hand_number():
    """Others earn (1 + 3) / 2 = 2 a step."""
    first, _ = steps.leave_one_out_mean([np.array([4.0, 1.0]), np.array([1.0, 3.0])])
    assert first.tolist() == [2.0, -1.0]


def test_rescaled_leave_one_out_averages_to_leave_one_out():
    rewards = [RNG.normal(size=n) for n in (3, 5, 1, 4)]
    mean = np.array([r.mean() for r in rewards])
    for i, given in enumerate(steps.rescaled_leave_one_out(rewards)):
        assert np.isclose(given.mean(), mean[i] - np.delete(mean, i).mean())


def test_only_later_attempts_earn_the_bonus():
    assert steps.shaped_turns(np.array([1.0, 0.0]), 10.0).tolist() == [1.0, -10.0]
    assert steps.shaped_turns(np.array([1.0, 1.0]), 10.0).tolist() == [1.0, 1.0]  # no change, no bonus
    assert steps.shaped_turns(np.array([0.0, 1.0]), 0.0).tolist() == [0.0, 1.0]  # plain multi-turn rewards


@pytest.mark.parametrize("k", [1, 2, 3, 8])
def test_best_of_is_the_mean_best_of_all_draws(k):
    from itertools import combinations

    scores = np.array([1.0, 0.0, 0.5, 0.0, 1.0, 0.25, 0.0, 0.0])
    every = [max(chosen) for chosen in combinations(scores, k)]
    assert np.isclose(steps.best_of(scores, k), np.mean(every))


def test_monotone_labels_fill_what_bisection_left_out():
    assert steps.monotone_labels([None, None, 1.0]).tolist() == [1, 1, 1]  # a success has no error
    assert steps.monotone_labels([0.0, None, 0.0]).tolist() == [0, 0, 0]
