"""Beginnings of responses: where a right answer can be cut so that it helps and does not give itself away.

A prefix holds the answer if the answer is written in it, if the checker accepts it by itself, or if the checker accepts
it with the ends of two other prompts' right answers: what is left then depends on the prompt no more. Others are such
whose whole answer is wrong here, so that yes and no do not look like leaks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from offon.collect.shape.steps import by_length, by_separator
from offon.types import RIGHT, Group, Verdict
from offon.types.trajectory import Tokens

SHORT = 16  # tokens: answers up to here are cut at every token, longer ones at line breaks
OTHERS, TRIED = 2, 4  # ends of other answers that a prefix is completed with, of so many looked at
Text = Callable[[Sequence[int]], str]


def prefixes(tokens: Tokens, text: Text) -> list[Tokens]:
    """A response's beginnings, step by step, the whole of it last."""
    if len(tokens) <= SHORT:
        ends = by_length(len(tokens), 1)
    else:
        ends = by_separator(len(tokens), "\n", lambda n: text(tokens[:n]))
    return [tuple(tokens[:end]) for end in ends]


def half(tokens: Tokens, text: Text) -> Tokens:
    """The first half of a response's steps. Of another prompt it is surely wrong, where its first step alone, a word
    that opens many answers, may be as right here as there."""
    beginnings = prefixes(tokens, text)
    return beginnings[(len(beginnings) - 1) // 2]


def placements(
    right: Mapping[int, Tokens], groups: Sequence[Group], task: Any, text: Text
) -> tuple[dict[int, Tokens], list[bool]]:
    """The longest beginning of each prompt's right answer that does not hold the answer, where there is one, and of
    every beginning whether it does."""
    cut = {p: prefixes(tokens, text) for p, tokens in right.items()}
    asked = [(p, at) for p in cut for at in range(len(cut[p]) - 1)]
    ends = _wrong_here(cut, groups, task, text)

    def completions(p: int, at: int) -> list[str]:
        return [text((*cut[p][at], *cut[q][-1][len(cut[q][at]) :])) for q in ends[p] if at < len(cut[q])]

    tried = [[text(cut[p][at]), *completions(p, at)] for p, at in asked]
    verdicts = iter(
        task.verify([(groups[p].item, one) for (p, _), row in zip(asked, tried, strict=True) for one in row])
    )
    places, leaks = {}, []
    for (p, at), row in zip(asked, tried, strict=True):
        alone, *completed = [_accepted(next(verdicts)) for _ in row]
        leaks.append(alone or _written(groups[p], row[0]) or (len(completed) == OTHERS and all(completed)))
        if not leaks[-1]:
            places[p] = cut[p][at]  # from the shortest up
    return places, leaks


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
    return max(verdict.score or 0.0, verdict.content or 0.0) >= RIGHT


def _written(group: Group, prefix: str) -> bool:
    answer = str(group.item.columns.get("answer") or "").strip()
    return bool(answer) and re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", prefix) is not None
