"""GRPO and its kin: the limits in which one is another, and hand numbers. Each row's
gradient is also checked against its paper's own surrogate (variants/grpo.py)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from offon.catalogue import registry
from offon.errors import ConfigError
from offon.train.loop import assign_credit
from offon.train.scoring import prepare, weigh
from offon.types import Producer, Sampling, Source, Trajectory
from offon.types.batch import Batch
from tests.catalogue.cases import difference
from tests.catalogue.rewarded import REWARDS, advantages, gradient_of, groups, learner, pushes, same, world
from tests.rounding import FLOAT32, FLOAT32_SUM, STORED
from tests.support import ParityTask


def test_a_constant_added_to_every_reward_changes_nothing_under_a_baseline():
    given, shifted = groups(), groups(rewards=tuple(r + 3 for r in REWARDS))
    for row in ("reinforce", "rloo", "grpo", "dr_grpo", "gspo", "opo", "reinforce_pp_baseline", "gfpo", "gdpo"):
        arguments = {"keep": 3} if row == "gfpo" else {}
        same(gradient_of(row, shifted, **arguments), gradient_of(row, given, **arguments), FLOAT32_SUM)


def test_gspo_is_grpo_at_ratio_one():
    same(gradient_of("gspo", groups()), gradient_of("grpo", groups()))


def test_gspo_weighs_a_response_by_its_mean_log_ratio_and_never_by_its_length():
    """Two tokens with log-ratios +.3 and -.3 have s = 1: as at ratio 1, where grpo's token ratios differ."""
    pairs = [g.replace(members=tuple(m for m in g.members if len(m) % 2 == 0)) for g in groups(gap=0.3)]
    at_one = [g.replace(members=tuple(m for m in g.members if len(m) % 2 == 0)) for g in groups()]
    same(gradient_of("gspo", pairs), gradient_of("gspo", at_one), FLOAT32_SUM)
    assert difference(gradient_of("grpo", pairs, clip=(9.0, 9.0)), gradient_of("grpo", at_one)) > 1e-2


def test_keeping_the_whole_group_gfpo_is_grpo_per_token_whatever_becomes_of_the_rest():
    """DAPO's normaliser: tokens of the batch. With equal lengths that is grpo's."""
    given = groups(gap=0.3, equal_lengths=True)
    for rest in ("zero", "drop"):
        same(gradient_of("gfpo", given, keep=4, rest=rest, clip=(0.2, 0.2)), gradient_of("grpo", given))


def test_gfpo_zero_and_drop_differ_by_the_share_of_tokens_kept():
    given = groups(gap=0.1)
    kept = assign_credit(learner("gfpo", keep=3, rest="drop"), given)
    share = sum(len(m) for g in kept for m in g.members) / sum(len(m) for g in given for m in g.members)
    zero, drop = (gradient_of("gfpo", given, keep=3, rest=rest) for rest in ("zero", "drop"))
    same({name: share * g for name, g in drop.items()}, zero)


def test_gdpo_of_one_reward_is_grpo_over_the_batch_std():
    given = groups(gap=0.3)
    scale = 1 / (np.std(advantages("grpo", given), ddof=1) + 1e-4)
    same(gradient_of("gdpo", given), gradient_of("grpo", given, times=scale))


def test_gdpo_whitens_samples_or_tokens():
    given = groups()
    lengths = [len(m) for g in given for m in g.members]
    plain = np.array(advantages("grpo", given))
    samples, tokens = (np.array(advantages("gdpo", given, over=over)) for over in ("samples", "tokens"))
    assert samples == pytest.approx(plain / (plain.std(ddof=1) + 1e-4), abs=FLOAT32)  # the groups' means are 0
    spread = np.repeat(plain, lengths)
    assert tokens == pytest.approx((plain - spread.mean()) / (spread.std(ddof=1) + 1e-4), abs=FLOAT32)


def test_the_scale_of_a_reward_does_not_decide_how_loud_it_is_in_gdpo():
    given = groups(rewards=(1.0, 0.0, 0.3, 0.7))

    def scaled(by):
        return [g.map(lambda m: m.with_signals(content=by * (len(m) - 2.0))) for g in given]

    quiet, loud = (advantages("gdpo", scaled(by), rewards={"reward": 1.0, "content": 1.0}) for by in (1.0, 100.0))
    assert quiet == pytest.approx(loud, abs=1e-3)


def test_groups_of_equal_rewards_have_no_gradient():
    flat = groups(rewards=(1.0, 1.0, 1.0))
    for row in ("rloo", "grpo", "dr_grpo", "gspo", "opo", "gdpo"):
        found = gradient_of(row, flat, **({"kl": 0.0} if row == "rloo" else {}))
        assert not any(g.any() for g in found.values()), row


def test_rows_that_compare_members_refuse_truncated_sampling():
    """top_p changes the distribution sampled: a ratio against it, or a KL, would be of something else."""
    from offon.collect import Pipe, Rollouts

    for row in ("grpo", "dapo", "gspo", "reinforce_pp", "rloo"):
        stage = registry.get(row).function(task=ParityTask())
        cut = stage.replace(collect=Pipe(stage.collect.parts).replace(Rollouts, sampling=Sampling(top_p=0.9)))
        with pytest.raises(ConfigError, match="behavior_logp"):
            cut.validate()


