"""Warnings: the sentences, when they appear, and that a healthy stage has none."""

import numpy as np
import pytest

from offon.behavior.stage.training_health import StageStatistics, explain, trend
from offon.behavior.statistics.intervals import Est

HEALTHY = {
    "steps": 40,
    "groups": 400,
    "group_size": 8,
    "all_fail": 0.3,
    "all_success": 0.2,
    "unscored": 0.0,
    "truncated": 0.02,
    "clipped": 0.01,
    "sampler_gap_nats": 1e-6,
    "rewards": tuple(np.linspace(0.1, 0.6, 40)),
    "success_change": Est(0.3, 0.25, 0.35),
}


def warnings(**changes):
    return explain(StageStatistics(**HEALTHY | changes))


def test_a_healthy_stage_has_no_warning():
    assert warnings() == []
    assert explain(StageStatistics(steps=10, rows=200)) == []


def test_all_fail_groups_in_the_words_of_a_colleague():
    assert warnings(all_fail=0.92, all_success=0.01) == [
        "92% of groups are all-fail at 8 rollouts: the policy does not reach these prompts; "
        "demonstrations, hints or easier data first"
    ]


def test_one_response_a_prompt_is_no_group():
    assert warnings(all_fail=0.9, all_success=0.1, group_size=1) == []


@pytest.mark.parametrize(
    ("losses", "words"),
    [
        ([7.5, *[80.0, 75.0, 90.0] * 5], "7.5 at the first step, 7.5 at its best, 80 over the last third of 16 steps"),
        ([7.5, 3.0, 1.0, 0.2, 0.1, 0.1, 12.0, 9.0, 11.0], "7.5 at the first step, 0.1 at its best, 11 over"),
    ],
)
def test_a_loss_that_ends_far_above_where_it_began_or_had_been_has_diverged(losses, words):
    (sentence,) = explain(StageStatistics(steps=len(losses), losses=losses))
    assert words in sentence and "smaller learning rate" in sentence


@pytest.mark.parametrize(
    "losses",
    [
        np.geomspace(7.5, 0.1, 30),  # learning
        [7.5, 0.1, 0.1, 0.1, 0.1, 0.1, 2.0, 0.1, 2.0],  # a hard batch now and then
        [0.0, 1e-6, 1e-4, 1e-3, 1e-2, 2e-2, 5e-2, 5e-2],  # begins at its minimum
        [0.2, *np.random.Generator(np.random.Philox(0)).uniform(0.3, 3.0, 40)],  # batches of one row, an easy one first
        [1e-8, -0.5, 3.0, -8.0, 6.0, 9.0, 12.0, 9.0],  # a policy gradient: its sign says that it has no level
        [0.5, 50.0, 50.0],  # too short for thirds
    ],
)
def test_a_loss_that_learns_or_is_noisy_or_has_no_level_is_no_divergence(losses):
    assert explain(StageStatistics(steps=len(losses), losses=losses)) == []


def test_a_gradient_norm_that_grows_by_orders_of_magnitude():
    grown = [2.0, 3.0, 2.0, 9.0, 40.0, 90.0, 400.0, 900.0, 800.0]
    (sentence,) = explain(StageStatistics(steps=9, gradient_norms=grown))
    assert sentence.startswith("gradient norm grew from 2 to 800")
    for norms in ([1e-6, 1e-6, 1e-6, 0.1, 0.5, 1.0, 5.0, 9.0, 9.0], [2.0, 3.0, 2.0, 9.0, 9.0, 9.0, 400.0, 9.0, 900.0]):
        assert explain(StageStatistics(steps=9, gradient_norms=norms)) == []


def test_a_reward_that_is_gone_is_said_before_what_follows_from_it():
    """0.45 before the first update, 0 ever after: all groups fail and most steps are skipped because of it."""
    gone = warnings(rewards=(0.45, *[0.0] * 39), all_fail=0.97, all_success=0.0, skipped_steps=38, success_change=None)
    assert gone[0].startswith("reward collapsed: 0.450 at its best, 0.000 over the last third of 40 steps")
    assert not any("trend" in sentence for sentence in gone)
    for rewards in ((0.45, *[0.2] * 39), (0.04, *[0.0] * 39), (0.5, 0.6, 0.7, 0.1, 0.6, 0.7)):
        assert not any("collapsed" in sentence for sentence in warnings(rewards=rewards))


