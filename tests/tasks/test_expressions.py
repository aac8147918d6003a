"""Expressions: the marked one is read as a whole, references in bare LaTeX are LaTeX, and Math-Verify compares."""

import pytest

from offon.tasks.verifiers import math_answer, math_checker

check = math_checker()

BARE = [
    r"\frac{3}{8}",
    r"\sqrt{17}",
    r"5\sqrt{3}",
    r"8\pi",
    r"2x+9",
    r"7 - 4i",
    r"5^{11}",
    r"10^{-3}",
    r"3.5\times10^{4}",
    r"15\sqrt2",
    "2,8",
    "2,-8",
    "y=2x+5",
    "8!",
    r"\log_5 3",
    r"0.\overline{3}",
    r"4\frac{2}{3}",
    r"3 \text{ and } 8",
    r"-5 \pm \sqrt{2}",
    r"4 + \sqrt{5}",
    "6x^4",
    r"(3,\frac{\pi}{4})",
    "[1,6)",
    r"\text{even}",
    r"x^2+y^2",
    r"\frac{x+1}{x-1}",
    r"e^{2}",
    r"\{1,4\}",
    r"(-\infty, 3]",
    "2312_{4}",
    r"\begin{pmatrix}1\\2\end{pmatrix}",
    "-11",
    "0.75",
    r"\frac{\sqrt{3}}{2}",
    "n(n+1)",
    "C",
]


@pytest.mark.parametrize("answer", BARE)
def test_a_reference_in_bare_latex_is_read_as_latex(answer):
    for text in (r"Hence \boxed{%s}.", "<think>so 3</think><answer>$%s$</answer>", "Thus the answer is $%s$."):
        assert check(text % answer, answer).score == 1, text
    assert check(rf"\boxed{{{answer}}}", f"${answer}$").score == 1


@pytest.mark.parametrize(
    "answer, text",
    [
        (r"5\sqrt{3}", r"\boxed{5}"),
        (r"8\pi", r"\boxed{8}"),
        ("2x+9", r"\boxed{2}"),
        (r"4 + \sqrt{5}", r"\boxed{4}"),
        (r"15\sqrt2", r"\boxed{15}"),
        (r"5^{11}", r"\boxed{5}"),
        (r"3.5\times10^{4}", r"\boxed{3.5}"),
        (r"4\frac{2}{3}", r"\boxed{\frac{2}{3}}"),
        ("2312_{4}", r"\boxed{2312}"),
        ("2312_{4}", r"\boxed{2312_{5}}"),
        ("2,8", r"\boxed{2.8}"),
        ("48", "<think>6*8=48</think><answer>42</answer>"),
        ("48", "The answer is 48. No: <answer>42</answer>"),
        ("5", r"\boxed{-5}"),
        ("5", "$\u22125$"),
        (r"\frac{1}{3}", r"\boxed{0.33}"),
        ("5", r"\boxed{5x}"),
    ],
)
def test_another_expression_is_wrong(answer, text):
    assert check(text, answer).score == 0


@pytest.mark.parametrize(
    "answer, text",
    [
        ("7", r"\boxed{5}. No, the answer is 7"),
        ("7", r"The answer is 5. Wait: \boxed{7}"),
        ("7", "so\n#### 7"),
        ("42", "<answer>42</answer>"),
        ("42", "<think>6*8=48</think>\n<answer> 42 </answer>"),
        ("0.5", "<answer>1/2</answer>"),
        (r"\frac{1}{2}", r"<answer>\frac{1}{2}</answer>"),
        ("7", r"\fbox{7}"),
        ("0.25", "25\\%"),
        ("3000", r"$3\,000$"),
        ("3000", "3\u202f000"),
        ("2.5", "2½"),
        ("2.5", "2 1/2"),
        ("-5", "$\u22125$"),
        ("x^2-1", r"\boxed{(x-1)(x+1)}"),
        (r"x = \frac{1}{2}", r"\boxed{\frac{1}{2}}"),
        ("36", r"\boxed{36\text{ cm}^2}"),
        ("B", r"The answer is (B)."),
        ("The area is 9.\n#### 9", r"\boxed{9}"),
        (r"So it is $\boxed{9}$.", "9"),
        ("12", "The answer is $12$ because $4 \\cdot 3 = 12$."),
    ],
)
def test_marks_and_typography_are_read(answer, text):
    assert check(text, answer).score == 1


def test_content_is_a_mention_in_the_last_part_unless_another_answer_is_marked():
    cases = [
        (r"3\sqrt{7}", r"So we get $3\sqrt{7}$ or maybe it is $4$", 1),
        (r"3\sqrt{7}", r"\boxed{4}, not 3\sqrt{7}", 0),
        (r"3\sqrt{7}", r"So we get 3", 0),
        ("7", "so 7 it is, as I said, though x stands for more", 1),
        ("7", "17 and 7x and -7", 0),
    ]
    for answer, text, content in cases:
        verdict = check(text, answer)
        assert verdict.content == content >= verdict.score, text


def test_equal_expressions_have_one_name():
    name = math_answer()
    assert name(r"\boxed{\frac{2}{4}}") == name("<answer>1/2</answer>") == name("The answer is $1/2$.") == "1/2"
    assert name("I do not know") is None
