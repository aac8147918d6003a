"""The reduced form of docs/validation.md: the same code, smaller numbers."""

import importlib

import numpy as np
import pytest
from studies.validation import coverage, events, exactness, labels, populations, stress, truth
from studies.validation.__main__ import SECTIONS
from studies.validation.scores import ACCURACY, BELOW, DECIDED, calibration_error
from transformers import AutoModelForCausalLM, AutoTokenizer

from offon.tasks import open_task
from offon.testbed import model_path
from offon.testbed.oracle import exact
from offon.types import Sampling, Verdict
from tests.rounding import FLOAT32

pytestmark = pytest.mark.slow


def missed(findings):
    return [finding.row() for finding in findings if not finding.met]


def test_instruments_are_exact():
    assert not missed([exactness.enumeration(4), exactness.sums(2), exactness.filter_invariance(4)])


def test_unchanged_prompts_are_not_certified_as_gained():
    assert not missed([finding for k in (32, 64) for finding in exactness.false_expansion(2_000, k)])


def test_every_section_of_the_page_is_there_to_run():
    assert all(callable(importlib.import_module(f"studies.validation.{name}").run) for name in SECTIONS)


def test_planted_bottlenecks_are_found_within_budget():
    """Twelve prompts of each class, rates known. Accuracy of 80 calls at .97 falls below .9 in one of 1,500 draws."""
    found = events.scenario("balanced", 12, seed=0).scores
    assert found[ACCURACY] >= 0.9 and found[DECIDED] >= 0.8
    assert found["rollouts per prompt, the most"] <= 224 and found[BELOW] <= 0.05


def test_reach_is_judged_at_looks_only():
    """79 failures certify at k = 64. Prompts at 0 are called after the first look; prompts at p = .05 > eps are called
    below support in less than a tenth (stopping at .9 after any eighth rollout calls three in ten)."""
    sure = {"ratio": 1.0, "scaffold": 0.0, "placed": 0.0, "finished": 0.0, "placebo": 0.0}

    def calls(content: float) -> tuple[list[str], np.ndarray]:
        bench = events.Coins(
            {n: np.full(90, p) for n, p in {**sure, "content": content}.items()}, np.random.default_rng(0)
        )
        events.allocate(bench, 224, 64)
        return events.class_calls(events.posterior(bench.measured, 64)), bench.scored["strict"]

    never, looked = calls(0.0)
    assert set(never) == {"missing"} and set(looked) == {79}
    seldom, _ = calls(0.05)
    assert sum(call in ("missing", "unreachable", "unsupported") for call in seldom) < 9


def test_intervals_cover_as_they_say():
    """200 repeats: coverage of .94 is seen below .89 in one of 200 draws, .95 below .9. The truth is exact: cells by
    which side of the threshold a rate is on."""
    for name in ("null, rates up to .3", "changed"):
        cells = list(coverage.cells(name, coverage.CHOSEN[name], 64, 64, 200, truth=20_000))
        others = {cell.what: cell.covered for cell in cells if cell.kind == "others"}
        terms = {cell.what: cell.covered for cell in cells if cell.kind == "open"}
        assert len(others) >= 10 and min(others.values()) >= 0.88, others
        assert len(terms) == 16 and min(terms.values()) >= 0.9, terms
        assert not sum(cell.wide_at_nothing for cell in cells if cell.kind == "exact")
        wrong = [max(cell.low_passes, cell.high_passes) for cell in cells if cell.kind == "others"]
        assert max(wrong) <= 0.1


