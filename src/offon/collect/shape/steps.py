"""Steps: a response cut into consecutive spans, which signals and credit can then be about.

A cut is where a step ends. The last step ends with the response, whatever is written there; steps are never empty.
"""

from __future__ import annotations

import dataclasses
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from offon.data.messages import TEMPLATE_COLUMNS
from offon.parts.collector import Collector
from offon.parts.context import Context
from offon.types import Group, Span, Trajectory

STEP = "step"  # the name of the spans


def by_length(n_tokens: int, length: int) -> list[int]:
    """Ends of steps of `length` tokens each, the last one shorter if need be.

    >>> by_length(5, 2)
    [2, 4, 5]
    """
    return [*range(length, n_tokens, length), *([n_tokens] if n_tokens else [])]


def by_separator(n_tokens: int, separator: str, text_of: Callable[[int], str]) -> list[int]:
    """Ends of steps: after each token with which one more separator is complete; it belongs to the step it closes.

    text_of(n) is the text of the first n tokens: a separator may span tokens, or lie within one. Found by bisection,
    so that a long response is decoded a few times per step and not once per token.

        >>> pieces = ["a", " b", ".\\n", "\\nc", "."]
        >>> by_separator(5, "\\n\\n", lambda n: "".join(pieces[:n]))
        [4, 5]
    """
    counts = range(n_tokens + 1)
    n_separators = text_of(n_tokens).count(separator)
    ends = [bisect_left(counts, nth, key=lambda n: text_of(n).count(separator)) for nth in range(1, n_separators + 1)]
    return sorted({*ends, n_tokens} - {0})


def with_steps(trajectory: Trajectory, ends: Sequence[int]) -> Trajectory:
    """The trajectory with spans named "step" that end there, in place of those it had."""
    others = tuple(span for span in trajectory.spans if span.name != STEP)
    steps = tuple(Span(STEP, start, end) for start, end in pairwise([0, *ends]))
    return trajectory.replace(spans=others + steps)


def steps_of(trajectory: Trajectory) -> tuple[Span, ...]:
    return tuple(span for span in trajectory.spans if span.name == STEP)


def with_values(trajectory: Trajectory, signal: str, value_K: Sequence[float | None]) -> Trajectory:
    """The trajectory with a signal on each of its steps, in order."""
    values = iter(value_K)
    spans = (
        dataclasses.replace(span, signals={**span.signals, signal: next(values)}) if span.name == STEP else span
        for span in trajectory.spans
    )
    return trajectory.replace(spans=tuple(spans))


def values_of(trajectory: Trajectory, signal: str) -> list[float | None]:
    return [step.signals[signal] for step in steps_of(trajectory)]


def step_rows(
    groups: Iterable[Group],
    labels: Callable[[Sequence[float | None]], Sequence[float | None]],
    signal: str,
    tokenizer: Any,
) -> Iterator[dict[str, Any]]:
    """A row for each member in TRL's stepwise convention: prompt, completions (the steps), labels, separator.

    Steps are written with the text they end in, so that nothing separates them. One without a text (an end token alone)
    belongs to the step before it, which it gives its label.
    """
    for group in groups:
        for member in group.members:
            tokens, spans = member.tokens.tolist(), steps_of(member)
            texts = [tokenizer.decode(tokens[: span.end], skip_special_tokens=True) for span in spans]
            pieces: list[str] = []
            kept: list[float | None] = []
            for text, label in zip(texts, labels(values_of(member, signal)), strict=True):
                piece = text[sum(map(len, pieces)) :]
                if piece:
                    pieces.append(piece)
                    kept.append(label)
                elif kept:
                    kept[-1] = label
            if pieces:
                options = {name: group.item.columns[name] for name in TEMPLATE_COLUMNS if name in group.item.columns}
                yield {"prompt": group.item.prompt, "completions": pieces, "labels": kept, "separator": "", **options}


@dataclass(frozen=True)
class Steps(Collector):
    """Cut every response into steps.

    by: a text that ends each step (two line breaks, say), or a number of tokens per step (1: every token is one).
    """

    by: str | int = "\n\n"
    requires = frozenset({"members"})
    provides = frozenset({"steps"})

    def __call__(self, context: Context, groups: list[Group]) -> list[Group]:
        def cut(member: Trajectory) -> Trajectory:
            if isinstance(self.by, int):
                return with_steps(member, by_length(len(member), self.by))
            tokens, tokenizer = member.tokens.tolist(), context.step.render.tokenizer
            return with_steps(member, by_separator(len(tokens), self.by, lambda n: tokenizer.decode(tokens[:n])))

        return [group.map(cut) for group in groups]

    def __str__(self) -> str:
        return f"steps({self.by!r})"


@dataclass(frozen=True)
class LabelledSteps(Collector):
    """Solutions whose steps carry a label in [0, 1], or None: also the token signal "label", on each step's last token.

    last_only    only the last step keeps its label
    after_error  "mask": steps after the first one with a label under 1/2 lose theirs
    """

    data: Sequence[Group]
    last_only: bool = False
    after_error: Literal["train", "mask"] = "train"
    reads = "steps"
    provides = frozenset({"members", "steps", "label"})

    def __call__(self, context: Context, groups: list[Group]) -> list[Group]:
        return [group.map(self._marked) for group in groups]

    def _marked(self, member: Trajectory) -> Trajectory:
        labels, column = values_of(member, "label"), np.full(len(member), np.nan)
        wrong = next((k for k, label in enumerate(labels) if label is not None and label < 0.5), len(labels))
        for k, (step, label) in enumerate(zip(steps_of(member), labels, strict=True)):
            asked = (not self.last_only or k == len(labels) - 1) and (self.after_error == "train" or k <= wrong)
            column[step.end - 1] = label if asked and label is not None else np.nan
        return member.with_token_signals(label=column)

    def __str__(self) -> str:
        return "labelled_steps"


steps, labelled_steps = Steps, LabelledSteps
