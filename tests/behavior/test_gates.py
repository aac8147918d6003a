"""Limits are judged on the end of the interval that speaks against them, and what nobody measured does not pass."""

from __future__ import annotations

import numpy as np
import pytest

from offon.behavior.stage.gates import METRICS, Limit, in_words, judge, policy_metrics, sentence, vacuous
from offon.behavior.stage.task_entry import task_handoff
from offon.behavior.statistics.intervals import Est

VALUE = Est(0.5, 0.4, 0.7)


def entry(before, after, k=4):
    """Rows of outcomes, a prompt each."""
    prompts = [{"id": str(i), "prompt": f"p{i}"} for i in range(len(before))]
    return task_handoff(before, after, prompts, k=k)


@pytest.mark.parametrize(
    ("bound", "limit", "at_estimate", "judged", "met"),
    [
        ("min", 0.45, False, 0.4, False),  # the estimate is above, the low end is not
        ("min", 0.4, False, 0.4, True),
        ("min", 0.45, True, 0.5, True),
        ("max", 0.6, False, 0.7, False),  # the estimate is below, the high end is not
        ("max", 0.7, False, 0.7, True),
        ("max", 0.6, True, 0.5, True),
    ],
)
def test_a_minimum_is_judged_at_the_low_end_and_a_maximum_at_the_high_end(bound, limit, at_estimate, judged, met):
    verdict = judge(Limit("success", bound, limit, "rare", at_estimate), VALUE)
    assert (verdict["judged"], verdict["met"]) == (judged, met)
    assert verdict["value"] == {"estimate": 0.5, "low": 0.4, "high": 0.7} and verdict["task"] == "rare"


def test_what_could_not_be_measured_is_not_met_unless_nothing_could_be_lost():
    for bound in ("min", "max"):
        assert not judge(Limit("ers", bound, 0.0), None)["met"]
        assert judge(Limit("retention", bound, 0.9), None, vacuous=True)["met"]
    nothing = entry([[0, 0, 0, 0]] * 3, [[1, 0, 1, 0]] * 3)
    assert vacuous("retention", nothing) and vacuous("attrition", nothing) and not vacuous("ers", nothing)
    assert not vacuous("retention", entry([[0, 1, 0, 0]] * 3, [[1, 0, 1, 0]] * 3))


def test_more_samples_of_the_same_model_open_a_gate_that_few_leave_closed():
    """Success .75 against a minimum of .7: certain with 4,000 samples and not with 16."""
    few, many = ([[1, 1, 1, 0] * n] * 4 for n in (1, 250))
    met = [
        judge(Limit("success", "min", 0.7), policy_metrics(entry(rows, rows), 4)["success"])["met"]
        for rows in (few, many)
    ]
    assert met == [False, True]


def test_metrics_of_a_policy_are_those_of_its_entry():
    """Two prompts of 8 samples: 8 -> 4 successes and 2 -> 4. Success .625 -> .5. By hand at k = 2, pass@2 =
    1 - C(n-c, 2) / C(n, 2): before 1 and 1 - 15/28 = 13/28, after 1 - 6/28 = 22/28 on both: a drop of -.0178..."""
    before = [[1] * 8, [1, 1] + [0] * 6]
    after = [[1] * 4 + [0] * 4] * 2
    made = entry(before, after, k=2)
    values = policy_metrics(made, 2)
    assert set(values) == set(METRICS["policy"])
    assert values["success"].estimate == 0.5 and values["change"].estimate == pytest.approx(-0.125)
    assert values["pass_at_k"].estimate == pytest.approx(22 / 28)
    assert values["ers_drop"].estimate == pytest.approx((1 + 13 / 28) / 2 - 22 / 28)
    assert values["retention"].estimate == pytest.approx(1 - values["attrition"].estimate)
    assert values["retention"].low == pytest.approx(1 - values["attrition"].high)
    assert values["ers"] == values["pass_at_k"] and values["ers"].high - values["ers"].low > 0.2  # 16 samples, one rate


def test_between_identical_samples_nothing_is_lost_and_losing_is_still_not_impossible():
    """All right before and after: resampling prompts sees no loss, but 4 x 16 samples cannot exclude a small one."""
    rows = [[1] * 16] * 4
    values = policy_metrics(entry(rows, rows, k=8), 8)
    assert values["attrition"].estimate == 0 and 0.01 < values["attrition"].high < 0.15
    assert values["retention"].estimate == 1 and values["retention"].low == 1 - values["attrition"].high
    assert values["ers_drop"].estimate == 0 and values["ers_drop"].low < 0 < values["ers_drop"].high
    assert not judge(Limit("attrition", "max", 0.001), values["attrition"])["met"]
    assert judge(Limit("attrition", "max", 0.2), values["attrition"])["met"]


def test_when_everything_is_lost_a_little_may_still_be_there():
    """0 of 64 after: Wilson's upper bound .057 of a success that was 1."""
    values = policy_metrics(entry([[1] * 16] * 4, [[0] * 16] * 4, k=8), 8)
    assert values["retention"].estimate == 0 and values["retention"].high == pytest.approx(0.0566, abs=1e-3)


def test_a_loss_that_gains_elsewhere_set_off_is_attrition_all_the_same():
    rng = np.random.default_rng(0)
    half = lambda p: (rng.random((20, 64)) < p).astype(float).tolist()  # noqa: E731
    values = policy_metrics(entry(half(0.9) + half(0.1), half(0.1) + half(0.9), k=8), 8)
    assert abs(values["change"].estimate) < 0.05 and values["attrition"].low > 0.6


def test_the_sentence_names_the_numbers_and_what_goes_on():
    failed = judge(Limit("retention", "min", 0.8, "guard"), Est(0.31, 0.25, 0.38))
    passed = judge(Limit("rows", "min", 10.0), Est(54, 54, 54))
    assert in_words(failed) == "retention on guard 0.310 [0.250, 0.380] (0.250 is below 0.8)"
    assert in_words(passed) == "rows 54 (at least 10)"
    told = sentence("sft", [failed, passed], "rollback", "base")
    assert told == f"sft does not pass: {in_words(failed)}; base goes on instead"
    assert sentence("sft", [passed], "stop", "sft") == "sft passes: rows 54 (at least 10)"


def test_prompts_of_one_template_do_not_open_a_gate_together():
    """48 prompts of 6 templates say as much as 6: the end that a limit on reach is judged at lies further out."""
    rng = np.random.default_rng(0)
    rates = np.repeat(rng.random(6), 8)
    rows = [[int(x) for x in rng.random(16) < rate] for rate in rates]
    prompts = [{"id": str(i), "prompt": f"p{i}", "cluster": f"t{i // 8}"} for i in range(48)]
    clustered = policy_metrics(task_handoff(rows, rows[::-1], prompts, k=4), 4)
    alone = policy_metrics(entry(rows, rows[::-1]), 4)
    for metric in ("success", "ers", "ers_drop"):
        assert clustered[metric].estimate == pytest.approx(alone[metric].estimate)
        assert clustered[metric].high - clustered[metric].low > 1.5 * (alone[metric].high - alone[metric].low)