def test_rows_truncated_before_their_first_supervised_token():
    (all_rows,) = explain(StageStatistics(steps=10, rows=200, rows_unsupervised=200))
    assert all_rows.startswith("every row is truncated before its first supervised token")
    (some,) = explain(StageStatistics(steps=10, rows=200, rows_unsupervised=50))
    assert some.startswith("25% of 200 rows are truncated before their first supervised token")


@pytest.mark.fault("F47")
@pytest.mark.parametrize(
    "changes, words",
    [
        ({"all_success": 0.7}, "70% of groups are all-success at 8 rollouts"),
        ({"all_fail": 0.45, "all_success": 0.45}, "only 10% of groups hold both"),
        ({"unscored": 0.3}, "30% of responses are unscored"),
        ({"truncated": 0.6}, "60% of responses reach max_tokens"),
        ({"clipped": 0.5}, "50% of trained tokens are clipped"),
        ({"sampler_gap_nats": 0.02}, "0.02 nats per token away"),
        ({"skipped_steps": 40}, "all 40 steps were skipped"),
        ({"skipped_steps": 10}, "10 of 40 steps were skipped"),
        ({"success_change": Est(-0.2, -0.3, -0.1)}, "held-out success fell"),
        ({"success_change": Est(0.01, -0.02, 0.04)}, "while held-out success did not"),
        ({"rewards": (0.3, 0.2, 0.25) * 4}, "reward shows no trend over 12 steps"),
        ({"rewards": tuple(np.linspace(0.6, 0.1, 12))}, "reward fell over 12 steps"),
    ],
)
def test_each_cause_has_its_sentence(changes, words):
    (sentence,) = warnings(**changes)
    assert words in sentence


def test_prompts_that_a_stage_came_to_solve_were_not_solved_when_it_began():
    at_first = warnings(all_success=0.7, rewards=(0.9, 0.95, 0.92, 0.97) * 3)
    assert "already solved these prompts when the stage began" in at_first[0]
    in_the_end = warnings(all_success=0.7, rewards=(*[0.2] * 3, *[0.6] * 6, *[0.96] * 3))
    assert "mean reward 0.20 in its first quarter, 0.96 in its last" in in_the_end[0]


@pytest.mark.fault("F47")
def test_responses_that_grow_and_entropy_that_vanishes_are_told():
    long, alike = (20.0,) * 10 + (90.0,) * 30, (1.2,) * 10 + (0.05,) * 30
    (sentence,) = warnings(lengths=long)
    assert sentence.startswith("responses grew from 20 to 90 tokens")
    (sentence,) = warnings(entropies=alike)
    assert sentence.startswith("entropy fell from 1.2 to 0.05 nats a token with rewards at 0.5")
    solved = {"rewards": tuple(np.linspace(0.5, 0.99, 40)), "entropies": alike}
    assert warnings(**solved) == [], "nothing is left to explore where everything is right"
    assert warnings(lengths=(4.0,) * 10 + (13.0,) * 30, entropies=(1.2, 0.8, 0.6, 0.5) * 10) == []


def test_standing_still_at_the_top_is_no_failure():
    flat = Est(0.0, -0.01, 0.01)
    top, low = Est(0.99, 0.98, 1.0), Est(0.2, 0.1, 0.3)
    assert warnings(success_change=flat, success_before=top, success_after=top, rewards=()) == []
    (sentence,) = warnings(success_change=flat, success_before=low, success_after=low, rewards=())
    assert "from 0.200 [0.100, 0.300] to 0.200" in sentence


def test_causes_come_before_their_consequences():
    sentences = warnings(all_fail=1.0, all_success=0.0, skipped_steps=40, truncated=1.0, rewards=(0.0,) * 12)
    order = ["steps were skipped", "max_tokens", "all-fail", "reward shows no trend"]
    assert [next(i for i, s in enumerate(sentences) if words in s) for words in order] == [0, 1, 2, 3]
    assert sentences[2].startswith("100% of groups")


def test_a_share_is_never_rounded_to_all_or_nothing():
    assert warnings(all_fail=0.999, all_success=0.0)[0].startswith("over 99%")


def test_trend_intervals_cover():
    """1,000 series of 30 noisy flat rewards: the interval misses 0 in 5% of them (sd .7%)."""
    rng = np.random.default_rng(0)
    missed = sum(not (e.low <= 0 <= e.high) for e in (trend(rng.normal(0.3, 0.1, 30)) for _ in range(1000)))
    assert 0.03 <= missed / 1000 <= 0.07
    assert trend([0.1] * 5) is None
