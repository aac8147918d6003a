"""A causal LM of transformers with its tokenizer, scored without padding and without [tokens, vocabulary] logits.

Legend: M targets, D width of hidden states, V vocabulary, N rows of a flat buffer.
"""

from __future__ import annotations

import copy
import hashlib
import warnings
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from transformers import GenerationConfig

from offon.errors import ModelError
from offon.maths.vocabulary import token_logp
from offon.models.check import Verdict, switch, verdict
from offon.models.chunked import over_vocabulary
from offon.models.head import Head, Numbers, find_head
from offon.models.loading import (
    LoraSpec,
    add_lora,
    has_adapter,
    load_model,
    load_tokenizer,
    locate,
    quiet,
    require_all_tokens,
    silence,
    warn_of_early_score,
)
from offon.models.packed.attention import NAME, Decoding, Plan
from offon.models.packed.forward import run_flat, run_layout
from offon.models.packed.layout import Layout
from offon.models.packed.lengths import ROWS, Lengths, lengths_of, thresholds
from offon.models.packed.padding import apart
from offon.models.tokens import Spoken

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase


@dataclass(eq=False)
class Model:
    """hf: the transformers model, or PEFT's wrapping of one. head: how hidden states become logits, or numbers.

    why: "" if sequences are packed, else the reason, in words, for which they are padded.
    why_replayed: "" if decoding keeps keys and values, else the reason for which every step reads whole sequences.
    lengths: what the length of a sequence, or the size of a pack, changes.
    adapter_is_new: the adapter was created here, so that switching it off gives the model it started from.
    spoken: the ids that stand for a token; the others are no part of the model's distribution.
    """

    hf: nn.Module
    tokenizer: PreTrainedTokenizerBase | None
    head: Head | Numbers
    why: str = ""
    adapter_is_new: bool = False
    why_replayed: str = ""
    lengths: Lengths = Lengths()
    spoken: Spoken = Spoken()

    @staticmethod
    def load(
        path: str | Path,
        *,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device | None = None,
        lora: LoraSpec | None = None,
        check: bool = True,
        checkpointing: bool = False,
        head: Literal["value", "score"] | None = None,
    ) -> Model:
        """A local Hugging Face directory (a model or a LoRA adapter) or a hub id. See `wrap` for the options.

        head: "value" or "score" reads one number per token off the body. A directory of a classifier with one label (a
        reward model) is that without being told.
        """
        hf, adapter_is_new = load_model(path, dtype=dtype, lora=lora, head=head)
        tokenizer = load_tokenizer(path)
        require_all_tokens(tokenizer, hf, path)
        warn_of_early_score(tokenizer, hf, path)
        model = Model.wrap(hf, tokenizer, device=device, check=check, checkpointing=checkpointing)
        model.adapter_is_new = adapter_is_new
        stops = Path(locate(path)) / GENERATION
        if has_adapter(hf) and stops.is_file():  # an adapter's own, beside that of its base
            model.core.generation_config = GenerationConfig.from_pretrained(stops.parent)
        return model

    @staticmethod
    def wrap(
        hf: nn.Module,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        device: str | torch.device | None = None,
        lora: LoraSpec | None = None,
        check: bool = True,
        checkpointing: bool = False,
    ) -> Model:
        """A transformers model in memory. It is changed: moved, its dropouts set to 0, its attention replaced.

        device: default a GPU if there is one. lora: train fresh adapters instead of the weights. check: verify packed
        scoring and decoding on the model's own weights (some fifteen forwards of a few tokens), fall back to padding
        where it fails, and refuse what padding gets wrong too. checkpointing: recompute layers in the backward pass to
        save memory.
        """
        if lora is not None:
            hf = add_lora(hf, lora)
        core = hf.get_base_model() if has_adapter(hf) else hf
        silence(core)
        hf.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval()
        if checkpointing:
            # Reentrant checkpointing gives wrong gradients where layers share keys and values.
            core.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            # Modules recompute in train mode only. The rest stays as it is: routers draw noise there.
            for module in core.modules():
                module.training = bool(getattr(module, "gradient_checkpointing", False))
        classifies = core.get_output_embeddings() is None
        head = Numbers.of(core) if classifies else find_head(core)
        scores = type(core).__name__.endswith("ForSequenceClassification")
        if scores and tokenizer is not None:  # transformers' forward finds the last token by the padding
            tokenizer, core.config.pad_token_id = apart(tokenizer, core.config, head.vocabulary)
        spoken = Spoken.of(tokenizer, head.vocabulary)
        model = Model(hf, tokenizer, head, adapter_is_new=lora is not None, spoken=spoken)
        checked = verdict(core, head) if check else _unchecked(core)
        model.why, model.why_replayed, model.lengths = checked.why, checked.why_replayed, checked.lengths
        if not model.packed:
            warnings.warn(f"{type(core).__name__} takes the slower padded path: {model.why}", stacklevel=2)
        elif model.why_replayed:
            text = "is decoded slowly, whole sequences at every step"
            warnings.warn(f"{type(core).__name__} {text}: {model.why_replayed}", stacklevel=2)
        return model

    @property
    def packed(self) -> bool:
        return not self.why

    def keeps_keys(self, longest: int) -> bool:
        """Whether sequences of up to `longest` tokens are decoded with kept keys and values."""
        return self.packed and not self.why_replayed and (self.lengths.rows is None or longest <= self.lengths.rows)

    @property
    def turns(self) -> tuple[int, ...]:
        """The lengths beyond which a sequence is computed otherwise, from its first token on."""
        return () if self.lengths.turn is None else (self.lengths.turn,)

    @property
    def core(self) -> nn.Module:
        """The transformers causal LM, inside PEFT's wrapping if there is one."""
        return self.hf.get_base_model() if has_adapter(self.hf) else self.hf

    @property
    def device(self) -> torch.device:
        return next(self.hf.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.hf.parameters()).dtype

    @property
    def config(self) -> PreTrainedConfig:
        return self.core.config

    @property
    def width(self) -> int:
        """D, of the hidden states."""
        return self.config.get_text_config().hidden_size

    @property
    def positions(self) -> int | None:
        """The longest sequence the model is made to read; None if its configuration names no limit."""
        return getattr(self.config.get_text_config(), "max_position_embeddings", None)

    @property
    def vocabulary(self) -> int:
        """Number of logits: up to the last id that stands for a token. The head may have more, to pad its matrix."""
        return self.head.vocabulary if self.spoken.size is None else self.spoken.size

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Every token id that ends a response, as generation config, tokenizer and config say."""
        generation = getattr(self.core, "generation_config", None)
        ids: set[int] = set()
        for holder in (generation, self.tokenizer, self.config, self.config.get_text_config()):
            stop = getattr(holder, "eos_token_id", None)
            ids.update(stop if isinstance(stop, list | tuple) else [] if stop is None else [stop])
        return tuple(sorted(ids))

    def stop_at(self, ids: Iterable[int]) -> None:
        """From now on, and in what is saved, these ids end a response too, whatever its prompt."""
        stops = {*self.stop_ids, *ids}
        if stops == set(self.stop_ids) or not isinstance(self.head, Head):
            return
        if getattr(self.core, "generation_config", None) is None:
            self.core.generation_config = GenerationConfig.from_model_config(self.config)
        self.core.generation_config.eos_token_id = sorted(stops)

    def flat(self, ids: Tensor, positions: Tensor, plan: Plan | Decoding) -> Tensor:
        """Hidden states [N, D] of a flat buffer of token ids [N]; rows see each other as `plan` says."""
        return run_flat(self.core.get_submodule(self.head.body), ids, positions, plan)

    def hidden(self, layout: Layout) -> Tensor:
        """The hidden states [M, D] that predict a layout's targets. Gradients as torch's grad mode says."""
        core = self.core
        return run_layout(core, core.get_submodule(self.head.body), layout, self.lengths, packed=self.packed)

    def over_vocabulary(
        self,
        hidden: Tensor,
        reduce: Callable,
        *aligned: Tensor,
        temperature: Tensor | None = None,
        chunk_elements: int | None = None,
    ) -> Any:
        """reduce(logits / temperature, *aligned) chunk by chunk, see `chunked.over_vocabulary`: [M, V] never exists."""
        affine = self.head.affine(self.core, self.spoken) if isinstance(self.head, Head) else None
        return over_vocabulary(
            affine or self.next_logits,
            self.vocabulary,
            hidden,
            reduce,
            *aligned,
            temperature=temperature,
            chunk_elements=chunk_elements,
        )

    def logp(self, layout: Layout, temperature: Tensor | None = None) -> Tensor:
        """Log-prob (nats) [M] of every target under softmax(logits / temperature)."""
        device = self.device
        if temperature is not None:
            temperature = temperature.to(device)
        hidden = self.hidden(layout)
        return self.over_vocabulary(hidden, token_logp, layout.targets.to(device), temperature=temperature)

    def next_logits(self, hidden: Tensor) -> Tensor:
        """Logits [M, V] of hidden states [M, D], float32 or wider, of the ids that stand for a token."""
        if isinstance(self.head, Numbers):
            raise ModelError(f"{type(self.core).__name__} gives numbers", why="log-probs need a language model's head")
        return self.spoken.only(self.head.logits(self.core, hidden))

    def weights(self) -> dict[str, nn.Parameter]:
        """Every parameter by name."""
        return dict(self.hf.named_parameters())

    def numbers(self, hidden: Tensor) -> Tensor:
        """What a value or score head says of hidden states: [M, D] -> [M], float32 or wider."""
        if not isinstance(self.head, Numbers):
            raise ModelError(
                f"{type(self.core).__name__} has no head for numbers",
                fix="a reward model, or a learner with head: value or score",
            )
        return self.head.numbers(self.core, hidden)

    def train_parameters(self) -> dict[str, nn.Parameter]:
        return {name: parameter for name, parameter in self.hf.named_parameters() if parameter.requires_grad}

    def bytes(self) -> int:
        """Memory of weights and buffers."""
        return sum(tensor.nbytes for tensor in [*self.hf.parameters(), *self.hf.buffers()])

    def fingerprint(self) -> str:
        """16 hex digits that change when any weight does.

        A hash of every tensor's row and column sums, its bits read as the longest integers that a row is made of: exact
        (sums wrap around), the same on any device, and two passes over memory.
        """
        return self._fingerprint(self.hf.state_dict())

    def _fingerprint(self, names: Iterable[str]) -> str:
        digest, state = hashlib.sha256(), self.hf.state_dict()
        for name in sorted(names):
            tensor = state[name]
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            words = _words(tensor.detach())
            for sums in (words.sum(0, dtype=torch.int64), words.sum(1, dtype=torch.int64)):
                digest.update(sums.cpu().numpy().tobytes())
        return digest.hexdigest()[:16]

    def save(self, directory: str | Path) -> None:
        """A directory that transformers' from_pretrained loads (PEFT's for LoRA), with tokenizer and chat template."""
        with quiet():
            self.hf.save_pretrained(directory)
            if has_adapter(self.hf) and getattr(self.core, "generation_config", None) is not None:
                self.core.generation_config.save_pretrained(directory)  # PEFT writes none
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(directory)

    def adapter_off(self) -> AbstractContextManager:
        """Within it, the model computes without its adapter."""
        if not has_adapter(self.hf):
            raise ModelError("this model has no adapter to switch off", fix="lora: {r: 16}, or a frozen copy")
        return self.hf.disable_adapter()

    def copy_frozen(self) -> Model:
        """A copy that stays as the model is now. Weights that are not trained are shared with it."""
        shared = {id(parameter): parameter for parameter in self.hf.parameters() if not parameter.requires_grad}
        hf = copy.deepcopy(self.hf, shared)
        return replace(self, hf=hf.requires_grad_(False))


def device_name() -> str:
    """Where models compute unless they are put elsewhere, in words."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "the CPU (torch sees no GPU)"


def _unchecked(core: nn.Module) -> Verdict:
    """What the configuration says, for models whose numbers nobody reads."""
    sizes = [number for name, number in thresholds(core).items() if name in ROWS]
    return Verdict(replace(lengths_of(core), rows=min(sizes, default=None)), switch(core, NAME))


GENERATION = "generation_config.json"
_INTEGERS = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.uint8}


def _words(tensor: Tensor) -> Tensor:
    """A tensor's bits as integers, [rows, words of a row]; a vector is one row. Words of 8 bytes are summed as they
    are, shorter ones converted first, which takes ten times as long."""
    rows = tensor.reshape(-1, tensor.shape[-1]) if tensor.ndim > 1 else tensor.reshape(1, -1)
    rows = rows.contiguous() if rows.storage_offset() == 0 else rows.clone()
    row_bytes = rows.shape[1] * rows.element_size()
    return rows.view(next(integer for size, integer in _INTEGERS.items() if row_bytes % size == 0))
