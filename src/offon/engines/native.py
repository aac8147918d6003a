"""The embedded engine: torch decoding on the learner's own weights. No copy, no server, nothing to synchronise.

Continuous batching: the sequences being generated fill slots, and a finished one is replaced at once. Prefixes are
computed in packed batches, each distinct one once; all its continuations read the same keys and values.

Axes: B slots in use, T generated tokens, V vocabulary, E model width.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain, islice

import numpy as np
import torch
from torch import Tensor, nn

from offon.engines.api import Completion, Progress, Request
from offon.engines.decoders import Prefix, decoder_of
from offon.engines.sampling import Columns, sample, uniforms
from offon.engines.stops import stops_after
from offon.errors import ConfigError, DataError, NumericsError
from offon.models.decode import Prompt
from offon.models.mixture import Mixture
from offon.models.model import Model
from offon.types import Sampling
from offon.types.trajectory import Tokens

LOGITS = 2**24  # logits that exist at a time, 64 MiB in float32


@dataclass(frozen=True, kw_only=True)
class NativeEngine:
    """Samples on the model itself, wherever it lives; from a mixture of models with the mixture's own log-probs.

    max_slots       sequences decoded together. 1024 is where tokens per second level off for a model of 0.3M parameters
                    on one core; larger models level off earlier and meet kv_bytes first
    prefill_tokens  prompt tokens per forward pass, at least one prompt
    kv_bytes        keys and values kept, beside those of one prefill batch: where sequences may grow long, fewer slots
                    are used, at least one
    """

    max_slots: int = 1024
    prefill_tokens: int = 4096
    kv_bytes: int = 2**32

    def generate(self, requests: Sequence[Request], model: Model, progress: Progress | None = None) -> list[Completion]:
        """One completion per request, in the order of the requests.

        A completion is a function of its request and the weights. Order, batching and the other requests reach it only
        through rounding, which decides where a uniform or a greedy tie falls within about 1e-6.
        """
        check(requests, model)
        requests = before_turns(requests, model)
        completions: list[Completion | None] = [None] * len(requests)
        done = 0
        for members in same_side(requests, model):
            tell = None if progress is None else lambda n, _, done=done: progress(done + n, len(requests))
            with evaluating(model.hf), torch.inference_mode():
                own = self._generate([requests[member] for member in members], model, tell)
            for member, completion in zip(members, own, strict=True):
                completions[member] = completion
            done += len(members)
        return completions

    def sync(self, model: Model) -> None:
        """Nothing to do: the weights are the model's own."""

    def _generate(self, requests: Sequence[Request], model: Model, progress: Progress | None) -> list[Completion]:
        longest = max(len(request.prefix) + request.sampling.max_tokens for request in requests)
        decoder = decoder_of(model, self.kv_bytes, self.prefill_tokens, longest)
        queue = admissions(requests, decoder.prefill, self.prefill_tokens)
        first = next(queue)
        queue = chain([first], queue)
        n_slots = max(1, min(self.max_slots, len(requests), decoder.room(first[1], longest)))

        slots = Slots(requests, n_slots, model)
        completions: list[Completion | None] = [None] * len(requests)
        done = 0
        while done < len(requests):
            hidden = [decoder.step(slots.last_token_B)] if len(slots) else []
            if fresh := list(islice(queue, n_slots - len(slots))):
                hidden.append(decoder.bind([prompt for _, prompt in fresh]))
                slots.bind([index for index, _ in fresh])
            slots.draw(model, torch.cat(hidden))
            finished = slots.finished
            if len(finished):
                for index, completion in slots.completions(finished):
                    completions[index] = completion
                slots.release(finished, *decoder.release(finished))
                done += len(finished)
                if progress is not None:
                    progress(done, len(requests))
        return completions


