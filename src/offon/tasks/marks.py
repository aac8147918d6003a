"""Where a response says what its answer is.

    \\boxed{..}  \\fbox{..}      balanced braces; \\boxed 5 too
    <answer>..</answer>        the innermost pair
    #### ..                    to the end of the line (a heading such as "#### Step 2" marks nothing)
    the answer is ..           also "Answer: ..", "the answer to .. should be ..": to the end of the sentence

The mark that stands last wins, so a corrected answer counts as its last form; a mark within a mark's text is read
inside it. Thoughts that were closed (..</think>) are no part of the answer while anything follows them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

Kind = Literal["box", "tag", "hashes", "sentence", "none"]

BOX = re.compile(r"\\f?(?:boxed|box)(?![A-Za-z])\s*")
UNBRACED = re.compile(r"[^\s${}\\,;]+|\\d?frac\s*(?:\{[^{}]*\}|\d)\s*(?:\{[^{}]*\}|\d)|\\[A-Za-z]+")
TAG = re.compile(r"<answer>((?:(?!</?answer>).)*)</answer>", re.DOTALL | re.IGNORECASE)
HASHES = re.compile(r"(?<!#)####(?!#)[ \t]*([^\n]*)")
STEP_HEADING = re.compile(
    r"[\s*_]*(?:step|case|part|method|example|question|problem|solution|option|section|phase|stage|approach)\s*\d",
    re.IGNORECASE,
)
SENTENCE = re.compile(
    r"\banswers?\b(?:\s+(?:to|for|of|in)\b[^\n:=]{0,80}?)?[\s*_]{0,6}"
    r"(?:[:=]|(?:is|are|was|equals|comes to|becomes|(?:should|would|must|will|has to) be)\b(?!\s+not\b)"
    r"(?:\s+(?:therefore|thus|then|hence|now|simply|just))?)[\s*_]{0,6}:?",
    re.IGNORECASE,
)
HEADING = re.compile(r"^[#*_ \t]*(?:the\s+)?(?:final\s+)?answer[*_ \t]*\n", re.IGNORECASE | re.MULTILINE)
SENTENCE_END = re.compile(r"\n|(?<!\b[A-Za-z])\.(?=\s|$|[\"'*_)$]|</)|[?](?=\s|$)|\\\]|\$\$(?=\s*(?:\n|$))")
MATHS = re.compile(r"\d|\\(?!text)[A-Za-z]|[\u00bc-\u00be\u2150-\u215e\u221a\u221e\u03c0]")
LONGEST_BOX = 1000  # characters; bounds the work on boxes that never close
Span = tuple[tuple[int, int], str, Kind]


@dataclass(frozen=True)
class Marked:
    """A marked answer: its text, and the mark it has. Without a mark, kind is "none" and the text is the response."""

    text: str
    kind: Kind


def after_thoughts(response: str) -> str:
    """The response after its thoughts."""
    _, closed, rest = response.rpartition("</think>")
    return rest if closed and rest.strip() else response


def marked_answer(response: str, counts: Callable[[str], bool] = lambda text: bool(MATHS.search(text))) -> Marked:
    """The last marked answer. A sentence or #### line counts as a mark only if `counts(its text)`: "the answer is
    correct" says no answer. An empty \\boxed{} is the instruction repeated, and none either."""
    marked = Marked(after_thoughts(response), "none")
    while True:
        spans = list(_outermost(_spans(marked.text, counts)))
        if not spans:
            return marked
        _, text, kind = max(spans)
        marked = Marked(text, kind)


def _outermost(spans: Iterator[Span]) -> Iterator[Span]:
    """Those that stand in no other one."""
    end = -1
    for span in sorted(spans, key=lambda span: (span[0][0], -span[0][1])):
        if span[0][1] > end:
            yield span
            end = span[0][1]


def _spans(text: str, counts: Callable[[str], bool]) -> Iterator[Span]:
    for match in BOX.finditer(text):
        end = closing_brace(text, match.end())
        if end is not None:
            inner = text[match.end() + 1 : end]
        elif not text.startswith("{", match.end()) and (bare := UNBRACED.match(text, match.end())):
            inner, end = bare[0].rstrip(".:!?"), bare.end()
        else:
            continue
        if inner.strip():
            yield (match.start(), end), inner, "box"
    for match in TAG.finditer(text):
        yield match.span(), match[1].strip(), "tag"
    for match in HASHES.finditer(text):
        if counts(match[1]) and not STEP_HEADING.match(match[1]):
            yield match.span(), match[1].strip(), "hashes"
    for pattern in (SENTENCE, HEADING):
        for match in pattern.finditer(text):
            start, end = _sentence(text, match.end())
            if counts(text[start:end]):
                yield (match.start(), end), text[start:end].strip(), "sentence"


def closing_brace(text: str, start: int, longest: int = LONGEST_BOX) -> int | None:
    """Where the brace that opens at `start` closes; None where none opens there, or none closes it soon enough."""
    if not text.startswith("{", start):
        return None
    depth = 0
    for match in re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, start, start + longest + 2):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return match.start()
    return None


def _sentence(text: str, start: int) -> tuple[int, int]:
    """From `start` to the end of the sentence; what stands on a line of its own below is the sentence."""
    start = re.compile(r"(?:[\s*_]|\$\$|\\\[)*").match(text, start).end()
    end = SENTENCE_END.search(text, start)
    return start, end.start() if end else len(text)


# --- the lenient reading ----------------------------------------------------------------------------------------

LAST_LINES, LAST_CHARS = 2, 200
TOKENS = re.compile(r"\\[A-Za-z]+|\d+(?:[.,]\d+)*|[^\W\d]+|[^\w\s]")
DRESS = frozenset("$*`\"'!?.,;:{}") | {"\\left", "\\right", "\\text", "\\boxed", "\\mathrm"}


def last_part(response: str) -> str:
    """The last two lines that say something, 200 characters at most."""
    lines = [line for line in response.splitlines() if line.strip()][-LAST_LINES:]
    text = "\n".join(lines)
    if len(text) > LAST_CHARS:
        _, _, text = text[-LAST_CHARS - 1 :].partition(" ")
    return text


def says(text: str, answer: str) -> bool:
    """Whether the answer's words and symbols stand in a text one after the other, punctuation and dress aside."""
    there, wanted = ([t for t in TOKENS.findall(one) if t not in DRESS] for one in (text, answer))
    n = len(wanted)
    return n > 0 and any(there[i : i + n] == wanted and there[i - 1 : i] != ["-"] for i in range(len(there) - n + 1))
