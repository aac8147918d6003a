"""Credit for a part of a group: a baseline each, the others untouched, parts too small set aside."""

from __future__ import annotations

import numpy as np

from offon.parts.credits import among, group_mean, group_mean_std, per_view
from offon.types import Group, Item, Source, Trajectory


def member(reward, source=Source.LEARNER, *, prefix=(4,), tags=()):
    name = f"{reward}/{int(source)}/{prefix}/{tags}"
    return Trajectory.of([5, 6], prefix, source, signals={"reward": reward}, tags=frozenset(tags), id=name)


def group(*members):
    return Group(item=Item(id="i", prompt="p"), views={"prompt": (4,)}, members=members)


def advantages(group):
    return [m.token_signals["advantage"][0] if "advantage" in m.token_signals else None for m in group.members]


def test_only_the_named_members_are_each_other_s_baseline():
    """Rewards 1, 0 of the learner and 1 of a demonstration: mean 1/2 of two, and no advantage for the third."""
    mixed = group(member(1.0), member(1.0, Source.EXTERNAL), member(0.0))
    assert advantages(among(group_mean(), "learner")(mixed)) == [0.5, None, -0.5]


def test_two_kinds_have_a_baseline_each():
    fresh, old = [member(r) for r in (1.0, 0.0)], [member(r, tags=("replay",)) for r in (3.0, 1.0)]
    split = among(group_mean(), "!tag:replay") >> among(group_mean(), "tag:replay")
    assert advantages(split(group(*fresh, *old))) == [0.5, -0.5, 1.0, -1.0]


def test_members_sampled_under_different_prefixes_do_not_share_a_baseline():
    members = [member(1.0), member(0.0), member(1.0, prefix=(4, 9)), member(1.0, prefix=(4, 9), tags=("b",))]
    assert advantages(per_view(group_mean())(group(*members))) == [0.5, -0.5, 0.0, 0.0]
    np.testing.assert_allclose(advantages(group_mean()(group(*members))), [0.25, -0.75, 0.25, 0.25])


def test_a_part_too_small_for_the_credit_is_set_aside_alone():
    credited = among(group_mean_std(), "learner")(group(member(1.0), member(0.0, Source.EXTERNAL)))
    assert [int(m.source[0]) for m in credited.members] == [Source.EXTERNAL]
    assert [why for _, why in credited.dropped] == ["alone in its group"]
    assert among(group_mean_std(), "learner").min_group <= 1, "the group itself is never too small"