class Slots:
    """What has been drawn for the sequences in progress: one row per slot, on the host, all slots at once.

    Rows are numbered as the decoder numbers its sequences.
    """

    def __init__(self, requests: Sequence[Request], n_slots: int, model: Model):
        self.requests = requests
        self.device = model.device
        self.stops, self.ended_by = _stops(requests, model)
        self.settings = Columns.of([request.sampling for request in requests], model.device)
        self.limit = np.array([request.sampling.max_tokens for request in requests])
        longest = int(self.limit.max())
        self.request_B = np.zeros(0, np.int64)  # the request that each slot serves
        self.length_B = np.zeros(0, np.int64)  # tokens drawn so far
        self.uniform_BT = np.zeros((n_slots, longest))
        self.token_BT = np.zeros((n_slots, longest), np.int64)
        self.logp_BT = np.zeros((n_slots, longest), np.float32)
        self._sampling_B: Columns | None = None

    def __len__(self) -> int:
        return len(self.request_B)

    def bind(self, requests: Sequence[int]) -> None:
        longest = self.limit[requests].max()
        first, keys = len(self), [self.requests[index].key for index in requests]
        self.uniform_BT[first : first + len(keys), :longest] = uniforms(keys, longest)
        self.request_B = np.append(self.request_B, requests)
        self.length_B = np.append(self.length_B, np.zeros(len(requests), np.int64))
        self._sampling_B = None

    @property
    def sampling_B(self) -> Columns:
        if self._sampling_B is None:
            self._sampling_B = self.settings.take(torch.from_numpy(self.request_B).to(self.device))
        return self._sampling_B

    @property
    def uniform_B(self) -> Tensor:
        return torch.from_numpy(self.uniform_BT[np.arange(len(self)), self.length_B]).to(self.device)

    @property
    def last_token_B(self) -> Tensor:
        return torch.from_numpy(self.token_BT[np.arange(len(self)), self.length_B - 1]).to(self.device)

    def draw(self, model: Model, hidden_BE: Tensor) -> None:
        """Draw one token per slot, for large vocabularies in groups of slots that keep logits within LOGITS."""
        uniform_B, sampling_B = self.uniform_B, self.sampling_B
        size = max(1, LOGITS // model.vocabulary)
        drawn = []
        for rows in (slice(start, start + size) for start in range(0, len(self), size)):
            logits_BV = model.next_logits(hidden_BE[rows])
            self._require_finite(logits_BV, rows.start)
            drawn.append(sample(logits_BV, uniform_B[rows], sampling_B.take(rows)))
        self._record(*(torch.cat(parts) for parts in zip(*drawn, strict=True)))

    def _require_finite(self, logits_BV: Tensor, first_slot: int) -> None:
        """-inf is a token ruled out; a nan, +inf or nothing but -inf is a broken model."""
        broken = ~logits_BV.amax(dim=-1).isfinite()
        if broken.any():
            slot = first_slot + int(broken.nonzero()[0])
            request = self.requests[self.request_B[slot]]
            raise NumericsError(
                f"the model's logits are not finite in {int(broken.sum())} of {len(broken)} sequences",
                where=f"request {self.request_B[slot]} (key {request.key}), a prefix of {len(request.prefix)} tokens, "
                f"token {self.length_B[slot]} of its completion",
                why="nothing can be sampled from them; the weights or an activation overflowed",
                fix="go back to a checkpoint with finite weights, or load in a wider dtype",
            )

    def _record(self, token_B: Tensor, logp_B: Tensor) -> None:
        rows = np.arange(len(self))
        self.token_BT[rows, self.length_B] = token = token_B.cpu().numpy()
        self.logp_BT[rows, self.length_B] = logp_B.cpu().numpy()
        self.length_B += 1
        self.stopped_B = self.ended_by[self.stops[self.request_B], token]

    @property
    def finished(self) -> np.ndarray:
        return np.flatnonzero(self.stopped_B | (self.length_B == self.limit[self.request_B]))

    def completions(self, slots: np.ndarray) -> Iterator[tuple[int, Completion]]:
        """(request, its completion) of each of these slots."""
        columns = (self.request_B[slots], self.length_B[slots], self.stopped_B[slots])
        for slot, index, length, stopped in zip(slots, *(column.tolist() for column in columns), strict=True):
            tokens, logp = self.token_BT[slot, :length].tolist(), self.logp_BT[slot, :length].tolist()
            yield index, Completion(tokens, logp, "stop" if stopped else "length")

    def release(self, slots: np.ndarray, holes: np.ndarray, movers: np.ndarray) -> None:
        """Forget slots; the row movers[i] becomes row holes[i]."""
        for column in (self.request_B, self.length_B, self.uniform_BT, self.token_BT, self.logp_BT):
            column[holes] = column[movers]
        left = len(self) - len(slots)
        self.request_B, self.length_B = self.request_B[:left], self.length_B[:left]
        self._sampling_B = None


def _stops(requests: Sequence[Request], model: Model) -> tuple[np.ndarray, np.ndarray]:
    """([requests] number of a set of stop tokens, [sets, V] whether a token is one): a response ends where its prompt
    says, and prompts that a chat template wrote say more than text does."""
    of_prefix: dict[Tokens, int] = {}
    sets: dict[tuple[int, ...], int] = {}
    for prefix in dict.fromkeys(tuple(request.prefix) for request in requests):
        of_prefix[prefix] = sets.setdefault(stops_after(model, prefix), len(sets))
    ended_by = np.zeros((len(sets), model.vocabulary), bool)
    for stops, row in sets.items():
        ended_by[row, [stop for stop in stops if stop < model.vocabulary]] = True
    return np.array([of_prefix[tuple(request.prefix)] for request in requests]), ended_by


def admissions(
    requests: Sequence[Request], prefill: Callable[[Sequence[Tokens]], Sequence], budget: int
) -> Iterator[tuple[int, Prompt | Prefix]]:
    """(request, its prompt) in the order in which they should start.

    The members of a prefix start together, so that few prompts are held at a time; longest prefixes first, so that
    those held together have similar lengths. Prefixes are computed when the first of their batch is asked for: as many
    as fit into `budget` tokens, at least one.
    """
    members: dict[Tokens, list[int]] = defaultdict(list)
    for index, request in enumerate(requests):
        members[tuple(request.prefix)].append(index)
    waiting = sorted(members, key=len, reverse=True)
    while waiting:
        total = np.cumsum([len(prefix) for prefix in waiting])
        batch = waiting[: max(1, int(np.searchsorted(total, budget, side="right")))]
        waiting = waiting[len(batch) :]
        for prefix, prompt in zip(batch, prefill(batch), strict=True):
            for index in members[prefix]:
                yield index, prompt


def side(request: Request, model: Model) -> int:
    """How many of the model's turns the completion of a request has behind it, from its first token on."""
    return sum(len(request.prefix) >= turn for turn in model.turns)


def before_turns(requests: Sequence[Request], model: Model) -> list[Request]:
    """The requests with max_tokens such that none grows past a length at which its model changes what it has computed.

    There the factors of the model's rotary embedding become others for the whole sequence: the tokens before it would
    have been drawn from another distribution than the one by which the finished sequence is scored.
    """
    kept, cut = [], 0
    for request in requests:
        room = min((turn - len(request.prefix) for turn in model.turns if len(request.prefix) < turn), default=np.inf)
        if request.sampling.max_tokens > room:
            request = replace(request, sampling=replace(request.sampling, max_tokens=int(room)))
            cut += 1
        kept.append(request)
    if cut:
        warnings.warn(
            f"{cut} of {len(requests)} completions end at the latest where prompt and completion have "
            f"{', '.join(map(str, model.turns))} tokens: beyond, the model's rotary embedding takes other factors for "
            "the whole sequence, and what was drawn before would not be what is scored",
            stacklevel=3,
        )
    return kept


def same_side(requests: Sequence[Request], model: Model) -> list[list[int]]:
    """Request numbers by side: those decoded together are on one side of every turn."""
    sides: dict[int, list[int]] = defaultdict(list)
    for number, request in enumerate(requests):
        sides[side(request, model)].append(number)
    return list(sides.values())


def check(requests: Sequence[Request], model: Model) -> None:
    """Refuse what cannot be generated before anything is computed."""
    for sampling in {request.sampling for request in requests}:
        _check_sampling(sampling)
    limit = model.positions
    for index, request in enumerate(requests):
        if not request.prefix:
            raise DataError(
                f"request {index} (key {request.key}) has an empty prefix",
                why="nothing predicts the first token",
                fix="begin prompts with the tokenizer's BOS token, or with any text",
            )
        total = len(request.prefix) + request.sampling.max_tokens
        if limit is not None and total > limit:
            raise ConfigError(
                f"request {index} (key {request.key}) may grow to {total} tokens, the model has {limit} positions",
                where=f"a prefix of {len(request.prefix)} tokens and max_tokens {request.sampling.max_tokens}",
                why="max_position_embeddings bounds prompt and completion together",
                fix=f"max_tokens at most {limit - len(request.prefix)}"
                if len(request.prefix) < limit
                else "shorten or drop the prompt",
            )
        if moving := [turn for turn in moving_turns(model) if len(request.prefix) >= turn]:
            raise ConfigError(
                f"request {index} (key {request.key}) has {len(request.prefix)} tokens, and beyond {moving[0]} the "
                "model's rotary embedding takes other factors with every token (dynamic NTK)",
                why="what is drawn would not be what is scored when the sequence is finished",
                fix=f"prompts of fewer than {moving[0]} tokens",
            )


def moving_turns(model: Model) -> tuple[int, ...]:
    """The turns beyond which no length is computed like another."""
    parts = model.parts if isinstance(model, Mixture) else (model,)
    return tuple(part.lengths.turn for part in parts if part.lengths.kind == "dynamic")


def _check_sampling(sampling: Sampling) -> None:
    allowed = {
        "temperature": (sampling.temperature, 0 <= sampling.temperature < np.inf, "a number from 0 (greedy) up"),
        "top_p": (sampling.top_p, 0 < sampling.top_p <= 1, "above 0 and at most 1"),
        "top_k": (sampling.top_k, sampling.top_k >= 0, "0 (no cut) or more"),
        "max_tokens": (sampling.max_tokens, sampling.max_tokens >= 1, "1 or more"),
    }
    for name, (value, fine, range_) in allowed.items():
        if not fine:
            raise ConfigError(f"{name} is {value}", where=repr(sampling), fix=f"{name}: {range_}")


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Dropout off inside; afterwards every submodule is in the mode it was in."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True
