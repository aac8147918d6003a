"""Rows on rewards of whole responses: the limits in which one is another, and hand numbers.

Groups are made by hand: lengths, rewards, and behaviour log-probs a little off the learner's, so that no ratio is 1
unless a test says so. Each row's gradient is also checked against its paper's own surrogate (variants/rewards.py).
"""

from __future__ import annotations

import functools

import numpy as np
import pytest

from offon.errors import ConfigError
from offon.loops.scoring import score_buffer
from offon.loops.stage import assign_credit
from offon.methods import registry
from offon.parts.models import SELF, SELF_START, Need
from offon.types import Producer, Sampling, Source, Trajectory
from tests.methods.cases import difference, gradient
from tests.support import ParityTask, World, model, prompt_group

REWARDS = (1.0, 0.0, 0.0, 1.0)


@functools.cache
def world() -> World:
    return World(model(0), {"start": model(1)})


@functools.cache
def groups(rewards=REWARDS, gap=0.0, prompts=4, equal_lengths=False):
    """`gap`: how far behaviour log-probs are from the learner's, in nats (alternating signs); 0 makes every ratio 1."""
    made = []
    for draw, item in enumerate(ParityTask().items("train")[:prompts]):
        group = prompt_group(item)
        for i, reward in enumerate(rewards):
            length = 3 if equal_lengths else 1 + (draw + i) % 4
            tokens = [2 + (draw + 2 * i + t) % 10 for t in range(length)] + [1]
            member = Trajectory.of(
                tokens, group.prompt, Source.LEARNER, signals={"reward": reward, "content": 1 - reward / 2},
                producer=Producer(model="m", sampling=Sampling(max_tokens=6)), id=f"{draw}/{i}",
            )  # fmt: skip
            group = group.add(member)
        made.append(group.replace(draw=draw))
    for need in (Need("logp", SELF, when="buffer"), Need("logp", SELF_START, when="buffer")):
        made = score_buffer(world()(need.model), made, need, 10_000)

    def sampled(m):
        return m.replace(behavior_logp=m.token_signals["logp@self"] + gap * (-1.0) ** np.arange(len(m)))

    return [g.map(sampled) for g in made]


def learner(row, **arguments):
    (learner,) = registry.get(row).function(task=ParityTask(), **arguments).validate().learners
    return learner


def gradient_of(row, given=None, *, times=1.0, **arguments):
    made = learner(row, **arguments)
    found = gradient(made, assign_credit(made, given or groups(gap=0.3)), world())
    return {name: times * g for name, g in found.items()}


def advantages(row, given, **arguments):
    done = assign_credit(learner(row, **arguments), given)
    return [float(m.token_signals["advantage"][0]) for g in done for m in g.members]


def same(a, b, tolerance=1e-5):
    assert difference(a, b) < tolerance


def test_rloo_is_the_group_mean_times_g_over_g_minus_one_and_dr_grpo_a_scale_of_it():
    """A = G/(G-1)(R - mean); Dr.GRPO divides by its constant instead: at ratio 1, dr_grpo = rloo (G-1)/G / C."""
    given = groups()
    assert advantages("rloo", given, kl=0.0) == pytest.approx([4 / 3 * a for a in advantages("dr_grpo", given)])
    assert sum(advantages("rloo", given, kl=0.0)) == pytest.approx(0)
    same(gradient_of("dr_grpo", given, length=50), gradient_of("rloo", given, kl=0.0, times=3 / 4 / 50))


def test_with_kl_in_the_reward_rloo_still_sums_to_zero():
    given = groups()
    assert sum(advantages("rloo", given, kl=0.5)) == pytest.approx(0, abs=1e-5)
    assert advantages("rloo", given, kl=0.5) != pytest.approx(advantages("rloo", given, kl=0.0), abs=1e-3)


def test_one_response_without_baseline_is_minus_reward_times_the_gradient_of_its_log_probability():
    one = groups(rewards=(2.0,), prompts=1)
    single = groups(rewards=(1.0,), prompts=1)
    same(gradient_of("reinforce", one, baseline="none"), gradient_of("reinforce", single, baseline="none", times=2.0))


def test_a_constant_added_to_every_reward_changes_nothing_under_a_baseline():
    given, shifted = groups(), groups(rewards=tuple(r + 3 for r in REWARDS))
    for row in ("reinforce", "rloo", "grpo", "dr_grpo", "gspo", "opo", "reinforce_pp_baseline", "gfpo", "gdpo"):
        arguments = {"keep": 3} if row == "gfpo" else {}
        same(gradient_of(row, shifted, **arguments), gradient_of(row, given, **arguments), 1e-4)


def test_gspo_is_grpo_at_ratio_one():
    same(gradient_of("gspo", groups()), gradient_of("grpo", groups()))


def test_gspo_weighs_a_response_by_its_mean_log_ratio_and_never_by_its_length():
    """Two tokens with log-ratios +.3 and -.3 have s = 1: as at ratio 1, where grpo's token ratios differ."""
    pairs = [g.replace(members=tuple(m for m in g.members if len(m) % 2 == 0)) for g in groups(gap=0.3)]
    at_one = [g.replace(members=tuple(m for m in g.members if len(m) % 2 == 0)) for g in groups()]
    same(gradient_of("gspo", pairs), gradient_of("gspo", at_one), 1e-4)
    assert difference(gradient_of("grpo", pairs, clip=(9.0, 9.0)), gradient_of("grpo", at_one)) > 1e-2


def test_opo_of_equal_lengths_has_the_mean_as_baseline():
    given = groups(equal_lengths=True)
    assert advantages("opo", given) == pytest.approx(advantages("dr_grpo", given))
    same(gradient_of("opo", given), gradient_of("dr_grpo", given, length=4))  # 3 tokens and the end


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
    assert advantages("reinforce_pp", given, kl=0.0) == pytest.approx(expected, abs=1e-5)


def test_gdpo_of_one_reward_is_grpo_over_the_batch_std():
    given = groups(gap=0.3)
    scale = 1 / (np.std(advantages("grpo", given), ddof=1) + 1e-4)
    same(gradient_of("gdpo", given), gradient_of("grpo", given, times=scale))


def test_gdpo_whitens_samples_or_tokens():
    given = groups()
    lengths = [len(m) for g in given for m in g.members]
    plain = np.array(advantages("grpo", given))
    samples, tokens = (np.array(advantages("gdpo", given, over=over)) for over in ("samples", "tokens"))
    assert samples == pytest.approx(plain / (plain.std(ddof=1) + 1e-4), abs=1e-5)  # the groups' means are 0
    spread = np.repeat(plain, lengths)
    assert tokens == pytest.approx((plain - spread.mean()) / (spread.std(ddof=1) + 1e-4), abs=1e-5)


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

    for row in ("grpo", "gspo", "reinforce_pp", "rloo"):
        stage = registry.get(row).function(task=ParityTask())
        cut = stage.replace(collect=Pipe(stage.collect.parts).replace(Rollouts, sampling=Sampling(top_p=0.9)))
        with pytest.raises(ConfigError, match="behavior_logp"):
            cut.validate()
