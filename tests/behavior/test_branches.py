"""A tree to draw keeps what is reached most, and everything is in it or in its residual."""

import numpy as np
import pytest

from offon.behavior.change.branches import branches
from offon.behavior.change.enumeration import enumerate_support
from tests.behavior.tabular import STOP, Table
from tests.rounding import FLOAT64, FLOAT64_SUM


def drawn(tree, **options):
    right = {tree.path(edge): sum(tree.path(edge)) % 2 == 1 for edge in np.flatnonzero(tree.ends)}
    return branches(tree, 0.05, text=lambda tokens: " ".join(map(str, tokens)), right=right, **options)


@pytest.fixture(scope="module")
def tree():
    [found] = enumerate_support([Table(0, 4, 5), Table(9, 4, 5)], eps=0.0, stop={STOP}, horizon=5)
    return found.tree


@pytest.mark.parametrize("most", [1, 7, 60, 10_000])
@pytest.mark.parametrize("joined", [0.99, 0.7, 2.0])
def test_endings_and_residual_are_everything(tree, most, joined):
    found = drawn(tree, most=most, joined=joined)
    nodes = found["nodes"]
    assert len(nodes) <= most
    for side, policy in (("before", 0), ("after", 1)):
        ended = sum(node[side] for node in nodes if node["ends"])
        rest = found["root_rest"][policy] + sum(node["rest"][policy] for node in nodes)
        assert found["residual"][side] == pytest.approx(rest, abs=FLOAT64_SUM)
        assert ended + found["residual"][side] == pytest.approx(1, abs=FLOAT64_SUM)


def test_parents_come_first_and_reach_falls(tree):
    nodes = drawn(tree, most=25)["nodes"]
    for index, node in enumerate(nodes):
        assert node["parent"] < index
        if node["parent"] >= 0:
            above = nodes[node["parent"]]
            assert all(node[side] <= above[side] + FLOAT64 for side in ("before", "after"))
            assert node["depth"] == above["depth"] + above["tokens"]


def test_without_joining_every_node_is_an_edge_with_its_reach(tree):
    nodes = drawn(tree, most=10_000, joined=2.0)["nodes"]
    assert len(nodes) == len(tree)
    words = []
    for node in nodes:
        path = (*(words[node["parent"]] if node["parent"] >= 0 else ()), int(node["token"]))
        words.append(path)
        assert node["before"] == pytest.approx(Table(0, 4, 5).probability(path))
        assert node["right"] == (sum(path) % 2 == 1 if node["ends"] else None)


def test_tokens_that_always_follow_each_other_are_one_branch():
    """1 is certain, then 2 or 0; after 2 always 3, 0: branches 1, 1 0, and 1 2 3 0 drawn as '2 3 0'."""

    class Chain(Table):
        def next(self, prefix):
            law = {(): [0, 1, 0, 0], (1,): [0.4, 0, 0.6, 0], (1, 2): [0, 0, 0, 1], (1, 2, 3): [1, 0, 0, 0]}
            return np.array(law[prefix], float)

    with np.errstate(divide="ignore"):
        [found] = enumerate_support([Chain(0, 4, 4), Chain(0, 4, 4)], eps=0.01, stop={STOP}, horizon=4)
    nodes = drawn(found.tree)["nodes"]
    assert [(n["token"], n["tokens"], n["parent"], n["ends"]) for n in nodes] == [
        ("1", 1, -1, False), ("0", 1, 0, True), ("2 3 0", 3, 0, True),
    ]  # fmt: skip
    assert nodes[2]["before"] == pytest.approx(0.6) and nodes[2]["depth"] == 2
