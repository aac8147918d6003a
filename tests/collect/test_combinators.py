"""Collectors around collectors, by hand: what is kept, what is set aside and why, and what decides it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from offon.collect import (
    Rollouts,
    add_demo,
    demonstrations,
    drop,
    gate,
    mixed,
    mixture,
    refill,
    right,
    rollouts,
    score,
    tagged,
    verify,
)
from offon.data import Renderer
from offon.errors import ConfigError, DataError
from offon.parts import Fade, Stage, behavior, credit, group_mean_std, policy, policy_gradient
from offon.types import Sampling, Source, Verdict
from tests import support
from tests.collect.support import Sampler
from tests.support import ParityTask, prompt_group

TASK = ParityTask()
SHORT = Sampling(max_tokens=5)
MODEL = support.model(0)


def prompts(n: int, first: int = 0):
    items = TASK.items("train")
    return [prompt_group(items[draw % len(items)]).replace(draw=draw) for draw in range(first, first + n)]


def context(sampler: Sampler, first: int = 100):
    """With prompts to draw: number `first` and on."""
    drawn = [first]

    def more(n: int):
        drawn[0] += n
        return prompts(n, drawn[0] - n)

    plain = sampler.context()
    return dataclasses.replace(plain, step=dataclasses.replace(plain.step, more=more)), drawn


def short(collector):
    return collector.given(sampling=SHORT)


def everyone(groups):
    return [member for group in groups for member in [*group.members, *(m for m, _ in group.dropped)]]


# --- rollouts ---


def test_members_carry_all_views_of_their_group():
    """A teacher may read what the student did not: "hint" is on every member; "sample" is what was sampled."""
    [group] = short(rollouts(TASK, 2))(Sampler(MODEL).context(), prompts(1))
    for member in group.members:
        assert member.prefix("hint") == group.views["hint"] and member.prefix() == group.prompt


def test_a_greedy_baseline_has_its_own_sampling_and_tag():
    """One sampled and one greedy member; the node's sampling reaches both, but not what the greedy one fixes."""
    collect = rollouts(TASK, 1) | rollouts(TASK, 1, temperature=0.0, tag="baseline")
    (sampled, greedy), (_, again) = (
        group.members for group in (short(collect)(Sampler(MODEL).context(), prompts(1) * 2))
    )
    assert (greedy.producer.sampling.temperature, greedy.producer.sampling.max_tokens) == (0.0, 5)
    assert sampled.producer.sampling.temperature == 1.0 and "baseline" in greedy.tags
    assert greedy.tokens.tolist() == again.tokens.tolist()
    assert "behavior_logp" in collect.parts[0].provides and "behavior_logp" not in collect.parts[1].provides


def test_members_that_join_after_the_verdict_are_not_scored():
    learner = policy(policy_gradient(advantage=credit, ratio=behavior), credit=group_mean_std())
    Stage(rollouts(TASK, 4) | rollouts(TASK, 1) | verify(TASK), learner).validate()
    with pytest.raises(ConfigError, match="reward"):
        Stage(rollouts(TASK, 4) | verify(TASK) | rollouts(TASK, 1), learner).validate()


def test_a_score_for_choices_made_while_collecting_is_a_column_that_others_may_require():
    part = score("entropy")
    assert part.provides == {"entropy@self"} and part.requires == {"members"}
    asked = []

    def scored(groups, need):
        asked.append(need)
        return [g.map(lambda m: m.with_token_signals(**{need.column: np.zeros(len(m))})) for g in groups]

    where = dataclasses.replace(Sampler(MODEL).context(), score=scored)
    [group] = short(rollouts(TASK, 2) | part)(where, prompts(1))
    assert [need.when for need in asked] == ["buffer"]
    assert all("entropy@self" in member.token_signals for member in group.members)


# --- refill ---


def test_refill_draws_until_the_buffer_is_full_of_mixed_groups():
    """As many mixed groups as were asked for come first; the others stay on record, empty, with the reason."""
    where, drawn = context(Sampler(MODEL))
    collect = short(refill(rollouts(TASK, 2) | verify(TASK), keep=mixed, max_rounds=20))
    groups = collect(where, prompts(8))
    kept, aside = groups[:8], groups[8:]
    assert all(len({m.signals["reward"] for m in group.members}) == 2 for group in kept)
    assert aside and all(not g.members and {why for _, why in g.dropped} == {"not mixed in reward"} for g in aside)
    assert len(groups) == 8 + drawn[0] - 100, "every prompt drawn is on record"
    ids = [member.id for member in everyone(groups)]
    assert len(set(ids)) == len(ids) == 2 * len(groups)


def test_refill_is_a_function_of_seed_and_draw():
    first, second = (
        short(refill(rollouts(TASK, 2) | verify(TASK)))(context(Sampler(MODEL))[0], prompts(6)) for _ in "ab"
    )
    assert [m.tokens.tolist() for m in everyone(first)] == [m.tokens.tolist() for m in everyone(second)]


