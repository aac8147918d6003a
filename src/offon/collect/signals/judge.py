"""A language model as judge: it grades responses by a rubric, alone or two at a time, in words that are read back."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Literal

from offon.collect.signals.rewards import Number, Numbers, Source
from offon.engines.endpoint import Endpoint
from offon.parts.context import Context, Prompted
from offon.parts.models import ModelRef
from offon.types import Group, Sampling, Verdict
from offon.types.trajectory import Prompt

ALONE = """{rubric}

[Prompt]
{prompt}

[Response]
{response}

How good is the response, by these criteria alone? Think if you need to, and end with a line
Score: N
where N is a number from {low:g} (worst) to {high:g} (best)."""

TWO = """{rubric}

[Prompt]
{prompt}

[Response A]
{a}

[Response B]
{b}

Which response is better, by these criteria alone? Think if you need to, and end with a line
Better: A
or "Better: B", or "Better: tie"."""

SCORE = re.compile(r"score:\s*\**\s*([-+]?\d+(?:\.\d+)?)", re.IGNORECASE)
BETTER = re.compile(r"better:\s*\**\s*(?:response\s+)?(a|b|tie)\b", re.IGNORECASE)
VALUE = {"a": 1.0, "b": 0.0, "tie": 0.5}


@dataclass(frozen=True, kw_only=True)
class Judge(Source):
    """What a language model thinks of each response, from 0 to 1, by the criteria in `rubric` (a constitution, say).

    compare  "alone": its grade on `scale`, brought to [0, 1]. "pairs": the share of the group's other responses that it
             is better than (a tie counts half). Each two are shown in both orders, so that a preference for the first
             or the last place cancels.

    by       a model of the run, which answers greedily, or an `Endpoint`. An answer that says nothing readable, or
             never came, leaves the response unscored; with pairs, those that came decide.
    """

    rubric: str
    by: ModelRef | Endpoint
    compare: Literal["alone", "pairs"] = "alone"
    scale: tuple[float, float] = (0.0, 10.0)
    sampling: Sampling = Sampling(temperature=0.0, max_tokens=512)

    @property
    def samplers(self) -> tuple[ModelRef, ...]:
        return (self.by,) if isinstance(self.by, ModelRef) else ()

    def __call__(self, context: Context, groups: Sequence[Group]) -> Numbers:
        judged = self._alone if self.compare == "alone" else self._in_pairs
        return judged(context, groups)

    def _alone(self, context: Context, groups: Sequence[Group]) -> Numbers:
        low, high = self.scale
        asked = {
            (g, m): ALONE.format(
                rubric=self.rubric, prompt=in_words(group.item.prompt), response=member.text, low=low, high=high
            )
            for g, group in enumerate(groups)
            for m, member in enumerate(group.members)
        }  # fmt: skip
        answers = self._ask(context, groups, asked)
        grades = {place: _read(answer, grade(answer, low, high)) for place, answer in answers.items()}
        return [[grades[g, m] for m in range(len(group.members))] for g, group in enumerate(groups)]

    def _in_pairs(self, context: Context, groups: Sequence[Group]) -> Numbers:
        asked = {
            (g, a, b): TWO.format(
                rubric=self.rubric, prompt=in_words(group.item.prompt), a=group.members[a].text, b=group.members[b].text
            )
            for g, group in enumerate(groups)
            for a, b in permutations(range(len(group.members)), 2)
        }  # fmt: skip
        answers = self._ask(context, groups, asked)

        def share(g: int, member: int) -> Number:
            heard = [(a, answer) for (of, a, b), answer in answers.items() if of == g and member in (a, b)]
            shares = [
                value if a == member else 1 - value for a, answer in heard if (value := preference(answer)) is not None
            ]
            if not heard:
                return Verdict(None, reason="the judge had nothing to compare it with")
            return sum(shares) / len(shares) if shares else _read(heard[0][1], None)

        return [[share(g, m) for m in range(len(group.members))] for g, group in enumerate(groups)]

    def _ask(
        self, context: Context, groups: Sequence[Group], asked: dict[tuple[int, ...], str]
    ) -> dict[tuple[int, ...], str | None]:
        """The judge's words, by place in the groups."""
        if isinstance(self.by, Endpoint):
            return dict(zip(asked, self.by.ask(list(asked.values()), self.sampling), strict=True))
        render = context.step.render
        chats = render.tokenizer.chat_template is not None
        prompted = [
            Prompted(
                render.prompt(({"role": "user", "content": question},) if chats else question),
                self.sampling,
                context.step.key(groups[g].draw, *members),
            )
            for (g, *members), question in asked.items()
        ]
        return {place: t.text for place, t in zip(asked, context.generate(prompted, self.by), strict=True)}


def _read(answer: str | None, value: float | None) -> Number:
    """What was read of an answer, or why nothing was."""
    if value is not None:
        return value
    why = "no answer" if answer is None else f"an answer that says nothing readable: {' '.join(answer.split())[-60:]!r}"
    return Verdict(None, reason=why)


def in_words(prompt: Prompt) -> str:
    return prompt if isinstance(prompt, str) else "\n".join(f"{m['role']}: {m['content']}" for m in prompt)


def grade(answer: str | None, low: float, high: float) -> float | None:
    """The last score that is written, on [0, 1]; None where there is none, or one off the scale."""
    scores = SCORE.findall(answer or "")
    score = float(scores[-1]) if scores else None
    return (score - low) / (high - low) if score is not None and low <= score <= high else None


def preference(answer: str | None) -> float | None:
    """1 for A, 0 for B, a half for a tie; None where it is not said."""
    verdicts = BETTER.findall(answer or "")
    return VALUE[verdicts[-1].lower()] if verdicts else None
