"""Next-token distributions level by level: what `offon.behavior.change.enumeration` asks of a policy, from a model.

Axes: n rows of a level, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch

from offon.behavior.change.enumeration import Enumeration, enumerate_support
from offon.engines.decoders import CachedDecoder, ReplayDecoder
from offon.engines.native import evaluating
from offon.engines.sampling import Columns, log_distribution
from offon.engines.stops import stops_after
from offon.errors import ConfigError
from offon.models.decode import GROWTH
from offon.models.model import Model
from offon.types import Sampling
from offon.types.trajectory import Tokens

ROWS = 4096  # of a level
REPLAYED = 2**16  # tokens of a level where nothing is kept and every row is computed from its start
KV_BYTES = 2**32  # keys and values kept by one model
PREFILL = 4096  # prompt tokens of one forward pass


class Expansion:
    """A model under a sampler on some prompts. Keys and values of every row are kept, so that a level costs one token a
    row; every prompt is computed once a pass."""

    def __init__(self, model: Model, prompts: Sequence[Tokens], sampling: Sampling = Sampling()):
        if sampling.temperature == 0:
            raise ConfigError("a greedy sampler has one response", why="support is about a distribution")
        self.model, self.prompts, self.sampling = model, [tuple(prompt) for prompt in prompts], sampling
        self.keeps_keys = model.keeps_keys(1)

    @property
    def vocabulary(self) -> int:
        return self.model.vocabulary

    def __len__(self) -> int:
        return len(self.prompts)

    def root(self, prompts: Sequence[int]) -> None:
        self.decoder = CachedDecoder(self.model, 0) if self.keeps_keys else ReplayDecoder(self.model, 0)
        with evaluating(self.model.hf), torch.inference_mode():
            size = max(1, PREFILL // max(len(self.prompts[prompt]) for prompt in prompts))
            parts = [prompts[start : start + size] for start in range(0, len(prompts), size)]
            known = [one for part in parts for one in self.decoder.prefill([self.prompts[p] for p in part])]
            self.hidden = self.decoder.bind(known)

    def extend(self, rows: np.ndarray, tokens: np.ndarray) -> None:
        with evaluating(self.model.hf), torch.inference_mode():
            self.decoder.fork(rows)
            self.hidden = self.decoder.step(torch.from_numpy(tokens).to(self.model.device))

    def log_p(self, rows: slice) -> np.ndarray:
        with torch.inference_mode():
            logits_nV = self.model.next_logits(self.hidden[rows]).double()
            columns = Columns.of([self.sampling] * len(logits_nV), logits_nV.device)
            return log_distribution(logits_nV, columns).cpu().numpy()

    def room(self, longest: int) -> int:
        """How many rows of up to `longest` tokens can be kept."""
        self.keeps_keys = self.model.keeps_keys(longest) and self.model.lengths.rows is None
        if not self.keeps_keys:
            return max(1, min(ROWS, REPLAYED // longest))
        with evaluating(self.model.hf), torch.inference_mode():
            [prompt] = CachedDecoder(self.model, 0).prefill([self.prompts[0][:1]])
        return max(1, min(ROWS, KV_BYTES // (prompt.bytes_per_token * (longest + GROWTH))))


def expand(
    models: Sequence[Model],
    prompts: Sequence[Tokens],
    sampling: Sampling = Sampling(),
    *,
    eps: float,
    horizon: int,
    follow: Sequence[Iterable[Tokens]] | None = None,
) -> list[Enumeration]:
    """The union tree of several models with one vocabulary on each prompt, see `enumerate_support`; as many prompts at
    a time as fit into memory. Responses end with the first model's stop tokens for their prompt."""
    stops = [stops_after(models[0], prompt) for prompt in prompts]
    if len(set(stops)) > 1:
        made: dict[int, Enumeration] = {}
        for stop in dict.fromkeys(stops):
            rows = [row for row, other in enumerate(stops) if other == stop]
            followed = None if follow is None else [follow[row] for row in rows]
            alike = [prompts[row] for row in rows]
            trees = expand(models, alike, sampling, eps=eps, horizon=horizon, follow=followed)
            made |= dict(zip(rows, trees, strict=True))
        return [made[row] for row in range(len(prompts))]
    policies = [Expansion(model, prompts, sampling) for model in models]
    rows = min(policy.room(max(map(len, prompts)) + horizon) for policy in policies)
    for model in models:
        _one_side(model, prompts, horizon)
    return enumerate_support(policies, eps=eps, stop=stops[0], horizon=horizon, follow=follow, rows=rows)


def _one_side(model: Model, prompts: Sequence[Tokens], horizon: int) -> None:
    """Refuse prompts whose responses would be computed with other rotary factors than they are scored with."""
    lengths = [len(prompt) for prompt in prompts]
    for turn in model.turns:
        beyond = min(lengths) >= turn and model.lengths.kind == "longrope"
        if not beyond and max(lengths) + horizon > turn:
            raise ConfigError(
                f"prompts of {min(lengths)} to {max(lengths)} tokens with responses of up to {horizon}",
                why=f"at {turn} tokens the model's rotary embedding changes for the whole sequence, so the probability "
                "of a response is not one product over its tokens",
                fix=f"at most {turn} tokens in all, or longer prompts only",
            )