def test_the_truth_of_a_term_is_the_change_of_its_cell():
    """By hand, eps(k = 4) = .527: .1 -> .9 expands, .9 -> .1 is lost, .6 -> .8 is reshaped, .2 -> .3 diffuse. pass@8 of
    .1 is 1 - .9^8. What is kept of a gain, .9 -> .5, is weighed by how often the gain is certain."""
    p0, p1, p2 = np.array([0.1, 0.9, 0.6, 0.2]), np.array([0.9, 0.1, 0.8, 0.3]), np.array([0.5, 0.1, 0.8, 0.3])
    found = populations.exact(lambda n, rng: (p0, p1, p2), 4, 16, np.random.default_rng(0))
    for term, row in (("expansion", [0.8, 0, 0, 0]), ("attrition", [0, 0.8, 0, 0]), ("reshaping", [0, 0, 0.2, 0])):
        np.testing.assert_allclose(found[f"soft {term}"], row, atol=1e-12)
    np.testing.assert_allclose(found["certified diffuse"], [0, 0, 0, 0.1], atol=1e-12)
    assert found["pass@8"][0] == pytest.approx(1 - 0.9**8) and found["lost"].tolist() == pytest.approx([0, 0.8, 0, 0])
    assert found["gain kept"][0] / found["gain"][0] == pytest.approx(0.5, abs=0.01)
    parts = [found[f"trajectory {name}"] for name in ("expansion", "reshaping", "attrition")]
    np.testing.assert_allclose(parts[0] + parts[1] - parts[2], p1 - p0)


def test_carriers_are_the_prompts_that_make_half_of_the_distance():
    assert coverage.carriers(np.array([0, 0, 0, -4.0])) == 0.25
    assert coverage.carriers(np.array([1, 1, 1, 0.5])) == 0.25
    assert coverage.carriers(np.array([-1.0, 1, -1, 1, 0])) == 0.4


def test_roles_of_planted_changes():
    """Fifteen of each. Called right with probability .99 or more, 13 or fewer have probability under .01."""
    assert labels.shares(labels._expanded, 64, 15)["expansion"] >= 0.9
    assert labels.shares(labels._reshaped, 64, 15)["reshaping"] >= 0.9


def test_hand_number_of_the_calibration_error():
    """Confidence .95 on two prompts, one right: gap .45. Confidence .55 on two, one right: gap .05. Mean .25."""
    assert calibration_error(np.array([0.95, 0.95, 0.55, 0.55]), np.array([1, 0, 1, 0])) == pytest.approx(0.25)


def test_doubt_about_the_format_is_resolved_by_rollouts():
    """Content is certain (.98), the share in the right format (.3) is not: rollouts are spent until it is called."""
    sure = {"content": 0.98, "ratio": 0.3, "scaffold": 0.0, "placed": 0.3, "finished": 0.9, "placebo": 0.0}
    bench = events.Coins({name: np.full(20, value) for name, value in sure.items()}, np.random.default_rng(1))
    events.allocate(bench, 224, 64)
    calls = events.class_calls(events.posterior(bench.measured, 64))
    assert calls.count("format") >= 17 and len(set(bench.spent)) > 1


def test_true_rates_are_those_of_the_oracle():
    """Nine right contents, three of them in the right format: their probabilities added up, and the tree of everything
    the base says."""
    model, tokenizer = (kind.from_pretrained(model_path("base")) for kind in (AutoModelForCausalLM, AutoTokenizer))
    items = open_task({"testbed": ["rare", "format"]}).items("heldout")[:6]
    for temperature in (1.0, 0.7):
        rows = exact(model, tokenizer, items, temperature=temperature)
        sampling = Sampling(temperature=temperature)
        found = truth.success(model, tokenizer, items, [item.prompt for item in items], sampling)
        np.testing.assert_allclose(found["strict"], [row.success for row in rows], atol=FLOAT32)
        np.testing.assert_allclose(found["content"], [row.content for row in rows], atol=FLOAT32)


def test_a_second_attempt_counts_where_the_checker_says_so():
    item = open_task("testbed:guard").items("heldout")[0]
    again = f"backward 1 {item.reference}"
    assert stress.last_attempt([(item, again)])[0].score == 1 and stress.gold([(item, again)])[0].score == 0
    assert stress.rejects_sign(["guard"])([(item, item.reference)])[0] == Verdict(0.0, content=1.0)
