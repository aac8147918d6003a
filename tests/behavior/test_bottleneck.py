"""The rule on true rates, calibration under its own prior, and where the next rollout goes."""

import numpy as np
import pytest

from offon.behavior.change.support import support_threshold
from offon.behavior.diagnosis.bottleneck import (
    BELOW_SUPPORT,
    CLASSES,
    Barriers,
    Measured,
    class_calls,
    lattice,
    posterior,
)
from offon.behavior.diagnosis.information_gain import entropy_drop, most_telling, samples_to_call_unsupported
from offon.behavior.statistics.counts import Counts
from offon.behavior.statistics.intervals import jeffreys_above
from tests.rounding import FLOAT64_SUM

MANY = 4000


def measured(strict, content=None, n=MANY, **others) -> Measured:
    """One prompt whose rates are known almost exactly."""

    rates = {"strict": strict, "content": content, **others}
    counts = {name: Counts.of([round(rate * n)], n) for name, rate in rates.items() if rate is not None}
    previous = {"before": counts.pop("previous")} if "previous" in counts else {}
    return Measured(**counts, previous=previous)


@pytest.mark.parametrize(
    "rates, call",
    [
        ({"strict": 0.9}, "solved"),
        ({"strict": 0.1, "content": 0.9}, "format"),
        ({"strict": 0.1, "content": 0.1, "scaffold": 0.9}, "fragile"),
        ({"strict": 0.1, "content": 0.1, "previous": 0.9}, "fragile"),
        ({"strict": 0.5, "content": 0.5, "scaffold": 0.9}, "ranking"),  # not below half of what the scaffold gives
        ({"strict": 0.2, "content": 0.2}, "ranking"),
        ({"strict": 0.0}, "unsupported"),
        ({"strict": 0.0, "placed": 0.9, "finished": 0.9, "placebo": 0.0}, "local"),
        ({"strict": 0.0, "placed": 0.9, "finished": 0.0, "placebo": 0.0}, "unreachable"),
        ({"strict": 0.0, "placed": 0.9, "finished": 0.9, "placebo": 0.9}, "unsupported"),  # it starts over: no telling
        (
            {"strict": 0.0, "placed": 0.9, "finished": 0.5, "placebo": 0.4},
            "unreachable",
        ),  # no better than starting over
        ({"strict": 0.0, "placed": 0.1, "finished": 0.9, "placebo": 0.0}, "missing"),
    ],
)
def test_the_rule_on_rates_that_are_known(rates, call):
    found = posterior(measured(**rates), 64)
    assert class_calls(found) == [call]


def test_without_content_verdicts_the_posterior_is_the_strict_rate_alone():
    strict = Counts.of(np.arange(33), 32)
    shares = posterior(Measured(strict=strict), 64).probabilities
    np.testing.assert_allclose(shares[:, 0], jeffreys_above(*strict, 0.8), atol=1 / 500)  # the width of a draw
    assert not shares[:, [CLASSES.index("format"), CLASSES.index("fragile")]].any()


@pytest.mark.parametrize("n, most_unsupported, least_ranking", [(64, 0, 6), (128, 1, 9), (256, 5, 17)])
def test_boundaries_at_k_64(n, most_unsupported, least_ranking):
    """Jeffreys posterior against eps = .0457, at .97 for no success within reach, at .9 for ranking. Each number of
    successes is diagnosed by itself: together they would be a hundred prompts, and a prior."""
    calls = [class_calls(posterior(Measured(strict=Counts.of([c], n)), 64))[0] for c in range(n + 1)]
    assert n - calls[::-1].index("unsupported") == most_unsupported
    assert calls.index("ranking") == least_ranking and calls[n] == "solved"


@pytest.mark.parametrize("k", [8, 64, 1024])
def test_samples_needed_to_call_unsupported_are_the_fewest(k):
    n = samples_to_call_unsupported(k)
    calls = class_calls(posterior(Measured(strict=Counts.of([0, 0], [n, int(0.9 * n)])), k))
    assert calls == ["unsupported", "undecided"]


def test_a_prompt_is_judged_on_its_own_counts():
    together = Measured(strict=Counts.of([3, 50, 0], 64), content=Counts.of([30, 51, 1], 64))
    shares = posterior(together, 32).probabilities
    for index in range(3):
        np.testing.assert_array_equal(posterior(together.at([index]), 32).probabilities[0], shares[index])
    np.testing.assert_allclose(shares.sum(axis=1), 1)


