"""Process supervision: what each row's credit is, by hand, and the limits that turn it into another method."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from offon.catalogue.methods.process import pav, prime, prm
from offon.collect import continuation_value, labelled_steps, rollouts, steps, verify
from offon.collect.shape.steps import with_steps, with_values
from offon.errors import ConfigError
from offon.models.model import Model
from offon.parts import SELF, SELF_START, Need
from offon.parts.credits import leave_one_out, return_to_go
from offon.parts.credits.steps import (
    ByModel,
    implicit_reward,
    leave_one_out_reward,
    min_form,
    normalised_steps,
    progress,
)
from offon.parts.models import Artefact
from offon.train.scoring import score_buffer, step_loss, weigh
from offon.types import Group, Item, Sampling, Source, Trajectory
from offon.types.batch import Batch
from tests.catalogue import cases
from tests.collect.support import Sampler
from tests.rounding import FLOAT32, STORED
from tests.support import ParityTask, model, prompt_group


def test_a_prover_of_more_tries_than_there_are_continuations_is_refused():
    """Else no state had a value, and every response would be set aside as unscored."""
    with pytest.raises(ConfigError, match="best of 4 of 2"):
        pav(ParityTask(), continuations=2, prover_best_of=4)


def group_of(*members: Trajectory) -> Group:
    return Group(item=Item(id="x", prompt="w0"), views={"prompt": (2,)}, members=members, draw=0)


def response(ends, values, reward=0.0, start=0.0) -> Trajectory:
    """A response whose steps end there and have these values, as signal `value` and as a model's scores."""
    member = Trajectory.of([4] * ends[-1], [2], Source.LEARNER, signals={"reward": reward, "value": start})
    scores = np.zeros(ends[-1])
    scores[[end - 1 for end in ends]] = values
    return with_values(with_steps(member, ends), "value", values).with_token_signals(**{"score@prm": scores})


READ = ByModel(Artefact("prm"), "score")


def advantage(credit, *members) -> list[list[float]]:
    credited = credit(group_of(*members))
    return [np.round(m.token_signals["advantage"], 6).tolist() for m in credited.members]


# --- vineppo, pav -----------------------------------------------------------------------------------------------------


def test_every_token_of_a_step_shares_what_the_step_gained():
    """V: 0.25 -> 0.75 -> R = 1: the first two tokens gain 0.5, the third 0.25."""
    assert advantage(progress(), response([2, 3], [0.75, 1.0], reward=1.0, start=0.25)) == [[0.5, 0.5, 0.25]]


def test_progress_adds_to_the_advantage_that_is_there():
    """Leave-one-out of rewards 1 and 0 is +-1; alpha = 2 times a gain of 0.25 and of -0.5."""
    first = response([1, 2], [0.5, 0.75], reward=1.0, start=0.25)
    second = response([2], [0.0], reward=0.0, start=0.5)
    assert advantage(leave_one_out() >> progress(coef=2.0), first, second) == [[1.5, 1.5], [-2.0, -2.0]]


@pytest.mark.parametrize("by", [1, 2, 99])
def test_vineppos_steps_share_out_what_the_response_gained(by):
    """sum over steps of A = R - V(x), whatever the steps; one step: R - V(x) itself."""
    task = ParityTask()
    groups = [prompt_group(item).replace(draw=draw) for draw, item in enumerate(task.items("train")[:3])]
    chain = rollouts(task, 3) | verify(task) | steps(by) | continuation_value(verify(task), n=5)
    for group in chain.given(sampling=Sampling(max_tokens=5))(Sampler(model(0)).context(), groups):
        for member in progress()(group).members:
            per_step = [member.token_signals["advantage"][span.start] for span in member.spans]
            assert sum(per_step) == pytest.approx(member.signals["reward"] - member.signals["value"], abs=STORED)
            assert by < 99 or len(per_step) == 1


