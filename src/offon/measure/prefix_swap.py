"""D3: where in a response the change lies, from hybrids that one checkpoint begins and the other finishes.

The cut is at a fixed number of tokens, so that a response begun and finished by one checkpoint is that checkpoint's
own, and what was sampled already serves as beginnings. A response that ends before the cut is its own hybrid.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from offon.behavior.change.state_action import prefix_suffix
from offon.engines.api import Engine, Request
from offon.models.model import Model
from offon.types import RIGHT, Group, Trajectory
from offon.types.trajectory import Tokens

PROMPTS = 12  # those that changed most
ROLLOUTS = 32  # of each of the two hybrids, on each prompt; a greedy one has no more than one


def most_changed(before: Sequence[Group], after: Sequence[Group], most: int = PROMPTS) -> tuple[str, list[int]]:
    """("gained" or "lost", prompts whose success moved most that way), whichever moved more in all, so that gains are
    not set off against losses. Judged on every second sample; the others measure the change."""
    change = np.array([_rate(a.members[::2]) - _rate(b.members[::2]) for b, a in zip(before, after, strict=True)])
    way, moved = ("gained", change) if change.sum() >= 0 else ("lost", -change)
    order = np.argsort(-moved, kind="stable")[:most]
    return way, sorted(order[moved[order] > 0].tolist() or order[:1].tolist())


def where(
    models: Sequence[Model], task: Any, before: Sequence[Group], after: Sequence[Group], salt: int, *, engine: Engine
) -> dict[str, Any]:
    """Shapley values of beginning and rest on the prompts that changed most, and what finding them cost."""
    way, chosen = most_changed(before, after)
    groups = [[side[prompt] for prompt in chosen] for side in (before, after)]
    lengths = [len(member) for side in groups for group in side for member in group.members]
    cut = max(1, int(np.median(lengths)) // 2)
    pure = [[_rate(group.members[1::2]) for group in side] for side in groups]
    rollouts = ROLLOUTS if groups[0][0].members[0].producer.sampling.temperature else 1
    mixed, generated = [], 0
    for begins, ends in ((0, 1), (1, 0)):
        successes, tokens = _finished(models[ends], task, groups[begins], cut, rollouts, (salt, begins), engine)
        mixed.append(successes)
        generated += tokens
    split = prefix_suffix(pure[0], mixed[0], mixed[1], pure[1])
    return {
        "cut": f"first {cut} of about {np.median(lengths):.0f} tokens", "way": way, "prompts": len(chosen),
        "rollouts": 2 * rollouts * len(chosen), "tokens_generated": generated,
        **{name: est._asdict() for name, est in dataclasses.asdict(split).items()},
    }  # fmt: skip


def _rate(members: Sequence[Trajectory]) -> float:
    scores = [m.signals["reward"] for m in members if m.signals["reward"] is not None]
    return float(np.mean([score >= RIGHT for score in scores])) if scores else 0.0


def _finished(
    model: Model, task: Any, groups: Sequence[Group], cut: int, rollouts: int, salt: tuple[int, ...], engine: Engine
) -> tuple[list[float], int]:
    """Success of the beginnings of some samples as the model finishes them, by prompt; and the tokens it wrote."""
    begun: list[tuple[Group, Trajectory]] = [
        (group, group.members[1::2][sample % len(group.members[1::2])])
        for group in groups
        for sample in range(rollouts)
    ]
    open_ = [index for index, (_, member) in enumerate(begun) if len(member) > cut]
    requests = []
    for index in open_:
        group, member = begun[index]
        sampling = member.producer.sampling
        left = dataclasses.replace(sampling, max_tokens=max(1, sampling.max_tokens - cut))
        requests.append(Request((*group.prompt, *member.tokens[:cut].tolist()), left, (*salt, index)))
    completions = engine.generate(requests, model)
    tokens: list[Tokens] = [tuple(member.tokens.tolist()) for _, member in begun]
    for index, completion in zip(open_, completions, strict=True):
        tokens[index] = (*tokens[index][:cut], *completion.tokens)
    texts = model.tokenizer.batch_decode(tokens, skip_special_tokens=True)
    verdicts = task.verify([(group.item, text) for (group, _), text in zip(begun, texts, strict=True)])
    rows = np.array([verdict.score for verdict in verdicts], float).reshape(len(groups), rollouts)
    scored = ~np.isnan(rows)
    success = np.where(scored, rows >= RIGHT, False).sum(axis=1) / np.maximum(scored.sum(axis=1), 1)
    return success.tolist(), sum(len(completion.tokens) for completion in completions)
