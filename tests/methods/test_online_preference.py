"""Online preference: judgements, and the offline losses the rows fall back to on fixed pairs."""

import pytest

from offon.collect import judged
from offon.collect.context import Context, Step
from offon.methods.online_preference import online_dpo
from offon.methods.preferences import dpo
from offon.types import Group, Item, Source, Trajectory
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
