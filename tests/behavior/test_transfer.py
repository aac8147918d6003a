"""Transfer in several numbers: nothing between equal models, hand numbers, and errors on the side that is promised."""

import numpy as np
import pytest

from offon.behavior.stage.transfer import answer_distances, answer_fidelity, mean_of_ratios
from tests.rounding import FLOAT64, FLOAT64_SUM


def test_equal_samples_are_at_distance_0():
    answers = [list("abacabad"), list("zzzzyyyy")]
    assert answer_distances(answers[0], answers[0]) == (0, 0)
    assert answer_fidelity(answers, answers) == pytest.approx((1, 1, 1), abs=FLOAT64)


def test_disjoint_answers_are_at_distance_1():
    assert answer_distances("aaaaaaaa", "bbbbbbbb") == pytest.approx((1, 1))
    assert answer_fidelity(["aaaaaaaa"] * 3, ["bbbbbbbb"] * 3) == pytest.approx((0, 0, 0))


def test_the_upper_distance_is_half_the_summed_difference_of_shares():
    """p = (3/4 a, 1/4 b), q = (1/4 a, 1/2 b, 1/4 c): (1/2 + 1/4 + 1/4) / 2 = 1/2."""
    assert answer_distances("aaab", "abbc")[1] == pytest.approx(0.5)


def test_the_two_distances_err_to_either_side():
    """p = (.6, .3, .1), q = (.3, .3, .4): TV = .3. Of 16 samples each, 200 times: the mean spreads by about .01."""
    rng = np.random.default_rng(0)

    def mean_distances(p, q):
        pairs = [answer_distances(rng.choice(3, 16, p=p), rng.choice(3, 16, p=q)) for _ in range(200)]
        return np.mean(pairs, axis=0)

    p, q = [0.6, 0.3, 0.1], [0.3, 0.3, 0.4]
    lower, upper = mean_distances(p, q)
    assert 0.2 < lower < 0.3 < upper < 0.4
    lower, upper = mean_distances(p, p)
    assert lower == pytest.approx(0, abs=0.03) and upper > 0.08


def test_answers_that_never_repeat_leave_everything_open():
    rng = np.random.default_rng(0)
    teacher, student = rng.random((2, 5, 20)).tolist()
    assert answer_fidelity(teacher, student).low == 0 and answer_fidelity(teacher, student).high == 1


def test_a_student_that_never_repeats_itself_is_far_from_a_teacher_that_does():
    """TV = 1. What half A has not seen is the student's, who alone has answers seen once."""
    student = np.random.default_rng(0).random((5, 20)).tolist()
    assert answer_fidelity([["right"] * 20] * 5, student) == pytest.approx((0, 0, 0), abs=FLOAT64_SUM)


def test_a_mean_of_ratios_weighs_prompts_alike():
    """Prompts of 1 in 2 and 3 in 4 average to 5/8, whatever their lengths."""
    assert mean_of_ratios([1, 3], [2, 4]).estimate == pytest.approx(0.625)
