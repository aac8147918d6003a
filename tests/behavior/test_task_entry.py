"""The entry of one task in handoff.json: its numbers agree with each other, and it is plain JSON."""

import json

import numpy as np
import pytest

from offon.behavior.stage.task_entry import clusters_of, task_handoff
from offon.errors import DataError
from tests.rounding import FLOAT64


def prompts(n):
    return [{"id": f"p{i}", "family": "easy" if i % 2 else "hard", "prompt": f"question {i}"} for i in range(n)]


def drawn(rates, n, seed):
    rng = np.random.default_rng(seed)
    return (rng.random((len(rates), n)) < np.asarray(rates)[:, None]).astype(float).tolist()


@pytest.fixture(scope="module")
def entry():
    before, after = drawn([0.0, 0.9] * 10, 128, 0), drawn([0.5, 0.9] * 10, 128, 1)
    before[1][:3] = [None, None, float("nan")]
    after[3] = [None] * 128
    made = task_handoff(before, after, prompts(20), k=32, sampler=({"temperature": 1.0}, {"temperature": 1.0}))
    return json.loads(json.dumps(made, allow_nan=False))


def test_success_before_and_after_differ_by_the_total_of_d1(entry):
    change = entry["after"]["success"]["estimate"] - entry["before"]["success"]["estimate"]
    assert entry["d1"]["total"]["estimate"] == pytest.approx(change, abs=FLOAT64)
    for weighting in ("certified", "soft"):
        terms = {name: term["estimate"] for name, term in entry["d1"][weighting].items()}
        assert sum(terms.values()) - 2 * terms["attrition"] == pytest.approx(change, abs=FLOAT64)


def test_planted_gain_is_called_on_every_hard_prompt(entry):
    assert entry["calls"] == {"gained": 10, "lost": 0, "kept": 9, "never": 0, "undecided": 0}
    assert {p["call"] for p in entry["prompts"] if p["family"] == "hard"} == {"gained"}
    assert entry["d1"]["certified"]["expansion"]["low"] > 0.1
    assert entry["d1"]["can_certify_out"]


def test_unscored_samples_and_prompts_are_counted_and_left_out(entry):
    assert (entry["n_prompts"], entry["n_samples"], entry["unmeasured"]) == (20, 128, 1)
    assert entry["unscored"] == {"before": 3, "after": 128}
    assert entry["prompts"][1]["before"][1] == 125
    assert entry["prompts"][3]["after"] == [0, 0] and entry["prompts"][3]["call"] == "undecided"


def test_curves_carry_the_declared_budget_and_the_sampler(entry):
    assert 32 in [point["k"] for point in entry["before"]["pass_at_k"]]
    assert entry["after"]["sampler"] == {"temperature": 1.0}


def test_families_are_measured_apart(entry):
    easy, hard = entry["families"]["easy"], entry["families"]["hard"]
    assert easy["calls"]["kept"] == 9 and hard["calls"]["gained"] == 10
    assert abs(easy["d1"]["total"]["estimate"]) < 0.03
    shares = (9 * easy["d1"]["total"]["estimate"] + 10 * hard["d1"]["total"]["estimate"]) / 19
    assert entry["d1"]["total"]["estimate"] == pytest.approx(shares)


def test_disagreeing_rows_and_unscored_tasks_are_refused():
    with pytest.raises(DataError, match="'prompts': 2, 'before': 1, 'after': 1"):
        task_handoff([[1, 0]], [[1, 0]], prompts(2), k=1)
    with pytest.raises(DataError, match="no prompt has two scored samples"):
        task_handoff([[None, None]], [[1, 0]], prompts(1), k=1)


def test_intervals_are_over_clusters_where_rows_name_them():
    """Twenty prompts of four templates that do the same: four observations, not twenty. Success itself is the same, and
    every prompt keeps its template's name."""
    before = [[1.0] * 4 + [0.0] * 4] * 20
    after = [[1.0] * c + [0.0] * (8 - c) for c in np.repeat([2, 4, 6, 8], 5)]
    prompts = [{"id": f"p{i}", "family": "", "prompt": "", "cluster": f"t{i // 5}"} for i in range(20)]
    apart = [{name: value for name, value in prompt.items() if name != "cluster"} for prompt in prompts]
    together, alone = (task_handoff(before, after, rows, k=4) for rows in (prompts, apart))
    assert together["after"]["success"]["estimate"] == alone["after"]["success"]["estimate"] == 0.625

    def width(entry):
        est = entry["d1"]["total"]
        return est["high"] - est["low"]

    assert width(together) > 1.8 * width(alone)
    assert together["prompts"][7]["cluster"] == "t1" and "cluster" not in alone["prompts"][7]
    some = clusters_of([{"id": "a", "cluster": "x"}, {"id": "b"}, {"id": "c", "cluster": "x"}])
    assert some[0] == some[2] != some[1] and clusters_of(apart) is None
