"""D1 by trajectory, D2, D3, D4 on tabular worlds, where both sides of every identity are known."""

import numpy as np
import pytest

from offon.behavior.change.enumeration import enumerate_support
from offon.behavior.change.prefix_tree import Tree
from offon.behavior.change.relative_support import (
    Scored,
    bits,
    coverage_profile,
    decompose_trajectories,
    first_passage,
    novelty,
)
from offon.behavior.change.state_action import decompose_states, prefix_suffix, values
from offon.errors import DataError
from tests.behavior.tabular import STOP, Table
from tests.rounding import FLOAT64_SUM

SEEDS = range(12)


def rewarded(table: Table, seed: int, share: float = 0.2):
    """A random success predicate on whole responses."""
    rng = np.random.default_rng(seed)
    right = {y for y in table.responses() if rng.random() < share}
    return lambda y: float(y in right)


def whole(*tables) -> Tree:
    [found] = enumerate_support(tables, eps=0.0, stop={STOP}, horizon=tables[0].horizon)
    return found.tree


def reward_of(tree: Tree, reward) -> np.ndarray:
    return np.array([reward(tree.path(edge)) if tree.ends[edge] else 0.0 for edge in range(len(tree))])


def success(table: Table, reward) -> float:
    return sum(table.probability(y) * reward(y) for y in table.responses())


@pytest.mark.parametrize("seed", SEEDS)
def test_d2_sums_to_the_change_of_success(seed):
    before, after = Table(seed, 3, 5), Table(seed + 50, 3, 5)
    reward = rewarded(before, seed)
    tree = whole(before, after)
    parts = decompose_states(tree, reward_of(tree, reward), 0.05)
    assert sum(parts.values()) == pytest.approx(success(after, reward) - success(before, reward), abs=FLOAT64_SUM)
    assert parts["harmful"] <= 0 <= parts["pruning"]


def test_values_are_expected_rewards():
    table = Table(3, 3, 4)
    reward = rewarded(table, 3)
    tree = whole(table)
    value = values(tree, reward_of(tree, reward), 0)
    for edge in range(0, len(tree), 7):
        prefix = tree.path(edge)
        going_on = [y for y in table.responses() if y[: len(prefix)] == prefix]
        truth = sum(table.probability(y) * reward(y) for y in going_on) / table.probability(prefix)
        assert value[edge] == pytest.approx(truth)


def test_d2_refuses_a_tree_with_branches_cut():
    [found] = enumerate_support([Table(0), Table(1)], eps=0.1, stop={STOP}, horizon=4)
    tree = found.tree
    with pytest.raises(DataError, match="holds"):
        decompose_states(tree, np.zeros(len(tree)), 0.05)


@pytest.mark.parametrize("strength", [0.5, 2.0, 20.0, -3.0])
def test_a_tilt_by_reward_makes_nothing_new_beyond_one_over_success(strength):
    """Filter invariance: no response and no prefix becomes more likely by more than 1 / p_0."""
    for seed in SEEDS:
        table = Table(seed, 3, 4)
        reward = rewarded(table, seed)
        p0 = success(table, reward)
        tilted = table.tilted(reward, strength)
        tree = whole(table, tilted)
        ratio = tree.log_reach[:, 1] - tree.log_reach[:, 0]
        bound = 1 / p0 if strength > 0 else 1 / (1 - p0)
        assert ratio.max() <= np.log(bound) + FLOAT64_SUM
        assert not (novelty(ratio, bound * 1.001) == "new").any()


def sampled(table, before, after, reward, n, seed) -> Scored:
    rng = np.random.default_rng(seed)
    drawn = [table.sample(rng) for _ in range(n)]
    ratio = [float((after.logp(y) - before.logp(y)).sum()) for y in drawn]
    return Scored(np.array(ratio), np.array([reward(y) for y in drawn]))


def test_d1_by_trajectory_sums_exactly_and_is_exactly_0_for_the_same_checkpoint():
    tables = [Table(seed, 3, 4) for seed in SEEDS]
    rewards = [rewarded(table, seed) for seed, table in enumerate(tables)]
    for other in (tables, [Table(seed + 50, 3, 4) for seed in SEEDS]):
        triples = list(zip(tables, other, rewards, strict=True))
        early = [sampled(a, a, b, r, 64, 1) for a, b, r in triples]
        late = [sampled(b, a, b, r, 64, 2) for a, b, r in triples]
        terms = decompose_trajectories(early, late, n=8.0)
        measured = np.mean([x.success.mean() for x in late]) - np.mean([x.success.mean() for x in early])
        total = terms["expansion"].estimate + terms["reshaping"].estimate - terms["attrition"].estimate
        assert total == pytest.approx(measured, abs=FLOAT64_SUM) and terms["total"].estimate == pytest.approx(measured)
        if other is tables:
            assert terms["expansion"] == (0, 0, 0) and terms["attrition"] == (0, 0, 0)


@pytest.mark.slow
def test_d1_by_trajectory_is_unbiased():
    before, after = Table(4, 3, 4), Table(54, 3, 4)
    reward = rewarded(before, 4)
    truth = sum(
        (after.probability(y) - before.probability(y)) * reward(y)
        for y in before.responses()
        if np.log(after.probability(y) / before.probability(y)) >= np.log(4)
    )
    rows = [
        decompose_trajectories(
            [sampled(before, before, after, reward, 16, 2 * i)],
            [sampled(after, before, after, reward, 16, 2 * i + 1)],
            n=4.0,
        )["expansion"].estimate
        for i in range(300)
    ]
    assert abs(np.mean(rows) - truth) < 4 * np.std(rows) / np.sqrt(len(rows))  # 4 sigma: false alarm 6e-5


def test_first_passage_says_where_novelty_starts():
    steps = np.log([1.0, 2.0, 1.0, 4.0, 1.0])
    assert first_passage(steps, 2) == 1 and first_passage(steps, 3) == 3 and first_passage(steps, 9) is None


def test_coverage_profile_is_the_share_of_new_successes():
    after = [Scored(np.log([10.0, 1.0, 10.0]), np.array([1.0, 1.0, 0.0])), Scored(np.zeros(2), np.ones(2))]
    assert coverage_profile(after, 5).estimate == pytest.approx(0.25)
    with pytest.raises(DataError, match="no prompt has a success"):
        coverage_profile([Scored(np.zeros(2), np.zeros(2))], 5)


def test_d4_of_pure_filtering_has_no_novelty_and_selection_log_1_over_p():
    table = Table(7, 3, 4)
    reward = rewarded(table, 7)
    p0 = success(table, reward)
    filtered = table.tilted(reward, 40.0)  # e^40: nothing but successes
    drawn = sampled(filtered, table, filtered, reward, 200, 3)
    parts = bits(p0, drawn)
    assert parts["selection"] == pytest.approx(-np.log(p0))
    assert parts["novelty"] == pytest.approx(0, abs=1e-6) and parts["total"] == pytest.approx(
        parts["selection"], abs=1e-6
    )


def test_d3_hand_numbers():
    """A teacher whose prefix alone lifts 0 to 0.6, whose suffix alone does nothing, and who solves alone 0.8."""
    found = prefix_suffix([0, 0], [0, 0], [0.6, 0.6], [0.8, 0.8])
    assert found.prefix.estimate == pytest.approx(0.7) and found.suffix.estimate == pytest.approx(0.1)
    assert found.interaction.estimate == pytest.approx(0.2)
    assert found.total.estimate == pytest.approx(found.prefix.estimate + found.suffix.estimate)