def test_dapo_with_a_symmetric_clip_and_nothing_overlong_is_grpo_per_token():
    """Lengths of 2 to 5 tokens under a limit of 100."""
    far = [
        g.map(lambda m: m.replace(producer=Producer(model="m", sampling=Sampling(max_tokens=100)))) for g in groups()
    ]
    near = groups()
    expected = gradient_of("gfpo", near, keep=4, clip=(0.2, 0.2))
    same(gradient_of("dapo", far, clip=(0.2, 0.2)), expected)
    same(gradient_of("dapo", near, clip=(0.2, 0.2), overlong="none"), expected)
    equal = groups(gap=0.3, equal_lengths=True)
    same(gradient_of("dapo", equal, clip=(0.2, 0.2), overlong="none"), gradient_of("grpo", equal))


def test_dapo_lets_a_rare_token_grow_further_than_it_may_shrink():
    """Ratio 1.25 with A = 1 is inside 1 + .28 and outside 1 + .2; ratio .75 with A = -1 is outside 1 - .2."""
    members, lp, old = [(1.0, 1.0), (-1.0, 0.0)], [[-1.0], [-1.0]], [[-1 - np.log(1.25)], [-1 - np.log(0.75)]]
    assert pushes(learner("dapo"), members, lp, old=old) == pytest.approx([1.25, 0.0], rel=STORED)
    assert pushes(learner("grpo"), members, lp, old=old) == pytest.approx([0.0, 0.0], rel=STORED)


def test_overlong_responses_lose_reward_before_the_group_is_compared_and_equal_rewards_then_differ():
    """All right, limit 6, the last token of it is the buffer: 5 tokens cost nothing, the member of 6 half a reward."""
    one = groups(rewards=(1.0, 1.0), prompts=1)[0]
    long = one.members[0]
    grown = Trajectory.of(
        [2] * 6, long.prefix(), Source.LEARNER, behavior_logp=[-1.0] * 6, signals=long.signals, producer=long.producer
    )
    given = [one.replace(members=(grown, one.members[1]))]
    a = 0.25 / (np.std([0.5, 1.0], ddof=1) + 1e-4)
    assert advantages("dapo", given) == pytest.approx([-a, a], rel=FLOAT32)
    assert advantages("dapo", given, overlong="filter") == [0.0, 0.0]


def test_filtered_overlong_responses_leave_the_loss_and_its_count_but_not_the_statistics():
    given = groups(gap=0.1)
    cut = [g.replace(members=(g.members[0].tagged("truncated"), *g.members[1:])) for g in given]
    made = learner("dapo", overlong="filter")
    done = assign_credit(made, cut)
    assert advantages("dapo", cut, overlong="filter") == advantages("dapo", given, overlong="none")
    (weight,) = weigh(Batch.of(done), made.terms).weights.values()
    trained = sum(len(m) for g in given for m in g.members[1:])
    assert weight[weight > 0].tolist() == pytest.approx([1 / trained] * trained)


def test_at_ratio_one_every_trust_region_is_reinforce():
    """Means within responses: grpo, gspo, gspo_token, gmpo, sapo; over tokens: cispo, clip_cov, kl_cov, gfpo."""
    given = groups()
    for row in ("gspo", "gspo_token", "gmpo", "sapo"):
        same(gradient_of(row, given), gradient_of("grpo", given))
    for row in ("cispo", "kl_cov"):
        same(gradient_of(row, given), gradient_of("gfpo", given, keep=4))


def test_gspo_token_is_gspo_for_advantages_that_are_the_same_on_a_response():
    given = groups(gap=0.3)
    same(gradient_of("gspo_token", given, clip=(0.2, 0.2)), gradient_of("gspo", given, clip=(0.2, 0.2)))


def test_gspo_token_clips_and_pushes_by_each_tokens_own_advantage():
    """log-ratios (.2, .4): s = e^.3 = 1.35 > 1.2. The token with A = 1 is stopped, the one with A = -2 is not."""
    made = learner("gspo_token", clip=(0.2, 0.2))
    found = pushes(made, [([1.0, -2.0], 0.0)], [[-1.0, -1.0]], old=[[-1.2, -1.4]])
    assert found == pytest.approx([0.0, -2 * np.exp(0.3)], rel=STORED)


def test_gmpo_clips_each_token_before_the_mean_and_gspo_after_it():
    """A = 1, log-ratios (1, -.2), e = .4: c = (.4, -.2), ratio e^.1, only the second token pushes. gspo has e^.4."""
    members, lp, old = [(1.0, 1.0)], [[-1.0, -1.0]], [[-2.0, -0.8]]
    assert pushes(learner("gmpo"), members, lp, old=old) == pytest.approx([0.0, np.exp(0.1)], rel=STORED)
    unclipped = pushes(learner("gspo", clip=(9.0, 9.0)), members, lp, old=old)
    assert unclipped == pytest.approx([np.exp(0.4)] * 2, rel=STORED)
    assert pushes(learner("gmpo", log_clip=9.0), members, lp, old=old) == pytest.approx(unclipped, rel=STORED)
    assert pushes(learner("gspo", clip=(0.2, 0.2)), members, lp, old=old) == [0.0, 0.0]


