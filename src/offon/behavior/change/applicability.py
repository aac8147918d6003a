"""Which measurements of a change apply to two models, and why the others do not.

    E_eps of states ends near depth log(1 / eps) / h at an entropy of h nats a token

so that absolute support says something about whole short responses, about the entry of longer ones, and nothing about
very long ones, where support relative to the other checkpoint takes its place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from offon.behavior.change.enumeration import most_evaluations
from offon.behavior.change.support import support_threshold

ENTRY = 0.25  # absolute support that ends before this share of a response is not used
EXACT_SHARE = 0.25  # next-token distributions that enumeration may cost, for each token sampled


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the choice depends on, known once both models are sampled. Pairs are (before, after).

    parameters     of the models
    other_tokens   why token ids do not mean the same to both; empty where they do
    same_stops     the same tokens end a response
    packed         keys and values are kept while decoding; a model that is padded computes every prefix anew
    vocabulary     number of logits
    longest        most tokens of a response
    median_tokens  of the sampled responses
    tokens         sampled in all
    entropy        nats a token, under the sampler
    inside         tokens up to which half of the responses stay within E_eps; inf: to their end
    evaluations    what enumerating E_eps should cost, from the sampled prefixes that lie in it
    classes        "answer", or "route" where a route belongs to it, by what the task can name; None: nothing
    changed        success moved beyond its interval, or prompts came into reach or left it
    """

    k: int
    temperature: float
    parameters: tuple[int, int]
    other_tokens: str = ""
    same_stops: bool = True
    packed: bool = True
    vocabulary: int
    longest: int
    median_tokens: float
    prompts: int
    tokens: int
    entropy: tuple[float, float]
    inside: tuple[float, float]
    evaluations: int
    classes: str | None
    changed: bool


@dataclass(frozen=True)
class Instrument:
    """name, whether it applies here, and why: what it rests on, or what stands against it."""

    name: str
    applies: bool
    why: str

    def as_dict(self) -> dict:
        return asdict(self)


def choose(facts: Facts) -> list[Instrument]:
    """Every instrument of a comparison, in the order in which they are told."""
    greedy = "a greedy sampler has one response to a prompt" if facts.temperature == 0 else ""
    other = f"token ids differ: {facts.other_tokens}" if facts.other_tokens else ""
    scoring = other or greedy
    short = "responses of one token have no place within" if facts.median_tokens < 2 else ""
    named = "" if facts.classes else "the task names neither the answer nor the route of a response"
    chosen = [
        _instrument("prompts", "", "calls, pass@k and D1, from counts of successes"),
        _instrument("classes", named, "D1 over answers" + (" by route" if facts.classes == "route" else "")),
        _instrument("trajectories", scoring, "D1, every response scored by both checkpoints"),
        _instrument("first passage", scoring or short, "the token at which a new response becomes new"),
        _instrument("bits (D4)", scoring, "how far successes moved, in nats; where both succeed"),
        _instrument(
            "k to solve",
            greedy,
            "bounds from counts" + (f" alone: {other}" if other else ", known responses and importance weights"),
        ),
        _instrument("exact support", scoring or _unenumerable(facts), _support(facts)),
        _instrument("states (D2)", scoring or _not_whole(facts), "the whole tree of responses is enumerated"),
        _instrument(
            "where (D3)",
            other or short or ("" if facts.changed else "success did not change"),
            "hybrids of both checkpoints on the prompts that changed most",
        ),
        _instrument("tree", scoring, "the branching of one prompt under both"),
    ]
    return chosen


def in_words(instruments: Sequence[Mapping[str, Any]]) -> str:
    """Which instruments (as dicts) are used, and why the others are not; several for one reason are told together."""
    used = ", ".join(one["name"] for one in instruments if one["applies"])
    reasons: dict[str, list[str]] = {}
    for one in instruments:
        if not one["applies"]:
            reasons.setdefault(one["why"], []).append(one["name"])
    unused = "; ".join(f"{', '.join(names)} ({why})" for why, names in reasons.items())
    return f"measured: {used}" + (f"; not applicable: {unused}" if unused else "")


def _instrument(name: str, against: str, basis: str) -> Instrument:
    return Instrument(name, not against, against or basis)


def affordable(facts: Facts) -> int:
    """Prompts whose enumeration costs at most `EXACT_SHARE` of the sampled tokens: all, where whole trees do not."""
    if not _not_whole(facts):
        return facts.prompts
    each = max(1.0, facts.evaluations / facts.prompts)
    return min(facts.prompts, int(EXACT_SHARE * facts.tokens / each))


def _unenumerable(facts: Facts) -> str:
    if not facts.same_stops:
        return "other tokens end a response"
    if not _not_whole(facts):
        return ""
    entropy, end = max(facts.entropy), min(facts.inside)
    if end < ENTRY * facts.median_tokens:
        return (
            f"{facts.median_tokens:,.0f}-token responses: absolute support ends near token {max(1, round(end))} at "
            f"{entropy:.2f} nats a token; relative support instead"
        )
    if not affordable(facts):
        return (
            f"about {facts.evaluations:,} evaluations would cost more than {EXACT_SHARE:.0%} of the {facts.tokens:,} "
            "sampled tokens"
        )
    return ""


def _support(facts: Facts) -> str:
    end, prompts = min(facts.inside), affordable(facts)
    if not _not_whole(facts):
        return "every response is enumerated"
    reaches = "whole responses" if np.isinf(end) else f"statements up to token {end:.0f} of {facts.median_tokens:.0f}"
    least = "" if prompts == facts.prompts else f", {prompts} of {facts.prompts} prompts"
    slow = "" if facts.packed else "; padded, so every prefix is computed anew"
    return f"enumerated at eps {support_threshold(facts.k):.3f}: {reaches}{least}{slow}"


def _not_whole(facts: Facts) -> str:
    if not facts.same_stops:
        return "other tokens end a response"
    needed = most_evaluations(0, facts.longest, facts.vocabulary, policies=2)
    afforded = int(EXACT_SHARE * facts.tokens / facts.prompts)
    if needed > afforded:
        return (
            f"values of states need the whole tree: {facts.vocabulary:,} tokens to the power of {facts.longest}, and "
            f"{afforded:,} evaluations a prompt are within {EXACT_SHARE:.0%} of the sampling"
        )
    return ""
