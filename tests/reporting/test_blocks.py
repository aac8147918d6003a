"""Gates, artefacts, the path and what is handed on: the page repeats the numbers of the files."""

import pytest

from offon.behavior.stage.task_entry import task_handoff
from offon.reporting import words
from offon.reporting.blocks.artefacts import PLOT, artefacts, reliability
from offon.reporting.blocks.effects import attribution, effects, states
from offon.reporting.blocks.exact import coverage
from offon.reporting.blocks.gates import gates
from offon.reporting.blocks.path import path_tables
from offon.reporting.drawing import across
from tests.reporting import handed
from tests.reporting.shapes import est
from tests.rounding import FLOAT64_SUM


def test_a_scale_shows_zero_and_draws_what_has_no_bound_at_its_edge():
    at = across([0.2, 0.4])
    assert 0 < at(0) < at(0.2) < at(0.4) < 100
    assert (at(float("-inf")), at(float("inf"))) == (0, 100)


def test_effects_lie_on_one_scale_in_proportion():
    """From 0 to 0.4: 0.1 lies a quarter of the way."""
    rows = {row["label"]: row for row in effects({"a": est(0.1, 0.0), "b": est(0.4, 0.0), "c": None})}
    assert set(rows) == {"a", "b"}
    zero = rows["a"]["zero"]
    assert (rows["a"]["at"] - zero) / (rows["b"]["at"] - zero) == pytest.approx(0.25, abs=0.001)
    assert (rows["a"]["value"], rows["a"]["class"]) == ("+10.0", "up")


def test_an_interval_without_an_end_says_so():
    (row,) = effects({"a": {"estimate": 2.0, "low": 1.0, "high": None}}, "seconds")
    assert (row["value"], row["range"]) == ("2.0 s", "1.0 s to no bound")
    assert row["low"] + row["width"] == pytest.approx(100, abs=0.02)


def test_exact_numbers_are_called_exact():
    rows = states({"expansion": 0.3, "total": est(0.3)})
    assert [(row["value"], row["range"]) for row in rows] == [("+30.0", "exact"), ("+30.0", "+28.0 to +32.0")]


def test_the_path_table_adds_up_and_each_bar_starts_where_the_last_ended():
    chain = handed.path()["chains"][0]["tasks"]["testbed"]
    (table,) = path_tables(handed.path())[0]["tasks"]
    for weighting in ("soft", "certified"):
        total = sum(sums[weighting] for sums in table["sums"].values())
        assert total == pytest.approx(chain["total"]["estimate"], abs=FLOAT64_SUM)
    first, second = table["rows"]
    assert first["start"] == table["zero"] and first["end"] == second["start"]
    assert second["end"] == pytest.approx(table["total_at"]["estimate"], abs=0.02)
    for row in table["rows"]:
        right = sum(bar["width"] for bar in row["bars"] if bar["left"] >= row["start"] - 0.011)
        left = sum(bar["width"] for bar in row["bars"] if bar["left"] < row["start"] - 0.011)
        assert right - left == pytest.approx(row["end"] - row["start"], abs=0.06)
    assert "base 24" in table["lineage"] and table["cost"].startswith("A point of success") and "2.1 s" in table["cost"]


def test_a_gate_shows_each_limit_with_the_number_it_was_held_against():
    (card,) = gates([{"name": "ok", **handed.GATE}])
    retention, success, change = card["rows"]
    assert (retention["asked"], retention["value"], retention["judged"]) == ("at least 80.0%", "86.2%", "79.1%")
    assert retention["bar"]["low"] < retention["bar"]["limit"] < retention["bar"]["at"]
    assert (change["value"], change["asked"]) == ("+31.0", "at least 0.0") and success["met"]
    assert card["went_on"] == "sft goes on instead"


@pytest.mark.parametrize(("on_fail", "said"), [("stop", "the run stops here"), ("warn", "rl goes on, with a warning")])
def test_what_a_failed_gate_leads_to_is_said(on_fail, said):
    (card,) = gates([{"name": "ok", **handed.GATE, "on_fail": on_fail, "took": None}])
    assert card["went_on"] == said