def test_the_progress_of_a_policy_under_itself_is_nothing_on_average():
    """E_a Q(s, a) = V(s): over 200 first steps the mean gain is within 4 standard errors of 0. Under another prover it
    need not be."""
    task = ParityTask()
    groups = [prompt_group(item).replace(draw=draw) for draw, item in enumerate(task.items("train")[:4])]
    chain = rollouts(task, 50) | verify(task) | steps(2) | continuation_value(verify(task), n=32)
    gains = []
    for group in chain.given(sampling=Sampling(max_tokens=4))(Sampler(model(0)).context(), groups):
        for member in group.members:
            gains.append(member.spans[0].signals["value"] - member.signals["value"])
    error = np.sqrt(np.var(gains) / len(gains) + 0.25 / 32 / 4)  # of the mean, and of the four shared V(x)
    assert abs(np.mean(gains)) < 4 * error and np.std(gains) > 0.05


def test_without_alpha_progress_rewards_are_rloo():
    members = [response([1, 3], [0.5, r], reward=r, start=0.25) for r in (1.0, 0.0, 1.0)]
    assert advantage(leave_one_out() >> progress(coef=0.0), *members) == advantage(leave_one_out(), *members)


# --- grpo with process rewards ----------------------------------------------------------------------------------------

PROCESS = normalised_steps(reward=READ, epsilon=0.0) >> return_to_go(signal=None)


def test_process_rewards_are_normalised_together_and_summed_from_a_step_on():
    """Step rewards {1, 3}, {2}: mean 2, std 1. First response: -1 + 1 = 0 before its first end, then 1."""
    assert advantage(PROCESS, response([2, 3], [1.0, 3.0]), response([2], [2.0])) == [[0, 0, 1], [0, 0]]


def test_one_step_at_the_end_is_grpo():
    """Rewards 1, 0, 0.5: mean 0.5, unbiased std 0.5."""
    members = [response([n], [r]) for n, r in ((2, 1.0), (1, 0.0), (3, 0.5))]
    assert advantage(PROCESS, *members) == [[1, 1], [-1], [0, 0, 0]]


# --- pure -------------------------------------------------------------------------------------------------------------


def test_pure_rewards_the_worst_step_against_what_the_others_earn_per_token():
    """T -> 0. First: steps of 2 and 1 tokens, rewards (0.5, -1): r* = (0, -1). Second: one step of 2 tokens, r* = 0.5.
    Others per token: 0.25 for the first, -1/3 for the second. First: (0 - 0.5, -1 - 0.25), summed to go -1.75, -1.25;
    second 0.5 + 2/3."""
    pure = min_form(reward=READ, temperature=1e-4) >> return_to_go(signal=None)
    found = advantage(pure, response([2, 3], [0.5, -1.0]), response([2], [0.5]))
    assert found == [[-1.75, -1.75, -1.25], pytest.approx([7 / 6, 7 / 6], rel=FLOAT32)]


def test_pure_of_one_step_each_is_leave_one_out_on_scores():
    """baseline per step: the others' mean score."""
    pure = min_form(reward=READ, baseline="step") >> return_to_go(signal=None)
    members = [response([n], [r]) for n, r in ((2, 0.9), (1, -0.4), (2, 0.1))]
    outcome = [m.with_signals(reward=r) for m, r in zip(members, (0.9, -0.4, 0.1), strict=True)]
    for found, expected in zip(advantage(pure, *members), advantage(leave_one_out(), *outcome), strict=True):
        assert found == pytest.approx(expected)


def test_the_verifiers_reward_joins_at_the_last_token_against_the_others():
    """Leave-one-out of 1, 0: +-1 at the end, so that every token before it sees it too."""
    both = (
        min_form(reward=READ, baseline="none", temperature=1e-4) >> leave_one_out_reward() >> return_to_go(signal=None)
    )
    found = advantage(both, response([1, 2], [-1.0, 0.5], reward=1.0), response([1, 2], [0.5, -1.0], reward=0.0))
    assert found == [[0.0, 1.0], [-2.0, -2.0]]


def test_steps_and_rewards_of_what_is_not_trained_stay_silent():
    """A step that ends on a token of the environment is rewarded at its last trainable one."""
    tokens = Trajectory.of([4, 5, 6], [2], [2, 3, 2], signals={"reward": 0.0})
    member = with_steps(tokens, [2, 3]).with_token_signals(**{"score@prm": [0.0, 1.0, 3.0]})
    credited = normalised_steps(reward=READ, epsilon=0.0)(group_of(member, response([1], [2.0])))
    assert credited.members[0].token_signals["token_reward"].tolist() == [-1.0, 0.0, 1.0]


