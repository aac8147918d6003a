"""Effective support by enumeration against brute force; sampled trees against the truth they were sampled from."""

import numpy as np
import pytest

from offon.behavior.change.enumeration import enumerate_support, most_evaluations
from offon.behavior.change.prefix_tree import (
    Tree,
    cells,
    coverage,
    mass_by_cell,
    occupancy,
    support,
)
from offon.errors import DataError
from tests.behavior.tabular import STOP, Table
from tests.rounding import FLOAT64, FLOAT64_SUM

WORLDS = [(3, 4, seed) for seed in range(8)] + [(5, 3, seed) for seed in range(8)] + [(2, 7, seed) for seed in range(8)]


def union(eps, *tables):
    [found] = enumerate_support(tables, eps=eps, stop={STOP}, horizon=tables[0].horizon)
    return found


@pytest.mark.parametrize("eps", [0.3, 0.1, 0.03, 0.01])
def test_enumeration_equals_brute_force(eps):
    for vocabulary, horizon, seed in WORLDS:
        table = Table(seed, vocabulary, horizon)
        found = union(eps, table)
        inside = {found.tree.path(edge) for edge in np.flatnonzero(support(found.tree, eps)[:, 0])}
        assert inside == {prefix for prefix in table.prefixes() if table.probability(prefix) >= eps}
        assert found.evaluations <= most_evaluations(eps, horizon, vocabulary)


def test_what_was_cut_and_what_was_kept_is_everything():
    for vocabulary, horizon, seed in WORLDS:
        found = union(0.03, Table(seed, vocabulary, horizon), Table(seed + 100, vocabulary, horizon))
        responses = found.tree.reach[found.tree.ends].sum(axis=0)
        assert np.allclose(responses + found.residual, 1, atol=FLOAT64_SUM)


def test_reach_of_two_policies_in_one_tree_is_exact_for_both():
    first, second = Table(0, 3, 4), Table(1, 3, 4)
    tree = union(0.02, first, second).tree
    for edge in range(len(tree)):
        assert tree.reach[edge] == pytest.approx(
            [first.probability(tree.path(edge)), second.probability(tree.path(edge))]
        )


def test_mass_accounting_over_a_whole_tree():
    for vocabulary, horizon, seed in WORLDS:
        tree = union(0.0, Table(seed, vocabulary, horizon), Table(seed + 1, vocabulary, horizon)).tree
        assert occupancy(tree, horizon).sum(axis=0) == pytest.approx([1, 1])
        changes = [after - before for before, after in mass_by_cell(tree, 0.05, horizon).values()]
        assert abs(sum(changes)) < FLOAT64 and max(map(abs, changes)) > 0


def test_the_same_policy_twice_has_no_expansion_and_no_attrition():
    tree = union(0.01, Table(3, 4, 4), Table(3, 4, 4)).tree
    assert set(cells(tree, 0.05)) <= {"shared", "diffuse"}


def test_coverage_starts_near_1_and_falls_with_depth():
    for vocabulary, horizon, seed in WORLDS:
        whole = union(0.0, Table(seed, vocabulary, horizon)).tree
        covered = coverage(whole, 0.05, horizon)
        assert (np.diff(covered) <= FLOAT64).all() and covered[0] <= 1 + FLOAT64
        assert np.allclose(coverage(whole, 0.0, horizon), 1)


def test_hand_numbers():
    """Half the responses end at once; the other half continue with 1, then end with probability 1/4.

    Depth 1: edges 0 (ends) and 1, reach 1/2 each. Depth 2: 1,0 (ends) 1/8, and 1,1 3/8 (cut by the horizon).
    """
    logp = np.log([0.5, 0.25])
    tree = Tree.of([((0,), np.log([0.5]), True), ((1, 0), logp, True), ((1, 1), np.log([0.5, 0.75]), True)])
    assert tree.reach[:, 0] == pytest.approx([0.5, 0.5, 0.125, 0.375])
    assert coverage(tree, 0.3, 2) == pytest.approx([1.0, 0.5 + 0.375])
    assert occupancy(tree, 2)[:, 0] == pytest.approx([0.5, 0.25, 0.0625, 0.1875])


def test_one_prefix_with_two_probabilities_is_refused():
    with pytest.raises(DataError, match="two log-probs"):
        Tree.of([((1, 2), np.log([0.5, 0.5]), True), ((1, 3), np.log([0.4, 0.5]), True)])