def test_a_limit_without_a_number_says_why():
    limit = {"metric": "rows", "task": None, "bound": "min", "limit": 100, "value": None, "judged": None}
    (card,) = gates([{"name": "ok", **handed.GATE, "limits": [limit | {"met": False}, limit | {"met": True}]}])
    assert [row["why"] for row in card["rows"]] == ["it could not be measured", "nothing was there to lose"]
    assert card["rows"][0]["asked"] == "at least 100"


def test_a_reward_model_lies_on_the_diagonal_where_it_is_as_often_right_as_it_is_sure():
    drawn = reliability(
        [{"forecast": 0.5, "right": est(0.5, 0.1), "n": 10}, {"forecast": 0.9, "right": est(0.7), "n": 40}]
    )
    honest, too_sure = drawn["marks"]
    assert honest["x"] - PLOT["left"] == pytest.approx(PLOT["top"] + PLOT["side"] - honest["y"])
    assert honest["low"] - honest["high"] == pytest.approx(0.2 * PLOT["side"], abs=0.11)
    assert too_sure["x"] - PLOT["left"] > PLOT["top"] + PLOT["side"] - too_sure["y"]
    assert too_sure["r"] == pytest.approx(2 * honest["r"], abs=0.1)
    assert reliability([]) is None


@pytest.mark.slow
def test_artefacts_repeat_their_numbers():
    data, judge, merged = artefacts(
        [{"name": n, **a} for n, a in zip("abc", (handed.DATA, handed.REWARD_MODEL, handed.merge()), strict=True)]
    )
    assert ("repeated rows", "3.1%", "12 rows") in data["numbers"]
    assert ("ask what is held out of testbed", "0.8%", "3 rows, 2 of 80 prompts") in data["numbers"]
    assert ("right on held-out rows", "87.4%", "84.3 to 90.5") in judge["numbers"]
    assert len(judge["reliability"]["marks"]) == 5
    entry = handed.merge()["parents"][0]["tasks"]["testbed"]
    assert merged["parents"][0]["change"] == entry["d1"]["total"]
    assert merged["parents"][0]["attrition"] == words.negated(entry["d1"]["soft"]["attrition"])


def test_attribution_is_drawn_with_its_total():
    (task,) = attribution(handed.ATTRIBUTION)
    assert [(row["label"], row["value"]) for row in task["rows"]] == [
        ("sft", "+32.0"),
        ("rl", "+22.0"),
        ("all stages", "+54.0"),
    ]
    assert task["pairs"][0]["label"] == "sft with rl" and len(task["subsets"]) == 4


def test_coverage_says_up_to_which_token_both_are_in_the_tree():
    drawn = coverage({"before": [1, 0.9, 0.6, 0.4, 0.0], "after": [1, 1, 0.9, 0.8, 0.0]})
    assert "up to token 3" in drawn["words"] and drawn["x_ticks"][-1][1] == 4, "depths that hold nothing are left out"
    assert coverage({"before": [1.0], "after": [1.0]}) is None and coverage({}) is None


@pytest.mark.parametrize(
    ("tries", "text"), [(None, ""), ([1.2, 3.4], "1 to 4"), ([150.9, None], "150 or more"), ([2, 2], "2")]
)
def test_rollouts_to_a_success_are_an_interval_that_is_never_narrowed(tries, text):
    assert words.k_to_solve(tries) == text


def test_identical_checkpoints_have_no_bar_at_all():
    outcomes = [[1.0, 0.0, 1.0, 0.0]] * 4
    prompts = [{"id": str(i), "family": "", "prompt": "p"} for i in range(4)]
    entry = task_handoff(outcomes, outcomes, prompts, k=2)
    path = {
        "chains": [
            {
                "nodes": ["a", "b", "c"],
                "tasks": {"t": {"rows": [{"stage": "b", "d1": entry["d1"]}], "total": entry["d1"]["total"]}},
            }
        ]
    }
    (table,) = path_tables(path)[0]["tasks"]
    assert table["rows"][0]["start"] == table["rows"][0]["end"] and table["lineage"] == table["cost"] == ""
