"""REINFORCE and its kin: the limits in which one is another, and hand numbers. Each row's
gradient is also checked against its paper's own surrogate (variants/reinforce.py)."""

from __future__ import annotations

import numpy as np
import pytest

from offon.errors import OffonError
from offon.recipe import resolve
from offon.train.loop import assign_credit
from tests.catalogue.rewarded import advantages, gradient_of, groups, learner, same
from tests.rounding import FLOAT32, STORED


def test_rloo_is_the_group_mean_times_g_over_g_minus_one_and_dr_grpo_a_scale_of_it():
    """A = G/(G-1)(R - mean); Dr.GRPO divides by its constant instead: at ratio 1, dr_grpo = rloo (G-1)/G / C."""
    given = groups()
    assert advantages("rloo", given, kl=0.0) == pytest.approx([4 / 3 * a for a in advantages("dr_grpo", given)])
    assert sum(advantages("rloo", given, kl=0.0)) == pytest.approx(0, abs=STORED)
    same(gradient_of("dr_grpo", given, length=50), gradient_of("rloo", given, kl=0.0, times=3 / 4 / 50))


def test_with_kl_in_the_reward_rloo_still_sums_to_zero():
    given = groups()
    assert sum(advantages("rloo", given, kl=0.5)) == pytest.approx(0, abs=FLOAT32)
    assert advantages("rloo", given, kl=0.5) != pytest.approx(advantages("rloo", given, kl=0.0), abs=1e-3)


def test_one_response_without_baseline_is_minus_reward_times_the_gradient_of_its_log_probability():
    one = groups(rewards=(2.0,), prompts=1)
    single = groups(rewards=(1.0,), prompts=1)
    same(gradient_of("reinforce", one, baseline="none"), gradient_of("reinforce", single, baseline="none", times=2.0))


def test_opo_of_equal_lengths_has_the_mean_as_baseline():
    given = groups(equal_lengths=True)
    assert advantages("opo", given) == pytest.approx(advantages("dr_grpo", given))
    same(gradient_of("opo", given), gradient_of("dr_grpo", given, length=4))  # 3 tokens and the end


def test_one_prompt_per_batch_reinforce_pp_with_group_baseline_is_grpo_up_to_the_std():
    """Equal lengths: mean 0 already, so only the std (over tokens, not members) differs."""
    given = groups(gap=0.3, equal_lengths=True, prompts=1)
    tokens = np.repeat([0.5, -0.5, -0.5, 0.5], 4)
    ratio = (np.std([1, 0, 0, 1], ddof=1) + 1e-4) / (tokens.std(ddof=1) + 1e-4)
    same(gradient_of("reinforce_pp_baseline", given), gradient_of("grpo", given, times=ratio))


def test_reinforce_pp_without_penalty_and_discount_is_the_reward_whitened_over_tokens():
    given = groups(prompts=2)
    tokens = np.concatenate([np.full(len(m), m.signals["reward"]) for g in given for m in g.members])
    expected = [(m.signals["reward"] - tokens.mean()) / (tokens.std(ddof=1) + 1e-4) for g in given for m in g.members]
    assert advantages("reinforce_pp", given, kl=0.0) == pytest.approx(expected, abs=FLOAT32)


def test_a_response_that_is_as_good_as_the_greedy_one_has_no_gradient_and_the_greedy_one_never_has():
    """remax: A = R - R(greedy); the first member of each group is tagged as the greedy one."""

    def with_greedy(given):
        return [g.replace(members=(g.members[0].tagged("baseline"), *g.members[1:])) for g in given]

    equal = with_greedy(groups(rewards=(1.0, 1.0, 1.0)))
    assert not any(g.any() for g in gradient_of("remax", equal).values())
    given = with_greedy(groups())
    assert advantages("remax", given)[:4] == [0.0, -1.0, -1.0, 0.0]
    without = [g.replace(members=g.members[1:]) for g in groups(rewards=(1.0, -1.0, -1.0, 0.0))]
    same(gradient_of("remax", given), gradient_of("reinforce", without, baseline="none"))


def test_a_group_whose_greedy_response_could_not_be_scored_is_set_aside():
    (first, *_) = assign_credit(learner("remax"), groups())
    assert first.members == () and first.dropped[0][1] == "no baseline"


def test_rows_without_a_ratio_refuse_several_steps_per_buffer_unless_asked():
    def recipe(row, **changes):
        node = {
            "method": row,
            "task": "testbed:rare",
            "steps": 4,
            "prompts_per_step": 4,
            "prompts_per_buffer": 8,
            **changes,
        }
        return resolve({"model": "testbed:base", "pipeline": {"rl": node}})

    for row in ("reinforce", "rloo", "remax", "opo"):
        with pytest.raises(OffonError, match="max_age 0"):
            recipe(row)
        recipe(row, max_age=1)
    recipe("rloo", clip=[0.2, 0.2])
    recipe("grpo")
