"""PPO: advantages by hand and at their limits, values at the state before each token, what each learner reads."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from offon.catalogue import registry
from offon.models.model import Model
from offon.parts.models import SELF, SELF_START, Live, Need
from offon.train.loop import assign_credit
from offon.train.optimizer_step import accumulate
from offon.train.scoring import score_buffer, weigh
from offon.types import Producer, Sampling, Source, Trajectory
from offon.types.batch import Batch
from tests.catalogue.cases import saved
from tests.rounding import FLOAT32, FLOAT32_SUM, STORED
from tests.support import ParityTask, World, model, prompt_group

VALUE = Need("value", Live("critic"), when="buffer")
REWARDS = (1.0, 0.0, 0.5)


def row(**arguments):
    return registry.get("ppo").function(ParityTask(), **arguments).validate()


@pytest.fixture(scope="module")
def critic() -> Model:
    made = Model.load(saved(4), head="value", device="cpu")
    torch.nn.init.normal_(made.core.score.weight, generator=torch.Generator().manual_seed(4))
    return made


def sampled(critic=None, rewards=REWARDS):
    """Three responses of 2, 3 and 4 tokens, with values by a critic (0 without one), on-policy and at the start."""
    groups = []
    for i, (item, reward) in enumerate(zip(ParityTask().items("train"), rewards, strict=False)):
        group = prompt_group(item).replace(draw=i)
        member = Trajectory.of(
            [3 + i + t for t in range(1 + i)] + [1], group.prompt, Source.LEARNER, signals={"reward": reward},
            producer=Producer(model="m", sampling=Sampling()), id=str(i),
        )  # fmt: skip
        groups.append(group.add(member))
    for need in (Need("logp", SELF, when="buffer"), Need("logp", SELF_START, when="buffer")):
        groups = score_buffer(model(0), groups, need, 1000)
    groups = [g.map(lambda m: m.replace(behavior_logp=m.token_signals["logp@self"])) for g in groups]
    if critic is not None:
        return score_buffer(critic, groups, VALUE, 1000)
    return [g.map(lambda m: m.with_token_signals(**{VALUE.column: np.zeros(len(m))})) for g in groups]


def column(groups, name):
    return np.concatenate([m.token_signals[name] for g in groups for m in g.members])


def whitened(a):
    return (a - a.mean()) / (a.std(ddof=1) + 1e-4)


def test_with_values_of_0_and_lambda_1_it_is_reinforce_with_whitened_returns():
    """No critic and no discount: every token's advantage is its response's reward, whitened over all tokens."""
    groups = assign_credit(row(lam=1.0, kl=0.0).main, sampled())
    returns = np.concatenate([np.full(2 + i, reward) for i, reward in enumerate(REWARDS)])
    assert column(groups, "return") == pytest.approx(returns)
    assert column(groups, "advantage") == pytest.approx(whitened(returns), abs=FLOAT32)


def test_lambda_1_is_the_return_to_go_minus_the_value(critic):
    groups = assign_credit(row(lam=1.0, kl=0.0).main, sampled(critic))
    returns = np.concatenate([np.full(2 + i, reward) for i, reward in enumerate(REWARDS)])
    expected = returns - column(groups, VALUE.column)
    assert column(groups, "advantage") == pytest.approx(whitened(expected), abs=FLOAT32_SUM)


def test_lambda_0_is_the_error_of_one_step(critic):
    groups = assign_credit(row(lam=0.0, gamma=0.9, kl=0.0).main, sampled(critic))
    errors = []
    for group, reward in zip(groups, REWARDS, strict=True):
        (member,) = group.members
        value = member.token_signals[VALUE.column]
        errors += [*(0.9 * value[1:] - value[:-1]), reward - value[-1]]
    assert column(groups, "advantage") == pytest.approx(whitened(np.array(errors)), abs=FLOAT32_SUM)


def test_a_value_does_not_depend_on_the_token_it_is_the_baseline_of(critic):
    """Another token at position t leaves V_t as it was and changes V_(t+1): the head reads the state before y_t. Read
    at the token itself (a score), it would see the action."""
    (group,) = sampled(rewards=(1.0,))[:1]
    group = group.replace(members=())
    for token in (5, 9):
        group = group.add(Trajectory.of([4, token, 6, 1], group.prompt, Source.LEARNER))

    def read(what):
        need = Need(what, Live("critic"), when="buffer")
        return [m.token_signals[need.column] for m in score_buffer(critic, [group], need, 1000)[0].members]

    a, b = read("value")
    assert a[:2] == pytest.approx(b[:2], abs=FLOAT32) and abs(a[2] - b[2]) > 1e-2
    a, b = read("score")
    assert abs(a[1] - b[1]) > 1e-2, "the negative control: at the token, its own value would move"


def test_the_kl_penalty_is_in_the_rewards():
    """behaviour = the learner, reference = another model: the return at the first token is R - kl * sum of k1."""
    groups = sampled(rewards=(1.0,))[:1]
    groups = score_buffer(model(1), groups, Need("logp", SELF_START, when="buffer"), 1000)
    (member,) = groups[0].members
    ratio = member.token_signals["logp@self"] - member.token_signals["logp@start"]
    credited = assign_credit(row(kl=0.1, lam=1.0).main, groups)
    assert column(credited, "return")[0] == pytest.approx(1.0 - 0.1 * ratio.sum(), abs=FLOAT32_SUM)


def critic_gradient(stage, groups, critic) -> dict[str, torch.Tensor]:
    learner = stage.learner("critic")
    named = {"value@critic": "value@self"}
    groups = [
        g.map(lambda m: m.replace(token_signals={named.get(k, k): v for k, v in m.token_signals.items()}))
        for g in groups
    ]
    for parameter in critic.train_parameters().values():
        parameter.grad = None
    accumulate(World(critic, {}), learner, weigh(Batch.of(groups), learner.terms), {"value": 1.0}, None)
    return {name: p.grad.clone() for name, p in critic.train_parameters().items()}


def test_the_critic_regresses_on_the_returns(critic):
    """d/db of 1/D sum 1/2 (V - return)^2 for the head's bias b is the mean of V - return over all tokens."""
    stage = row(kl=0.0)
    groups = assign_credit(stage.main, sampled(critic))
    error = column(groups, VALUE.column) - column(groups, "return")
    found = critic_gradient(stage, groups, critic)
    assert float(found["score.bias"]) == pytest.approx(error.mean(), abs=FLOAT32_SUM)