# --- prime ------------------------------------------------------------------------------------------------------------


def scored(tokens: int, prm: list[float], reward: float) -> Trajectory:
    member = Trajectory.of([4] * tokens, [2], Source.LEARNER, signals={"reward": reward})
    return member.with_token_signals(**{"logp@prm": prm, "logp@start(prm)": [-1.0] * tokens})


IMPLICIT = implicit_reward(prm=Artefact("prm"), reference=Artefact("start(prm)"), beta=0.5)


def test_implicit_rewards_are_log_ratios_against_the_other_responses():
    """beta 0.5. First: log-ratios (2, 0), rewards (1, 0), mean 0.5; second: (4), reward 2, mean 2. Leave-one-out of
    two: (2 r - 2.5) / 1 = (-0.5, -2.5) and 1.5."""
    credited = IMPLICIT(group_of(scored(2, [1.0, -1.0], 0.0), scored(1, [3.0], 0.0)))
    assert [m.token_signals["token_reward"].tolist() for m in credited.members] == [[-0.5, -2.5], [1.5]]


def test_an_implicit_reward_model_that_has_not_moved_leaves_leave_one_out():
    members = [scored(n, [-1.0] * n, r) for n, r in ((2, 1.0), (1, 0.0), (3, 0.0))]
    prime = IMPLICIT >> leave_one_out_reward() >> return_to_go(signal=None)
    assert advantage(prime, *members) == advantage(leave_one_out(), *members)


def test_implicit_rewards_can_be_bounded_by_the_largest_return_of_the_buffer():
    """Returns to go: (1, 0) of the first group's first response, 2 of its second, -4 of the other group's: over 4."""
    bounded = dataclasses.replace(IMPLICIT, scale="buffer")
    one = group_of(scored(2, [1.0, -1.0], 0.0), scored(1, [3.0], 0.0))
    two = group_of(scored(1, [-9.0], 0.0), scored(1, [-1.0], 0.0))
    plain, scaled = IMPLICIT.over_buffer([one, two]), bounded.over_buffer([one, two])
    for before, after in zip(plain, scaled, strict=True):
        for m, n in zip(before.members, after.members, strict=True):
            assert n.token_signals["token_reward"] == pytest.approx(m.token_signals["token_reward"] / 4, abs=FLOAT32)


def test_the_reward_model_of_prime_learns_outcomes_from_its_log_ratios():
    """beta 0.5, sums of log-ratios 2 (right) and -2 (wrong): both log(1 + e^-1), mean of two; gradient by a log-prob of
    the right one: -beta sigma(-1) / 2."""
    policy_learner, prm_learner = prime(ParityTask(), beta=0.5).learners
    assert (policy_learner.name, prm_learner.name) == ("policy", "prm")
    assert prime(ParityTask(), beta=0.5, update="before").learners == (prm_learner, policy_learner)
    members = [Trajectory.of([4, 1], [2], Source.LEARNER, signals={"reward": r}) for r in (1.0, 0.0)]
    batch = weigh(Batch.of([group_of(*members)]), prm_learner.terms)
    own = torch.tensor([1.0, 0.0, -2.0, -1.0], requires_grad=True)
    scores = {Need("logp", SELF): own, Need("logp", SELF_START): torch.tensor([0.0, -1.0, -1.0, 0.0])}
    loss, _ = step_loss(prm_learner.terms, batch, scores, {"unpaired": 1.0})
    loss.backward()
    assert loss.item() == pytest.approx(math.log1p(math.exp(-1)))
    assert own.grad.tolist() == pytest.approx([-0.25 / (1 + math.e)] * 2 + [0.25 / (1 + math.e)] * 2)


# --- prm --------------------------------------------------------------------------------------------------------------


