"""continuation_value against exact enumeration, and the searches built on it."""

import math

import numpy as np
import pytest
import torch

from offon.collect import continuation_value, rollouts, steps, verify
from offon.collect.shape.steps import steps_of, values_of
from offon.maths.steps import monotone_labels
from offon.models.packed.layout import Layout
from offon.parts import Artefact
from offon.parts.context import Context, Step
from offon.types import Group, Item, Sampling, Source, Trajectory, Verdict
from tests.collect.support import Sampler
from tests.rounding import FLOAT32_SUM, FLOAT64_SUM
from tests.support import ParityTask, model, prompt_group, tokenizer

pytestmark = pytest.mark.slow

LIMIT = Sampling(max_tokens=3)


@pytest.fixture(scope="module")
def sampler():
    return Sampler(model(0), {"prover": model(3)})


def collected(sampler, task=None, members=2, **arguments) -> list[Group]:
    task = task or ParityTask()
    groups = [prompt_group(item).replace(draw=draw) for draw, item in enumerate(ParityTask().items("train")[:3])]
    chain = rollouts(task, members) | verify(task) | steps(1) | continuation_value(verify(task), **arguments)
    return chain.given(sampling=LIMIT)(sampler.context(), groups)


def exact(learner, item: Item, prefix: tuple[int, ...], begun: tuple[int, ...]) -> float:
    """P(success | state) under the learner, by enumerating every way to finish within the limit."""
    room = LIMIT.max_tokens - len(begun)
    open_, done = [()], []
    for _ in range(room):
        longer = [(*seq, token) for seq in open_ for token in range(14)]
        done += [seq for seq in longer if seq[-1] == 1]
        open_ = [seq for seq in longer if seq[-1] != 1]
    finished = done + open_
    layout = Layout.of([((*prefix, *begun), list(seq)) for seq in finished])
    with torch.no_grad():
        logp = learner.logp(layout).double()
    total = torch.zeros(len(finished), dtype=torch.float64).index_add(0, layout.sequence, logp)
    assert abs(float(total.exp().sum()) - 1) < FLOAT32_SUM
    texts = [learner.tokenizer.decode([*begun, *seq], skip_special_tokens=True) for seq in finished]
    right = torch.tensor([v.score for v in ParityTask().verify([(item, text) for text in texts])], dtype=torch.float64)
    return float((total.exp() * right).sum())


def states_of(group: Group):
    """(item, prompt, tokens so far, value) of every state that was continued."""
    for member in group.members:
        tokens = tuple(member.tokens.tolist())
        yield group.item, group.prompt, (), member.signals["value"]
        for step in steps_of(member)[:-1]:
            yield group.item, group.prompt, tokens[: step.end], step.signals["value"]


@pytest.mark.parametrize("best", [1, 4])
def test_values_agree_with_exact_enumeration(sampler, best):
    """The mean of n verdicts is within 4 binomial standard errors of P(success); the best of k of 1 - (1 - P)^k, whose
    derivative k (1 - P)^(k-1) carries the error over."""
    n, checked = 400, 0
    for group in collected(sampler, n=n, best_of=best):
        for item, prompt, begun, value in states_of(group):
            p = exact(sampler.models["self"], item, prompt, begun)
            error = math.sqrt(max(p * (1 - p), 0.01) / n) * max(best * (1 - p) ** (best - 1), 0.05)
            assert abs(value - (1 - (1 - p) ** best)) < 4 * error
            checked += 1
    assert checked >= 10


def test_the_value_of_the_last_step_is_the_reward(sampler):
    for group in collected(sampler, n=1):
        for member in group.members:
            assert values_of(member, "value")[-1] == member.signals["reward"]


def test_all_states_are_continued_in_one_call_and_shared_states_once(sampler):
    groups = collected(sampler, n=5)
    _, asked = sampler.calls[-2:]
    states = {(g, tuple(m.tokens[:s.end])) for g, group in enumerate(groups) for m in group.members for s in
              steps_of(m)[:-1]} | {(g, ()) for g in range(len(groups))}  # fmt: skip
    assert len(asked) == 5 * len(states)
    assert len({request.key for request in asked}) == len(asked)
    assert sum(m.signals["continuations"] for group in groups for m in group.members) == len(asked)


