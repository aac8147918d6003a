"""Preparation of chain_sum.yaml: a small model that half knows how to add, and a few answers in the right form."""

from __future__ import annotations

import json
import math
import random
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen3Config

from offon.tasks import open_task

FORM = "{a} {sign} {b} is "  # the only form in which the base has seen sums; the task asks otherwise
LONGEST = len("99 + 99 is 198") + 1  # with EOS
PAD, EOS = 0, 1
UNTRAINED = -100  # cross_entropy's word for a position without a target


def base(directory: Path, *, seed: int, steps: int = 800, sums_per_step: int = 64) -> None:
    """A character-level Qwen3 of 1.1M parameters, trained briefly on random sums such as "15 - 43 is -28".

    Its text has no words of the task's prompt. Sums are drawn like the task's, one or two digits with + or -, and may
    be those of held-out questions, in this other form. Only results are learned: operands are noise.
    Hidden matrices move by Muon, which needs about half of AdamW's steps here, embeddings and norms by AdamW.
    """
    tokenizer = characters()
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(architecture(tokenizer), dtype=torch.float32)
    hidden = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    optimizers = torch.optim.Muon(hidden, lr=2e-2), torch.optim.AdamW(others, lr=3e-3, weight_decay=0.0, fused=True)
    schedules = [torch.optim.lr_scheduler.LambdaLR(o, lambda step: min(1.0, (step + 1) / 50)) for o in optimizers]
    draw = random.Random(seed)
    for _ in range(steps):
        loss = mean_loss(model, *batch([written_sum(draw) for _ in range(sums_per_step)], tokenizer))
        if not math.isfinite(loss.item()):
            raise ValueError(f"loss is {loss.item()}")
        loss.backward()
        for moving in (*optimizers, *schedules):
            moving.step()
        model.zero_grad()
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def demonstrations(directory: Path, *, task: Mapping[str, Any], count: int = 64) -> None:
    """The first `count` training questions of the task with their answers, as JSONL."""
    items = open_task(task).items("train")[:count]
    rows = [{"prompt": item.prompt, "completion": f" {item.reference}"} for item in items]
    (Path(directory) / "demonstrations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


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


def written_sum(draw: random.Random) -> tuple[str, str]:
    """A sum and its result: two terms of equally many digits, one or two (two are the harder, so thrice as often)."""
    low, high = draw.choice([(0, 9), (10, 99), (10, 99), (10, 99)])
    a, b, sign = draw.randint(low, high), draw.randint(low, high), draw.choice("+-")
    return FORM.format(a=a, b=b, sign=sign), str(a + b if sign == "+" else a - b)


def batch(sums: list[tuple[str, str]], tokenizer: PreTrainedTokenizerFast) -> tuple[Tensor, Tensor]:
    """Tokens and targets, both [B, LONGEST]; a target is the result, with EOS, at its own position."""
    tokens = torch.full((len(sums), LONGEST), PAD)
    targets = torch.full((len(sums), LONGEST), UNTRAINED)
    for row, (question, result) in enumerate(sums):
        ids = tokenizer(question + result).input_ids + [EOS]
        tokens[row, : len(ids)] = torch.tensor(ids)
        targets[row, len(question) : len(ids)] = tokens[row, len(question) : len(ids)]
    return tokens, targets


def mean_loss(model: torch.nn.Module, tokens: Tensor, targets: Tensor) -> Tensor:
    """Mean negative log-likelihood of the targets, each predicted from what stands before it.

    Rows are padded on the right only, which causal attention never looks at.
    """
    hidden = model.model(input_ids=tokens[:, :-1]).last_hidden_state
    predicted = targets[:, 1:] != UNTRAINED
    return F.cross_entropy(model.lm_head(hidden[predicted]), targets[:, 1:][predicted])
