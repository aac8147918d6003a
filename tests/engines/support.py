"""What the engine tests share: requests, and the plain transformers forward as oracle."""

from __future__ import annotations

import torch

from offon.engines.api import Request
from offon.types import Sampling

VOCABULARY = 97


def prompt(length: int, seed: int = 0) -> tuple[int, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(3, VOCABULARY, (length,), generator=generator).tolist())


def requests(groups, **sampling) -> list[Request]:
    """One request per member: groups is a list of (prefix, how many members), keys are (group, member)."""
    settings = Sampling(**sampling)
    return [
        Request(prefix, settings, (7, group, member))
        for group, (prefix, members) in enumerate(groups)
        for member in range(members)
    ]


@torch.no_grad()
def plain_logits(hf, prefix, tokens) -> torch.Tensor:
    """[T, V]: the logits from which each of the tokens was drawn, by one ordinary forward of the sequence alone."""
    ids = torch.tensor([[*prefix, *tokens]])
    return hf(input_ids=ids, use_cache=False).logits[0, len(prefix) - 1 : -1].float()


def plain_logp(hf, prefix, tokens, temperature: float = 1.0) -> torch.Tensor:
    logp = torch.log_softmax(plain_logits(hf, prefix, tokens) / temperature, dim=-1)
    return logp.gather(1, torch.tensor(tokens)[:, None])[:, 0]


def largest_error(hf, asked, completions, temperature: float = 1.0) -> float:
    """Over all tokens: reported log-prob against the plain forward's."""
    return max(
        float((torch.tensor(c.logp) - plain_logp(hf, r.prefix, c.tokens, temperature)).abs().max())
        for r, c in zip(asked, completions, strict=True)
    )
