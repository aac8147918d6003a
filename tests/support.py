"""A tiny world for tests: a random Qwen3 with a word-level tokenizer, a task with a checker, demonstrations, pairs."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, GPT2Config, PreTrainedTokenizerFast, Qwen3Config

from offon.models.model import Model
from offon.parts.models import SELF, ModelRef
from offon.types import Comparison, Group, Item, Source, Span, Trajectory, Verdict

WORDS = [f"w{i}" for i in range(12)]


def tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {"<pad>": 0, "<eos>": 1, **{word: i + 2 for i, word in enumerate(WORDS)}}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>")


def qwen3(seed: int = 0, hidden: int = 32, layers: int = 2, scale: float = 0.15):
    """A random model whose distributions are far from uniform, so that mistakes are visible."""
    config = Qwen3Config(
        vocab_size=len(WORDS) + 2, hidden_size=hidden, intermediate_size=48, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, max_position_embeddings=64,
        pad_token_id=0, eos_token_id=1, bos_token_id=None, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(seed)
    hf = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in hf.parameters():
            parameter.add_(scale * torch.randn(parameter.shape))
    return hf


def gpt2_in_double(seed: int = 0) -> Model:
    """A model that computes in float64 throughout (Qwen3's norms round to float32): for finite differences."""
    config = GPT2Config(
        vocab_size=len(WORDS) + 2, n_embd=16, n_layer=2, n_head=2, n_positions=32,
        resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, bos_token_id=None, eos_token_id=1,
    )  # fmt: skip
    torch.manual_seed(seed)
    hf = AutoModelForCausalLM.from_config(config, dtype=torch.float64)
    with torch.no_grad():
        for parameter in hf.parameters():
            parameter.add_(0.15 * torch.randn(parameter.shape, dtype=torch.float64))
    return Model.wrap(hf, tokenizer(), device="cpu")


def model(seed: int = 0, **changes) -> Model:
    return Model.wrap(qwen3(seed, **changes), tokenizer(), device="cpu")


@dataclass(frozen=True)
class ParityTask:
    """Right if a checksum of prompt and response is even: about half of everything, whatever the model says."""

    name: str = "parity"

    def items(self, split: str) -> Sequence[Item]:
        prompts = [f"w{i} w{j}" for i in range(4) for j in range(4)]
        kept = [p for p in prompts if (zlib.crc32(p.encode()) % 4 == 0) == (split == "heldout")]
        return [
            Item(
                id=p, prompt=p, views={"hint": f"{p} w9"}, reference="w5 w6 w7 w8",
                columns={"domain": ("even", "odd")[i % 2], "criteria": ["w3", "w4", "w5"]},
            )
            for i, p in enumerate(kept)
        ]  # fmt: skip

    def verify(self, pairs):
        return [Verdict(float(zlib.crc32(f"{item.prompt}|{text}".encode()) % 2 == 0)) for item, text in pairs]


def prompt_group(item: Item) -> Group:
    ids = tokenizer()
    views = {"prompt": item.prompt, **item.views}
    return Group(item=item, views={name: tuple(ids(text).input_ids) for name, text in views.items()})


def demonstrations() -> list[Group]:
    """Responses of 1 to 5 tokens, so that every denominator differs."""
    groups = []
    for index, item in enumerate(ParityTask().items("train")):
        group = prompt_group(replace(item, columns={**item.columns, "tag": ("label", "rationale")[index % 2]}))
        tokens = [2 + (index + t) % len(WORDS) for t in range(index % 5)] + [1]
        groups.append(group.add(Trajectory.of(tokens, group.prompt, Source.EXTERNAL, id=f"demo/{index}")))
    return groups


def preference_pairs() -> list[Group]:
    groups = []
    for index, item in enumerate(ParityTask().items("train")):
        group = prompt_group(item)
        chosen = [2 + (index + t) % len(WORDS) for t in range(1 + index % 4)] + [1]
        rejected = [2 + (3 * index + 2 * t) % len(WORDS) for t in range(1 + (index + 1) % 3)] + [1]
        pair = (
            Trajectory.of(chosen, group.prompt, Source.EXTERNAL, tags=frozenset({"chosen"}), id=f"pair/{index}/0"),
            Trajectory.of(rejected, group.prompt, Source.EXTERNAL, tags=frozenset({"rejected"}), id=f"pair/{index}/1"),
        )
        groups.append(group.replace(members=pair, comparisons=(Comparison(0, 1),)))
    return groups


def labelled_responses() -> list[Group]:
    """Demonstrations, two of three desirable."""
    return [
        group.map(lambda m, i=index: m.tagged("undesirable" if i % 3 == 1 else "desirable"))
        for index, group in enumerate(demonstrations())
    ]


def ranked_responses() -> list[Group]:
    """Two to four responses a prompt, from best to worst."""
    groups = []
    for index, group in enumerate(demonstrations()):
        members = [group.members[0]]
        for k in range(1 + index % 3):
            tokens = [2 + (index + 3 * k + t) % len(WORDS) for t in range(1 + k)] + [1]
            members.append(Trajectory.of(tokens, group.prompt, Source.EXTERNAL, id=f"rank/{index}/{k}"))
        order = tuple(Comparison(i, j) for i in range(len(members)) for j in range(i + 1, len(members)))
        groups.append(group.replace(members=tuple(members), comparisons=order))
    return groups


def labelled_solutions() -> list[Group]:
    """Solutions of 1 to 4 steps of 1 to 3 tokens, with right, wrong, soft and missing labels."""
    groups = []
    for index, item in enumerate(ParityTask().items("train")):
        group = prompt_group(item)
        lengths = [1 + (index + k) % 3 for k in range(1 + index % 4)]
        ends = [sum(lengths[: k + 1]) for k in range(len(lengths))]
        labels = [(1.0, 0.0, 0.25, None)[(index + k) % 4] if k else float(index % 2) for k in range(len(lengths))]
        spans = tuple(
            Span("step", end - n, end, {"label": label}) for n, end, label in zip(lengths, ends, labels, strict=True)
        )
        tokens = [2 + (index + 5 * t) % len(WORDS) for t in range(ends[-1] - 1)] + [1]
        member = Trajectory.of(tokens, group.prompt, Source.EXTERNAL, spans=spans, id=f"solution/{index}")
        groups.append(group.add(member))
    return groups


DATA = {
    "demonstrations": demonstrations,
    "pairs": preference_pairs,
    "labelled": labelled_responses,
    "rankings": ranked_responses,
    "steps": labelled_solutions,
}  # a data set of each kind a collector may read


@dataclass
class World:
    """Models by reference, as a stage's loop holds them."""

    learner: Model
    others: Mapping[str, Model]

    def __call__(self, ref: ModelRef) -> Model:
        return self.learner if ref == SELF else self.others[str(ref)]
