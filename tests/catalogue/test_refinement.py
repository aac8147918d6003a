"""Refinement: what is asked, what is trained under which prompt, and what each attempt earns."""

import dataclasses

import numpy as np
import pytest
import torch

from offon.catalogue.methods.grpo import dr_grpo
from offon.catalogue.methods.refinement import critique_grpo, critique_revise, score
from offon.collect import again, keep_best, refine, rollouts, verify
from offon.data.render import Renderer
from offon.parts.context import Context
from offon.parts.credits.steps import turn_rewards
from offon.train.scoring import layout_of, weigh
from offon.types import Group, Item, Sampling, Source, Span, Trajectory
from offon.types.batch import Batch
from tests.collect.support import Sampler
from tests.rounding import FLOAT32_SUM
from tests.support import ParityTask, model, prompt_group

TASK = ParityTask()


@pytest.fixture(scope="module")
def sampler():
    return Sampler(model(0))


def context_of(sampler) -> Context:
    context = sampler.context()
    step = dataclasses.replace(context.step, render=Renderer(sampler.models["self"].tokenizer))
    return dataclasses.replace(context, step=step)


def collected(sampler, chain, n=4) -> list[Group]:
    groups = [prompt_group(item).replace(draw=draw) for draw, item in enumerate(TASK.items("train")[:n])]
    return chain.given(sampling=Sampling(max_tokens=4))(context_of(sampler), groups)


def logp(sampler, member: Trajectory, view: str) -> np.ndarray:
    with torch.no_grad():
        return sampler.models["self"].logp(layout_of([member], view)).numpy()


# --- conversations ----------------------------------------------------------------------------------------------------


def test_a_further_attempt_follows_the_ask_in_the_same_conversation(sampler):
    """Response, the ask as the environment's, response: two turns, the first with its reward, and nothing of the ask is
    trained."""
    before = collected(sampler, rollouts(TASK, 2) | verify(TASK))
    after = collected(sampler, rollouts(TASK, 2) | verify(TASK) | again(" w5 w6"))
    ask = [7, 8]  # w5 w6
    for old, new in zip((m for g in before for m in g.members), (m for g in after for m in g.members), strict=True):
        first, second = (span for span in new.spans if span.name == "turn")
        assert new.id == old.id and (first.start, first.end) == (0, len(old))
        assert first.signals["reward"] == old.signals["reward"] and "reward" not in new.signals
        assert new.tokens[: len(old)].tolist() == old.tokens.tolist()
        assert new.tokens[len(old) : second.start].tolist() == ask and second.end == len(new)
        assert new.trainable.tolist() == [True] * len(old) + [False] * 2 + [True] * (len(new) - len(old) - 2)
        assert (new.source[len(old) : second.start] == Source.ENVIRONMENT).all()


def test_log_probs_of_every_attempt_are_the_samplers_under_the_conversation(sampler):
    for group in collected(sampler, rollouts(TASK, 2) | verify(TASK) | again(" w5 w6", " w7")):
        for member in group.members:
            said = member.trainable
            assert np.allclose(logp(sampler, member, "train")[said], member.behavior_logp[said], atol=FLOAT32_SUM)
            assert np.isnan(member.behavior_logp[~said]).all()


def test_a_checker_sees_the_last_attempt_alone(sampler):
    for group in collected(sampler, rollouts(TASK, 2) | verify(TASK) | again(" w5") | verify(TASK)):
        for member in group.members:
            assert len(member.text.split()) <= 4
            assert member.signals["reward"] == TASK.verify([(group.item, member.text)])[0].score


def test_asks_name_the_verdict_and_the_reference(sampler):
    written = []

    class Recording(Renderer):
        def turn(self, prompt, said, content, role="user"):
            written.append(content)
            return super().turn(prompt, said, " w5")

    context = context_of(sampler)
    step = dataclasses.replace(context.step, render=Recording(context.step.render.tokenizer))
    members = tuple(Trajectory.of([4], [2], Source.LEARNER, behavior_logp=[0.0], signals={"reward": r}) for r in (1, 0))
    item = Item(id="x", prompt="w0", reference="w7")
    group = Group(item=item, views={"prompt": (2,)}, members=members, draw=0)
    asked = again("{verdict}: {reference}").given(sampling=Sampling(max_tokens=4))
    asked(dataclasses.replace(context, step=step), [group])
    assert written == ["correct: w7", "incorrect: w7"]
    assert again(" {verdict}").requires == {"members", "reward"} and again(" w1").requires == {"members"}


