"""Credits on groups, by hand; how they chain; what they leave alone."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from offon.errors import DataError
from offon.parts import SELF, Artefact, policy
from offon.parts.credits.base import token_rewards
from offon.parts.credits.group import (
    against_member,
    batch_mean,
    group_mean,
    group_mean_std,
    kept_mean_std,
    leave_one_out,
    length_weighted_mean,
    no_baseline,
    pass_at_k,
    per_reward_mean_std,
)
from offon.parts.credits.tokens import gae, kl_penalty, overlong_penalty, return_to_go, whiten
from offon.train.loop import assign_credit
from offon.types import Group, Item, Producer, Sampling, Source, Trajectory
from tests.rounding import FLOAT32, STORED

ITEM = Item(id="x", prompt="x")


def member(reward, length=2, *, tags=(), source=Source.LEARNER, behavior=None, max_tokens=10, columns=None, **signals):
    made = Trajectory.of(
        [5] * length, [1], source, behavior_logp=behavior or [-1.0] * length, tags=frozenset(tags),
        signals={"reward": reward, **signals},
        producer=Producer(model="m", sampling=Sampling(max_tokens=max_tokens)),
    )  # fmt: skip
    return made.with_token_signals(**(columns or {}))


def group(*members) -> Group:
    return Group(item=ITEM, views={"prompt": (1,)}, members=members)


def credited(credit, *groups):
    """The advantage columns, through the loop's own door: lists of tokens, by member."""
    done = assign_credit(policy(credit=credit), list(groups))
    return [m.token_signals["advantage"].tolist() for g in done for m in g.members]


def per_response(credit, *groups):
    columns = credited(credit, *groups)
    assert all(len(set(column)) <= 1 for column in columns)
    return [column[0] for column in columns]


def test_baselines_of_one_group_by_hand():
    """Rewards (1, 0, 0), lengths (3, 1, 2): mean 1/3, the others' mean, length-weighted mean 3/6."""
    g = group(member(1.0, 3), member(0.0, 1), member(0.0, 2))
    assert per_response(no_baseline(), g) == pytest.approx([1, 0, 0])
    assert per_response(group_mean(), g) == pytest.approx([2 / 3, -1 / 3, -1 / 3])
    assert per_response(leave_one_out(), g) == pytest.approx([1, -1 / 2, -1 / 2])
    assert per_response(length_weighted_mean(), g) == pytest.approx([1 / 2, -1 / 2, -1 / 2])


def test_the_batch_mean_runs_over_all_groups():
    assert per_response(batch_mean(), group(member(1.0)), group(member(0.0), member(0.5))) == [0.5, -0.5, 0.0]
    assert assign_credit(policy(credit=batch_mean()), [group()])[0].members == ()


def test_against_the_greedy_member():
    g = group(member(1.0), member(0.25, tags=["baseline"]))
    assert per_response(against_member(), g) == [0.75, 0.0]


def test_a_group_of_one_is_set_aside_where_credit_compares_members():
    """Elsewhere a group of one silently gets A = R or A = 0."""
    for credit in (leave_one_out(), group_mean_std(), kl_penalty(0.1) >> group_mean()):
        (done,) = assign_credit(policy(credit=credit), [group(member(1.0))])
        assert done.members == () and done.dropped[0][1] == "group too small for its credit"


def test_kept_members_have_their_own_statistics():
    """k = 2 shortest of lengths (4, 1, 2): rewards (0, 1), so +-1/sqrt 2; the long one gets 0, or leaves."""
    g = group(member(1.0, 4), member(0.0, 1), member(1.0, 2))
    expected = [-(0.5**0.5), 0.5**0.5]
    assert per_response(kept_mean_std(k=2, epsilon=0.0), g) == pytest.approx([0.0, *expected], abs=STORED)
    (done,) = assign_credit(policy(credit=kept_mean_std(k=2, rest="drop")), [g])
    assert [m.signals["reward"] for m in done.members] == [0.0, 1.0]
    assert done.dropped[0][1] == "not among the 2 kept by length"


