"""Online preference: judgements, and the offline losses the rows fall back to on fixed pairs."""

import math

import pytest
import torch

from offon.catalogue.methods.online_preference import nash_md, online_dpo, online_ipo, xpo
from offon.catalogue.methods.preferences import dpo
from offon.collect import against_opponents, judged
from offon.parts import SELF, SELF_START, Mix, Need
from offon.parts.context import Context, Step
from offon.parts.credits import no_baseline
from offon.train.scoring import step_loss, weigh
from offon.types import Group, Item, Source, Trajectory
from offon.types.batch import Batch
from tests.support import ParityTask


def group_of(*rewards: float, draw: int = 0) -> Group:
    members = tuple(
        Trajectory.of([4, 1], [2], Source.LEARNER, signals={"reward": r}, id=f"{i}") for i, r in enumerate(rewards)
    )
    return Group(item=Item(id="x", prompt="w0"), views={"prompt": (2,)}, members=members, draw=draw)


CONTEXT = Context(None, None, None, Step(0, 10, 0, "node"))


def pairs(group: Group) -> list[tuple[str, str, float]]:
    return [(group.members[c.winner].id, group.members[c.loser].id, c.margin) for c in group.comparisons]


def test_the_higher_signal_wins_every_pair():
    [group] = judged()(CONTEXT, [group_of(0.0, 1.0, 0.5)])
    assert pairs(group) == [("1", "0", 1.0), ("2", "0", 0.5), ("1", "2", 0.5)]


def test_ties_are_no_pairs_and_what_no_pair_names_is_set_aside_with_the_reason():
    [group] = judged()(CONTEXT, [group_of(1.0, 1.0)])
    assert not group.members and not group.comparisons
    assert [reason for _, reason in group.dropped] == ["no difference to any other"] * 2


def test_a_coin_decides_ties_the_same_way_every_time_and_fairly():
    groups = [group_of(1.0, 1.0, draw=draw) for draw in range(200)]
    first = [pairs(g) for g in judged(ties="random")(CONTEXT, groups)]
    assert first == [pairs(g) for g in judged(ties="random")(CONTEXT, groups)]
    wins = sum(won[0][0] == "0" for won in first)
    assert wins == pytest.approx(100, abs=30)


def test_on_pairs_that_are_given_online_dpo_is_dpo():
    """The same learner: only where the pairs come from differs."""
    assert online_dpo(ParityTask(), beta=0.3).learners == dpo(data=[], beta=0.3).learners


@pytest.mark.parametrize("normalise", ["none", "length"])
def test_online_ipo_is_satisfied_exactly_at_its_target(normalise):
    """Log-ratio sums 3 (of 1 token) and 1 (of 2): d = 2, or 3 - 1/2 of the means. With tau = 0.25, (d - 1/(2 tau))^2 is
    0 for the sums, 1/4 for the means, and its gradient 2 (d - 2)."""
    (term,) = online_ipo(ParityTask(), tau=0.25, normalise=normalise).learners[0].terms
    own, start = torch.tensor([1.0, 0.0, 0.0], requires_grad=True), torch.tensor([-2.0, -0.5, -0.5])
    [group] = judged()(CONTEXT, [group_of(1.0, 0.0)])
    group = group.replace(members=(Trajectory.of([4], [2], Source.LEARNER), group.members[1]))
    scores = {Need("logp", SELF): own, Need("logp", SELF_START): start}
    loss, _ = term.units(Batch.of([group]), scores)
    loss.sum().backward()
    d = 2.0 if normalise == "none" else 2.5
    assert loss.item() == pytest.approx((d - 2) ** 2)
    assert float(own.grad[0]) == pytest.approx(2 * (d - 2))


# --- xpo --------------------------------------------------------------------------------------------------------------


def test_ipo_md_samples_both_between_learner_and_reference_and_plain_online_ipo_from_the_learner():
    assert online_ipo(ParityTask()).collect.parts[0].model == SELF
    assert online_ipo(ParityTask(), mixture=0.25).collect.parts[0].model == Mix(
        (SELF, SELF_START), (0.75, 0.25), "logit"
    )