def test_refill_gives_up_after_max_rounds(monkeypatch):
    monkeypatch.setattr(ParityTask, "verify", lambda task, pairs: [Verdict(0.0) for _ in pairs])
    where, drawn = context(Sampler(MODEL))
    groups = short(refill(rollouts(TASK, 2) | verify(TASK), max_rounds=3))(where, prompts(4))
    assert drawn[0] == 108 and len(groups) == 12 and not any(group.members for group in groups)


def test_a_refill_without_a_verdict_is_refused():
    with pytest.raises(ConfigError, match="refill.*needs reward"):
        Stage(refill(rollouts(TASK, 2)), policy(policy_gradient(advantage=credit), credit=group_mean_std())).validate()


def test_nested_rollouts_are_given_the_node_s_sampling():
    collect = short(refill(mixture(rollouts(TASK, 2), rollouts(TASK, 1)) | verify(TASK)))
    assert [part.sampling for part in collect.everything if isinstance(part, Rollouts)] == [SHORT, SHORT]


# --- gate, drop, mixture ---


def test_a_gate_replaces_the_members_of_failed_groups_by_demonstrations():
    """HPT: a group with a success keeps its rollouts; one without keeps only the demonstration."""
    data = support.demonstrations()
    collect = short(rollouts(TASK, 1) | verify(TASK) | gate(right(over=0), add_demo(data)))
    groups = collect(Sampler(MODEL).context(), prompts(8))
    passed = [group for group in groups if not group.dropped]
    assert 0 < len(passed) < 8
    for group in groups:
        sources = {int(source) for member in group.members for source in member.source}
        assert sources == ({Source.LEARNER} if group in passed else {Source.EXTERNAL})
        assert group in passed or [why for _, why in group.dropped] == ["not right more than 0 times"]


def test_truncated_members_are_set_aside():
    groups = short(rollouts(TASK, 3) | drop(tagged("truncated")))(Sampler(MODEL).context(), prompts(6))
    assert {why for group in groups for _, why in group.dropped} == {"truncated"}
    assert all(member.tokens[-1] == 1 for group in groups for member in group.members)


@pytest.mark.parametrize("per, sizes", [("group", 2), ("step", 1)])
def test_a_mixture_flips_a_coin_for_each_group_or_for_all(per, sizes):
    """Fresh groups hold two rollouts, the others their demonstration; one coin for a step gives one kind."""
    data = [group.replace(draw=draw) for draw, group in enumerate(support.demonstrations())]
    collect = short(mixture(rollouts(None, 2), demonstrations(data), share=0.5, per=per))
    groups = collect(Sampler(MODEL).context(), data)
    assert len({len(group.members) for group in groups}) == sizes
    assert all(len(g.members) == 1 or {int(s) for m in g.members for s in m.source} == {2} for g in groups)
    assert collect.data is data


def test_the_share_of_a_mixture_is_a_schedule():
    data = [group.replace(draw=draw) for draw, group in enumerate(support.demonstrations())]
    collect = short(mixture(rollouts(None, 2), demonstrations(data), share=Fade(1.0, 0.0, share=0.5)))
    for index, size in ((0, 2), (5, 1)):
        groups = collect(Sampler(MODEL).context(index=index), data)
        assert {len(group.members) for group in groups} == {size}


# --- demonstrations beside rollouts ---


def test_demonstrations_are_found_by_prompt_and_scored_like_the_others():
    data = support.demonstrations()
    collect = short(rollouts(TASK, 2) | add_demo(data, 1) | verify(TASK))
    for group in collect(Sampler(MODEL).context(), prompts(4)):
        *own, demo = group.members
        assert demo.prefix() == group.prompt and set(demo.source.tolist()) == {Source.EXTERNAL}
        assert demo.id not in {member.id for member in own} and demo.signals["reward"] is not None
        assert demo.behavior_logp is None
        [told] = [g.members[0] for g in data if g.prompt == group.prompt]
        assert demo.tokens.tolist() == told.tokens.tolist()


def test_which_of_several_demonstrations_is_a_function_of_the_draw():
    [group] = prompts(1)
    many = support.demonstrations()
    member = many[0].members[0]
    one = many[0].replace(
        views=group.views, members=tuple(member.replace(tokens=np.full(len(member), 2 + i)) for i in range(5))
    )
    chosen = [
        [m.tokens[0] for m in add_demo([one], 2)(Sampler(MODEL).context(), [group.replace(draw=draw)])[0].members]
        for draw in (0, 0, 1, 2, 3, 4, 5)
    ]
    assert chosen[0] == chosen[1] and len({tuple(c) for c in chosen}) > 2 and all(len(set(c)) == 2 for c in chosen)


def test_data_that_demonstrate_other_prompts_are_refused():
    with pytest.raises(DataError, match="no prompt of the task has a demonstration"):
        add_demo([group.replace(views={"prompt": (9, 9)}) for group in support.demonstrations()]).check(
            prompts(3), Renderer(support.tokenizer())
        )
