"""The padding token of a reward model: transformers reads the score at the last token that is not padding.

Where padding is the token that ends responses, that is one token before the end, where offon neither trains nor reads
it. So a reward model is exported with a padding token of its own.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

SPARE = "<|padding|>"


def ends(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase | None) -> set[int]:
    """The ids that may end a sequence by name: those that config and tokenizer call the end."""
    ids: set[int] = set()
    for holder in (config, config.get_text_config(), tokenizer):
        end = getattr(holder, "eos_token_id", None)
        ids.update(end if isinstance(end, list | tuple) else [] if end is None else [end])
    return ids


def apart(
    tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig, rows: int
) -> tuple[PreTrainedTokenizerBase, int | None]:
    """(tokenizer, id) with a padding token that ends no sequence: its own, or else another special token that text
    never ends with (unknown, then begin), or else a new token where the embedding, of `rows` rows, has room for it.

    Without room there is none: transformers then reads the last token of single sequences, and refuses padded batches.
    """
    taken = ends(config, tokenizer)
    for name in ("pad_token_id", "unk_token_id", "bos_token_id"):
        token_id = getattr(tokenizer, name, None)
        if token_id is not None and token_id not in taken:
            return _padding_with(tokenizer, tokenizer.convert_ids_to_tokens(token_id)), token_id
    if len(tokenizer) < rows:
        made = _padding_with(tokenizer, SPARE)
        return made, made.pad_token_id
    return tokenizer, None


def _padding_with(tokenizer: PreTrainedTokenizerBase, token: str) -> PreTrainedTokenizerBase:
    if tokenizer.pad_token == token:
        return tokenizer
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_special_tokens({"pad_token": token})
    return tokenizer