def test_xpo_without_optimism_is_online_dpo_on_a_pair_of_policy_and_reference():
    contrast, optimism = xpo(ParityTask(), alpha=0.0).learners[0].terms
    assert (contrast,) == online_dpo(ParityTask()).learners[0].terms and optimism.coef == 0
    own, reference = (part for part in xpo(ParityTask()).collect.parts if hasattr(part, "model"))
    assert (own.model, reference.model) == (SELF, SELF_START)


def test_optimism_lowers_what_the_reference_said():
    """L = alpha S(y~): the gradient by each of its log-probs is alpha, 0 by the learner's own response's."""
    optimism = xpo(ParityTask(), alpha=0.5).learners[0].terms[1]
    group = group_of(1.0, 0.0)
    group = group.replace(members=(group.members[0], group.members[1].tagged("reference")))
    batch = weigh(Batch.of([group]), [optimism])
    own = torch.zeros(4, requires_grad=True)
    loss, _ = step_loss([optimism], batch, {Need("logp", SELF): own}, {optimism.name: optimism.coef})
    loss.backward()
    assert own.grad.tolist() == [0, 0, 0.5, 0.5]


# --- nash-md ----------------------------------------------------------------------------------------------------------


def opposed(own: tuple[float, ...], opponents: tuple[float, ...]) -> Group:
    group = group_of(*own, *opponents)
    tagged = [m.tagged("opponent") if i >= len(own) else m for i, m in enumerate(group.members)]
    return group.replace(members=tuple(tagged))


def test_a_preference_is_the_chance_to_win_less_a_half():
    """Against 0 and 1: a 1 wins once and ties once, 3/4 - 1/2."""
    [group] = against_opponents()(CONTEXT, [opposed((1.0, 0.5), (0.0, 1.0))])
    assert [m.signals["preference"] for m in group.members] == [0.25, 0.0]
    assert [reason for _, reason in group.dropped] == ["opponent", "opponent"]


def test_a_reward_model_prefers_with_the_probability_of_its_difference():
    [group] = against_opponents(by="logistic")(CONTEXT, [opposed((2.0,), (1.0,))])
    assert group.members[0].signals["preference"] == pytest.approx(1 / (1 + math.exp(-1.0)) - 0.5)


def test_without_an_opponent_nothing_is_learned():
    [group] = against_opponents()(CONTEXT, [group_of(1.0)])
    assert not group.members and group.dropped[0][1] == "no opponent was scored"


def test_the_opponent_is_the_learner_or_the_reference_at_the_ends():
    """mixture 0 is self-play, 1 plays against the reference."""

    def opponent(mixture: float) -> Mix:
        own, other = (p for p in nash_md(ParityTask(), mixture=mixture).collect.parts if hasattr(p, "model"))
        assert own.model == SELF and other.tag == "opponent"
        return other.model

    assert opponent(0.0) == Mix((SELF, SELF_START), (1.0, 0.0), "logit")
    assert opponent(1.0) == Mix((SELF, SELF_START), (0.0, 1.0), "logit")


def test_the_sequence_kl_is_paid_by_the_response_as_one_action():
    """P - 1/2 = 1/2, d = (1, -0.5): A = 1/2 - 0.1 * 0.5 on both tokens."""
    learner = nash_md(ParityTask(), kl="sequence").learners[0]
    member = Trajectory.of([4, 1], [2], Source.LEARNER, behavior_logp=[0.0, -1.0], signals={"preference": 0.5})
    member = member.with_token_signals(**{"logp@start": [-1.0, -0.5]})
    group = Group(item=Item(id="x", prompt="w0"), views={"prompt": (2,)}, members=(member,))
    [credited] = learner.credit(group).members
    assert credited.token_signals["advantage"].tolist() == pytest.approx([0.45, 0.45])


def test_the_token_kl_pulls_each_token_by_its_own_log_ratio():
    """Gradient of the KL term by lp_t: beta d_t, with d = (2, -1)."""
    learner = nash_md(ParityTask(), kl="token", beta=0.1).learners[0]
    held = learner.terms[1]
    batch = weigh(Batch.of([group_of(1.0)]), [held])
    own = torch.tensor([0.0, -3.0], requires_grad=True)
    scores = {Need("logp", SELF): own, Need("logp", SELF_START): torch.tensor([-2.0, -2.0])}
    loss, _ = step_loss([held], batch, scores, {held.name: held.coef})
    loss.backward()
    assert own.grad.tolist() == pytest.approx([0.2, -0.1])
    assert learner.credit == no_baseline(signal="preference")
