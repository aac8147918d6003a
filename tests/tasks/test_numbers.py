"""Numbers written in many ways: the value and the sign survive, and a piece of a longer expression is no number."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offon.tasks.numbers import final_number, stated_number, whole_number
from offon.tasks.verifiers import given_number, numeric

settings.register_profile("quick", max_examples=60, deadline=None)
settings.load_profile("quick")

F = Fraction
WRITTEN = {
    "-7": F(-7),
    "+7": F(7),
    "\u22127": F(-7),
    "\u20137": F(-7),
    "- 7": F(-7),
    "\uff0d7": F(-7),
    "(-7)": F(-7),
    "-(7)": F(-7),
    "{-}7": F(-7),
    "-{7}": F(-7),
    "minus 7": F(-7),
    "negative 7": F(-7),
    r"\text{-}7": F(-7),
    r"\text{-7}": F(-7),
    "-$800": F(-800),
    "$-800": F(-800),
    r"-\$800": F(-800),
    r"\$-800": F(-800),
    "-€800": F(-800),
    "€\u2212800": F(-800),
    "800 €": F(800),
    "$1,800.50": F("1800.5"),
    "US$ 800": F(800),
    r"\$ 1{,}800": F(1800),
    r"\pounds 8": F(8),
    "8%": F(8),
    r"8\%": F(8),
    "8 percent": F(8),
    "8 per cent": F(8),
    "36 cm^2": F(36),
    r"36\text{ cm}^2": F(36),
    r"36\,\mathrm{m}^{3}": F(36),
    "36 m\u00b2": F(36),
    "36 m2": F(36),
    "36kg": F(36),
    "9.8 m/s^2": F("9.8"),
    r"20\ \text{km/h}": F(20),
    r"60^\circ": F(60),
    r"60^{\circ}": F(60),
    "60°": F(60),
    "60° C": F(60),
    r"\mathbf{6}": F(6),
    r"\mathrm{6}": F(6),
    "3rd": F(3),
    "36 square units": F(36),
    "2,000": F(2000),
    "2{,}000": F(2000),
    r"2\,000": F(2000),
    r"2\;000": F(2000),
    r"2\ 000": F(2000),
    "2\u202f000": F(2000),
    "2\u00a0000": F(2000),
    "2\u2009000": F(2000),
    "2 000": F(2000),
    "2'000": F(2000),
    "2_000": F(2000),
    "3,00,000": F(300000),
    "2.345,67": F("2345.67"),
    "2.345.678": F(2345678),
    r"2{,}345{,}678.25": F("2345678.25"),
    r"\frac{2}{5}": F(2, 5),
    r"\frac25": F(2, 5),
    r"\frac 2 5": F(2, 5),
    r"\frac2{5}": F(2, 5),
    r"\dfrac{2}{5}": F(2, 5),
    r"\tfrac{2}{5}": F(2, 5),
    r"\cfrac{2}{5}": F(2, 5),
    r"\frac{-2}{5}": F(-2, 5),
    r"\frac{2}{-5}": F(-2, 5),
    r"-\frac{2}{5}": F(-2, 5),
    r"-\frac{-2}{5}": F(2, 5),
    r"\frac{3,000}{2}": F(1500),
    r"\frac{\frac{1}{2}}{3}": F(1, 6),
    "2/5": F(2, 5),
    "-2/5": F(-2, 5),
    "2 / 5": F(2, 5),
    "\u2156": F(2, 5),
    "-\u2156": F(-2, 5),
    "2\u20445": F(2, 5),
    r"4\frac{2}{5}": F(22, 5),
    r"-4\frac{2}{5}": F(-22, 5),
    r"4 \frac25": F(22, 5),
    "4 2/5": F(22, 5),
    "-4 2/5": F(-22, 5),
    "4\u2156": F(22, 5),
    "\u22124\u2156": F(-22, 5),
    ".25": F(1, 4),
    "-.25": F(-1, 4),
    "2.5e3": F(2500),
    "2.5E-1": F(1, 4),
    r"2.5 \times 10^3": F(2500),
    "2.5 x 10^3": F(2500),
    r"2.5\times10^{-1}": F(1, 4),
    "2.5 × 10³": F(2500),
    r"-2.5\cdot 10^{3}": F(-2500),
    "10^{-2}": F(1, 100),
    "10⁻²": F(1, 100),
    "2^{10}": F(1024),
    "3 * 10^2": F(300),
    "\uff11\uff12": F(12),
    "x = 7": F(7),
    "x=-7": F(-7),
    r"x \approx 7": F(7),
    "≈ 7": F(7),
    "3 + 4 = 7": F(7),
    "$7$": F(7),
    r"\(7\)": F(7),
    r"\left(7\right)": F(7),
    "**7**": F(7),
    "`7`": F(7),
    "7.": F(7),
    "<b>7</b>": F(7),
}


@pytest.mark.parametrize("text", WRITTEN)
def test_a_number_has_its_value_however_it_is_written(text):
    value = WRITTEN[text]
    assert whole_number(text).value == value
    for around in ("\\boxed{%s}", "<answer>%s</answer>", "so\n#### %s", "The answer is %s", "**Answer:** %s\n"):
        found, marked = given_number(around % text)
        assert marked and found is not None and found.value == value, around
    if value < 0:  # the sign is never lost: the positive number is wrong
        assert numeric(f"It is {text}", str(-value)).score == 0


PIECES = [
    r"\sqrt{3}",
    r"5\sqrt{3}",
    r"\sqrt 3",
    "√3",
    r"4\pi",
    r"\frac{\pi}{3}",
    r"\frac{\sqrt{3}}{2}",
    r"\log_2 9",
    "x^3",
    "4x",
    "3x+9",
    "2 + 5",
    r"4 + \sqrt{5}",
    "4 - 9i",
    "9!",
    r"x_4",
    "6x^3",
    r"\pm 4",
    r"2 \pm 4",
    "x > 4",
    r"x \le 4",
    "(3, 4)",
    "(3, 3)",
    r"(-\infty, 3]",
    r"[4, \infty)",
    r"(\pi, 4)",
    "1, 2",
    "4 or 5",
    r"4 \text{ and } 5",
    "4:30",
    "1.2.3",
    "12/25/2024",
    "4 - x",
    "e^4",
    r"0.\overline{4}",
    "|4|",
    "f(4)",
    r"2\sin 4",
    "4y",
    "5(3)",
    "∛8",
    "221_{3}",
    r"2\cdot 5",
    "2 × 5",
    "three",
    "",
    r"\infty",
    "4/0",
]


@pytest.mark.parametrize("text", PIECES)
def test_a_piece_of_an_expression_is_no_number(text):
    digits = [c for c in text if c.isdigit()] or ["3"]
    for around in ("\\boxed{%s}", "<answer>%s</answer>"):
        verdict = numeric("Since 8 is even: " + around % text, digits[-1])
        if text.strip():
            assert (verdict.score, verdict.reason) == (0, "no number"), around


@pytest.mark.parametrize(
    "text, value",
    [
        (r"\boxed{5}. No, the answer is 7", 7),
        (r"The answer is 5. Wait: \boxed{7}", 7),
        (r"\boxed{5} \boxed{7}", 7),
        ("#### 5\n<answer>7</answer>", 7),
        ("<answer>5</answer>\n#### 7\nChecked 3 times.", 7),
        (r"\boxed{\text{the answer is } 7}", 7),
        (r"<answer>so \boxed{7} cm</answer>", 7),
        (r"\fbox{7}", 7),
        (r"\boxed 7.", 7),
        (r"$\boxed{7}$ as \frac{1}{2} of 14", 7),
        (r"\boxed{7} Put it in \boxed{}.", 7),
        ("<think>the answer is 5</think> 7", 7),
        ("<think>the answer is 7</think>", 7),
        ("The answer is 7, since 3 + 4 = 7 and 9 > 8.", 7),
        ("The answer is 3 + 4 = 7.", 7),
        ("The final answer is: \n\n$$\n7\n$$\n", 7),
        ("**Final Answer**\n\n7\n", 7),
        ("Answer: $7. Thanks for 5 stars", 7),
        ("The answer to 2 + 5 is 7", 7),
        ("The correct answer should be 7 apples.", 7),
        ("#### Step 3\nSo it is 7", 7),
        (r"\boxed{7}. The answer is correct.", 7),
        ("The answer is not 5. It is 7", 7),
        ("- 5 apples\n- 7 pears", 7),
        ("-5\n-7", -7),
        ("The change was - 7", -7),
        ("from 5-7", 7),
        ("9 - 2 = 7", 7),
        ("costs $5-$7", 7),
        ("7!", None),
        ("It is 7!", 7),
        ("The answer is 5 or 7.", None),
        ("The answer is 2 hours and 7 minutes", None),
        (r"\boxed{x = 5 \text{ or } x = 7}", None),
        ("<answer>none</answer> or 7", None),
    ],
)
def test_the_last_mark_is_read_as_a_whole(text, value):
    found, _ = given_number(text)
    assert (found and found.value) == value


def test_per_cent_and_millions_are_units_and_values():
    right = [("0.08", "8%"), ("8", "8%"), ("8%", "0.08"), ("8%", "8"), ("5000000", "5 million"), ("5", "5 million")]
    wrong = [("8%", "0.08%"), ("800", "8%"), ("8", "0.08"), ("5000", "5 million")]
    assert all(numeric(text, answer).score == 1 for answer, text in right)
    assert all(numeric(text, answer).score == 0 for answer, text in wrong)


def test_a_reference_that_is_no_plain_number_leaves_the_response_unscored():
    for answer in (r"\sqrt{2}", "seven", "5 or 6", "3x", ""):
        assert numeric("5", answer).score is None and numeric("5", answer).reason
    assert numeric("It is 18.", "She sells 9 eggs for 2 each: 9 * 2 = 18.\n#### 18").score == 1


integers = st.integers(-(10**9), 10**9)
dash = st.sampled_from(["-", "\u2212", "\u2010", "\u2011", "\u2012", "\u2013", "\ufe63", "\uff0d", "- ", "\u2212 "])
money = st.sampled_from(["", "$", r"\$", "€", "£", "¥"])
comma = st.sampled_from([",", "{,}", "\u202f", "\u2009", "\u00a0", r"\,", r"\;", r"\ ", "'", "_", ""])
place = st.sampled_from(
    ["%s", "\\boxed{%s}", "<answer>%s</answer>", "#### %s", "The answer is %s.", "x = %s", "It is (%s)."]
)


@given(integers, dash, money, comma, place, st.booleans(), st.sampled_from(["", ".5", ".0625"]))
def test_sign_and_value_survive_dashes_currencies_and_grouped_digits(n, dash, money, comma, place, outside, tail):
    sign = dash if n < 0 else ""
    digits = f"{abs(n):,}".replace(",", comma) + tail
    text = place % (sign + money + digits if outside else money + sign + digits)
    value = (abs(n) + Fraction(tail or 0)) * (-1 if n < 0 else 1)
    found, _ = given_number(text)
    assert found is not None and found.value == value


@given(
    st.integers(-99, 99),
    st.integers(1, 98),
    st.integers(2, 99),
    st.sampled_from(["frac", "dfrac", "tfrac", "cfrac"]),
    place,
)
def test_fractions_and_mixed_numbers_keep_their_value(whole, over, under, command, place):
    for text, value in (
        (rf"\{command}{{{whole}}}{{{under}}}", Fraction(whole, under)),
        (rf"-\{command}{{{over}}}{{{under}}}", -Fraction(over, under)),
        (f"{whole}/{under}", Fraction(whole, under)),
    ):
        assert given_number(place % text)[0].value == value
    if over < under and whole:
        mixed = abs(whole) + Fraction(over, under)
        value = mixed if whole > 0 else -mixed
        assert given_number(place % rf"{whole}\{command}{{{over}}}{{{under}}}")[0].value == value
        assert given_number(place % f"{whole} {over}/{under}")[0].value == value


@given(st.integers(-999, 999), st.integers(-12, 12), st.sampled_from([r"\times", r"\cdot", "×", "x", "*", "·"]))
def test_scientific_forms_keep_their_value(n, exponent, times):
    for power in (f"10^{{{exponent}}}", f"10^({exponent})"):
        assert whole_number(f"{n}{' ' if times == 'x' else ''}{times} {power}").value == n * Fraction(10) ** exponent
    assert whole_number(f"{n}e{exponent}").value == n * Fraction(10) ** exponent


@given(
    integers, st.sampled_from([r"%s\pi", r"%s\sqrt{2}", "%sx", r"\sqrt{%s}", "%s^x", r"%s + \pi", r"\log %s", "%s!"])
)
def test_a_longer_expression_is_never_read_as_its_digits(n, form):
    assert given_number(r"\boxed{" + form % n + "}")[0] is None


bits = [*"0123456789-+.,/^%$*()[]{}<>=!eEx \n\\", r"\frac", r"\boxed{", "½", "²", "\u2212", "answer is ", "####", "10^"]


@given(st.lists(st.sampled_from(bits), max_size=60).map("".join))
def test_any_text_is_read_without_an_error(text):
    for read in (whole_number, final_number, stated_number, given_number):
        read(text)


def test_what_is_read_is_bounded():
    for text in (
        "9" * 100_000,
        "9" * 50,
        "1e999999999",
        "9^9^9",
        "9^(999)",
        r"\frac{" * 5000,
        r"\boxed{" * 3000,
        "1 " * 5000,
    ):
        found, _ = given_number(text)
        assert found is None or found.value < 10**4000
    assert given_number("9" * 50)[0] is None
