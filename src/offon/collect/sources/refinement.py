"""Refinement: what a response becomes when the conversation goes on: another attempt, a critique and a revision.

An ask is a turn of the environment, written with the chat template after messages and as it stands after plain text.
{verdict} in it becomes "correct" or "incorrect" by the response's reward, {reference} the item's known good response.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from offon.data.messages import template_options
from offon.parts.collector import Collector
from offon.parts.context import Context, Prompted
from offon.parts.models import SELF, ModelRef
from offon.types import RIGHT, Group, Sampling, Source, Span, Trajectory

TURN = "turn"
CRITIQUE = "\n\nReview the answer above and find its problems.\n\n"
REVISE = "\n\nWrite the answer again without these problems, and nothing else.\n\n"
RETRY = (
    "\n\nThere might be an error in the answer above. If there is one, correct it. Write the whole answer again.\n\n"
)
VERDICT = (
    "\n\nThe answer above is {verdict}; a right answer is: {reference}\n\nWrite the answer again, and nothing else.\n\n"
)

Place = tuple[int, int]  # (group, member)


@dataclass(frozen=True, kw_only=True)
class Conversing(Collector):
    """Base of collectors that ask on after every response: one call of the model per ask, for all responses at once."""

    asks: tuple[str, ...]
    sampling: Sampling = Sampling()

    @property
    def turns(self) -> int:
        return len(self.asks)

    @property
    def samplers(self) -> tuple[ModelRef, ...]:
        return (SELF,)

    @property
    def requires(self) -> frozenset[str]:
        return frozenset({"members"} | ({"reward"} if any("{verdict}" in ask for ask in self.asks) else set()))

    def conversations(self, context: Context, groups: list[Group]) -> Mapping[Place, Trajectory]:
        """Every member's conversation after the last ask. Each answer is a span "turn"; so is the response itself, and
        keeps its signals there."""
        held = {
            (g, m): member.replace(
                spans=_turns(member) or (Span(TURN, 0, len(member), member.signals),), signals={}, tags=frozenset()
            )
            for g, group in enumerate(groups)
            for m, member in enumerate(group.members)
        }
        for number, ask in enumerate(self.asks):
            begun = {(g, m): self._asked(context, groups[g], groups[g].members[m], so_far, ask)
                     for (g, m), so_far in held.items()}  # fmt: skip
            requests = [
                Prompted(
                    b.prefix("sample"), self.sampling, context.step.key(groups[g].draw, m, len(b.spans), number), b
                )
                for (g, m), b in begun.items()
            ]
            answers = context.generate(requests, SELF)
            held = {
                place: answer.replace(spans=(*begun[place].spans, Span(TURN, len(begun[place]), len(answer))))
                for place, answer in zip(begun, answers, strict=True)
            }
        return held

    def _asked(self, context: Context, group: Group, member: Trajectory, so_far: Trajectory, ask: str) -> Trajectory:
        verdict = "correct" if (member.signals.get("reward") or 0) >= RIGHT else "incorrect"
        text = ask.replace("{verdict}", verdict).replace("{reference}", group.item.solution or "")
        options = template_options(group.item.columns)
        tokens = context.step.render.turn(group.item.prompt, so_far.last_turn.tolist(), text, **options)
        return so_far.then(tokens, Source.ENVIRONMENT)


@dataclass(frozen=True, kw_only=True)
class Again(Conversing):
    """A further attempt in the same conversation, which becomes the trajectory: what the learner said in it is trained,
    what it was asked is not. The reward of the earlier attempt stays with its turn."""

    provides = frozenset({"turns"})
    removes = frozenset({"reward", "comparisons"})

    def __call__(self, context: Context, groups: list[Group]) -> list[Group]:
        held = self.conversations(context, groups)

        def continued(g: int, group: Group) -> Group:
            members = ((member, held[g, m]) for m, member in enumerate(group.members))
            return group.replace(
                members=tuple(after.replace(id=m.id, tags=after.tags | m.tags) for m, after in members)
            )

        return [continued(g, group) for g, group in enumerate(groups)]

    def __str__(self) -> str:
        return f"again({len(self.asks)} asked)"


@dataclass(frozen=True, kw_only=True)
class Refine(Conversing):
    """The last answer of each conversation joins the group as a response to the prompt, tagged "refined".

    It was sampled after the earlier response, the critique and the asks, and is trained as if it had been the first:
    its log-probs stay those of the sampler, and the ledger reports it as off-policy by conditioning.
    """

    provides = frozenset({"members"})
    removes = frozenset({"reward", "comparisons"})
    drops_view = True

    def __call__(self, context: Context, groups: list[Group]) -> list[Group]:
        held = self.conversations(context, groups)

        def refined(g: int, group: Group, m: int) -> Trajectory:
            name = context.step.id(group.draw, group.size + m)
            return as_response(held[g, m], group).replace(id=name)

        return [group.add(*(refined(g, group, m) for m in range(len(group.members)))) for g, group in enumerate(groups)]

    def __str__(self) -> str:
        return f"refine({len(self.asks)} asked)"


def as_response(conversation: Trajectory, group: Group) -> Trajectory:
    """The last turn of a conversation alone, trained after the prompt and sampled after all that came before it."""
    start = len(conversation) - len(conversation.last_turn)
    before = (*conversation.prefix("sample"), *conversation.tokens[:start].tolist())
    return replace(
        conversation,
        tokens=conversation.tokens[start:],
        views={**conversation.views, **group.views, "sample": before, "train": group.prompt},
        source=conversation.source[start:],
        scaffold=conversation.scaffold[start:],
        behavior_logp=conversation.behavior_logp[start:],
        spans=(),
        tags=conversation.tags | {"refined"},
    )


def _turns(member: Trajectory) -> tuple[Span, ...]:
    return tuple(span for span in member.spans if span.name == TURN)


def again(*asks: str) -> Again:
    return Again(asks=asks or (RETRY,))


def refine(*asks: str) -> Refine:
    return Refine(asks=asks or (CRITIQUE, REVISE))
