"""The reduced form of docs/validation.md: the same code, smaller numbers."""

import numpy as np
import pytest
from studies.validation import coverage, events, exactness, labels
from studies.validation.scores import calibration_error

from offon.behavior.bottleneck import CLASSES


def missed(findings):
    return [finding.row() for finding in findings if not finding.met]


def test_instruments_are_exact():
    assert not missed([exactness.enumeration(4), exactness.sums(2), exactness.filter_invariance(4)])


def test_unchanged_prompts_are_not_certified_as_gained():
    assert not missed([finding for k in (32, 64) for finding in exactness.false_expansion(2_000, k)])


def test_planted_bottlenecks_are_found_within_budget():
    """Twelve prompts of each class, rates known. Accuracy of 84 calls at .97 falls below .9 in one of 1,500 draws."""
    rng = np.random.default_rng(0)
    parts = [events.planted(kind, 12, rng) for kind in CLASSES]
    rates = events.rates_of({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
    found = {f.what.split(": ")[1]: f for f in events.diagnosed("events", rates, rng)}
    assert found["accuracy of decided calls"].value >= 0.9
    assert found["decided"].met and found["rollouts per prompt, the most"].met
    assert found["solved or ranking called below support"].met


def test_intervals_cover_as_they_say():
    """200 repeats: coverage of .94 is seen below .89 in one of 200 draws. Certified terms of unchanged prompts are 0,
    and so are their intervals."""
    for name in ("null, rates up to .3", "changed"):
        cells = list(coverage.cells(name, coverage.CHOSEN[name], 64, 64, 200, truth=20_000))
        others = {cell.what: cell.covered for cell in cells if cell.kind == "others"}
        assert len(others) > 20 and min(others.values()) >= 0.88, others
        assert not sum(cell.wide_at_nothing for cell in cells if cell.kind == "exact")
        wrong = [max(cell.low_passes, cell.high_passes) for cell in cells if cell.kind == "others"]
        assert max(wrong) <= 0.1


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
    rates = {name: np.full(20, value) for name, value in sure.items()}
    bench = events.Coins(rates, np.random.default_rng(1))
    events.spend(bench, 224, 64, events.Rule(), lambda event: None)
    calls = events.class_calls(events.posterior(bench.measured, 64).probabilities)
    assert calls.count("format") >= 17 and len(set(bench.spent)) > 1
