"""Checkers: pure functions from a response and what is known about the item to a verdict.

A verdict's score is 1 or 0, or None when the check itself is impossible (an unusable reference answer); None is never
the same as 0. `content` is a second, lenient reading that says whether the answer was right although its form was not.
`exact` looks for it in the first or the last words of the response, punctuation aside; the others anywhere in its last
part (`last_part`), as a whole number, expression or sequence of words, unless the response marks another answer that
can be read. It grants several guesses, so it is never a reward.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

from offon.tasks import numbers
from offon.tasks.api import Pair
from offon.tasks.expressions import math_answer, math_checker, mentioned
from offon.tasks.marks import last_part, marked_answer
from offon.tasks.references import accepted, best
from offon.tasks.sandbox.unit_tests import tests_of, unit_tests_check
from offon.types import Verdict

__all__ = ["VERIFIERS", "Verifier", "exact", "math_answer", "math_checker", "numeric", "regex"]

ANSWER_TAGS = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


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


def exact_answer(text: str) -> str | None:
    return normalised(unwrapped(text)) or None


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
    """1 if the number that the response gives equals the answer's, to a relative 1e-6 (integers and fractions exactly).

    The number is the marked answer's (`offon.tasks.marks`), read as a whole, or the last one where nothing is marked;
    `offon.tasks.numbers` says how it may be written. A marked answer that is no plain number is "no number".
    """
    wanted, (given, marked) = reference_number(answer), given_number(text)
    if wanted is None:
        return Verdict(None, reason=f"the reference answer {answer!r:.60} is not one plain number")
    right = given is not None and given.equals(wanted)
    content = right or (not (marked and given) and numbers.mentions(last_part(text), [wanted]))
    return Verdict(float(right), content=float(content), reason="" if given else "no number")


def given_number(text: str) -> tuple[numbers.Number | None, bool]:
    """(the number that a response gives as its answer, whether a mark says so)."""
    marked = marked_answer(text)
    if marked.kind == "none":
        return numbers.final_number(marked.text), False
    if marked.kind == "sentence":
        return numbers.stated_number(marked.text), True
    return numbers.whole_number(marked.text, strict=marked.kind == "box"), True


def numeric_answer(text: str) -> str | None:
    number, _ = given_number(text)
    return None if number is None else str(number.value)


@lru_cache(maxsize=4096)
def reference_number(answer: str) -> numbers.Number | None:
    """The number that a reference answer is, or that a worked solution marks as its answer."""
    given, marked = given_number(answer)
    return numbers.whole_number(answer) or (given if marked else None)


def regex(text: str, answer: str | None, pattern: str) -> Verdict:
    """1 if the pattern's last match in the response is the answer (its first group, where it has one).

    Without an answer any match is right. A pattern can take exponential time on unlucky text, so this runs in a
    process that can be killed.
    """
    matches = matches_of(text, pattern)
    if answer is None:
        return Verdict(float(bool(matches)))
    right = bool(matches) and normalised(matches[-1]) == normalised(answer)
    seen = right or opens_or_closes(text, answer) or (not matches and mentioned(text, answer))
    return Verdict(float(right), content=float(seen))


def matches_of(text: str, pattern: str) -> list[str]:
    return [match.group(bool(match.re.groups)) or "" for match in re.finditer(pattern, text)]


def regex_answer(pattern: str) -> Callable[[str], str | None]:
    """The last match, whitespace aside."""

    def answer(text: str) -> str | None:
        matches = matches_of(text, pattern)
        return normalised(matches[-1]) if matches else None

    return answer


def any_regex(pattern: str) -> Callable[[str, Sequence[str]], Verdict]:
    """A worker's checker against accepted answers; without any, a match is right."""
    check = partial(regex, pattern=pattern)
    return lambda text, answers: best(check, text, answers) if answers else check(text, None)


def any_math() -> Callable[[str, Sequence[str]], Verdict]:
    """A worker's checker against accepted answers."""
    return partial(best, math_checker())


@dataclass(frozen=True, kw_only=True)
class Verifier:
    """How `verifier: NAME` of a task checks a response against a row's accepted answers.

    verdict   (response, one answer) -> Verdict; the best over the accepted answers counts
    answer    response -> what it answers, spelled so that equal answers are equal, or None
    worker, worker_answer   in place of the two where a check may hang: the names of functions of this module that make
              them in a process that can be killed
    check     in place of all of these where a check reads more of a row than its answers: (limit_s,
              allow_unsandboxed) -> a checker of (item, response) pairs; the row's answer is then no response
    row       a row's columns -> what the check reads of them, a BadRow where they have no such thing
    takes_pattern   the task's `pattern` is handed to the workers         needs_answer   rows have to have an answer
    """

    verdict: Callable[[str, str], Verdict] | None = None
    answer: Callable[[str], str | None] | None = None
    worker: str = ""
    worker_answer: str = ""
    check: Callable[[float, bool], Callable[[Sequence[Pair]], list[Verdict]]] | None = None
    row: Callable[[Mapping[str, Any]], Any] = lambda row: accepted(row.get("answer"))
    takes_pattern: bool = False
    needs_answer: bool = True


VERIFIERS = {
    "exact": Verifier(verdict=exact, answer=exact_answer),
    "numeric": Verifier(verdict=numeric, answer=numeric_answer),
    "regex": Verifier(worker="any_regex", worker_answer="regex_answer", takes_pattern=True, needs_answer=False),
    "math": Verifier(worker="any_math", worker_answer="math_answer"),
    "unit_tests": Verifier(check=unit_tests_check, row=tests_of),
}