def labelled(*labels, length: int = 2, reward: float = 0.0) -> Group:
    ends = [length * (k + 1) for k in range(len(labels))]
    member = Trajectory.of(range(2, 2 + ends[-1]), [2], Source.EXTERNAL, signals={"reward": reward})
    return group_of(with_values(with_steps(member, ends), "label", labels))


def column(group: Group, **options) -> list[float | None]:
    [marked] = labelled_steps([group], **options)(None, [group])
    return [None if np.isnan(x) else x for x in marked.members[0].token_signals["label"].tolist()]


def test_labels_stand_on_the_last_token_of_each_step():
    assert column(labelled(1.0, 0.25, None)) == [None, 1.0, None, 0.25, None, None]


def test_the_last_step_alone_makes_an_outcome_reward_model():
    assert column(labelled(1.0, 0.0, 1.0), last_only=True) == [None] * 5 + [1.0]


def test_labels_after_the_first_error_can_be_left_out():
    assert column(labelled(1.0, 0.0, 1.0), after_error="mask") == [None, 1.0, None, 0.0, None, None]


def test_the_loss_is_cross_entropy_averaged_over_labels_or_over_solutions_first():
    """Scores 0, 2 with labels 1, 0 and score 0 with soft label 1/4: log 2, 2 + log(1 + e^-2), log 2. Gradients
    sigma - y: -1/2, 0.881, 1/4, each by its weight: 1/3, or 1/4, 1/4, 1/2."""
    groups = [labelled(1.0, 0.0, length=1), labelled(0.25, length=1)]
    for per, weights in (("label", [1 / 3] * 3), ("solution", [1 / 4, 1 / 4, 1 / 2])):
        stage = prm(groups, per=per)
        batch = weigh(Batch.of(stage.collect(None, groups)), stage.learners[0].terms)
        own = torch.tensor([0.0, 2.0, 0.0], requires_grad=True)
        loss, _ = step_loss(stage.learners[0].terms, batch, {Need("score", SELF): own}, {"label": 1.0})
        loss.backward()
        terms = [math.log(2), 2 + math.log1p(math.exp(-2)), math.log(2)]
        assert loss.item() == pytest.approx(sum(w * t for w, t in zip(weights, terms, strict=True)))
        slopes = [-0.5, 1 / (1 + math.exp(-2)), 0.25]
        assert own.grad.tolist() == pytest.approx([w * g for w, g in zip(weights, slopes, strict=True)])


def test_a_step_is_judged_by_the_score_at_its_own_last_token():
    """The score there sees that token, and not the next one: no next-token shift. Read one position earlier (as a value
    before the token would be) it could not tell two last tokens apart."""
    scorer = Model.load(cases.scorer(4), device="cpu")

    def scores(tokens, what="score") -> np.ndarray:
        group = group_of(Trajectory.of(tokens, [2, 3], Source.EXTERNAL))
        [scored] = score_buffer(scorer, [group], Need(what, SELF, when="buffer"), 64)
        return scored.members[0].token_signals[f"{what}@self"]

    plain, other_end, other_next = scores([4, 5, 6, 7]), scores([4, 9, 6, 7]), scores([4, 5, 9, 7])
    assert abs(plain[1] - other_end[1]) > 1e-3 and abs(plain[1] - other_next[1]) < FLOAT32
    before = [scores(tokens, "value")[1] for tokens in ([4, 5, 6, 7], [4, 9, 6, 7])]
    assert abs(before[0] - before[1]) < FLOAT32


def test_rewards_of_steps_by_a_model_are_read_at_their_ends():
    """Scores 9, 0, 9, log 3: probabilities 1/2 and 3/4, less their complements 0 and 1/2."""
    member = with_steps(Trajectory.of([4] * 4, [2], Source.LEARNER), [2, 4])
    member = member.with_token_signals(**{"score@prm": [9.0, 0.0, 9.0, math.log(3)]})
    model = Artefact("prm")
    assert ByModel(model)(member).tolist() == pytest.approx([0.5, 0.75])
    assert ByModel(model, "signed")(member).tolist() == pytest.approx([0.0, 0.5])
    assert ByModel(model, "score")(member).tolist() == pytest.approx([0.0, math.log(3)])
