"""The memory of a stage is its ledger: what it recorded, with the log-probs of the weights that sampled it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from offon.collect import add_demo, add_replay, experience, queue_hardest, rollouts, verify
from offon.runs import RunDirectory
from offon.train.context import Memory
from offon.types import Sampling, Source, Verdict
from tests import support
from tests.collect.support import Sampler
from tests.collect.test_combinators import MODEL, TASK, prompts, short
from tests.support import ParityTask

pytestmark = pytest.mark.slow


@pytest.fixture
def node(tmp_path):
    with RunDirectory.create(tmp_path / "run", recipe_text="") as run:
        yield run.node("node")


def entropy_of_length(groups, need):
    """Stands for scoring: the longer a response, the surer the learner is of it."""
    return [g.map(lambda m: m.with_token_signals(**{need.column: np.full(len(m), -len(m))})) for g in groups]


def context(node, index=0):
    return dataclasses.replace(Sampler(MODEL).context(index=index), memory=Memory(node), score=entropy_of_length)


def record(node, buffer, n=4, first=0, size=3, task=TASK):
    """Buffer number `buffer`: n prompts from draw `first` on, produced at step `buffer`."""
    groups = short(rollouts(task, size) | verify(task))(context(node), prompts(n, first))
    groups = [
        g.map(lambda m: m.replace(producer=dataclasses.replace(m.producer, step=buffer))).replace(
            comparisons=(), draw=g.draw
        )
        for g in groups
    ]
    node.write_buffer(buffer, groups)
    return groups


def test_memory_gives_back_what_was_recorded_of_this_stage_alone(node):
    written = record(node, 0)
    node.run.node("other").write_buffer(0, record(node.run.node("other"), 0))
    aside = [written[0].drop([False, True, True], "why"), *written[1:]]
    node.write_buffer(0, aside)
    wanted = written[0].members[0]
    [found] = context(node).memory(f"id = '{wanted.id}'")
    [member] = found.members
    assert found.prompt == written[0].prompt and member.tokens.tolist() == wanted.tokens.tolist()
    assert member.behavior_logp.tolist() == wanted.behavior_logp.tolist() and member.views == wanted.views
    assert len(context(node).memory("true")) == 4


def test_replays_keep_their_log_probs_and_age_and_are_new_trajectories(node):
    [past] = record(node, 0, n=1)
    [group] = add_replay(n=2)(context(node), prompts(1, first=len(TASK.items("train"))))
    assert [m.tokens.tolist() for m in group.members] == [m.tokens.tolist() for m in past.members[:2]]
    for old, new in zip(past.members, group.members, strict=False):
        assert new.behavior_logp.tolist() == old.behavior_logp.tolist() and new.producer.step == 0
        assert "replay" in new.tags and new.id != old.id and new.signals["reward"] == old.signals["reward"]
        assert not new.token_signals, "what the old buffer scored says nothing now"


def test_what_is_chosen(node):
    """Two visits of one prompt with three responses each."""
    n_prompts = len(TASK.items("train"))
    early, late = record(node, 0, n=1)[0], record(node, 1, n=1, first=n_prompts)[0]
    everyone = [*late.members, *early.members]
    visit = prompts(1, first=2 * n_prompts)

    def chosen(by, n):
        [group] = add_replay(n=n, choose=by)(context(node), visit)
        return group.members

    assert {m.producer.step for m in chosen("recent", 3)} == {1}
    best = sorted((m.signals["reward"] for m in everyone), reverse=True)
    assert [m.signals["reward"] for m in chosen("highest", 2)] == best[:2]
    assert sorted(m.signals["reward"] for m in chosen("varied", 2)) == [best[-1], best[0]]
    assert len(chosen("least entropy", 1)[0]) == max(map(len, everyone))
    assert len(chosen("random", 6)) == len(chosen("recent", 9)) == 6
    again = [m.tokens.tolist() for m in chosen("random", 2)]
    assert again == [m.tokens.tolist() for m in chosen("random", 2)]


def test_replays_are_not_replayed_and_prompts_wait_for_enough_of_them(node):
    n_prompts = len(TASK.items("train"))
    record(node, 0, n=1)
    again = add_replay(n=3)(context(node), prompts(1, first=n_prompts))
    node.write_buffer(1, again)
    visit = prompts(1, first=2 * n_prompts)
    assert len(add_replay(n=9)(context(node), visit)[0].members) == 3
    assert len(add_replay(n=9, from_n=4)(context(node), visit)[0].members) == 0
    assert not add_replay(n=0)(context(node), visit)[0].members


# --- ExGRPO's experience ---


def rewarded(*scores):
    """A task that hands out these scores in order, over and over."""
    given = iter(scores * 1000)

    class Task(ParityTask):
        def verify(self, pairs):
            return [Verdict(next(given)) for _ in pairs]

    return Task()


def test_experience_waits_for_success_and_retires_what_is_solved(node):
    """Prompts 0..3 with success rates 2/3, 1, 0, 2/3: the second is solved, the third has nothing to replay."""
    later = prompts(4, first=12)
    collect = experience(share=1.0, start=0.9)
    task = rewarded(1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 1.0)
    written = record(node, 0, task=task)
    assert experience(share=1.0)(context(node), []) == []
    assert collect(context(node), later) == later, "no buffer has had a success rate above 0.9"
    groups = experience(share=1.0)(context(node), later)
    assert [len(group.members) for group in groups] == [0, 0, 1, 1] and groups[:2] == later[:2]
    assert {g.item.id for g in groups[2:]} == {written[0].item.id, written[3].item.id}
    assert [g.draw for g in groups] == [g.draw for g in later]
    for group in groups[2:]:
        [past] = [g for g in written if g.item.id == group.item.id]
        right = [m for m in past.members if m.signals["reward"] == 1]
        assert len(group.members[0]) == max(map(len, right)), "the one the learner is surest of"
    filled = short(rollouts(TASK, 3, total=True))(context(node), groups)
    assert [len(group.members) for group in filled] == [3, 3, 3, 3]
    assert all("replay" in group.members[0].tags for group in filled[2:])


def test_experience_draws_prompts_of_middling_success(node):
    """Rates 1/3 and 2/3 against a centre of 1/3, narrow: the first kind is all that is drawn."""
    record(node, 0, n=8, task=rewarded(1.0, 0.0, 0.0, 1.0, 1.0, 0.0))
    collect = experience(share=0.5, centre=1 / 3, width=0.05)
    picked = {g.item.id for g in collect(context(node), prompts(8, first=30)) if g.members}
    assert picked == {g.item.id for g in prompts(8)[::2]}


# --- ReLIFT's queue ---


def test_prompts_that_failed_queue_up_until_they_fill_a_buffer(node):
    """Two of four prompts fail in each buffer: after two buffers the queue of four is a buffer of demonstrations."""
    data = support.demonstrations()
    task = rewarded(1.0, 0.0, 0.0, 0.0)
    collect = short(queue_hardest(collect=rollouts(task, 2) | verify(task), demos=add_demo(data)))
    hardest = []
    for buffer in (0, 1):
        groups = collect(context(node), prompts(4, first=4 * buffer))
        assert all(len(group.members) == 2 for group in groups)
        hardest += [g for g in groups if max(m.signals["reward"] for m in g.members) == 0]
        node.write_buffer(buffer, groups)
    served = collect(context(node), prompts(4, first=8))
    assert [g.item.id for g in served] == [g.item.id for g in hardest]
    assert [g.draw for g in served] == [8, 9, 10, 11]
    assert all(
        {int(s) for s in m.source} == {Source.EXTERNAL} and "queued" in m.tags for g in served for m in g.members
    )
    node.write_buffer(2, served)
    groups = collect(context(node), prompts(4, first=12))
    assert all(len(group.members) == 2 for group in groups), "the queue was served and is empty"


def test_without_hard_prompts_nothing_is_queued(node):
    task = rewarded(1.0, 0.0)
    inner = short(rollouts(task, 2) | verify(task))
    collect = queue_hardest(collect=inner, demos=add_demo(support.demonstrations()))
    for buffer in range(3):
        groups = collect(context(node), prompts(4, first=4 * buffer))
        node.write_buffer(buffer, groups)
        assert all({int(s) for m in g.members for s in m.source} == {Source.LEARNER} for g in groups)


def test_hints_of_sampling_reach_what_is_inside():
    collect = queue_hardest(collect=rollouts(TASK, 2), demos=add_demo([])).given(sampling=Sampling(max_tokens=3))
    assert collect.collect.sampling.max_tokens == 3