def test_kept_by_reward_per_token_prefers_right_and_short():
    """1/4, 0/1, 1/2 reward per token: the right ones stay; equal rewards then teach nothing."""
    g = group(member(1.0, 4), member(0.0, 1), member(1.0, 2))
    (done,) = assign_credit(policy(credit=kept_mean_std(k=2, by="reward_per_token", rest="drop")), [g])
    assert [len(m) for m in done.members] == [4, 2]


def test_keeping_everybody_is_the_group_mean_and_std():
    g = group(member(1.0, 4), member(0.0, 1), member(1.0, 2))
    for rest in ("zero", "drop"):
        assert per_response(kept_mean_std(k=3, rest=rest), g) == pytest.approx(per_response(group_mean_std(), g))


def test_each_reward_is_normalised_before_they_are_added():
    """Two rewards of different scale count the same: (1, 0) and (0, 100) cancel; their sum would not."""
    g = group(member(1.0, style=0.0), member(0.0, style=100.0))
    weights = {"reward": 1.0, "style": 1.0}
    assert per_response(per_reward_mean_std(weights=weights, epsilon=0.0), g) == pytest.approx([0, 0], abs=STORED)
    single = per_reward_mean_std(weights={"reward": 1.0})
    assert per_response(single, g) == pytest.approx(per_response(group_mean_std(), g))


def test_pass_at_one_is_the_reward():
    g = group(member(1.0), member(0.0), member(0.5))
    assert per_response(pass_at_k(k=1), g) == pytest.approx([1.0, 0.0, 0.5])


def test_kl_in_the_reward_is_part_of_the_response_reward():
    """d = (-1 - -2, -1 - -.5) = (1, -.5); k1 with coef .1: the response's reward is 1 - .05, and the other's 0."""
    reference = {"logp@start": [-2.0, -0.5]}
    g = group(member(1.0, columns=reference), member(0.0, columns={"logp@start": [-1.0, -1.0]}))
    assert per_response(kl_penalty(0.1) >> no_baseline(), g) == pytest.approx([0.95, 0.0])
    k2 = -0.1 * (0.5 + 0.125)
    assert per_response(kl_penalty(0.1, "k2") >> no_baseline(), g) == pytest.approx([1 + k2, 0.0])
    k3 = -0.1 * (np.exp(-1) - 1 + 1 + np.exp(0.5) - 1 - 0.5)
    assert per_response(kl_penalty(0.1, "k3") >> no_baseline(), g) == pytest.approx([1 + k3, 0.0])


def test_return_to_go_carries_token_rewards_backwards():
    g = group(member(1.0, columns={"logp@start": [-2.0, -0.5]}))
    assert credited(kl_penalty(0.1) >> return_to_go(), g)[0] == pytest.approx([0.95, 1.05])
    assert credited(kl_penalty(0.1) >> return_to_go(gamma=0.5), g)[0] == pytest.approx([-0.1 + 0.525, 1.05])


def test_the_environments_tokens_get_no_penalty_and_no_return():
    tool = [Source.LEARNER, Source.ENVIRONMENT, Source.LEARNER, Source.ENVIRONMENT]
    g = group(member(1.0, 4, source=tool, columns={"logp@start": [-2.0, -9.0, -1.0, -9.0]}))
    assert credited(kl_penalty(0.1) >> return_to_go(), g)[0] == pytest.approx([0.9, 0, 1.0, 0])


def test_a_proximal_anchor_reads_the_learners_own_log_probs():
    g = group(member(0.0, columns={"logp@start": [-2.0, -2.0], "logp@self": [-2.0, -3.0]}))
    credit = kl_penalty(1.0, anchor="proximal")
    assert {need.column for need in credit.needs} == {"logp@start", "logp@self"}
    assert credited(credit >> return_to_go(), g)[0] == pytest.approx([1.0, 1.0])


def test_overlong_responses_lose_reward_before_the_group_is_compared():
    """Limit 10, buffer 4: 7 tokens lose 1/4, 10 lose 1, 6 nothing."""
    g = group(member(1.0, 6), member(1.0, 7), member(1.0, 10))
    assert per_response(overlong_penalty(buffer=0.4) >> no_baseline(), g) == pytest.approx([1, 0.75, 0])
    assert per_response(overlong_penalty(limit=20) >> no_baseline(), g) == pytest.approx([1, 1, 1])


