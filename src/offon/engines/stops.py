"""Where a response ends: a function of the model and of its prompt."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from offon.data.turns import turns_of
from offon.models.mixture import Mixture
from offon.models.model import Model


def stops_after(model: Model | Mixture, prefix: Sequence[int]) -> tuple[int, ...]:
    """Every token id that ends a response to this prompt: the model's own, and after a prompt that the chat template
    wrote what ends an assistant turn there."""
    if isinstance(model, Mixture):
        return tuple(sorted({stop for part in model.models for stop in stops_after(part, prefix)}))
    if model.tokenizer is None or not model.tokenizer.chat_template:
        return model.stop_ids
    turns = turns_of(model.tokenizer)
    return tuple(sorted({*model.stop_ids, *turns.ends})) if turns.wrote(prefix) else model.stop_ids


def end_turns(model: Model, prompts: Iterable[Sequence[int]]) -> tuple[int, ...]:
    """Let the model stop, and say so where it is saved, where responses to these prompts are trained to end. Returns
    the ids that are new to it."""
    if model.tokenizer is None or not model.tokenizer.chat_template:
        return ()
    turns = turns_of(model.tokenizer)
    new = set(turns.ends) - set(model.stop_ids)
    if not new or not any(map(turns.wrote, prompts)):
        return ()
    model.stop_at(new)
    return tuple(sorted(new))
