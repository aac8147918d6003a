"""Geometry: what is drawn is what was measured."""

import itertools

import pytest

from offon.reporting import words
from offon.reporting.blocks.curves import curves
from offon.reporting.blocks.decomposition import decomposition, granularities
from offon.reporting.blocks.graph import graph
from offon.reporting.blocks.pass_at_k import pass_at_k
from offon.reporting.drawing import line
from tests.reporting.synthetic import pipeline


def est(value, reach=0.01):
    return {"estimate": value, "low": value - reach, "high": value + reach}


def row(total, certified, soft):
    terms = ("expansion", "reshaping", "attrition", "diffuse")
    return {
        "label": "all",
        "success": {"change": est(total)},
        "certified": {name: est(value) for name, value in zip((*terms, "ambiguous"), certified, strict=True)},
        "soft": {name: est(value) for name, value in zip(terms, soft, strict=True)},
    }


ROWS = [
    row(0.30, (0.20, 0.05, 0.0, 0.0, 0.05), (0.22, 0.08, 0.0, 0.0)),
    row(-0.10, (0.02, -0.06, 0.05, 0.0, -0.01), (0.02, -0.06, 0.06, 0.0)),
]


def test_bars_add_up_to_the_measured_change():
    """Widths to the right of zero minus widths to its left are the total, for either weighting, on one scale."""
    for drawn in decomposition(ROWS):
        for bars in drawn["bars"].values():
            right = sum(bar["width"] for bar in bars if bar["left"] >= drawn["zero"] - 0.01)
            left = sum(bar["width"] for bar in bars if bar["left"] < drawn["zero"] - 0.01)
            assert right - left == pytest.approx(drawn["total"]["estimate"] - drawn["zero"], abs=0.1)


def test_a_loss_is_drawn_to_the_left_and_bars_never_overlap():
    _, falling = decomposition(ROWS)
    lost = next(bar for bar in falling["bars"]["soft"] if bar["term"] == "attrition")
    assert lost["left"] + lost["width"] <= falling["zero"] + 0.01
    spans = sorted((bar["left"], bar["left"] + bar["width"]) for bar in falling["bars"]["soft"])
    assert all(first[1] <= second[0] + 0.02 for first, second in itertools.pairwise(spans))


def test_everything_drawn_lies_on_the_page():
    for drawn in decomposition(ROWS):
        ends = [drawn["total"]["low"], drawn["total"]["high"]]
        ends += [edge for bars in drawn["bars"].values() for b in bars for edge in (b["left"], b["left"] + b["width"])]
        assert min(ends) >= 0 and max(ends) <= 100


def test_each_granularity_is_the_same_change_told_apart_on_one_scale():
    """0.30 by prompt (0.22 + 0.08) and by response (0.34 - 0.04): the totals lie at one place, the terms do not."""
    by_response = {"total": est(0.30), "expansion": est(0.34), "reshaping": est(0.0, 0), "attrition": est(0.04)}
    drawn = granularities(ROWS[0] | {"trajectories": {"d1": by_response}, "classes": None})
    prompts, responses = drawn["rows"]
    assert [row["label"] for row in drawn["rows"]] == ["by prompt", "by response"]
    assert prompts["total"] == responses["total"] and prompts["zero"] == responses["zero"]
    widths = {bar["term"]: bar["width"] for bar in responses["bars"]["soft"]}
    share = (prompts["total"]["estimate"] - prompts["zero"]) / 0.30  # percent of the width per unit of success
    assert widths == pytest.approx({"expansion": 0.34 * share, "attrition": 0.04 * share}, abs=0.03)


def test_a_new_wording_is_pointed_out_only_where_the_intervals_leave_no_doubt():
    """Expansion by prompt 0.22 in [0.21, 0.23]: by response 0.34 in [.33, .35] is above, in [.22, .46] not."""
    rest = {"total": est(0.30), "reshaping": est(0.0), "attrition": est(0.04)}
    for reach, said in ((0.01, True), (0.12, False)):
        drawn = granularities(ROWS[0] | {"trajectories": {"d1": {**rest, "expansion": est(0.34, reach)}}})
        assert bool(drawn["surface"]) == said
    assert granularities(ROWS[0]) is None


def test_the_graph_has_a_box_per_artefact_and_an_arrow_per_pair():
    drawing = graph(pipeline({})["nodes"], [])["across"]
    assert {box["name"] for box in drawing["boxes"]} == {"base", "student", "demos.jsonl", "sft", "rl", "out"}
    labels = sorted(edge["label"] for edge in drawing["edges"])
    assert labels == ["data", "init", "init", "init + reference", "teacher"]


@pytest.mark.parametrize("way", ["across", "down"])
def test_boxes_do_not_overlap_and_arrows_point_forward(way):
    drawing = graph(pipeline({})["nodes"], [])[way]
    for a, b in itertools.combinations(drawing["boxes"], 2):
        apart = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        assert apart or a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"], (a["name"], b["name"])
    place = {box["name"]: box["x" if way == "across" else "y"] for box in drawing["boxes"]}
    assert place["base"] < place["sft"] < place["rl"] < place["out"]
    assert place["student"] == pytest.approx(place["rl"], abs=30)  # a second root stands just before its first use


