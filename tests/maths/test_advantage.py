"""Credit by hand and at its limits."""

from __future__ import annotations

import doctest
import itertools
import math

import numpy as np
import pytest
import torch

from offon.maths import advantage
from offon.maths.advantage import group, pass_at_k, returns
from offon.parts import schedules
from tests.rounding import FLOAT64


def test_group_of_two_uses_the_unbiased_std():
    """Rewards (1, 0): mean 1/2, unbiased std 1/sqrt 2, so A = +-1/sqrt 2 (the population std would give +-1)."""
    assert advantage.group_mean_std(np.array([1.0, 0.0]), epsilon=0) == pytest.approx(
        [0.5**0.5, -(0.5**0.5)], abs=FLOAT64
    )


def test_equal_rewards_teach_exactly_nothing():
    assert not advantage.group_mean_std(np.full(8, 0.3)).any()


def test_a_constant_added_to_every_reward_changes_nothing():
    reward = np.array([0.0, 1.0, 0.5, 0.2])
    assert np.allclose(advantage.group_mean_std(reward), advantage.group_mean_std(reward + 5))


def test_unscaled_advantage_is_leave_one_out_times_g_minus_one_over_g():
    reward = np.array([0.0, 1.0, 0.5, 0.2])
    leave_one_out = reward - (reward.sum() - reward) / 3
    assert np.allclose(advantage.group_mean_std(reward, scale=False), 3 / 4 * leave_one_out)


def test_a_teacher_that_is_the_student_gives_zero():
    logp = np.log([0.1, 0.5])
    assert not advantage.logp_difference(logp, logp).any()


def test_leave_one_out_is_a_scaled_mean_baseline_and_sums_to_zero():
    reward = np.array([0.0, 1.0, 0.5, 0.2])
    assert advantage.leave_one_out(reward) == pytest.approx(4 / 3 * (reward - reward.mean()))
    assert advantage.leave_one_out(reward).sum() == pytest.approx(0)


def test_length_weighted_mean_by_hand_and_at_equal_lengths():
    """Rewards (1, 0), lengths (3, 1): b = 3/4. At equal lengths it is the mean."""
    assert advantage.length_weighted_mean([1.0, 0.0], [3, 1]) == pytest.approx([0.25, -0.75])
    reward = np.array([0.0, 1.0, 0.5])
    assert advantage.length_weighted_mean(reward, [7, 7, 7]) == pytest.approx(reward - reward.mean())


def test_gae_by_hand():
    """r = (0, 0, 1), V = (.5, .4, .8), gamma 1/2, lam 1/2: delta = (-.3, 0, .2), A_2 = .2, A_1 = .05, A_0 = -.2875."""
    advantage_T, returns = advantage.gae([0, 0, 1.0], [0.5, 0.4, 0.8], [True] * 3, gamma=0.5, lam=0.5)
    assert advantage_T == pytest.approx([-0.2875, 0.05, 0.2])
    assert returns == pytest.approx([0.2125, 0.45, 1.0])


def test_gae_limits_are_return_to_go_minus_value_and_the_one_step_error():
    random = np.random.default_rng(0)
    reward, value, mask = random.normal(size=6), random.normal(size=6), np.ones(6, dtype=bool)
    to_go = np.cumsum(reward[::-1])[::-1]
    assert advantage.gae(reward, value, mask, lam=1.0)[0] == pytest.approx(to_go - value)
    assert advantage.gae(reward, value, mask, lam=0.0)[0] == pytest.approx(reward + np.append(value[1:], 0) - value)
    assert advantage.gae(reward, np.zeros(6), mask, lam=1.0)[0] == pytest.approx(advantage.return_to_go(reward, mask))


def test_the_environments_tokens_are_carried_through():
    """Dropping the two masked positions and putting the results back gives the same numbers; they themselves get 0."""
    random = np.random.default_rng(1)
    reward, value = random.normal(size=6), random.normal(size=6)
    mask = np.array([True, False, True, True, False, True])
    dense = advantage.gae(reward[mask], value[mask], np.ones(4, dtype=bool), gamma=0.9, lam=0.8)
    for whole, part in zip(advantage.gae(reward, value, mask, gamma=0.9, lam=0.8), dense, strict=True):
        assert whole[mask] == pytest.approx(part)
        assert not whole[~mask].any()


