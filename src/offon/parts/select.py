"""Which tokens a term reads: a handful of words over source, tag and verdict.

"trainable"             every token a policy could have produced (the default of every term)
"learner" "teacher" "external"   by who produced the token
"tag:chosen"            tokens of trajectories with that tag
"right" "wrong"         tokens of trajectories whose reward reached 1, or was given and did not
"turn:0"                tokens of that turn, counting from 0
"!word"                 the opposite
"learner & right"       both
"learner | tag:chosen"  either; & binds closer
"""

from __future__ import annotations

from collections.abc import Sequence

from offon.errors import ConfigError
from offon.lazy import Tensor, torch
from offon.types.batch import Batch
from offon.types.trajectory import RIGHT, Source

SOURCES = {"learner": Source.LEARNER, "teacher": Source.TEACHER, "external": Source.EXTERNAL}


def select(batch: Batch, on: str) -> Tensor:
    """The trainable tokens that satisfy every word of `on`, or of one of its alternatives, [M] bool. Environment and
    scaffold tokens never do."""
    chosen = torch.zeros_like(batch.columns["trainable"])
    for alternative in on.split("|"):
        together = batch.columns["trainable"].clone()
        for word in (part.strip() for part in alternative.split("&")):
            mask = _word(batch, word.removeprefix("!").strip())
            together &= ~mask if word.startswith("!") else mask
        chosen |= together
    return chosen


def either(*ons: str) -> str:
    """What any of these selectors reads."""
    return "trainable" if "trainable" in ons else " | ".join(dict.fromkeys(ons))


def both(on: str, word: str) -> str:
    """What a selector reads and a word holds for."""
    return " | ".join(f"{alternative.strip()} & {word}" for alternative in on.split("|"))


def _word(batch: Batch, word: str) -> Tensor:
    if word == "trainable":
        return batch.columns["trainable"]
    if word in SOURCES:
        return batch.columns["source"] == SOURCES[word]
    if word.startswith("tag:"):
        tag = word.removeprefix("tag:")
        return _of_sequences(batch, [tag in t.tags for t in batch.trajectories])
    if word in ("right", "wrong"):
        rewards = [t.signals.get("reward") for t in batch.trajectories]
        return _of_sequences(batch, [r is not None and (r >= RIGHT) == (word == "right") for r in rewards])
    if word.startswith("turn:") and word.removeprefix("turn:").isdecimal():
        return _of_turn(batch, int(word.removeprefix("turn:")))
    raise ConfigError(
        f"unknown selector word {word!r}",
        fix=f"use trainable, {', '.join(SOURCES)}, right, wrong, tag:NAME, turn:K, joined by & and |, negated by !",
    )


def _of_sequences(batch: Batch, chosen: Sequence[bool]) -> Tensor:
    return torch.tensor(chosen, dtype=torch.bool, device=batch.sequence.device)[batch.sequence]


def _of_turn(batch: Batch, index: int) -> Tensor:
    mask = torch.zeros(batch.n_tokens, dtype=torch.bool)
    first = 0
    for trajectory in batch.trajectories:
        turns = [span for span in trajectory.spans if span.name == "turn"]
        if index < len(turns):
            mask[first + turns[index].start : first + turns[index].end] = True
        first += len(trajectory)
    return mask.to(batch.sequence.device)
