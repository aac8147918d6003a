"""The support map: a prompt lies where its counts say, and is called as it was called."""

import math

import pytest

from offon.behavior.change.support import support_threshold
from offon.reporting.blocks.prompts import changed, diagnosed
from offon.reporting.blocks.support_map import FRAME, place, support_map, x, y


def prompt(before, after, call, family="f", text="p"):
    return {"prompt": text, "family": family, "before": before, "after": after, "call": call}


def test_the_axis_shows_zero_and_stretches_both_ends_alike():
    """arcsin(sqrt(p)) * 2 / pi: 0 at 0, 1/2 at 1/2, 1 at 1, 1/3 at 1/4, and place(1 - p) = 1 - place(p)."""
    assert [place(p) for p in (0, 0.25, 0.5, 0.75, 1)] == pytest.approx([0, 1 / 3, 1 / 2, 2 / 3, 1])
    assert place(0.01) > 6 * 0.01
    assert all(place(1 - p) == pytest.approx(1 - place(p)) for p in (0.001, 0.1, 0.37))


def test_a_prompt_lies_at_its_rates():
    """1/4 before lies a third of the way to the right, 3/4 after two thirds of the way up."""
    drawn = support_map("t", [prompt([24, 96], [72, 96], "kept")], 32)
    (mark,) = drawn["marks"]
    assert mark["x"] == pytest.approx(FRAME["left"] + FRAME["side"] / 3, abs=0.06)
    assert mark["y"] == pytest.approx(FRAME["top"] + FRAME["side"] / 3, abs=0.06)
    assert mark["title"] == "f: p · before 24 of 96 right, after 72 of 96 right · within reach both times"


def test_the_lines_lie_at_the_reach_of_k_rollouts_and_divide_the_calls():
    drawn = support_map("t", [prompt([0, 96], [96, 96], "gained"), prompt([96, 96], [0, 96], "lost")], 32)
    eps = support_threshold(32)
    assert (drawn["eps"]["x"], drawn["eps"]["y"]) == (x(eps), y(eps)) and drawn["eps"]["share"] == "8.9%"
    gained, lost = (next(m for m in drawn["marks"] if m["call"] == call) for call in ("gained", "lost"))
    assert gained["x"] < drawn["eps"]["x"] < lost["x"] and gained["y"] < drawn["eps"]["y"] < lost["y"]
    assert [(cell["call"], cell["n"]) for cell in drawn["cells"]] == [("gained", 1), ("lost", 1)]


def test_prompts_at_one_place_are_one_mark_whose_area_counts_them():
    here = [prompt([0, 96], [48, 96], "gained", family) for family in ("a", "a", "b", "b")]
    (mark,) = support_map("t", here, 32)["marks"]
    (alone,) = support_map("t", here[:1], 32)["marks"]
    assert mark["n"] == 4 and mark["r"] == pytest.approx(2 * alone["r"], abs=0.1)
    assert mark["title"].startswith("4 prompts (a 2 and b 2) · about 0% → 50.0%")


def test_every_measured_prompt_is_in_exactly_one_mark_and_in_one_count():
    grid = [prompt([i, 20], [j, 20], "kept" if i > j else "undecided") for i in range(21) for j in range(21)]
    drawn = support_map("t", [*grid, prompt([0, 0], [3, 20], "undecided")], 32)
    assert sum(mark["n"] for mark in drawn["marks"]) == sum(drawn["counts"].values()) == 441
    assert drawn["counts"] == {"kept": 210, "undecided": 231} and "210 kept and 231 undecided" in drawn["words"]


def test_the_band_is_as_wide_as_samples_alone_make_it():
    """Half width 1.96 / pi sqrt(1/96 + 1/96) of the side: the first corner above the origin lies there."""
    band = support_map("t", [prompt([9, 96], [9, 96], "kept")], 32)["band"]
    corner = float(band.split("L")[1].split()[1])
    half = 1.96 / math.pi * math.sqrt(2 / 96)
    assert corner == pytest.approx(FRAME["top"] + FRAME["side"] * (1 - half), abs=0.06)


def test_without_a_budget_there_are_no_lines_and_without_samples_no_map():
    drawn = support_map("t", [prompt([9, 96], [9, 96], "kept")], None)
    assert drawn["eps"] is None and drawn["cells"] == []
    assert support_map("t", [prompt([0, 0], [1, 2], "undecided")], 32) is None


# ---- the table beside it


def test_lost_prompts_come_first_largest_change_first_and_the_rest_is_told():
    own = [prompt([96 - i, 96], [0, 96], "lost", text=f"p{i}") for i in (3, 1, 2)]
    lost, kept = changed([prompt([9, 9], [9, 9], "kept"), *own], most=2)
    assert [p["prompt"] for p in lost["prompts"]] == ["p1", "p2"] and lost["more"] == 1 and lost["open"]
    assert (lost["title"], kept["title"]) == ("3 lost: within reach, now out", "1 within reach both times")


def test_a_prompt_in_the_table_has_its_interval():
    """48 of 96: Wilson at 95% is [.402, .598]."""
    ((group,),) = [changed([prompt([48, 96], [0, 0], "undecided")])]
    (drawn,) = group["prompts"]
    assert (drawn["before_drawn"]["at"], drawn["before_drawn"]["range"]) == (50.0, "40.2 to 59.8")
    assert drawn["before_drawn"]["low"] == pytest.approx(40.2, abs=0.05)
    assert drawn["after_drawn"] is None and drawn["way"] is None


def test_a_diagnosis_lists_the_least_sure_first_with_only_the_columns_it_has():
    def one(name, sure, **counts):
        shares = {"ranking": sure, "missing": 1 - sure}
        return {"prompt": name, "call": "ranking", "probabilities": shares, "strict": [1, 8]} | counts

    (group,) = diagnosed([one("sure", 0.99), one("unsure", 0.91, placed=[3, 8])])
    assert [p["prompt"] for p in group["prompts"]] == ["unsure", "sure"]
    assert list(group["columns"]) == ["strict", "placed"]
    assert [part["width"] for part in group["prompts"][0]["bar"]] == [91.0, 9.0]


def test_a_call_that_the_page_does_not_know_is_shown_all_the_same():
    assert [group["title"] for group in changed([prompt([1, 2], [1, 2], "odd")])] == ["1 odd"]
    assert [group["title"] for group in diagnosed([{"prompt": "p", "call": "odd", "strict": [1, 8]}])] == ["1 odd"]