def test_whitening_leaves_a_population_without_spread_unscaled():
    assert not advantage.whiten(np.full(3, 0.7), np.full(3, 0.7)).any()
    assert advantage.whiten([0.7], [0.7], centre=False) == pytest.approx([0.7])


def best_of_subsets(reward, k, i, minus):
    """n / C(n, k) * sum over the k-subsets that contain i of max over I, less what `minus` says, by enumeration."""
    n = len(reward)
    total = 0.0
    for others in itertools.combinations([j for j in range(n) if j != i], k - 1):
        best_without = max((reward[j] for j in others), default=0.0)
        total += max(reward[i], best_without if others else -np.inf) - (best_without if minus else 0.0)
    return total * n / math.comb(n, k)


@pytest.mark.parametrize("reward", [[1.0, 0.0, 0.0, 1.0, 0.0], [0.3, -1.0, 2.0, 0.3, 0.9]])
@pytest.mark.parametrize("k", [1, 2, 3, 5])
@pytest.mark.parametrize("baseline", ["none", "subset"])
def test_pass_at_k_weights_equal_enumeration_over_subsets(reward, k, baseline):
    expected = [best_of_subsets(reward, k, i, baseline == "subset") for i in range(5)]
    assert advantage.pass_at_k_weights(reward, k, baseline) == pytest.approx(expected)


def test_pass_at_k_of_binary_rewards_is_the_papers_closed_form():
    """k for the right, k rho(n-1, c, k-1) for the wrong,
    rho(n, c, k) = 1 - C(n-c, k) / C(n, k). n = 5, c = 2, k = 3."""
    weights = advantage.pass_at_k_weights([1.0, 0, 1.0, 0, 0], 3, "none")
    wrong = 3 * (1 - math.comb(2, 2) / math.comb(4, 2))
    assert weights == pytest.approx([3, wrong, 3, wrong, wrong])


def test_pass_at_k_limits():
    """k = 1 is the reward itself; k = n without baseline is n as soon as anything is right; k = n with it credits the
    best by its lead over the second (GRPO_PASSK, arXiv:2503.19595)."""
    reward = np.array([0.2, 0.9, 0.5])
    assert advantage.pass_at_k_weights(reward, 1) == pytest.approx(reward)
    assert advantage.pass_at_k_weights([0.0, 1.0, 0.0], 3, "none") == pytest.approx([3, 3, 3])
    assert advantage.pass_at_k_weights(reward, 3) == pytest.approx([0, 3 * (0.9 - 0.5), 0])


def test_leave_one_out_subtracts_the_mean_weight_the_others_would_have_among_themselves():
    """s^(loo)_i = s_i - mean over j != i of s_j computed without i."""
    reward = np.array([0.2, 0.9, 0.5, -1.0])
    found = advantage.pass_at_k_weights(reward, 2, "leave_one_out")
    for i in range(4):
        others = np.delete(reward, i)
        alone = advantage.pass_at_k_weights(others, 2, "none") / 3
        s_i = advantage.pass_at_k_weights(reward, 2, "none")[i] / 4
        assert found[i] / 4 == pytest.approx(s_i - alone.mean())


def test_pass_at_k_weights_are_the_exact_gradient_in_expectation():
    """A policy over three answers with rewards (0, .5, 1): E[mean_i A_i grad log p(y_i)] over all 3^n draws equals the
    gradient of E[max of k], n = 3, k = 2, for every baseline."""
    rewards = np.array([0.0, 0.5, 1.0])
    logits = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64, requires_grad=True)
    p = torch.softmax(logits, 0)
    best = sum(p[a] * p[b] * max(rewards[a], rewards[b]) for a in range(3) for b in range(3))
    (exact,) = torch.autograd.grad(best, logits)
    for baseline in ("none", "leave_one_out", "subset"):
        estimate = torch.zeros(3, dtype=torch.float64)
        for draw in itertools.product(range(3), repeat=3):
            chance = torch.stack([p[y] for y in draw]).prod().detach()
            weights = advantage.pass_at_k_weights(rewards[list(draw)], 2, baseline)
            scores = [torch.eye(3, dtype=torch.float64)[y] - p.detach() for y in draw]
            estimate += chance * sum(w * s for w, s in zip(weights, scores, strict=True)) / 3
        assert torch.allclose(estimate, exact, atol=FLOAT64)


@pytest.mark.parametrize("module", [group, pass_at_k, returns, schedules])
def test_examples_in_docstrings_run(module):
    assert doctest.testmod(module).failed == 0