def test_one_call_of_the_model_per_ask(sampler):
    sampler.calls.clear()
    collected(sampler, rollouts(TASK, 3) | verify(TASK) | again(" w5", " w6"))
    assert [len(requests) for requests in sampler.calls] == [12, 12, 12]
    keys = [request.key for requests in sampler.calls for request in requests]
    assert len(set(keys)) == len(keys)


# --- refinements ------------------------------------------------------------------------------------------------------


def test_a_refinement_is_trained_after_the_prompt_and_keeps_the_samplers_log_probs(sampler):
    """Under the view it was sampled under they are the learner's own; under the trained one they are not: a ratio of 1
    there would hide where it came from."""
    groups = collected(sampler, rollouts(TASK, 2) | verify(TASK) | refine(" w5", " w6"))
    differing = 0
    for group in groups:
        drafts = [m for m in group.members if "refined" not in m.tags]
        for draft, refined in zip(drafts, [m for m in group.members if "refined" in m.tags], strict=True):
            assert refined.prefix("train") == group.prompt and refined.off_policy_by_conditioning
            assert refined.prefix("sample")[: len(group.prompt) + len(draft)] == (*group.prompt, *draft.tokens)
            assert np.allclose(logp(sampler, refined, "sample"), refined.behavior_logp, atol=FLOAT32_SUM)
            differing += np.abs(logp(sampler, refined, "train") - refined.behavior_logp).max() > 0.05
            assert refined.trainable.all() and refined.id not in {m.id for m in drafts}
    assert differing >= 6


def test_the_best_refinement_joins_the_group_and_drafts_stay(sampler):
    chain = rollouts(TASK, 3) | verify(TASK) | refine(" w5 w6") | verify(TASK) | keep_best(1, among="refined")
    for group in collected(sampler, chain):
        *drafts, best = group.members
        assert len(drafts) == 3 and "refined" in best.tags
        others = [m.signals["reward"] for m, _ in group.dropped]
        assert len(others) == 2 and best.signals["reward"] >= max(others)


def test_a_response_is_verified_once(sampler):
    class Counting(ParityTask):
        asked = 0

        def verify(self, pairs):
            Counting.asked += len(pairs)
            return super().verify(pairs)

    task = Counting()
    collected(sampler, rollouts(task, 3) | verify(task) | refine(" w5") | verify(task), n=2)
    assert Counting.asked == 12


def test_critique_revise_trains_the_revision_or_the_whole_chain(sampler):
    revision, chain = (
        collected(sampler, critique_revise(TASK, asks=(" w5", " w6"), trained=trained).collect, n=2)
        for trained in ("revision", "chain")
    )
    for short, long in zip(revision, chain, strict=True):
        [refined], [whole] = short.members, long.members
        assert [reason for _, reason in short.dropped] == ["revised"]
        assert whole.last_turn.tolist() == refined.tokens.tolist()
        assert whole.trainable.sum() == len(whole) - 2  # each ask is one token


# --- rewards of attempts ----------------------------------------------------------------------------------------------


def attempts(first: float, second: float) -> Trajectory:
    """Two tokens, one of the environment, one token."""
    spans = (Span("turn", 0, 2, {"reward": first}), Span("turn", 3, 4))
    return Trajectory.of([4, 5, 6, 7], [2], [2, 2, 3, 2], spans=spans, signals={"reward": second})


def advantages(credit, *pairs) -> list[list[float]]:
    group = Group(item=Item(id="x", prompt="w0"), views={"prompt": (2,)}, members=tuple(attempts(*p) for p in pairs))
    return [[m.token_signals["advantage"][i] for i in (0, 1, 3)] for m in credit(group).members]


def test_the_bonus_goes_to_the_second_attempt_alone():
    """(0, 1) and (1, 1): second attempts earn 1 + 10 (1 - 0) = 11 and 1; first ones 0 and 1. Leave-one-out of two."""
    assert advantages(turn_rewards(bonus=10.0), (0.0, 1.0), (1.0, 1.0)) == [[-1, -1, 10], [1, 1, -10]]


