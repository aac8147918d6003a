"""Equality of mathematical expressions, read and compared by Math-Verify.

Ours is only what finds the expression: the marked answer (`offon.tasks.marks`) of a response, read as a whole; a
reference or a short text without prose is LaTeX, with or without dollar signs around it. Math-Verify wants the dollar
signs, and takes the first plain number of what has none (3 of 3\\sqrt{7}).

Its time-outs are alarms, which do not reach a loop in C; they are off, since this runs in a process that can be killed.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Callable
from functools import lru_cache

from offon.tasks import numbers
from offon.tasks.marks import MATHS, Marked, last_part, marked_answer, says
from offon.types import Verdict

BARE_CHARS = 100
DELIMITED = re.compile(r"\$|\\\(|\\\[|\\boxed")
SEGMENT = re.compile(r"\$\$?([^$]+)\$\$?|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
COMMANDS = re.compile(r"\\(?:text|mathrm|mbox|operatorname)\s*\{[^{}]*\}|\\[A-Za-z]+")
WORDS = re.compile(r"[A-Za-z]{3,}|\b(?:or|is|of|in|an|to)\b")
FUNCTION_NAMES = re.compile(r"\b(?:arc)?(?:sin|cos|tan|log|exp|sqrt|cot|sec|csc|max|min)h?\b")
GROUPS = re.compile(r"(?<=\d)(?:\\[,;:! ]|\{,\}|[\u00a0\u2009\u202f~])(?=\d{3}(?!\d))")
MIXED = re.compile(r"(?<![\d./^_{])(\d+)\s+(\d+)\s?/\s?(\d+)(?![\d/])")
BASE = re.compile(r"\d\s*_\s*\{?\s*(\d+)")
REASON = re.compile(r",?\s+(?:since|because|so|as|which|where|when|for)\b", re.IGNORECASE)
SINGLE = re.compile(r"[\s($*]*(?:[A-Z](?![A-Za-z'])|[A-Za-z]\s*[-+*/^=(])")


def math_checker() -> Callable[[str, str], Verdict]:
    """1 if the response's marked or last expression equals the answer. Each reference is parsed once per process."""
    from math_verify import verify

    reference = lru_cache(maxsize=4096)(reference_expressions)

    def check(text: str, answer: str) -> Verdict:
        wanted, (given, marked) = reference(answer), given_expressions(text)
        if not wanted:
            return Verdict(None, reason=f"the reference answer {answer!r:.60} does not parse")
        right = bool(given) and _bases(answer) == _bases(marked.text if marked.kind != "none" else answer)
        right = right and verify(wanted, given, timeout_seconds=None)
        readable = given and marked.kind != "none"
        content = right or (not readable and mentioned(text, answer))
        return Verdict(float(right), content=float(content), reason="" if given else "no expression")

    return check


def math_answer() -> Callable[[str], str | None]:
    """The expression in sympy's spelling: 2/4 and 1/2 are one answer, 0.5 is another."""

    def answer(text: str) -> str | None:
        given, _ = given_expressions(text)
        return str(given[0]) if given else None

    return answer


def given_expressions(text: str) -> tuple[list, Marked]:
    """What Math-Verify reads of a response's answer, and the mark it has."""
    marked = marked_answer(text, lambda piece: bool(MATHS.search(piece) or SINGLE.match(piece)))
    if marked.kind == "box":
        return _number(marked.text, strict=True) or _parsed(rf"\boxed{{{_tidy(marked.text)}}}"), marked
    if marked.kind == "sentence":
        return expressions(_stated(marked.text)), marked
    return expressions(marked.text), marked


def reference_expressions(answer: str) -> list:
    """A reference answer's: bare LaTeX first; a worked solution by its mark."""
    marked = marked_answer(answer, lambda piece: False)
    if marked.kind != "none":
        return given_expressions(answer)[0]
    return _read(answer, bare=not DELIMITED.search(answer) and len(answer) <= BARE_CHARS)


def expressions(text: str) -> list:
    """What a text without marks says last. One that is nothing but an expression may omit dollar signs."""
    bare = len(text) <= BARE_CHARS and not DELIMITED.search(text.replace(r"\$", ""))
    if bare and (number := _number(text, strict=False)):
        return number
    return _read(text, bare=bare and not WORDS.search(FUNCTION_NAMES.sub(" ", COMMANDS.sub(" ", text))))


def _number(text: str, *, strict: bool) -> list:
    """A plain number in its dress (currency, words, emphasis), which Math-Verify reads with less of it around."""
    number = None if "=" in text else numbers.whole_number(text, strict=strict)
    if number is None or number.unit != 1:
        return []
    return _parsed(rf"$\frac{{{number.value.numerator}}}{{{number.value.denominator}}}$")


def _read(text: str, *, bare: bool) -> list:
    text = _tidy(text)
    as_latex = f"${text.strip().rstrip('.')}$"
    if bare:
        return _parsed(as_latex) or _parsed(text)
    short = len(text) <= BARE_CHARS and "$" not in text and len(WORDS.findall(text)) < 2
    return _parsed(text) or (_parsed(as_latex) if short else [])


def _parsed(text: str) -> list:
    from math_verify import parse

    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    return parse(text, parsing_timeout=None)


def _tidy(text: str) -> str:
    """Typography that Math-Verify does not read: grouped digits, mixed numbers, fractions in one character, dashes."""
    if not text.isascii():
        text = "".join(map(_latex, text))
    return MIXED.sub(r"\1\\frac{\2}{\3}", GROUPS.sub("", text))


def _latex(character: str) -> str:
    if unicodedata.decomposition(character).startswith("<fraction>"):
        over, _, under = unicodedata.normalize("NFKC", character).partition("\u2044")
        return rf"\frac{{{over}}}{{{under}}}" if under else character
    return character.translate(numbers.DASHES)


def _stated(sentence: str) -> str:
    """The expression that follows "the answer is": the formula it opens with, else what precedes a reason."""
    segment = SEGMENT.search(sentence)
    if segment and segment.start() <= 20:
        return sentence[: segment.end()]
    return sentence[: reason.start()] if (reason := REASON.search(sentence)) else sentence


def _bases(text: str) -> list[str]:
    """The bases that numbers are written in, which Math-Verify drops: 3132_{5} is not 3132."""
    return BASE.findall(text)


def mentioned(text: str, answer: str) -> bool:
    """Whether an answer stands in the last part of a text: as a whole number where it is one, else word for word."""
    part, number = last_part(text), numbers.whole_number(answer)
    return says(part, answer) if number is None else numbers.mentions(part, [number])