def truth(p_content, ratio, scaffold, placed, finished, placebo, eps, coin):
    """The rule, written once more for numbers; what it cannot tell is as good as either."""
    if p_content * ratio >= 0.8:
        return "solved"
    if p_content >= 0.25 and ratio < 0.5:
        return "format"
    if scaffold >= 0.6 and p_content < 0.5 * scaffold:
        return "fragile"
    if p_content >= eps:
        return "ranking"
    if placed < 0.5:
        return "missing"
    if placebo > 0.6:
        return "local" if coin else "unreachable"
    return "local" if finished >= 0.5 and finished - placebo >= 0.2 else "unreachable"


@pytest.mark.parametrize("n", [16, 64])
def test_probabilities_are_calibrated_under_the_prior(n):
    """2,000 prompts with every rate from Jeffreys' prior, a third of p_content below support: stated and realised
    accuracy agree within 3 sd."""
    rng = np.random.default_rng(n)
    size, eps = 2000, support_threshold(64)
    rates = rng.beta(0.5, 0.5, (6, size))
    names = [truth(*row, eps, rng.random() < 0.5) for row in rates.T]
    content = rng.binomial(n, rates[0])
    scaffold, placed, finished, placebo = (Counts.of(rng.binomial(n, rate), n) for rate in rates[2:])
    found = posterior(
        Measured(
            strict=Counts.of(rng.binomial(content, rates[1]), n), content=Counts.of(content, n), scaffold=scaffold,
            placed=placed, finished=finished, placebo=placebo,
        ),
        64,
    )  # fmt: skip
    shares, calls = found.probabilities, np.array(class_calls(found))
    decided = np.isin(calls, CLASSES)
    claimed, realised = shares.max(axis=1)[decided], (calls == names)[decided]
    assert decided.mean() > 0.4 and realised.mean() > 0.9
    sd = np.sqrt((claimed * (1 - claimed)).mean() / len(claimed))
    assert realised.mean() == pytest.approx(claimed.mean(), abs=3 * sd)
    prevalence = [names.count(name) / size for name in CLASSES]
    np.testing.assert_allclose(shares.mean(axis=0), prevalence, atol=3 * 0.5 / np.sqrt(size))


def test_what_was_not_measured_stays_in_doubt():
    shares = posterior(measured(strict=0.0), 64).probabilities[0]
    below = dict(zip(CLASSES, shares, strict=True))
    assert sum(below[name] for name in BELOW_SUPPORT) > 0.99
    assert max(below.values()) < 0.9


def test_the_next_rollout_goes_where_it_tells_most():
    """Nothing succeeded in 200 rollouts: more of them tell nothing, a teacher's prefix tells most."""
    dead = Measured(strict=Counts.of([0], 200), placed=Counts.of([0], 0))
    found = posterior(dead, 16)
    placed, more = (entropy_drop(found, rate, 8)[0] for rate in ("placed", "content"))
    assert placed > 0.2 and more < 0.01
    near = Measured(strict=Counts.of([1], 24), placed=Counts.of([0], 16), finished=Counts.of([0], 16))
    found = posterior(near, 64)
    assert entropy_drop(found, "content", 16)[0] > entropy_drop(found, "placed", 16)[0]


def test_expected_entropy_drop_is_never_negative_and_0_where_all_is_known():
    found = posterior(measured(strict=0.95), 64)
    assert entropy_drop(found, "content", 8)[0] == pytest.approx(0, abs=FLOAT64_SUM)
    rng = np.random.default_rng(0)
    some = posterior(Measured(strict=Counts.of(rng.integers(0, 9, 20), 8)), 16)
    for rate in ("content", "placed", "finished"):
        assert (entropy_drop(some, rate, 4) > -FLOAT64_SUM).all()


def test_the_lattice_fills_the_cube():
    points = lattice(7)
    assert points.min() > 0 and points.max() < 1
    assert np.abs(points.mean(axis=0) - 0.5).max() < 0.01
    assert np.abs(np.corrcoef(points.T) - np.eye(7)).max() < 0.1