def test_equal_attempts_earn_no_bonus():
    pairs = [(1.0, 1.0), (0.0, 0.0)]
    assert advantages(turn_rewards(bonus=10.0), *pairs) == advantages(turn_rewards(bonus=0.0), *pairs)


def test_without_bonus_each_attempt_is_leave_one_out_on_its_own_reward():
    assert advantages(turn_rewards(), (1.0, 0.0), (0.0, 0.0), (0.0, 1.0)) == [
        [1.0, 1.0, -0.5], [-0.5, -0.5, -0.5], [-0.5, -0.5, 1.0],
    ]  # fmt: skip


def test_rewards_of_tokens_stay_with_the_attempt_they_were_given_in():
    """A KL penalty of 1 on the first token of one of two members, leave-one-out: all of its first attempt pays 1."""
    pair = [attempts(0.0, 0.0), attempts(0.0, 0.0)]
    pair[0] = pair[0].with_token_signals(token_reward=np.array([-1.0, *[0.0] * (len(pair[0]) - 1)]))
    assert turn_rewards().counts_token_rewards
    group = turn_rewards(bonus=10.0)(Group(item=Item(id="x", prompt="w0"), views={"prompt": (2,)}, members=tuple(pair)))
    assert [m.token_signals["advantage"].tolist() for m in group.members] == [[-1, -1, 0, 0], [1, 1, 0, 0]]


def test_the_first_stage_rewards_second_attempts_and_holds_first_ones():
    learner = score(TASK, phase="first").learners[0]
    assert advantages(learner.credit, (1.0, 0.0), (0.0, 1.0)) == [[0, 0, -1], [0, 0, 1]]
    assert {term.name: (term.on, term.coef) for term in learner.terms if term.factor} == {
        "kl": ("trainable", 0.01), "kl_first": ("turn:0", 0.1),
    }  # fmt: skip
    member = attempts(1.0, 0.0).with_token_signals(advantage=[0, 0, 0, 0])
    group = Group(item=Item(id="x", prompt="w0"), views={"prompt": (2,)}, members=(member,))
    weights = weigh(Batch.of([group]), learner.terms).weights
    assert weights["kl_first"].tolist() == [1, 1, 0, 0] and weights["kl"].tolist() == [1, 1, 0, 1]


# --- critique-grpo ----------------------------------------------------------------------------------------------------


def test_without_refinements_critique_grpo_is_dr_grpo_without_its_clip():
    """The same credit and the same weights on the learner's own tokens; the refined term weighs nothing."""
    refining, plain = critique_grpo(TASK, length=50).learners[0], dr_grpo(TASK, length=50).learners[0]
    assert refining.credit == plain.credit
    members = tuple(
        Trajectory.of([4] * n, [2], Source.LEARNER, behavior_logp=[0.0] * n, signals={"reward": r})
        for n, r in ((2, 1.0), (3, 0.0))
    )
    batch = Batch.of([plain.credit(Group(item=Item(id="x", prompt="w0"), views={"prompt": (2,)}, members=members))])
    ours, theirs = weigh(batch, refining.terms).weights, weigh(batch, plain.terms).weights
    assert torch.equal(ours["policy_gradient"], theirs["policy_gradient"]) and not ours["refined"].any()


def test_own_and_refined_responses_share_one_denominator():
    """Three responses, one of them refined: every token weighs 1 / (3 length)."""
    members = tuple(
        Trajectory.of([4] * n, [2], Source.LEARNER, behavior_logp=[0.0] * n, tags=tags, token_signals={})
        for n, tags in ((2, frozenset()), (3, frozenset()), (1, frozenset({"refined"})))
    )
    group = Group(item=Item(id="x", prompt="w0"), views={"prompt": (2,)}, members=members)
    weights = weigh(Batch.of([group]), critique_grpo(TASK, length=10).learners[0].terms).weights
    assert weights["policy_gradient"].tolist() == pytest.approx([1 / 30] * 5 + [0])
    assert weights["refined"].tolist() == pytest.approx([0] * 5 + [1 / 30])
