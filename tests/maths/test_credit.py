"""Credit by hand and at its limits."""

from __future__ import annotations

import doctest

import numpy as np
import pytest

from offon.maths import credit
from offon.parts import schedules


def test_group_of_two_uses_the_unbiased_std():
    """Rewards (1, 0): mean 1/2, unbiased std 1/sqrt 2, so A = +-1/sqrt 2 (the population std would give +-1)."""
    assert credit.group_mean_std(np.array([1.0, 0.0]), epsilon=0) == pytest.approx([0.70711, -0.70711], abs=1e-5)


def test_equal_rewards_teach_exactly_nothing():
    assert not credit.group_mean_std(np.full(8, 0.3)).any()


def test_a_constant_added_to_every_reward_changes_nothing():
    reward = np.array([0.0, 1.0, 0.5, 0.2])
    assert np.allclose(credit.group_mean_std(reward), credit.group_mean_std(reward + 5))


def test_unscaled_advantage_is_leave_one_out_times_g_minus_one_over_g():
    reward = np.array([0.0, 1.0, 0.5, 0.2])
    leave_one_out = reward - (reward.sum() - reward) / 3
    assert np.allclose(credit.group_mean_std(reward, scale=False), 3 / 4 * leave_one_out)


def test_a_teacher_that_is_the_student_gives_zero():
    logp = np.log([0.1, 0.5])
    assert not credit.logp_difference(logp, logp).any()


@pytest.mark.parametrize("module", [credit, schedules])
def test_examples_in_docstrings_run(module):
    assert doctest.testmod(module).failed == 0
