"""Drawing tokens: truncated softmax, inverse-CDF sampling, randomness that depends on nothing but a request's key.

Axes: B sequences, V vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from offon.types import Sampling

NO_TOP_K = np.iinfo(np.int64).max


def uniforms(keys: Sequence[tuple[int, ...]], count: int) -> np.ndarray:
    """[B, count] uniforms in [0, 1), float64: number t of a key decides token t of its request.

    Philox (Salmon et al. 2011) is counter-based: every key is a stream of its own, so what one request draws cannot
    depend on the others, and a longer stream begins with the shorter one.
    """
    philox = np.random.Philox(key=0)
    fresh, generator = philox.state, np.random.Generator(philox)
    drawn = np.empty((len(keys), count))
    for row, key in zip(drawn, keys, strict=True):
        digest = hashlib.blake2b(repr(tuple(map(int, key))).encode(), digest_size=16).digest()
        fresh["state"]["key"] = np.frombuffer(digest, "<u8")
        philox.state = fresh  # the same as a new Philox(key), at a quarter of its cost
        generator.random(out=row)
    return drawn


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Sampling settings, one row per sequence. A column is None where no row has use for it."""

    temperature: Tensor | None  # [B] float32, 1 in greedy rows; None: 1 everywhere
    greedy: Tensor | None  # [B] bool
    top_p: Tensor | None  # [B] float64, inf where nothing is cut
    top_k: Tensor | None  # [B] long, the largest integer where nothing is cut
    all_greedy: bool

    @staticmethod
    def of(settings: Sequence[Sampling], device="cpu") -> Columns:
        temperature = np.array([s.temperature for s in settings], np.float32)
        greedy = temperature == 0
        top_p = np.array([s.top_p if s.top_p < 1 else np.inf for s in settings])
        top_k = np.array([s.top_k or NO_TOP_K for s in settings])

        def column(values: np.ndarray, used: np.ndarray) -> Tensor | None:
            return torch.from_numpy(values).to(device) if used.any() else None

        return Columns(
            temperature=column(np.where(greedy, np.float32(1), temperature), ~greedy & (temperature != 1)),
            greedy=column(greedy, greedy),
            top_p=column(top_p, ~greedy & (top_p < 1)),
            top_k=column(top_k, ~greedy & (top_k < NO_TOP_K)),
            all_greedy=bool(greedy.all()),
        )

    def take(self, rows: Tensor | slice) -> Columns:
        columns = {field.name: getattr(self, field.name) for field in fields(self)}
        return Columns(**{name: c[rows] if isinstance(c, Tensor) else c for name, c in columns.items()})


def sample(logits_BV: Tensor, uniform_B: Tensor, columns: Columns) -> tuple[Tensor, Tensor]:
    """One token per row, and its log-prob (nats) under the distribution it was drawn from.

        p     = softmax(logits / temperature), cut to the top_k likeliest, then to top_p of the rest, renormalised
        token = the first v with p_0 + ... + p_v > uniform

    Greedy rows take the likeliest token, with log-prob 0. The sum runs in vocabulary order and in float64, so that one
    uniform means one token under nearly equal distributions. Logits are finite or -inf, at least one finite per row.
    """
    likeliest_B = None if columns.greedy is None else logits_BV.argmax(dim=-1)
    if columns.all_greedy:
        return likeliest_B, torch.zeros_like(likeliest_B, dtype=logits_BV.dtype)

    logp_BV = log_distribution(logits_BV, columns)
    cdf_BV = logp_BV.exp().cumsum(dim=-1, dtype=torch.float64)
    mass_B = cdf_BV[:, -1]
    below_mass_B = torch.nextafter(mass_B, torch.zeros_like(mass_B))  # uniform * mass may round up to the mass itself
    point_B = torch.minimum(uniform_B * mass_B, below_mass_B)
    token_B = torch.searchsorted(cdf_BV, point_B[:, None], right=True)[:, 0]
    token_logp_B = logp_BV.gather(1, token_B[:, None])[:, 0]
    if columns.greedy is None:
        return token_B, token_logp_B
    return torch.where(columns.greedy, likeliest_B, token_B), token_logp_B.masked_fill(columns.greedy, 0.0)


def log_distribution(logits_BV: Tensor, columns: Columns) -> Tensor:
    """[B, V] log-probs of the distribution that is drawn from; -inf where a token is cut. Not for greedy rows."""
    if columns.temperature is not None:  # from the largest down, so that a tiny temperature cannot overflow
        logits_BV = (logits_BV - logits_BV.amax(dim=-1, keepdim=True)) / columns.temperature[:, None]
    if columns.top_p is not None or columns.top_k is not None:
        logits_BV = truncated(logits_BV, columns.top_p, columns.top_k)
    return torch.log_softmax(logits_BV, dim=-1)


def truncated(logits_BV: Tensor, top_p_B: Tensor | None, top_k_B: Tensor | None) -> Tensor:
    """The logits with -inf on tokens that are cut. None cuts nothing.

    Kept are the top_k likeliest, and of these the likeliest ones before which less than top_p of their mass has been
    collected: the smallest set that holds top_p, never empty. Ties go to the smaller id.
    Nucleus sampling: Holtzman et al. 2020, arXiv:1904.09751. The order, top_k first and top_p of what it leaves, is
    that of transformers and vLLM.
    """
    sorted_BV, order_BV = logits_BV.sort(dim=-1, descending=True, stable=True)
    rank_V = torch.arange(logits_BV.shape[1], device=logits_BV.device)
    cut_BV = torch.zeros_like(sorted_BV, dtype=torch.bool)
    if top_k_B is not None:
        cut_BV |= rank_V >= top_k_B[:, None]
    if top_p_B is not None:
        p_BV = torch.softmax(sorted_BV.masked_fill(cut_BV, -torch.inf), dim=-1).double()
        before_BV = p_BV.cumsum(dim=-1) - p_BV
        cut_BV |= (before_BV >= top_p_B[:, None]) & (rank_V > 0)
    return logits_BV.masked_fill(torch.zeros_like(cut_BV).scatter_(1, order_BV, cut_BV), -torch.inf)
