"""Which tokens a term reads: a handful of words over source, tag and verdict.

"trainable"             every token a policy could have produced (the default of every term)
"learner" "teacher" "external"   by who produced the token
"tag:chosen"            tokens of trajectories with that tag
"!word"                 the opposite
"learner & tag:right"   both
"""

from __future__ import annotations

import torch
from torch import Tensor

from offon.errors import ConfigError
from offon.types.batch import Batch
from offon.types.trajectory import Source

SOURCES = {"learner": Source.LEARNER, "teacher": Source.TEACHER, "external": Source.EXTERNAL}


def select(batch: Batch, on: str) -> Tensor:
    """The trainable tokens that satisfy every word of `on`, [M] bool. Environment and scaffold tokens never do."""
    chosen = batch.columns["trainable"].clone()
    for word in (part.strip() for part in on.split("&")):
        mask = _word(batch, word.removeprefix("!").strip())
        chosen &= ~mask if word.startswith("!") else mask
    return chosen


def _word(batch: Batch, word: str) -> Tensor:
    if word == "trainable":
        return batch.columns["trainable"]
    if word in SOURCES:
        return batch.columns["source"] == SOURCES[word]
    if word.startswith("tag:"):
        tag = word.removeprefix("tag:")
        tagged = torch.tensor([tag in t.tags for t in batch.trajectories], dtype=torch.bool)
        return tagged[batch.sequence]
    raise ConfigError(
        f"unknown selector word {word!r}",
        fix=f"use trainable, {', '.join(SOURCES)}, tag:NAME, joined by & and negated by !",
    )
