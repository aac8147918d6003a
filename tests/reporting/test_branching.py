"""The tree of one prompt: ribbons are as thick as reach, lie inside those they come from, and never cross a label."""

import itertools

import pytest

from offon.reporting.blocks.branching import LABEL, THICK, tree
from tests.reporting.shapes import TREE, node


def drawn(*nodes):
    return tree({"nodes": list(nodes)})["nodes"]


def test_a_ribbon_is_as_thick_as_the_share_of_responses():
    nodes = tree(TREE)["nodes"]
    for one in nodes:
        for when in ("before", "after"):
            assert one[f"{when}_ribbon"]["thick"] == pytest.approx(max(0.8, THICK * one[when]), abs=0.01)


def test_what_is_never_taken_has_no_ribbon():
    (one,) = drawn(node("a", -1, 1, 0.0, 0.5, "expansion", True, True))
    assert one["before_ribbon"]["thick"] == 0 and one["after_ribbon"]["thick"] == THICK / 2


def test_ways_on_leave_a_ribbon_side_by_side_and_inside_it():
    root, *children = drawn(
        node("a", -1, 1, 1.0, 1.0, "shared"),
        node("b", 0, 2, 0.6, 0.1, "shared", True, True),
        node("c", 0, 2, 0.4, 0.9, "shared", True, False),
    )
    for when in ("before", "after"):
        inside = root[f"{when}_ribbon"]
        spans = sorted(
            (child[f"{when}_ribbon"]["from"] - child[f"{when}_ribbon"]["thick"] / 2, child[f"{when}_ribbon"]["thick"])
            for child in children
        )
        assert spans[0][0] == pytest.approx(inside["top"])
        assert spans[1][0] == pytest.approx(spans[0][0] + spans[0][1])
        assert sum(thick for _, thick in spans) == pytest.approx(inside["thick"])


def test_tokens_that_follow_each_other_surely_are_one_label_and_the_numbers_are_the_last_ones():
    """.50 -> .495 is 99% of it: joined; .495 -> .40 is not."""
    first, second = drawn(
        node("a", -1, 1, 0.5, 0.5, "shared"),
        node("b", 0, 2, 0.495, 0.495, "shared"),
        node("c", 1, 3, 0.4, 0.4, "shared", True, True),
    )
    assert (first["label"], first["before"]) == ("a b", 0.495)
    assert (second["label"], second["path"], second["ends"]) == ("c", "a b c", True)


def test_no_ribbon_crosses_another_row():
    """Whatever the tree, each node's label and ribbons keep to the room that it and its subtree were given."""
    nodes = tree(TREE)["nodes"]
    for one in nodes:
        top = one["before_ribbon"]["top"] - LABEL
        bottom = one["after_ribbon"]["top"] + one["after_ribbon"]["thick"]
        assert top >= one["top"] - 0.01 and bottom <= one["top"] + one["tall"] + 0.01
    for a, b in itertools.combinations(nodes, 2):
        apart_x = a["right"] <= b["left"] or b["right"] <= a["left"]
        assert apart_x or a["top"] + a["tall"] <= b["top"] + 0.01 or b["top"] + b["tall"] <= a["top"] + 0.01


def test_a_tree_that_hangs_on_nothing_or_on_itself_is_not_followed_for_ever():
    nodes = drawn(
        node("a", -1, 1, 0.5, 0.5, "shared", True, True),
        node("b", 2, 2, 0.5, 0.5, "shared"),
        node("c", 1, 3, 0.5, 0.5, "shared"),
    )
    assert [one["label"] for one in nodes] == ["a"]
    assert tree({"nodes": []}) is None


def test_white_space_is_visible_and_long_tokens_are_cut():
    one, other = drawn(
        node("\n", -1, 1, 0.5, 0.5, "shared", True, None), node("x" * 90, -1, 1, 0.4, 0.4, "shared", True, None)
    )
    assert one["label"] == "⏎" and len(other["label"]) == 22 and other["label"].endswith("…")