def test_values_further_than_the_clip_from_where_they_were_stop_moving_towards_the_return(critic):
    """Old values far below V, returns further up: V is worth more than the clipped one only where it errs more."""
    stage = row(kl=0.0, value_clip=0.2)
    groups = assign_credit(stage.main, sampled(critic))
    value = column(groups, VALUE.column)

    def with_old(shift):
        return [
            g.map(
                lambda m: m.with_token_signals(
                    **{VALUE.column: m.token_signals[VALUE.column] + shift, "return": 9.0 + 0 * m.tokens}
                )
            )
            for g in groups
        ]

    far = critic_gradient(stage, with_old(-1.0), critic)
    assert float(far["score.bias"]) == pytest.approx(0.0, abs=STORED), "V left the clip towards the return: no push"
    near = critic_gradient(stage, with_old(0.1), critic)
    assert float(near["score.bias"]) == pytest.approx((value - 9.0).mean(), rel=FLOAT32)


def test_its_learners_and_what_they_hold():
    stage = row()
    assert [learner.name for learner in stage.learners] == ["policy", "critic"] and stage.main.name == "policy"
    assert {need.column for need in stage.needs if need.when == "buffer"} == {
        "logp@self", "logp@start", "value@critic"
    }  # fmt: skip
    assert stage.recommends["epochs"] == 4
    assert str(row(critic="$rm").learner("critic").init) == "$rm"