def test_a_loop_in_the_graph_is_drawn_rather_than_followed_for_ever():
    nodes = [
        {"name": "a", "kind": "train", "inputs": [{"kind": "init", "from": "b"}]},
        {"name": "b", "kind": "train", "inputs": [{"kind": "init", "from": "a"}]},
    ]
    stage = {"interface": None, "results": [], "state": "pending", "regime": None}
    stages = [{"name": name, **stage} for name in "ab"]
    assert len(graph(nodes, stages)["across"]["boxes"]) == 2


def test_a_pass_at_k_panel_puts_zero_at_the_bottom_and_one_at_the_top():
    curve = [{"k": 1, **est(0.0, 0)}, {"k": 2, **est(0.5, 0)}, {"k": 4, **est(1.0, 0)}]
    panel = pass_at_k({"before": curve, "after": curve}, 4)
    bottom, top = panel["height"] - panel["bottom"], panel["top"]
    left, right = panel["left"], panel["width"] - panel["right"]
    middle = (left + right) / 2
    assert panel["after"]["line"] == line([(left, bottom), (middle, (bottom + top) / 2), (right, top)])
    assert panel["k"] == (right, 4) and panel["at_k"] == "100% (100.0 to 100.0) → 100% (100.0 to 100.0)"


def test_a_pass_at_k_panel_spaces_budgets_by_doubling_and_draws_both_ends_of_the_interval():
    """k = 1, 2, 4, 8 lie a third of the width apart; the band's first corner is the high end, its last the low one."""
    curve = [
        {"k": k, "estimate": p, "low": p - 0.1, "high": p + 0.1} for k, p in ((1, 0.2), (2, 0.4), (4, 0.6), (8, 0.8))
    ]
    panel = pass_at_k({"before": curve, "after": curve}, 2)
    points = [tuple(map(float, at.split())) for at in panel["before"]["band"].strip("MZ").split("L")]
    left, right = panel["left"], panel["width"] - panel["right"]
    assert [x for x, _ in points[:4]] == pytest.approx([left + (right - left) * i / 3 for i in range(4)], abs=0.06)
    tall = panel["height"] - panel["top"] - panel["bottom"]
    assert points[0][1] == pytest.approx(panel["top"] + 0.7 * tall, abs=0.06)
    assert points[-1][1] == pytest.approx(panel["top"] + 0.9 * tall, abs=0.06)
    assert panel["at_k"] == "40.0% (30.0 to 50.0) → 40.0% (30.0 to 50.0)"


def test_one_budget_is_no_curve():
    assert pass_at_k({"before": [{"k": 1, **est(0.2)}], "after": [{"k": 1, **est(0.3)}]}, 1) is None


def test_a_long_curve_is_averaged_and_keeps_its_range():
    metrics = [{"step": step, "loss/total": 10.0 if step == 700 else 1.0 / step} for step in range(1, 2001)]
    (curve,) = curves(metrics)
    assert curve["line"].count("L") < 120 and curve["high"] == "10" and curve["band"]
    assert curve["first"] == "1" and curve["last"] == words.short(1 / 2000)


def test_curves_start_with_what_matters_and_leave_out_what_does_not_move():
    metrics = [{"step": s, "time": 9.0 + s, "zzz": s, "constant": 1, "reward": s / 9, "loss/total": -s} for s in (1, 2)]
    assert [curve["name"] for curve in curves(metrics)] == ["loss/total", "reward", "zzz"]


def test_a_null_metric_is_a_gap_not_a_zero():
    metrics = [{"step": 1, "reward": 0.5}, {"step": 2, "reward": None}, {"step": 3, "reward": 0.7}]
    (curve,) = curves(metrics)
    assert curve["low"] == "0.5" and curve["line"].count("L") == 1


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, "0%"), (1, "100%"), (0.0001, "<0.1%"), (0.99999, ">99.9%"), (0.4123, "41.2%"), (None, "–")],
)
def test_a_share_is_never_rounded_to_certainty(share, text):
    assert words.percent(share) == text


def test_changes_carry_their_sign_and_nothing_is_minus_zero():
    assert words.points(0.1234) == "+12.3" and words.points(-0.05) == "−5.0" and words.points(-0.00001) == "0.0"
    assert words.points_range({"estimate": 0, "low": -0.012, "high": 0.034}) == "−1.2 to +3.4"


def test_a_loss_turned_into_a_change_turns_its_interval_too():
    assert words.negated({"estimate": 0.2, "low": 0.1, "high": 0.5}) == {"estimate": -0.2, "low": -0.5, "high": -0.1}


def test_the_sentence_about_a_stage_follows_the_intervals_only():
    def family(name, low, high):
        change = {"estimate": (low + high) / 2, "low": low, "high": high}
        return {"family": name, "task": "t", "success": {"change": change}}

    rows = [family("a", 0.1, 0.2), family("b", -0.2, -0.1), family("c", -0.1, 0.1), family("d", -0.0006, -0.0001)]
    assert words.outcome(rows) == "Success rose on a; fell on b; did not move beyond its interval on c and d."
