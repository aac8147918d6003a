"""Checkers on answers whose verdict is plain to a reader."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offon.tasks.verifiers import exact, math_checker, numeric, regex

settings.register_profile("quick", max_examples=60, deadline=None)
settings.load_profile("quick")


@pytest.mark.parametrize(
    "text, answer, score, content",
    [
        ("-4", "-4", 1, 1),
        ("  a  b\n", "a b", 1, 1),
        ("<answer> -4 </answer>", "-4", 1, 1),
        ("<answer>3</answer> no, <answer>-4</answer>", "-4", 1, 1),
        ("the answer is -4.", "-4", 0, 1),  # right, said in a sentence
        ("-4\n\nNext question: 5", "-4", 0, 1),  # right, did not stop
        ("-40", "-4", 0, 0),
        ("4", "-4", 0, 0),
        ("1 2 -4 8 9", "-4", 0, 0),  # naming many answers is not answering
        ("", "-4", 0, 0),
    ],
)
def test_exact_sees_the_answer_and_content_sees_through_its_form(text, answer, score, content):
    verdict = exact(text, answer)
    assert (verdict.score, verdict.content) == (score, content)


@given(st.text(max_size=20), st.text(min_size=1, max_size=20))
def test_exact_never_scores_what_content_does_not(text, answer):
    verdict = exact(text, answer)
    assert verdict.score <= verdict.content


@pytest.mark.parametrize(
    "text, answer, score",
    [
        ("so it is 1,234.50", "1234.5", 1),
        ("1/2", "0.5", 1),
        ("\\boxed{\\frac{1}{2}}", "0.5", 1),
        ("\\boxed{\\frac{1}{2}}", "2", 0),
        ("0.3333333", "1/3", 1),
        ("0.333", "1/3", 0),
        ("5-3 = 2", "2", 1),
        ("5-3", "-3", 0),  # a difference, not a negative number
        ("1e3 metres", "1000", 1),
        ("12kg", "12", 1),
        ("a1", "1", 0),
        ("<answer>5</answer> or 7", "5", 1),
        ("<answer>none</answer> or 7", "7", 0),  # a marked answer is the answer
        ("1 + 2 = 3\n#### 4\nignore 5", "4", 1),
        ("10000000000000001", "10000000000000000", 0),  # integers exactly
        ("no number", "7", 0),
        ("3/0", "3", 0),
    ],
)
def test_numeric_reads_the_last_or_the_marked_number(text, answer, score):
    assert numeric(text, answer).score == score


@given(st.integers(-(10**9), 10**9))
def test_a_number_is_read_back_with_commas_and_in_a_sentence(n):
    assert numeric(f"It is {n:,} in all.", str(n)).score == 1


@given(st.text(max_size=60), st.sampled_from(["12", "1/3"]))
def test_numeric_gives_a_verdict_on_any_text(text, answer):
    assert numeric(text, answer).score in (0, 1)


def test_huge_exponents_are_no_numbers_so_nothing_is_computed_from_them():
    assert numeric("1e999999999", "1").score == 0


def test_a_reference_that_cannot_be_used_leaves_everything_unscored():
    assert numeric("7", "seven").score is None
    assert math_checker()("7", "").score is None


@pytest.mark.parametrize(
    "text, score, content",
    [("A: 7.", 1, 1), ("A: 8. A: 7.", 1, 1), ("A: 7. A: 8.", 0, 0), ("it is 7", 0, 1), ("9", 0, 0)],
)
def test_regex_compares_its_last_match_with_the_answer(text, score, content):
    verdict = regex(text, "7", r"A: (\d+)\.")
    assert (verdict.score, verdict.content) == (score, content)


def test_regex_without_an_answer_asks_for_any_match():
    assert regex("ab12", None, r"\d+").score == 1 and regex("ab", None, r"\d+").score == 0


@pytest.mark.parametrize(
    "text, answer, score",
    [
        ("so $\\frac{1}{2}$", "0.5", 1),
        ("\\boxed{x^2+1}", "$1+x^2$", 1),
        ("x^2+1", "x^2+1", 1),
        ("$x^2-1$", "$(x-1)(x+1)$", 1),
        ("$x^2+1$", "$(x-1)(x+1)$", 0),
        ("I do not know", "3", 0),
    ],
)
def test_math_compares_expressions_not_strings(text, answer, score):
    assert math_checker()(text, answer).score == score
