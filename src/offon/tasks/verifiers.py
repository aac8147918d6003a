"""Checkers: pure functions from a response and what is known about the item to a verdict.

A verdict's score is 1 or 0, or None when the check itself is impossible (an unusable reference answer); None is never
the same as 0. Where a checker can tell the answer from its form, `content` says whether the answer was right although
its form was not: the first or the last words of the response are the answer, punctuation aside.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache, partial

from offon.types import Verdict

ANSWER_TAGS = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
# At most 40 digits before and after the point and 3 in the exponent: bounded work for any input.
NUMBER = re.compile(
    r"(?<![\w.])[-+]?(?:\d{1,3}(?:,\d{3}){1,13}|\d{1,40})(?:\.\d{1,40})?(?:[eE][-+]?\d{1,3})?(?:\s?/\s?\d{1,40})?(?!\d|[eE][-+]?\d)"
)
LATEX_FRACTION = re.compile(r"\\[dt]?frac\{(\d+)\}\{(\d+)\}")
MARKED_ANSWER = re.compile(r"<answer>(.*?)</answer>|\\boxed\{([^{}]*)\}|####[ \t]*([^\n]*)", re.DOTALL)
BARE_EXPRESSION_CHARS = 100
RELATIVE_TOLERANCE = Fraction(1, 10**6)


def normalised(text: str) -> str:
    """Runs of whitespace are one space; none at the ends."""
    return " ".join(text.split())


def unwrapped(text: str) -> str:
    """The answer within a response: inside its last <answer>...</answer>, or all of it where there are no tags."""
    tagged = ANSWER_TAGS.findall(text)
    return (tagged[-1] if tagged else text).strip()


def exact(text: str, answer: str) -> Verdict:
    """1 if the response, unwrapped, equals the answer, whitespace aside."""
    right = normalised(unwrapped(text)) == normalised(answer)
    return Verdict(float(right), content=float(right or opens_or_closes(text, answer)))


def opens_or_closes(text: str, answer: str) -> bool:
    """Whether the response starts or ends with the words of the answer, punctuation around words aside.

    Sees through a sentence around the answer and through text after it; not a reward, since it grants two guesses.
    """
    words, wanted = _bare_words(text), _bare_words(answer)
    n = len(wanted)
    return n > 0 and (words[:n] == wanted or words[-n:] == wanted)


def _bare_words(text: str) -> list[str]:
    words = [word.strip(".,;:!?\"'`*$()[]{}<>") for word in re.sub(r"</?answer>", " ", text).split()]
    return [word for word in words if word]


def numeric(text: str, answer: str) -> Verdict:
    """1 if the response's last number equals the answer's, to a relative 1e-6 (integers and fractions exactly).

    Numbers may carry a sign, thousands commas, decimals, an exponent, or be a fraction a/b. Where the response marks
    its answer (<answer>..</answer>, \\boxed{..}, #### ..), the last mark is read and nothing else.
    """
    wanted, found = last_number(LATEX_FRACTION.sub(r"\1/\2", answer)), given_number(text)
    if wanted is None:
        return Verdict(None, reason=f"the reference answer {answer!r:.60} is not a number")
    if found is None:
        return Verdict(0.0, reason="no number")
    return Verdict(float(_close(found, wanted)))


def given_number(text: str) -> Fraction | None:
    """The number that a response gives as its answer."""
    text = LATEX_FRACTION.sub(r"\1/\2", text)
    marks = ["".join(groups) for groups in MARKED_ANSWER.findall(text)]
    return last_number(marks[-1] if marks else text)


def last_number(text: str) -> Fraction | None:
    for match in reversed(NUMBER.findall(text)):
        numerator, _, denominator = match.replace(",", "").replace(" ", "").partition("/")
        if not denominator:
            return Fraction(numerator)
        if int(denominator):
            return Fraction(numerator) / int(denominator)
    return None


def _close(found: Fraction, wanted: Fraction) -> bool:
    if found.denominator == wanted.denominator == 1:
        return found == wanted
    return abs(found - wanted) <= RELATIVE_TOLERANCE * abs(wanted)


def regex(text: str, answer: str | None, pattern: str) -> Verdict:
    """1 if the pattern's last match in the response is the answer (its first group, where it has one).

    Without an answer any match is right. A pattern can take exponential time on unlucky text, so this runs in a
    process that can be killed.
    """
    matches = matches_of(text, pattern)
    if answer is None:
        return Verdict(float(bool(matches)))
    right = bool(matches) and normalised(matches[-1]) == normalised(answer)
    return Verdict(float(right), content=float(right or opens_or_closes(text, answer)))


def matches_of(text: str, pattern: str) -> list[str]:
    return [match.group(bool(match.re.groups)) or "" for match in re.finditer(pattern, text)]


def regex_answer(pattern: str) -> Callable[[str], str | None]:
    """The last match, whitespace aside."""

    def answer(text: str) -> str | None:
        matches = matches_of(text, pattern)
        return normalised(matches[-1]) if matches else None

    return answer


def math_checker() -> Callable[[str, str], Verdict]:
    """Equality of mathematical expressions, by Math-Verify (the response's last expression, in LaTeX or plain).

    Time-outs of the package's own are off, see `expressions`. Each reference answer is parsed once per process.
    """
    from math_verify import verify

    reference = lru_cache(maxsize=4096)(expressions)

    def check(text: str, answer: str) -> Verdict:
        wanted, found = reference(answer), expressions(text)
        if not wanted:
            return Verdict(None, reason=f"the reference answer {answer!r:.60} does not parse")
        if not found:
            return Verdict(0.0, reason="no expression")
        return Verdict(float(verify(wanted, found, timeout_seconds=None)))

    return check


def math_answer() -> Callable[[str], str | None]:
    """The last expression in sympy's spelling: 2/4 and 1/2 are one answer, 0.5 is another."""

    def answer(text: str) -> str | None:
        found = expressions(text)
        return str(found[0]) if found else None

    return answer


def expressions(text: str) -> list:
    """What Math-Verify finds in a text. It wants dollar signs around LaTeX; a short text that is nothing but an
    expression may omit them. Its time-outs are alarms, which do not reach a loop in C; they are off, since this runs in
    a process that can be killed."""
    from math_verify import parse

    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    found = parse(text, parsing_timeout=None)
    return found or (parse(f"${text}$", parsing_timeout=None) if len(text) <= BARE_EXPRESSION_CHARS else [])


def regex_checker(pattern: str) -> Callable[[str, str | None], Verdict]:
    return partial(regex, pattern=pattern)