def test_gmpo_clips_against_the_sign_of_the_advantage():
    """A = -1, log-ratios (-1, .2): the first is stopped at -.4, so the ratio is e^-.1."""
    found = pushes(learner("gmpo"), [(-1.0, 0.0)], [[-2.0, -0.8]], old=[[-1.0, -1.0]])
    assert found == pytest.approx([0.0, -np.exp(-0.1)], rel=STORED)


def test_gmpo_and_gspo_agree_where_nothing_is_clipped():
    given = groups(gap=0.3)
    same(gradient_of("gmpo", given), gradient_of("gspo", given, clip=(9.0, 9.0)))


def test_cispo_caps_weights_and_keeps_every_gradient():
    """Ratios e^2 = 7.4 and e^-2: relative high 4 caps at 5, absolute at 4; ppo's clip would silence the first."""
    members, lp, old = [(1.0, 1.0)], [[-1.0, -3.0]], [[-3.0, -1.0]]
    assert pushes(learner("cispo"), members, lp, old=old) == pytest.approx([5.0, np.exp(-2)], rel=STORED)
    absolute = learner("cispo", cap="absolute")
    assert pushes(absolute, members, lp, old=old) == pytest.approx([4.0, np.exp(-2)], rel=STORED)
    floored = learner("cispo", low=0.2)
    assert pushes(floored, members, lp, old=old) == pytest.approx([5.0, 0.8], rel=STORED)
    assert pushes(learner("grpo"), members, lp, old=old)[0] == 0.0


def test_cispo_without_a_cap_is_the_importance_weighted_gradient():
    given = groups(gap=0.3)
    same(gradient_of("cispo", given, high=1e6), gradient_of("gfpo", given, keep=4, clip=(1e6, 1e6)))


def test_sapo_gate_by_hand():
    """r = 2: r sech^2(tau / 2): 2 (1 - tanh^2 .5) = 1.5729 for A = 1; tau 1.05 for A = -1."""
    found = pushes(learner("sapo"), [(1.0, 1.0), (-1.0, 0.0)], [[-1.0], [-1.0]], old=[[-1 - np.log(2)]] * 2)
    assert found == pytest.approx([1.572895, -2 * (1 - np.tanh(0.525) ** 2)], rel=1e-5)


def test_clip_cov_leaves_out_a_share_of_the_tokens_in_its_band_and_keeps_them_in_the_count():
    """A = (1, -1) on two tokens each, lp (-1, -3, -1, -1): mean A 0, mean lp -1.5, cov = (.5, -1.5, -.5, -.5)."""
    members, lp = [(1.0, 1.0), (-1.0, 0.0)], [[-1.0, -3.0], [-1.0, -1.0]]
    made = learner("clip_cov", share=1.0, cov=(0.4, 5.0))
    assert pushes(made, members, lp) == pytest.approx([0.0, 1.0, -1.0, -1.0])
    assert pushes(learner("clip_cov"), members, lp) == pytest.approx([1.0, 1.0, -1.0, -1.0])


def test_clip_cov_draws_the_same_tokens_however_often_it_is_asked_and_only_the_share():
    given = groups(gap=0.1)
    made = learner("clip_cov", share=0.1, cov=(-9.0, 9.0))
    batch = weigh(Batch.of(assign_credit(made, given)), made.terms)
    once, again = (prepare(world(), made.terms, batch, size).columns["policy_gradient/kept"] for size in (None, 30))
    assert torch.equal(once, again)
    assert int((~once).sum()) == int(0.1 * batch.n_tokens)


def test_kl_cov_pulls_the_tokens_of_highest_covariance_back():
    """As above, the first token has the highest: A r = e^.1, less coef * sign(log r)."""
    members, lp = [(1.0, 1.0), (-1.0, 0.0)], [[-1.0, -3.0], [-1.0, -1.0]]
    found = pushes(learner("kl_cov", share=0.25, coef=0.5), members, lp, old=[[-1.1, -3.0], [-1.0, -1.0]])
    assert found == pytest.approx([np.exp(0.1) - 0.5, 1.0, -1.0, -1.0], rel=STORED)


def test_kl_cov_has_no_penalty_at_ratio_one():
    given = groups()
    same(gradient_of("kl_cov", given, share=1.0), gradient_of("gfpo", given, keep=4))


def test_a_group_smaller_than_what_is_kept_or_compared_is_refused():
    with pytest.raises(ConfigError, match="keeps 8 of 4"):
        registry.get("gfpo").function(task=ParityTask(), group_size=4)
    with pytest.raises(ConfigError, match="pass@4 of groups of 2"):
        learner("grpo", ("pass_at_k", {}), group_size=2)