def test_values_are_a_function_of_the_state_and_the_seed(sampler):
    """Asked alone or with the states of other responses, in any order: the same number."""
    together = collected(sampler, n=7)
    alone = collected(sampler, n=7, members=1)
    assert alone[1].members[0].signals["value"] == together[1].members[0].signals["value"]
    assert values_of(alone[1].members[0], "value") == values_of(together[1].members[0], "value")


def test_the_prover_continues_what_the_learner_began(sampler):
    """V under another model is that model's P(success), not the learner's."""
    [group, *_] = collected(sampler, n=400, completer=Artefact("prover"))
    for item, prompt, begun, value in states_of(group):
        p = exact(sampler.models["prover"], item, prompt, begun)
        assert abs(value - p) < 4 * math.sqrt(p * (1 - p) / 400) + FLOAT64_SUM


def test_continuations_stop_where_the_response_would_have(sampler):
    collected(sampler, n=2)
    assert all(len(request.begun) + request.sampling.max_tokens == LIMIT.max_tokens for request in sampler.calls[-1])


class Flaky(ParityTask):
    """Scores whole responses, and no continuation of one that began with w5."""

    def verify(self, pairs):
        return [
            Verdict(None, reason="down") if text.startswith("w5") and len(text.split()) > 1 else verdict
            for (_, text), verdict in zip(pairs, super().verify(pairs), strict=True)
        ]


def test_what_could_not_be_scored_leaves_the_mean_or_sets_the_response_aside(sampler):
    for group in collected(sampler, Flaky(), n=4, members=8):
        assert all(None not in values_of(member, "value") for member in group.members)
        assert {reason for _, reason in group.dropped} <= {"unscored", "no continuation could be scored"}


class Breaks:
    """A response succeeds as long as it has not written its w9; a completer never writes one."""

    def verify(self, pairs):
        return [Verdict(float("w9" not in text.split())) for _, text in pairs]


@pytest.mark.parametrize("length", [1, 2, 3, 8, 13])
def test_bisection_finds_the_first_error_in_log2_probes(length):
    """A monotone oracle: the exact step, in ceil(log2 M) rounds of one state each; 1 before it, 0 from it."""

    def generate(requests, ref):
        calls.append(requests)
        words = [ids.decode(r.begun.tokens) for r in requests]
        return [Trajectory.of([1], r.prefix, Source.TEACHER, text=w) for r, w in zip(requests, words, strict=True)]

    ids = tokenizer()
    for error in range(length):
        calls = []
        tokens = [4] * error + [11] * (length - error)  # 11 is w9
        member = Trajectory.of(tokens, [2], Source.EXTERNAL, signals={"reward": 0.0})
        group = Group(item=Item(id="x", prompt="w0"), views={"prompt": (2,)}, members=(member,), draw=0)
        context = Context(generate, None, None, Step(0, 1, 0, "node"))
        chain = steps(1) | continuation_value(verify(Breaks()), n=1, search="first error")
        [found] = chain.given(sampling=Sampling(max_tokens=99))(context, [group])
        labels = monotone_labels(values_of(found.members[0], "value"))
        assert labels.tolist() == [1.0] * error + [0.0] * (length - error)
        bound = math.ceil(math.log2(length))
        assert len(calls) <= bound and all(len(requests) == 1 for requests in calls)
        assert length & (length - 1) or len(calls) == bound  # exactly, when M is a power of 2


def test_a_success_is_not_searched(sampler):
    groups = collected(sampler, n=2, members=4, search="first error")
    asked = {request.key[2:4] for request in sampler.calls[-1]}
    right = {(g.draw, m) for g in groups for m, member in enumerate(g.members) if member.signals["reward"] > 0}
    assert right and not asked & right


def test_hard_and_soft_labels_agree_for_one_continuation(sampler):
    for group in collected(sampler, n=1, members=4):
        for member in group.members:
            soft = np.array(values_of(member, "value"))
            assert np.array_equal(soft, soft > 0)