def test_whitening_over_tokens_and_over_samples():
    """A = 1 on 3 tokens, 0 on 1: tokens give mean 3/4, unbiased std 1/2; samples give mean 1/2, std 1/sqrt 2."""
    groups = group(member(1.0, 3)), group(member(0.0, 1))
    over_tokens = per_response(no_baseline() >> whiten(epsilon=0.0), *groups)
    assert over_tokens == pytest.approx([0.5, -1.5])
    over_samples = per_response(no_baseline() >> whiten(over="samples", epsilon=0.0), *groups)
    assert over_samples == pytest.approx([0.5**0.5, -(0.5**0.5)], abs=STORED)
    only_scaled = per_response(no_baseline() >> whiten(centre=False, epsilon=0.0), *groups)
    assert only_scaled == pytest.approx([2.0, 0.0])


def test_gae_against_a_critic_writes_the_returns_it_is_trained_towards():
    critic = Artefact("critic")
    g = group(member(1.0, columns={"value@critic": [0.25, 0.5]}))
    (done,) = assign_credit(policy(credit=gae(critic=critic, lam=1.0)), [g])
    assert done.members[0].token_signals["advantage"] == pytest.approx([0.75, 0.5])
    assert done.members[0].token_signals["return"] == pytest.approx([1.0, 1.0])
    assert [need.column for need in gae(critic=critic).needs] == ["value@critic"]


def test_token_rewards_are_those_of_one_learners_credit_alone():
    """Two learners in one stage: the second does not inherit the first one's penalties."""
    g = group(member(1.0, columns={"logp@start": [-2.0, -0.5]}))
    done = assign_credit(policy(credit=kl_penalty(0.1) >> return_to_go()), [g])
    assert token_rewards(done[0].members[0]).tolist() == [0.0, 1.0]


def test_a_chain_asks_for_what_its_steps_ask_for():
    chain = kl_penalty(0.1) >> (leave_one_out() >> whiten())
    assert [type(step).__name__ for step in chain.steps] == ["KlPenalty", "LeaveOneOut", "Whiten"]
    assert chain.min_group == 2 and chain.requires == {"reward", "behavior_logp"}
    assert [need.column for need in chain.needs] == ["logp@start"]
    assert SELF not in {need.model for need in chain.needs}


def test_an_unscored_response_is_an_error_and_not_a_zero():
    for credit in (no_baseline(), return_to_go(), per_reward_mean_std(weights={"reward": 1.0})):
        with pytest.raises(DataError, match="'reward'"):
            assign_credit(policy(credit=credit), [group(member(None), member(1.0))])


def test_what_nobody_sampled_here_costs_nothing():
    """A demonstration has no behaviour log-probs and no token limit; a prefix somebody else wrote has NaN."""
    columns = {"logp@start": [-2.0, -0.5]}
    demo = Trajectory.of([5, 5], [1], Source.EXTERNAL, signals={"reward": 1.0}).with_token_signals(**columns)
    begun = member(1.0, behavior=[float("nan"), -1.0], columns=columns)
    credit = kl_penalty(0.1) >> overlong_penalty() >> no_baseline()
    assert per_response(credit, group(demo, begun)) == pytest.approx([1.0, 1.05])


def test_the_documented_credit_of_ones_own_runs():
    """docs/recipe.md: one best of three gets 1 - 1/3, the others -1/3; whitened over three members of two tokens."""
    page = (Path(__file__).parents[2] / "docs" / "recipe.md").read_text()
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "PerResponse" in block)
    made: dict = {}
    exec(code, made)
    columns = {"logp@start": [-1.0, -1.0]}
    g = group(*(member(reward, columns=columns) for reward in (1.0, 0.0, 0.0)))
    raw = np.repeat([2 / 3, -1 / 3, -1 / 3], 2)
    assert per_response(made["BestAgainstAll"](), g) == pytest.approx(raw[::2])
    assert per_response(made["credit"], g) == pytest.approx(raw[::2] / (raw.std(ddof=1) + 1e-4), rel=FLOAT32)
