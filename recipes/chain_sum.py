"""Preparation of chain_sum.yaml: a small model that half knows how to add, and a few answers in the right form."""

from __future__ import annotations

import json
import random
import string
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen3Config

from offon.tasks import open_task

NOISE = string.ascii_letters + " ,.:"  # stands for other text
ROOMS = (0, 8, 16, 24)  # most characters of noise before a sum; a base without any cannot add after the task's sentence
WINDOW = 16  # steps
PAD, EOS = 0, 1
UNTRAINED = -100  # in place of a target


def base(directory: Path, *, seed: int, until: float = 0.5, most_steps: int = 2000, sums_per_step: int = 64) -> None:
    """A character-level Qwen3 of 1.1M parameters, pretrained on lines such as "fKx.w 15 - 43 | -28" until half right.

    It stops when the probability it gives to right results, over the last `WINDOW` steps' fresh lines, reaches `until`.

    Before a sum it reads random characters; it has read no English and no "=". Sums are random, of one or two digits
    with + or -; those of held-out questions may be among them, in this other form. Only results are learned, since the
    rest is noise. Hidden matrices move by Muon, which needs fewer steps here than AdamW, embeddings and norms by AdamW.
    """
    tokenizer = characters()
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(architecture(tokenizer), dtype=torch.float32)
    hidden = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    optimizers = (
        torch.optim.Muon(hidden, lr=2e-2, weight_decay=0.01),
        torch.optim.AdamW(others, lr=3e-3, weight_decay=0.0, fused=True),
    )
    warmups = [torch.optim.lr_scheduler.LinearLR(o, start_factor=0.02, total_iters=50) for o in optimizers]
    draw = random.Random(seed)
    known: deque[float] = deque(maxlen=WINDOW)
    for _ in range(most_steps):
        room = draw.choice(ROOMS)
        nll_B = result_nll(model, *batch([line(draw, room) for _ in range(sums_per_step)], tokenizer))
        known.append(nll_B.detach().neg().exp().mean().item())
        if sum(known) >= until * WINDOW:
            break
        nll_B.mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, error_if_nonfinite=True)
        for moving in (*optimizers, *warmups):
            moving.step()
        model.zero_grad()
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def demonstrations(directory: Path, *, task: Mapping[str, Any], count: int = 64) -> None:
    """The first `count` training questions of the task with their answers, as JSONL."""
    items = open_task(task).items("train")[:count]
    rows = [{"prompt": item.prompt, "completion": f" {item.reference}"} for item in items]
    (Path(directory) / "demonstrations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def line(draw: random.Random, room: int) -> tuple[str, str]:
    """Noise with a sum, and the sum's result.

    Terms have one or two digits independently of each other. With equally many, as in the task, one-digit sums are
    learned by heart first, and those of two digits took over a thousand steps instead of four hundred.
    """
    a, b = (draw.randint(*draw.choice([(0, 9), (10, 99), (10, 99)])) for _ in range(2))
    sign = draw.choice("+-")
    noise = "".join(draw.choices(NOISE, k=draw.randint(0, room)))
    return f"{noise} {a} {sign} {b} | ", str(a + b if sign == "+" else a - b)


def batch(lines: list[tuple[str, str]], tokenizer: PreTrainedTokenizerFast) -> tuple[Tensor, Tensor]:
    """Tokens and targets, both [B, T]; a target is a token of the result, or EOS, at its own position."""
    ids = [(tokenizer(text).input_ids, tokenizer(result).input_ids + [EOS]) for text, result in lines]
    longest = max(len(text) + len(result) for text, result in ids)
    tokens, targets = torch.full((len(lines), longest), PAD), torch.full((len(lines), longest), UNTRAINED)
    for row, (text, result) in enumerate(ids):
        end = len(text) + len(result)
        tokens[row, :end] = torch.tensor(text + result)
        targets[row, len(text) : end] = torch.tensor(result)
    return tokens, targets


def result_nll(model: torch.nn.Module, tokens: Tensor, targets: Tensor) -> Tensor:
    """Negative log-likelihood of each line's result, [B], in nats.

    Rows are padded on the right only, where causal attention never looks.
    """
    logits_BTV = model(input_ids=tokens[:, :-1]).logits
    return F.cross_entropy(logits_BTV.mT, targets[:, 1:], ignore_index=UNTRAINED, reduction="none").sum(1)


def characters() -> PreTrainedTokenizerFast:
    """One token per printable ASCII character, so that any prompt in English can be written."""
    words = ["<pad>", "<eos>", "<unk>", *string.printable]
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")


def architecture(tokenizer: PreTrainedTokenizerFast) -> Qwen3Config:
    return Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=384, num_hidden_layers=5,
        num_attention_heads=4, num_key_value_heads=4, head_dim=32, max_position_embeddings=256,
        pad_token_id=PAD, eos_token_id=EOS, bos_token_id=None, tie_word_embeddings=True,
    )  # fmt: skip
