"""Tokenizers built here, and the kinds of chat template that break loss masks."""

from __future__ import annotations

import string

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

CHARACTERS = string.ascii_letters + string.digits + "\n:=+"
SPECIAL = ["<bos>", "<eos>", "<|im_start|>", "<|im_end|>"]
ROLES = ["<|user|>", "<|assistant|>", "<|observation|>", "<|call|>", "<|called|>"]

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WITH_BOS = "<bos>" + CHATML
# No token ends a turn.
UNENDED = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
# Reasoning is kept in the last message only, as many reasoning models' templates do.
FORGETS_THINKING = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.role == 'assistant' and not loop.last %}{{ message.content.split('</think>')[-1].strip() }}"
    "{% else %}{{ message.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# What the assistant said is rendered upper-case: the text learned would not be the text in the data.
REWRITES = CHATML.replace("{{ message.content }}", "{{ message.content | upper }}")
# The generation prompt opens reasoning that the rendering of a turn does not have.
OPENS_THINKING = CHATML.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
# Only the last assistant turn is closed.
CLOSES_LAST = CHATML.replace(
    "<|im_end|>\n{% endfor %}", "{% if loop.last and message.role == 'assistant' %}<eos>{% endif %}{% endfor %}"
)
# The next role's token ends a turn.
NEXT_ROLE = (
    "{% for message in messages %}{% if message.role == 'tool' %}<|observation|>{% else %}<|{{ message.role }}|>"
    "{% endif %}{{ '\n' }}{{ message.content }}{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
# A call is closed by a token of its own, before the one that ends the turn.
CALLS = CHATML.replace(
    "{{ message.content }}",
    "{{ message.content }}{% for call in message.tool_calls or [] %}<|call|>{{ call.function.name }} "
    "{{ call.function.arguments | tojson }}<|called|>{% endfor %}",
)
# Arguments are put between other text: only text can be.
CALLS_IN_TEXT = CALLS.replace("{{ call.function.arguments | tojson }}", "{{ '' + call.function.arguments }}")
# Every argument stands by itself.
CALLS_BY_ARGUMENT = CALLS.replace(
    "{{ call.function.arguments | tojson }}",
    "{% for key, value in call.function.arguments.items() %}{{ key }}={{ value }};{% endfor %}",
)


def reasoning(name: str) -> str:
    """A template that writes reasoning from the field of this name."""
    thought = "{% if message.NAME %}<think>{{ message.NAME }}</think>{% endif %}".replace("NAME", name)
    return CHATML.replace("{{ message.content }}", thought + "{{ message.content }}")


def wrapped(backend: Tokenizer, chat_template: str | None) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<bos>", eos_token="<eos>", chat_template=chat_template
    )


def byte_level(chat_template: str | None = CHATML, *, adds_bos: bool = False) -> PreTrainedTokenizerFast:
    """Byte-level BPE with merges, some of them over line ends: any text can be said, exactly."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=[*SPECIAL, *ROLES], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(
        ["assistant\nthe answer\n\nis 12\n\n", "user\nwhat is 3 + 4?\n", "aaaa ab ba"] * 4, trainer
    )
    if adds_bos:
        backend.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 0)])
    return wrapped(backend, chat_template)


def spaced(chat_template: str | None = CHATML) -> PreTrainedTokenizerFast:
    """SentencePiece's habit: every text tokenised by itself begins with a space that is not there."""
    vocabulary = {
        token: i for i, token in enumerate([*SPECIAL, "<unk>", "▁", *string.ascii_letters, *"0123456789\n:=+"])
    }
    backend = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    backend.decoder = decoders.Metaspace(prepend_scheme="always")
    backend.add_special_tokens(SPECIAL)
    return wrapped(backend, chat_template)


def word_level(words: str) -> PreTrainedTokenizerFast:
    """Whole words apart by spaces, which decoding puts back; any other word is unknown."""
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, "<unk>", *words.split()])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens(SPECIAL)
    return wrapped(backend, None)