def test_from_a_hundred_prompts_on_the_others_are_the_prior():
    """0 of 32: below support with .92 by itself. Among prompts at 0 and at .8 nothing lies near eps = .0457, and it is
    surely below; among prompts at .06, all of which show 0 to 6 of 32, it is probably not. Its own samples stay what
    they are: below support is not certain in either company."""
    alone = posterior(Measured(strict=Counts.of([0], 32)), 64)
    rng = np.random.default_rng(0)
    apart = posterior(Measured(strict=Counts.of(np.r_[0, rng.binomial(32, np.repeat([0, 0.8], 100))], 32)), 64)
    near = posterior(Measured(strict=Counts.of(np.r_[0, rng.binomial(32, np.full(200, 0.06))], 32)), 64)
    below = [CLASSES.index(name) for name in BELOW_SUPPORT]
    first = [float(found.probabilities[0, below].sum()) for found in (alone, apart, near)]
    assert first[0] == pytest.approx(0.92, abs=0.01) and first[1] > 0.99 and first[2] < 0.5
    assert alone.beyond[0] == apart.beyond[0] == near.beyond[0] == pytest.approx(0.92, abs=0.01)
    assert class_calls(apart)[0] == "undecided"


def test_right_responses_already_seen_are_a_floor_under_success():
    """One success in 64, eps = .0457: undecided. The one that was seen has probability .1 by itself: within reach."""
    seen = Counts.of([1], 64)
    assert class_calls(posterior(Measured(strict=seen), 64)) == ["undecided"]
    assert class_calls(posterior(Measured(strict=seen, at_least=np.array([0.1])), 64)) == ["ranking"]
    assert posterior(Measured(strict=seen, at_least=np.array([0.1])), 64).rates["content"].min() > 0.1 - 1e-3


def test_what_would_tell_most_is_named_where_nothing_is_called():
    """Surely below support and not placed: a placement. Placed in vain, reach in doubt: rollouts. Called: nothing."""
    counts = Counts.of([0, 2, 100], [200, 60, 200])
    found = posterior(Measured(strict=counts, placed=Counts.of([0, 0, 0], [0, 16, 0])), 32)
    assert most_telling(found, class_calls(found)) == ["placed", "rollouts", None]


def calls_of(**measured):
    """Of three like prompts with 0 of 128 successes unless said otherwise."""
    rates = {
        name: Counts.of([c] * 3, n) for name, (c, n) in {"strict": (0, 128), **measured}.items() if name != "steps"
    }
    if "steps" in measured:
        rates["barriers"] = Barriers(*(np.array([value] * 3) for value in measured["steps"]))
    posteriors = posterior(Measured(**rates), 32)
    return set(class_calls(posteriors))


DEAD, ALIVE = {"finished": (0, 32), "placebo": (0, 32)}, {"finished": (31, 32), "placebo": (0, 32)}


def test_an_easy_end_does_not_place_the_model_on_its_route():
    """After the first right step 0 of 32, after the last 30 of 32: past the first step the model still fails."""
    assert calls_of(begun=(0, 32), placed=(30, 32), **DEAD) == {"missing"}
    assert calls_of(begun=(30, 32), placed=(30, 32), **DEAD) == {"unreachable"}
    assert calls_of(placed=(30, 32), **DEAD) == {"unreachable"}  # one prefix is both


def test_one_blocked_step_is_local_and_several_are_missing():
    """Steps of .19, .13 and .25 leave .006 after the first; one of .13 alone would leave .13."""
    late = {"placed": (30, 32), **ALIVE}
    assert calls_of(begun=(0, 32), steps=(3, 0.13), **late) == {"missing"}
    assert calls_of(begun=(4, 32), steps=(1, 0.13), **late) == {"local"}
    assert calls_of(begun=(0, 32), steps=(1, 0.001), **late) == {"local"}


def test_rare_words_are_no_barriers():
    """Five steps hold an unlikely token, and yet the model finishes after the first as often as one step of .25 leaves:
    it says the same in other words."""
    assert calls_of(begun=(8, 32), steps=(5, 0.02), placed=(30, 32), **ALIVE) == {"local"}


def test_what_is_cut_off_is_called_so_before_anything_else():
    """A model that never stops: every failure cut off, whether it is right now and then or never."""
    assert calls_of(cut=(128, 128)) == {"truncated"}
    assert calls_of(strict=(40, 128), cut=(88, 88)) == {"truncated"}
    assert calls_of(strict=(120, 128), cut=(8, 8)) == {"solved"}
    assert calls_of(strict=(40, 128), cut=(10, 88)) == {"ranking"}
    assert calls_of(cut=(20, 128)) == {"unsupported"}
