"""Duplicates by hand, near duplicates against brute force, contamination, and shares with unknown rows."""

from __future__ import annotations

import random
from itertools import combinations

import pytest

from offon.behavior.stage.data_quality import SIMILAR, Row, describe, near_duplicates, shingles, similarity


def test_numbers_of_five_rows_by_hand():
    """The third row repeats the first; the fourth has its prompt and another answer. Two of four judged are right, one
    row is not: between 2/5 and 3/5 of all."""
    rows = [
        Row("1 + 1 =", "2", "base", True),
        Row("1 + 2 =", "3", "base", True),
        Row("1 + 1 =", "2", "teacher", False),
        Row("1 + 1 =", "3", "base", False),
        Row("1 + 3 =", "4", "base", None),
    ]
    found = describe(rows, {"sums": ["1 + 3 =", "2 + 2 ="], "other": ["x"]})
    assert (found["rows"], found["prompts"]) == (5, 3)
    assert found["duplicates"] == {"rows": 1, "share": pytest.approx(0.2)}
    assert found["producers"] == [
        {"producer": "base", "rows": 4, "share": 0.8},
        {"producer": "teacher", "rows": 1, "share": 0.2},
    ]
    assert found["contamination"]["sums"] == {"rows": 1, "share": 0.2, "prompts": 1, "heldout": 2}
    assert found["contamination"]["other"]["rows"] == 0
    assert found["right"] == {"known": 4, "estimate": 0.5, "low": 0.4, "high": pytest.approx(0.6)}


def test_case_and_white_space_do_not_hide_a_held_out_prompt():
    found = describe([Row("What  is\nTWO plus two?", "4")], {"t": ["what is two plus two?"]})
    assert found["contamination"]["t"]["rows"] == 1 and found["right"] is None


def test_similarity_of_two_sentences_by_hand():
    """a b c d e / a b c d f: three stretches each, abc bcd cde and abc bcd cdf; two of four in common."""
    assert similarity(shingles("a b c d e"), shingles("a b c d f")) == 0.5
    assert similarity(shingles("A b  c"), shingles("a b c")) == 1.0


def test_near_duplicates_are_those_of_comparing_every_two():
    """Texts of 30 words, half of them copies of an earlier one with one word changed (similarity about .8): hashing
    finds what comparing all pairs finds, and calls nothing similar that is not."""
    draw = random.Random(0)
    texts: list[str] = []
    for _ in range(80):
        if texts and draw.random() < 0.5:
            words = draw.choice(texts).split()
            words[draw.randrange(30)] = "changed"
        else:
            words = [f"w{draw.randrange(200)}" for _ in range(30)]
        texts.append(" ".join(words))
    kept, expected = [], 0
    for text in texts:
        near = any(similarity(shingles(text), shingles(other)) >= SIMILAR for other in kept)
        expected += near
        kept += [] if near else [text]
    assert 15 < expected < 60
    assert near_duplicates(texts) == expected
    pairs = [similarity(shingles(a), shingles(b)) for a, b in combinations(texts, 2)]
    assert any(0.6 < value < SIMILAR for value in pairs)  # some pairs only just are not


def test_copies_are_counted_once_as_duplicates_and_never_as_near_ones():
    rows = [Row("a b c d e f g h", "x")] * 4
    found = describe(rows, {})
    assert found["duplicates"]["rows"] == 3 and found["near_duplicates"]["rows"] == 0
