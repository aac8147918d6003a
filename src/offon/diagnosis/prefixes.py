"""Beginnings of responses: where a right one can be cut so that it helps and does not give its answer away.

Steps are lines; a line of more than 16 tokens is cut into sentences, one of those into clauses, and what is longer
still into 16 tokens at a time: a long response always has a beginning that leaves something to finish. A response of 16
tokens or fewer is cut at every token.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from offon.collect.shape.steps import by_length
from offon.types import Group, Verdict
from offon.types.trajectory import Tokens

SHORT = 16  # tokens: responses up to here are cut at every token, pieces of longer ones no further
LINES, SENTENCES, CLAUSES = (re.compile(end) for end in (r"\n", r"[.!?;:](?=\s)", r",(?=\s)"))
OTHERS, TRIED = 2, 4  # ends of other answers that a prefix is completed with, of so many looked at
Text = Callable[[Sequence[int]], str]


def step_ends(tokens: Tokens, text: Text) -> list[int]:
    """Where each step of a response ends, counted in tokens; the last ends with the response."""
    if len(tokens) <= SHORT:
        return by_length(len(tokens), 1)
    sizes = [len(text(tokens[:n])) for n in range(1, len(tokens) + 1)]  # characters of every beginning
    whole, ends = text(tokens), [len(tokens)]
    for pattern in (LINES, SENTENCES, CLAUSES):
        stops = [bisect_left(sizes, match.end()) + 1 for match in pattern.finditer(whole)]
        ends = _cut_further(ends, lambda first, last, stops=stops: [n for n in stops if first < n < last])
    return _cut_further(ends, lambda first, last: range(first + SHORT, last, SHORT))


def _cut_further(ends: Sequence[int], inner: Callable[[int, int], Sequence[int]]) -> list[int]:
    """The ends, and those inside pieces that are still too long."""
    pieces = list(pairwise([0, *ends]))
    return sorted({*ends, *(n for first, last in pieces if last - first > SHORT for n in inner(first, last))})


def prefixes(tokens: Tokens, text: Text) -> list[Tokens]:
    """A response's beginnings, step by step, the whole of it last."""
    return [tuple(tokens[:end]) for end in step_ends(tokens, text)]


def half(tokens: Tokens, ends: Sequence[int]) -> Tokens:
    """The first half of a response's steps. Of another prompt it is surely wrong, where its first step alone, a word
    that opens many answers, may be as right here as there."""
    return tuple(tokens[: ends[(len(ends) - 1) // 2]])


@dataclass(frozen=True)
class Placement:
    """Where a right response can be cut: after its first step, and as late as it does not hold the answer; both are one
    prefix where there is no other."""

    first: Tokens
    last: Tokens


def placements(
    right: Mapping[int, Tokens], groups: Sequence[Group], task: Any, text: Text
) -> tuple[dict[int, Placement], list[bool]]:
    """The shortest and the longest beginning of each prompt's right response that do not hold the answer, where there
    are any, and of every beginning whether it does.

    A prefix holds the answer if the answer is written in it, if the checker accepts it by itself, or if the checker
    accepts it with the ends of two other prompts' right responses: what is left then depends on the prompt no more.
    Others are such whose whole response is wrong here, so that yes and no do not look like leaks.
    """
    cut = {p: prefixes(tokens, text) for p, tokens in right.items()}
    asked = [(p, at) for p in cut for at in range(len(cut[p]) - 1)]
    ends = _wrong_here(cut, groups, task, text)

    def completions(p: int, at: int) -> list[str]:
        return [text((*cut[p][at], *cut[q][-1][len(cut[q][at]) :])) for q in ends[p] if at < len(cut[q])]

    tried = [[text(cut[p][at]), *completions(p, at)] for p, at in asked]
    verdicts = iter(
        task.verify([(groups[p].item, one) for (p, _), row in zip(asked, tried, strict=True) for one in row])
    )
    usable, leaks = {}, []
    for (p, at), row in zip(asked, tried, strict=True):
        alone, *completed = [_accepted(next(verdicts)) for _ in row]
        leaks.append(alone or _written(groups[p], row[0]) or (len(completed) == OTHERS and all(completed)))
        if not leaks[-1]:
            usable.setdefault(p, []).append(cut[p][at])  # from the shortest up
    return {p: Placement(beginnings[0], beginnings[-1]) for p, beginnings in usable.items()}, leaks


def _wrong_here(
    cut: Mapping[int, list[Tokens]], groups: Sequence[Group], task: Any, text: Text
) -> dict[int, list[int]]:
    """For each prompt the others whose right answer is wrong here."""
    order = list(cut)
    rings = {
        p: [order[(i + j) % len(order)] for j in range(1, min(TRIED, len(order) - 1) + 1)] for i, p in enumerate(order)
    }
    verdicts = iter(task.verify([(groups[p].item, text(cut[q][-1])) for p, ring in rings.items() for q in ring]))
    return {p: [q for q in ring if not _accepted(next(verdicts))][:OTHERS] for p, ring in rings.items()}


def _accepted(verdict: Verdict) -> bool:
    return bool(verdict.right_content)


def _written(group: Group, prefix: str) -> bool:
    answer = str(group.item.columns.get("answer") or "").strip()
    return bool(answer) and re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", prefix) is not None
