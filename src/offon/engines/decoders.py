"""Hidden states of growing sequences, one token per sequence and step: with a key-value store, or by recomputing.

The decoders number their sequences 0..B-1 without gaps and speak the same words:

    prefill(prefixes) -> prompts        one per prefix
    bind(prompts) -> hidden [n, E]      appends n sequences; what predicts their first token
    step(tokens [B]) -> hidden [B, E]   feeds every sequence the token it drew; what predicts the next
    fork(slots)                         sequence j becomes a copy of sequence slots[j]
    release(slots) -> holes, movers     forgets sequences; number movers[i] becomes number holes[i]
    room(prompt, longest)               how many sequences of up to `longest` tokens fit

Axes: B sequences, N rows of a packed buffer, E model width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from offon.models.decode import GROWTH, DecodeState, Prompt, compaction
from offon.models.mixture import Mixture
from offon.models.model import Model
from offon.models.packed.attention import Plan
from offon.models.packed.layout import Layout
from offon.types.trajectory import Tokens


class CachedDecoder:
    """Decoding through the packed attention function: every token passes the model once."""

    def __init__(self, model: Model, kv_bytes: int):
        self.model, self.kv_bytes = model, kv_bytes
        self.state = DecodeState(model.device)

    def prefill(self, prefixes: Sequence[Tokens]) -> list[Prompt]:
        limit = self.model.lengths.rows
        if limit is not None and len(prefixes) > 1 and sum(map(len, prefixes)) > limit:
            half = len(prefixes) // 2
            return self.prefill(prefixes[:half]) + self.prefill(prefixes[half:])
        lengths = np.array([len(prefix) for prefix in prefixes])
        ends = lengths.cumsum()
        segments = np.stack([ends - lengths, lengths, np.full_like(lengths, -1)], axis=1)
        ids = torch.tensor(list(chain.from_iterable(prefixes)), device=self.model.device)
        if lengths.max() == self.model.lengths.turn:
            # What continues these prefixes is beyond the turn: one more row behind the longest says so.
            segments = np.append(segments, [[lengths.sum(), 1, lengths.argmax()]], axis=0)
            ids = torch.cat([ids, ids[-1:]])
        plan = Plan(segments, capture={})
        hidden = self.model.flat(ids, plan.positions.to(self.model.device), plan)[ends - 1]
        places = segments[:, 1].tolist()
        kv = {layer: (k.split(places), v.split(places)) for layer, (k, v) in plan.capture.items()}
        return [
            Prompt(length=int(length), hidden=hidden[i], kv={layer: (k[i], v[i]) for layer, (k, v) in kv.items()})
            for i, length in enumerate(lengths)
        ]

    def bind(self, prompts: Sequence[Prompt]) -> Tensor:
        self.state.bind(prompts)
        return stack_hidden(prompts)

    def step(self, token_B: Tensor) -> Tensor:
        return self.model.flat(token_B, self.state.begin(), self.state)

    def fork(self, slots: np.ndarray) -> None:
        self.state.fork(slots)

    def release(self, slots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.state.release(slots)

    def room(self, prompt: Prompt, longest: int) -> int:
        room = self.kv_bytes // (prompt.bytes_per_token * (longest + GROWTH))
        return room if self.model.lengths.rows is None else min(room, self.model.lengths.rows)


@dataclass(frozen=True, eq=False)
class Prefix:
    """The prompt of a ReplayDecoder: nothing is known of it but the next hidden state."""

    tokens: Tokens
    hidden: Tensor  # [E]


class ReplayDecoder:
    """Decoding for models that the packed mechanism does not cover: every step runs whole sequences, padded.

    Slow, and as right as the model's own forward.
    """

    def __init__(self, model: Model, step_tokens: int):
        self.model, self.step_tokens = model, step_tokens
        self.sequences: list[list[int]] = []

    def prefill(self, prefixes: Sequence[Tokens]) -> list[Prefix]:
        return [Prefix(tokens, row) for tokens, row in zip(prefixes, self._last_hidden(prefixes), strict=True)]

    def bind(self, prompts: Sequence[Prefix]) -> Tensor:
        self.sequences.extend(list(prompt.tokens) for prompt in prompts)
        return stack_hidden(prompts)

    def step(self, token_B: Tensor) -> Tensor:
        for sequence, token in zip(self.sequences, token_B.tolist(), strict=True):
            sequence.append(token)
        return self._last_hidden(self.sequences)

    def fork(self, slots: np.ndarray) -> None:
        self.sequences = [list(self.sequences[slot]) for slot in slots]

    def release(self, slots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        holes, movers, left = compaction(slots, len(self.sequences))
        for hole, mover in zip(holes, movers, strict=True):
            self.sequences[hole] = self.sequences[mover]
        del self.sequences[left:]
        return holes, movers

    def room(self, prompt: Prefix, longest: int) -> int:
        return self.step_tokens // longest

    def _last_hidden(self, sequences: Sequence[Sequence[int]]) -> Tensor:
        """[B, E]: the rows of a layout are those that predict a target, here one per sequence, whose id is not read."""
        return self.model.hidden(Layout.of([(sequence, (0,)) for sequence in sequences]))


class JointDecoder:
    """Decoding with several models at once: each has a decoder of its own, their hidden states lie side by side.

    All are told the same, so their sequences have the same numbers. A prompt is the tuple of theirs.
    """

    def __init__(self, decoders: Sequence[CachedDecoder | ReplayDecoder]):
        self.decoders = decoders

    def prefill(self, prefixes: Sequence[Tokens]) -> list[tuple]:
        return list(zip(*(decoder.prefill(prefixes) for decoder in self.decoders), strict=True))

    def bind(self, prompts: Sequence[tuple]) -> Tensor:
        own = zip(*prompts, strict=True)
        return torch.cat([decoder.bind(part) for decoder, part in zip(self.decoders, own, strict=True)], dim=-1)

    def step(self, token_B: Tensor) -> Tensor:
        return torch.cat([decoder.step(token_B) for decoder in self.decoders], dim=-1)

    def release(self, slots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return [decoder.release(slots) for decoder in self.decoders][0]

    def room(self, prompt: tuple, longest: int) -> int:
        return min(decoder.room(part, longest) for decoder, part in zip(self.decoders, prompt, strict=True))


def decoder_of(
    model: Model | Mixture, kv_bytes: int, step_tokens: int, longest: int
) -> CachedDecoder | ReplayDecoder | JointDecoder:
    """The decoder for sequences of up to `longest` tokens of a model; the parts of a mixture share the memory."""
    if isinstance(model, Mixture):
        share = len(model.models)
        parts = [decoder_of(part, kv_bytes // share, step_tokens // share, longest) for part in model.models]
        return JointDecoder(parts)
    return CachedDecoder(model, kv_bytes) if model.keeps_keys(longest) else ReplayDecoder(model, step_tokens)


def stack_hidden(prompts: Sequence[Prompt] | Sequence[Prefix]) -> Tensor:
    """[n, E], each distinct prompt touched once."""
    place = {prompt: i for i, prompt in enumerate(dict.fromkeys(prompts))}
    rows = torch.stack([prompt.hidden for prompt in place])
    return rows[[place[prompt] for prompt in prompts]]
