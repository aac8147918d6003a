"""Merging an adapter into the weights it was trained on, so that the merged model computes what the adapted one did."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from offon.errors import ModelError

# Of the largest logit, in float32: adding B A to W rounds once more than adding its product with the hidden state.
TOLERANCE = 1e-4
PRECISION = 8.0  # half units in the last place that a lower precision may differ by


@torch.no_grad()
def merged(hf: nn.Module) -> nn.Module:
    """The transformers model in a PEFT model, with the adapter in its weights.

    Where input and output embeddings are one tensor and the adapter changes one of them, they are untied first: both
    would change otherwise. The result is compared with the adapted model on a few tokens, and refused if it differs.
    """
    core = hf.get_base_model()
    ids = torch.arange(24, device=core.device)[None] % core.get_input_embeddings().weight.shape[0]
    want = _logits(core, ids)
    if _adapted_ends(core):
        _untie(core)
    whole = hf.merge_and_unload()
    gap = float((_logits(whole, ids) - want).abs().max() / want.abs().max().clamp_min(1))
    allowed = max(TOLERANCE, PRECISION * torch.finfo(whole.dtype).eps)
    if not gap <= allowed:
        raise ModelError(
            f"the adapter cannot be merged into {type(core).__name__}",
            why=f"its logits differ from the adapted model's by {gap:.1e} of the largest (allowed: {allowed:.1e})",
            fix="an adapter without the embedding and the head (target_modules), or a base with untied embeddings",
        )
    return whole


def _logits(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    return model(input_ids=ids, use_cache=False).logits.float()


def _ends(core: nn.Module) -> list[nn.Module]:
    return [end for end in (core.get_input_embeddings(), core.get_output_embeddings()) if end is not None]


def _adapted_ends(core: nn.Module) -> bool:
    """Whether input and output embedding share their tensor under an adapter of one of them."""
    ends = _ends(core)
    if len(ends) < 2 or _base(ends[0]).weight is not _base(ends[1]).weight:
        return False
    return any(getattr(end, "base_layer", None) is not None for end in ends)


def _base(end: nn.Module) -> nn.Module:
    """The layer under PEFT's."""
    while (inner := getattr(end, "base_layer", None)) is not None:
        end = inner
    return end


def _untie(core: nn.Module) -> None:
    head = _base(core.get_output_embeddings())
    head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=head.weight.requires_grad)
    for config in _configs(core):
        config.tie_word_embeddings = False


def _configs(core: nn.Module) -> Iterator:
    yield core.config
    if core.config.get_text_config() is not core.config:
        yield core.config.get_text_config()
